import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eet.errors import InputError
from eet.gallery import (
    Gallery,
    Manifest,
    fixed_binary_to_numpy,
    gallery_schema,
    open_gallery,
    part_name,
    part_table,
    write_manifest,
    write_part,
)

N, ROWS_PER_PART, BITS, K, D = 23, 5, 12, 3, 4
BAD = {0: "missing", 6: "truncated", **dict.fromkeys(range(10, 15), "empty")}  # part 2 is bad from end to end
GOOD = [n for n in range(N) if n not in BAD]
RNG = np.random.default_rng(0)
CODES = RNG.integers(0, 256, (N, 2), np.uint8)
TOKENS = RNG.standard_normal((N, K, D)).astype(np.float16)
LABELS = [None if n % 4 == 1 else n for n in range(N)]
IDS = [f"{n:02d}/é.jpg" for n in range(N)]

MANIFEST = Manifest(
    model_digest="m",
    preprocessing_digest="p",
    num_bits=BITS,
    token_shape=(K, D),
    token_dtype="float16",
    num_rows=N,
    num_ok=len(GOOD),
    errors={"missing": 1, "truncated": 1, "empty": 5},
    num_parts=5,
    rows_per_part=ROWS_PER_PART,
)


def part(rows: list[int]) -> pa.Table:
    return part_table(
        [IDS[n] for n in rows],
        [f"/x/{IDS[n]}" for n in rows],
        [LABELS[n] for n in rows],
        CODES[rows],
        [BAD.get(n, "ok") for n in rows],
        [f"why {n}" if n in BAD else None for n in rows],
        schema=MANIFEST.schema,
        tokens=TOKENS[rows],
        token_index=np.tile(np.arange(K), (len(rows), 1)),
        token_mass=np.full((len(rows), K), 1 / K),
    )


def write(path: str) -> str:
    for number, start in enumerate(range(0, N, ROWS_PER_PART)):
        write_part(path, number, part(list(range(start, min(N, start + ROWS_PER_PART)))))
    write_manifest(path, MANIFEST)
    return path


@pytest.fixture(params=["local", "memory"])
def gallery(request, tmp_path) -> Gallery:
    return open_gallery(write(str(tmp_path / "gallery") if request.param == "local" else f"memory://{tmp_path.name}"))


def test_codes_and_labels_are_those_of_good_rows_in_part_order(gallery):
    codes, ids = gallery.codes()
    assert codes.dtype == np.uint8
    np.testing.assert_array_equal(codes, CODES[GOOD])
    assert ids.type == pa.string() and ids.to_pylist() == [IDS[n] for n in GOOD]
    labels = gallery.labels()
    assert labels.dtype == np.int32
    assert labels.tolist() == [-1 if LABELS[n] is None else LABELS[n] for n in GOOD]


def test_rows_come_in_the_order_asked(gallery):
    asked = [22, 3, 0, 17, 3, 11, 4]
    rows = gallery.rows([IDS[n] for n in asked])
    assert rows.schema.equals(MANIFEST.schema)
    assert rows["item_id"].to_pylist() == [IDS[n] for n in asked]
    assert rows["status"].to_pylist() == [BAD.get(n, "ok") for n in asked]
    assert rows["code"].to_pylist() == [None if n in BAD else CODES[n].tobytes() for n in asked]
    tokens = fixed_binary_to_numpy(rows["tokens"], "<f2", (K, D))
    np.testing.assert_array_equal(tokens, TOKENS[[n for n in asked if n not in BAD]])


def test_rows_of_some_columns_of_no_items_and_of_arrow_ids(gallery):
    assert gallery.rows(pa.array([IDS[9]]), ["label", "code"]).to_pylist() == [{"label": None, "code": CODES[9].tobytes()}]
    nothing = gallery.rows([])
    assert nothing.num_rows == 0 and nothing.schema.equals(MANIFEST.schema)


def test_rows_names_what_is_missing(gallery):
    with pytest.raises(ValueError, match="has no item 'x0', 'x1', 'x2', 'x3', 'x4', ... .6 of 7 ids"):
        gallery.rows([IDS[1], *(f"x{n}" for n in range(6))])
    with pytest.raises(ValueError, match="no column colour; it has item_id, uri"):
        gallery.rows([IDS[1]], ["colour"])


def test_rows_reads_only_the_row_groups_and_parts_it_needs(tmp_path, monkeypatch):
    write(str(tmp_path))
    monkeypatch.setattr("eet.gallery.parts.BYTES_WITH_TOKENS", 80)  # two rows to a group
    write_part(str(tmp_path), 1, part([5, 6, 7, 8, 9]))
    assert pq.ParquetFile(tmp_path / part_name(1)).metadata.num_row_groups == 3
    gallery = open_gallery(str(tmp_path))
    asked = [9, 5, 21]
    read = []
    original = pq.ParquetFile.read_row_groups

    def read_row_groups(self, groups, columns, **options):
        read.append((groups, columns))
        return original(self, groups, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", read_row_groups)
    assert gallery.rows([IDS[n] for n in asked], ["code"])["code"].to_pylist() == [CODES[n].tobytes() for n in asked]
    ids, both = ["item_id"], ["item_id", "code"]
    assert sorted(read) == [([0], ids), ([0], both), ([0, 2], ids), ([0, 2], both)]


def test_a_row_with_status_ok_and_without_a_code_is_damage(tmp_path):
    write(str(tmp_path))
    table = part([5, 6, 7, 8, 9])
    codes = table["code"].to_pylist()
    place, row = table.schema.get_field_index("code"), table["status"].to_pylist().index("ok")
    codes[row] = None
    write_part(str(tmp_path), 1, table.set_column(place, table.schema.field(place), pa.array(codes, table.schema.field(place).type)))
    gallery = open_gallery(str(tmp_path))
    for read in (gallery.codes, lambda: list(gallery.coded_parts([0, 1]))):
        with pytest.raises(InputError, match="is damaged: 1 rows with status ok have no code"):
            read()
    assert len(gallery.labels()) == gallery.manifest.num_ok


def test_rows_finds_ids_whose_parts_are_not_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr("eet.gallery.parts.BYTES_WITH_TOKENS", 80)  # two rows to a group
    rows = [[20, 1, 9], [15, 3], [2, 21]]
    for number, numbers in enumerate(rows):
        write_part(str(tmp_path), number, part(numbers))
    write_manifest(str(tmp_path), dataclasses.replace(MANIFEST, num_parts=3, num_rows=7, num_ok=7))
    gallery = open_gallery(str(tmp_path))
    # the least id of its part, but not in the last row group
    assert gallery.rows([IDS[1]])["uri"].to_pylist() == [f"/x/{IDS[1]}"]
    asked = [3, 21, 20, 2, 9]
    assert gallery.rows([IDS[n] for n in asked])["uri"].to_pylist() == [f"/x/{IDS[n]}" for n in asked]
    assert gallery.codes()[1].to_pylist() == [IDS[n] for numbers in rows for n in numbers]


def test_errors_are_the_bad_rows(gallery):
    assert gallery.errors().to_pylist() == [
        {"item_id": IDS[n], "uri": f"/x/{IDS[n]}", "status": BAD[n], "error": f"why {n}"} for n in sorted(BAD)
    ]


def test_table_and_parts_hold_every_row(gallery):
    assert gallery.table(["status", "item_id"]).column_names == ["status", "item_id"]
    assert gallery.table()["item_id"].to_pylist() == IDS
    parts = list(gallery.parts(["code"]))
    assert [len(table) for table in parts] == [5, 5, 5, 5, 3]
    assert next(gallery.parts())["item_id"].to_pylist() == IDS[:5]  # and may be left off


def test_any_reader_opens_the_parts(tmp_path):
    write(str(tmp_path))
    read = pq.read_table(sorted(tmp_path.glob("parts/part-*.parquet")))
    assert read.schema.equals(MANIFEST.schema)
    assert read["item_id"].to_pylist() == IDS
    assert read["tokens"].null_count == len(BAD)


def test_a_gallery_without_a_good_row_or_without_a_bad_one(tmp_path):
    write_part(str(tmp_path / "bad"), 0, part([10, 11]))
    write_manifest(str(tmp_path / "bad"), dataclasses.replace(MANIFEST, num_parts=1, num_rows=2, num_ok=0))
    codes, ids = open_gallery(str(tmp_path / "bad")).codes()
    assert codes.shape == (0, 2) and len(ids) == 0
    assert open_gallery(str(tmp_path / "bad")).labels().shape == (0,)
    write_part(str(tmp_path / "good"), 0, part([1, 2]))
    write_manifest(str(tmp_path / "good"), dataclasses.replace(MANIFEST, num_parts=1, num_rows=2, num_ok=2))
    errors = open_gallery(str(tmp_path / "good")).errors()
    assert errors.num_rows == 0 and errors.column_names == ["item_id", "uri", "status", "error"]


def test_what_is_not_a_whole_gallery_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no manifest.json"):
        open_gallery(str(tmp_path))
    write(str(tmp_path))
    (tmp_path / part_name(3)).rename(tmp_path / "parts" / ".part-000003.parquet.tmp")
    with pytest.raises(ValueError, match="lacks 1 of its 5 parts: parts/part-000003.parquet"):
        open_gallery(str(tmp_path))


def test_a_manifest_that_miscounts_is_found_out(tmp_path):
    write(str(tmp_path))
    for num_ok in (len(GOOD) - 1, len(GOOD) + 1):
        write_manifest(str(tmp_path), dataclasses.replace(MANIFEST, num_ok=num_ok))
        with pytest.raises(ValueError, match=f"hold {len(GOOD)} rows with status ok, its manifest counts {num_ok}"):
            open_gallery(str(tmp_path)).codes()
        with pytest.raises(ValueError, match="damaged"):
            open_gallery(str(tmp_path)).labels()


def test_a_gallery_of_version_1_is_read_with_its_parts_next_to_the_manifest(tmp_path):
    schema = gallery_schema(num_bits=8, token_shape=None, embedding_dim=None)
    codes = np.arange(4, dtype=np.uint8)[:, None]
    for part in range(2):
        ids = [f"{part}-{row}" for row in range(4)]
        write_part(str(tmp_path), part, part_table(ids, ids, None, codes, ["ok"] * 4, [None] * 4, schema=schema), version=1)
    assert (tmp_path / "part-000001.parquet").is_file() and not (tmp_path / "parts").exists()
    manifest = Manifest(
        model_digest="m", preprocessing_digest="p", num_bits=8, num_rows=8, num_ok=8, num_parts=2, rows_per_part=4, schema_version=1
    )
    write_manifest(str(tmp_path), manifest)
    gallery = open_gallery(str(tmp_path))
    assert gallery.manifest == manifest and len(gallery.codes()[0]) == 8
    assert gallery.rows(["1-2", "0-1"])["item_id"].to_pylist() == ["1-2", "0-1"]
    (tmp_path / "part-000000.parquet").unlink()
    with pytest.raises(ValueError, match="lacks 1 of its 2 parts: part-000000.parquet"):
        open_gallery(str(tmp_path))

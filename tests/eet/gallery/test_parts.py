import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eet.gallery import finished_parts, gallery_schema, part_name, part_table, write_part


def table(num_rows: int, *, dim: int | None) -> pa.Table:
    rng = np.random.default_rng(0)
    optional = {}
    if dim is not None:
        optional = {
            "tokens": rng.standard_normal((num_rows, 8, dim)),
            "token_index": np.tile(np.arange(8), (num_rows, 1)),
            "token_mass": np.full((num_rows, 8), 0.125),
        }
    statuses = ["ok"] * (num_rows - 1) + ["empty"]
    return part_table(
        [f"{n}.jpg" for n in range(num_rows)],
        [f"/{n}.jpg" for n in range(num_rows)],
        None,
        rng.integers(0, 256, (num_rows, 8), np.uint8),
        statuses,
        [None] * (num_rows - 1) + ["no bytes"],
        schema=gallery_schema(num_bits=64, token_shape=None if dim is None else (8, dim), embedding_dim=None),
        **optional,
    )


def test_any_parquet_reader_gets_the_same_table(tmp_path):
    made = table(50, dim=4)
    write_part(str(tmp_path / "new" / "gallery"), 12, made)
    read = pq.read_table(tmp_path / "new" / "gallery" / "parts" / "part-000012.parquet")
    assert read.schema.equals(made.schema)
    assert read.equals(made)
    physical = pq.ParquetFile(tmp_path / "new" / "gallery" / "parts" / "part-000012.parquet").schema
    assert {physical.column(n).name: physical.column(n).physical_type for n in range(len(physical))} == {
        **dict.fromkeys(["item_id", "uri", "status", "error"], "BYTE_ARRAY"),
        **dict.fromkeys(["code", "tokens", "token_index", "token_mass"], "FIXED_LEN_BYTE_ARRAY"),
        "label": "INT32",
    }


def test_binary_columns_are_plain_and_uncompressed_and_the_rest_is_zstd(tmp_path):
    write_part(str(tmp_path), 0, table(50, dim=4))
    group = pq.ParquetFile(tmp_path / part_name(0)).metadata.row_group(0)
    for n in range(group.num_columns):
        column = group.column(n)
        if column.path_in_schema in ("code", "tokens", "token_index", "token_mass"):
            assert column.compression == "UNCOMPRESSED"
            assert "PLAIN" in column.encodings and not column.has_dictionary_page
        else:
            assert column.compression == "ZSTD"


def test_row_groups_hold_about_a_megabyte_of_tokens(tmp_path):
    made = table(600, dim=2048)
    write_part(str(tmp_path), 0, made)
    metadata = pq.ParquetFile(tmp_path / part_name(0)).metadata
    sizes = [metadata.row_group(n).total_byte_size for n in range(metadata.num_row_groups)]
    assert len(sizes) == 20
    assert all(0.75 * 2**20 < size < 1.5 * 2**20 for size in sizes[:-1])
    write_part(str(tmp_path), 1, table(3000, dim=None))
    assert pq.ParquetFile(tmp_path / part_name(1)).metadata.num_row_groups == 1


def test_the_same_rows_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_part(str(tmp_path / name), 3, table(50, dim=4))
    assert (tmp_path / "a" / part_name(3)).read_bytes() == (tmp_path / "b" / part_name(3)).read_bytes()


def test_a_part_cut_off_while_it_is_written_is_invisible(tmp_path, monkeypatch):
    write_part(str(tmp_path), 0, table(50, dim=4))
    old = (tmp_path / part_name(0)).read_bytes()

    def die(table, file, **options):
        file.write(b"PAR1 and half of")
        file.flush()
        # what a reader sees at the worst moment
        assert finished_parts(str(tmp_path)) == [0]
        assert sorted(name for name in os.listdir(tmp_path / "parts") if name.endswith(".parquet")) == ["part-000000.parquet"]
        raise KeyboardInterrupt

    monkeypatch.setattr(pq, "write_table", die)
    for part in (0, 1):
        with pytest.raises(KeyboardInterrupt):
            write_part(str(tmp_path), part, table(5, dim=4))
    assert os.listdir(tmp_path / "parts") == ["part-000000.parquet"]
    assert (tmp_path / part_name(0)).read_bytes() == old


def test_only_parts_count_as_finished(tmp_path):
    assert finished_parts(str(tmp_path / "absent")) == []
    names = ["part-000002.parquet", "part-1000000.parquet", ".part-000001.parquet.0f.tmp", "part-000003.parquet.tmp"]
    names += ["plan.parquet", "part-3.parquet", "part-0000004.parquet", "xpart-000005.parquet", "manifest.json"]
    for folder in (tmp_path, tmp_path / "parts"):
        folder.mkdir(exist_ok=True)
        for name in names:
            (folder / name).write_bytes(b"")
        (folder / "part-000009.parquet").mkdir()
    (tmp_path / "parts" / "part-000007.parquet").write_bytes(b"")
    assert finished_parts(str(tmp_path)) == [2, 7, 1_000_000]
    assert finished_parts(str(tmp_path), version=1) == [2, 1_000_000]
    assert part_name(1_000_000) == "parts/part-1000000.parquet" and part_name(3, version=1) == "part-000003.parquet"
    with pytest.raises(ValueError, match="count from 0"):
        part_name(-1)


def test_another_store_gets_the_whole_part():
    import fsspec

    gallery = "memory://test-parts/gallery"
    made = table(50, dim=4)
    write_part(gallery, 0, made)
    with fsspec.filesystem("memory").open("/test-parts/gallery/parts/part-000000.parquet") as file:
        assert pq.read_table(file).equals(made)
    assert finished_parts(gallery) == [0]

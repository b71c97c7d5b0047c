"""A gallery and its hits are plain Parquet: other tools read from them what EET reads."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pytest

from eet.gallery import Gallery, Manifest, open_gallery, part_table, write_hits, write_manifest, write_part
from eet.retrieval.search import search_gallery

ROWS, PART, BITS, K, D = 11, 6, 12, 3, 4
BAD = 4


@pytest.fixture(scope="module")
def gallery(tmp_path_factory) -> Gallery:
    """Two parts with tokens and hashes; a row that is bad and one without a label."""
    path = str(tmp_path_factory.mktemp("gallery") / "birds")
    manifest = Manifest(
        model_digest="m", preprocessing_digest="p", num_bits=BITS, num_rows=ROWS, num_ok=ROWS - 1, num_parts=2, rows_per_part=PART,
        token_shape=(K, D), token_dtype="float16", embedding_dim=D, has_hash=True, errors={"truncated": 1},
    )  # fmt: skip
    random = np.random.default_rng(0)
    hashes = random.normal(size=(ROWS, BITS))
    for part, start in enumerate(range(0, ROWS, PART)):
        rows = np.arange(start, min(ROWS, start + PART))
        table = part_table(
            [f"{row:02d}/é.jpg" for row in rows],
            [f"/photos/{row:02d}/é.jpg" for row in rows],
            [None if row == 7 else int(row % 3) for row in rows],
            np.packbits(hashes[rows] > 0, axis=1),
            ["truncated" if row == BAD else "ok" for row in rows],
            ["image file is truncated" if row == BAD else None for row in rows],
            schema=manifest.schema,
            hash=hashes[rows],
            tokens=random.normal(size=(len(rows), K, D)),
            token_index=np.tile(np.arange(K), (len(rows), 1)),
            token_mass=random.random((len(rows), K)),
            embedding=random.normal(size=(len(rows), D)),
        )
        write_part(path, part, table)
    write_manifest(path, manifest)
    return open_gallery(path)


def by_pyarrow(files: Path) -> list[dict[str, Any]]:
    return pa.dataset.dataset(files, format="parquet").to_table().to_pylist()


def by_pandas(files: Path) -> list[dict[str, Any]]:
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(files).astype(object)
    return frame.where(frame.notna(), None).to_dict("records")


def by_polars(files: Path) -> list[dict[str, Any]]:
    polars = pytest.importorskip("polars", reason="polars is not installed")
    return polars.read_parquet(files).to_dicts()


def by_duckdb(files: Path) -> list[dict[str, Any]]:
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    with duckdb.connect() as database:
        answer = database.execute("FROM read_parquet($1)", [str(files / "*.parquet" if files.is_dir() else files)])
        names = [column[0] for column in answer.description]
        return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]


READERS = [by_pyarrow, by_pandas, by_polars, by_duckdb]


@pytest.mark.parametrize("read", READERS)
def test_every_value_of_the_parts_is_read(gallery, read):
    rows = sorted(read(Path(gallery.path) / "parts"), key=lambda row: row["item_id"])
    assert rows == gallery.table().to_pylist()
    (bad,) = [row for row in rows if row["status"] != "ok"]
    assert bad["error"] == "image file is truncated" and bad["code"] is bad["tokens"] is bad["label"] is None


@pytest.mark.parametrize("read", READERS)
def test_codes_and_hashes_are_arrays_again(gallery, read):
    rows = [row for row in sorted(read(Path(gallery.path) / "parts"), key=lambda row: row["item_id"]) if row["status"] == "ok"]
    codes, ids = gallery.codes()
    assert [row["item_id"] for row in rows] == ids.to_pylist()
    np.testing.assert_array_equal(np.frombuffer(b"".join(row["code"] for row in rows), np.uint8).reshape(len(rows), -1), codes)
    hashes = np.frombuffer(b"".join(row["hash"] for row in rows), "<f2").reshape(len(rows), BITS)
    np.testing.assert_array_equal(hashes, gallery.hashes())


@pytest.mark.parametrize("read", READERS)
def test_every_value_of_hits_is_read(gallery, read, tmp_path):
    hits = search_gallery(gallery, gallery, k=4)
    write_hits(str(tmp_path / "hits.parquet"), hits)
    assert read(tmp_path / "hits.parquet") == hits.to_pylist()


HAMMING = """
    SELECT query.item_id, item.item_id, bit_count(xor(query.code::BIT, item.code::BIT)) AS distance
    FROM read_parquet($1) AS query, read_parquet($1) AS item
    WHERE query.status = 'ok' AND item.status = 'ok'
"""


def test_duckdb_gives_hamming_distances(gallery):
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    with duckdb.connect() as database:
        found = database.execute(HAMMING, [f"{gallery.path}/parts/*.parquet"]).fetchall()
    codes, ids = gallery.codes()
    bits = np.unpackbits(codes, axis=1)
    names = ids.to_pylist()
    wanted = {
        (names[q], names[i]): int((bits[q] != bits[i]).sum()) for q in range(len(names)) for i in range(len(names))
    }  # fmt: skip
    assert {(query, item): distance for query, item, distance in found} == wanted
    assert len(found) == len(wanted) and max(wanted.values()) > 8  # more than a byte of differences


def test_duckdb_searches_as_eet_does(gallery):
    duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
    with duckdb.connect() as database:
        found = database.execute(
            f"""
            SELECT * FROM ({HAMMING} AND query.item_id <> item.item_id) AS pair(query_id, item_id, distance)
            QUALIFY row_number() OVER (PARTITION BY query_id ORDER BY distance, item_id) <= 4
            ORDER BY query_id, distance
            """,
            [f"{gallery.path}/parts/*.parquet"],
        ).fetchall()
    hits = search_gallery(gallery, gallery, k=4)
    # Inside a distance EET orders by the real-valued hash, so only the distances are compared.
    assert [(query, distance) for query, _, distance in found] == list(
        zip(hits["query_id"].to_pylist(), hits["distance"].to_pylist(), strict=True)
    )

"""Exported vectors: other programs open them and find the numbers of the gallery."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from eet.exports import GALLERY_FORMATS, vector_source
from eet.gallery import Gallery, Manifest, open_gallery, part_table, write_manifest, write_part
from eet.hashing import unpack

ROWS, BITS, DIM, BAD = 11, 12, 4, 4


@pytest.fixture(scope="module")
def gallery(tmp_path_factory) -> Gallery:
    """Two parts with hashes and embeddings: row 4 is bad, row 7 has no label, the image of row 9 is missing."""
    folder = tmp_path_factory.mktemp("vectors")
    random = np.random.default_rng(0)
    for row in range(ROWS):
        if row != 9:
            Image.new("RGB", (300, 150), (20 * row, 0, 0)).save(folder / f"{row:02d}.png")
    path = str(folder / "gallery")
    manifest = Manifest(
        model_digest="m", preprocessing_digest="p", num_bits=BITS, num_rows=ROWS, num_ok=ROWS - 1, num_parts=2, rows_per_part=6,
        embedding_dim=DIM, has_hash=True, label_names=("wren", "robin", "tit"), errors={"truncated": 1},
    )  # fmt: skip
    hashes, embeddings = random.normal(size=(ROWS, BITS)), random.normal(size=(ROWS, DIM))
    for part, rows in enumerate((np.arange(6), np.arange(6, ROWS))):
        table = part_table(
            [f"{row:02d}" for row in rows],
            [str(folder / f"{row:02d}.png") for row in rows],
            [None if row == 7 else int(row % 3) for row in rows],
            np.packbits(hashes[rows] > 0, axis=1),
            ["truncated" if row == BAD else "ok" for row in rows],
            ["cut off" if row == BAD else None for row in rows],
            schema=manifest.schema,
            hash=hashes[rows],
            embedding=embeddings[rows],
        )
        write_part(path, part, table)
    write_manifest(path, manifest)
    return open_gallery(path)


def wanted(gallery: Gallery, source: str) -> np.ndarray:
    """The vectors by another way: the column of the whole gallery, or its codes, read as numbers."""
    if source == "code":
        return np.where(unpack(gallery.codes()[0], BITS) > 0, 1.0, -1.0).astype(np.float32)
    stored = [value for value in gallery.table([source])[source].to_pylist() if value is not None]
    return np.frombuffer(b"".join(stored), "<f2").reshape(ROWS - 1, -1).astype(np.float32)


@pytest.mark.parametrize("source", ["embedding", "hash", "code"])
def test_polars_and_duckdb_open_the_vectors(gallery, tmp_path, source):
    assert GALLERY_FORMATS["parquet-vectors"].write(gallery, str(tmp_path), source) == ROWS - 1
    file = tmp_path / "vectors.parquet"
    table = pq.read_table(file)
    assert table.column_names == ["item_id", "uri", "label", "label_name", "vector"]
    assert table["item_id"].to_pylist() == [f"{row:02d}" for row in range(ROWS) if row != BAD]
    assert table["label_name"].to_pylist()[:3] + table["label_name"].to_pylist()[6:7] == ["wren", "robin", "tit", None]
    polars = pytest.importorskip("polars", reason="polars is not installed")
    np.testing.assert_array_equal(polars.read_parquet(file)["vector"].to_numpy(), wanted(gallery, source))
    duckdb = pytest.importorskip("duckdb", reason="DuckDB is not installed")
    found = duckdb.sql(f"SELECT vector FROM '{file}'").fetchall()
    np.testing.assert_array_equal(np.array([vector for (vector,) in found], np.float32), wanted(gallery, source))


def test_lance_finds_the_nearest_by_hamming_and_by_cosine(gallery, tmp_path):
    lance = pytest.importorskip("lance", reason="pylance is not installed")
    assert GALLERY_FORMATS["lance"].write(gallery, str(tmp_path), "embedding") == ROWS - 1
    dataset = lance.dataset(str(tmp_path / "items.lance"))
    codes, ids = gallery.codes()
    table = dataset.to_table()
    assert table["item_id"].to_pylist() == ids.to_pylist()
    np.testing.assert_array_equal(np.array(table["code"].to_pylist(), np.uint8), codes)
    hits = dataset.to_table(nearest={"column": "code", "q": codes[3], "k": ROWS - 1, "metric": "hamming"})
    distances = np.bitwise_count(codes ^ codes[3]).sum(axis=1)
    assert dict(zip(hits["item_id"].to_pylist(), hits["_distance"].to_pylist(), strict=True)) == dict(
        zip(ids.to_pylist(), distances.astype(float).tolist(), strict=True)
    )
    embeddings = wanted(gallery, "embedding")
    nearest = dataset.to_table(nearest={"column": "vector", "q": embeddings[3], "k": 1, "metric": "cosine"})
    assert nearest["item_id"].to_pylist() == [ids[3].as_py()]


def test_lancedb_opens_the_folder(gallery, tmp_path):
    lancedb = pytest.importorskip("lancedb", reason="LanceDB is not installed")
    GALLERY_FORMATS["lance"].write(gallery, str(tmp_path), "embedding")
    assert lancedb.connect(tmp_path).open_table("items").count_rows() == ROWS - 1


def test_the_atlas_has_small_images_and_vectors(gallery, tmp_path):
    """In the forms that Embedding Atlas reads through pandas: structs with bytes, and arrays of numbers."""
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    assert GALLERY_FORMATS["embedding-atlas"].write(gallery, str(tmp_path), "hash") == ROWS - 1
    frame = pandas.read_parquet(tmp_path / "items.parquet")
    np.testing.assert_array_equal(np.stack(frame["vector"].to_list()), wanted(gallery, "hash"))
    images = dict(zip(frame["item_id"], frame["image"], strict=True))
    assert images["09"] is None
    (tmp_path / "shown.jpg").write_bytes(images["10"]["bytes"])
    shown = Image.open(tmp_path / "shown.jpg")
    assert shown.size == (128, 64) and abs(shown.convert("RGB").getpixel((60, 30))[0] - 200) < 6
    assert Path(images["10"]["path"]).name == "10.png"


def test_one_part_is_read_at_a_time(gallery, tmp_path):
    """What is written has a row group for each part: no table of all items is made."""
    GALLERY_FORMATS["parquet-vectors"].write(gallery, str(tmp_path), "code")
    file = pq.ParquetFile(tmp_path / "vectors.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)] == [5, 5]


def test_the_source_is_the_best_that_the_gallery_has(gallery, parted_manifest):
    assert vector_source(gallery.manifest) == "embedding"
    assert vector_source(parted_manifest) == "code"
    with pytest.raises(ValueError, match="has no embedding of its items, only code"):
        vector_source(parted_manifest, "embedding")


@pytest.fixture
def parted_manifest() -> Manifest:
    return Manifest(model_digest="m", preprocessing_digest="p", num_bits=BITS, num_rows=1, num_ok=1, num_parts=1, rows_per_part=1)

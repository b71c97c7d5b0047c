"""Exports: another library reads them and finds the same items."""

import dataclasses
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from eet.gallery import open_gallery
from eet.retrieval.gallery_index import GalleryIndex
from pipelines import export


def test_faiss_reads_its_export_and_finds_the_same_first_hits(parted, asked, tmp_path, capsys):
    faiss = pytest.importorskip("faiss")
    config = export.ExportConfig(gallery=parted.path, out=str(tmp_path / "export"))
    assert export.run(dataclasses.replace(config, dry_run=True)) == 0 and not (tmp_path / "export").exists()
    for _ in range(2):  # the second replaces the first
        assert export.run(config) == 60
    assert {path.name for path in (tmp_path / "export").iterdir()} == {"codes.faiss", "ids.parquet", "config.yaml"}
    index, ids = faiss.read_index_binary(str(tmp_path / "export" / "codes.faiss")), pq.read_table(tmp_path / "export" / "ids.parquet")
    codes, item_ids, labels = open_gallery(parted.path).coded_rows()
    row_of = {item: row for row, item in enumerate(item_ids.to_pylist())}
    rows = [row_of[item] for item in ids["item_id"].to_pylist()]
    assert ids["item_id"].to_pylist() == sorted(row_of) and ids["label"].to_pylist() == labels[rows].tolist()
    np.testing.assert_array_equal(index.reconstruct_n(0, 60), codes[rows])
    queries = asked[0].codes()[0]
    distances, found = index.search(queries, 60)
    hits = GalleryIndex.of_gallery(parted).search(queries, 60)
    np.testing.assert_array_equal(distances.ravel(), hits["distance"].to_numpy())
    wanted = list(zip(hits["distance"].to_pylist(), hits["item_id"].to_pylist(), strict=True))
    for q in range(len(queries)):  # FAISS has no order inside ties
        answers = zip(distances[q].tolist(), ids["item_id"].take(found[q]).to_pylist(), strict=True)
        assert sorted(answers) == wanted[60 * q : 60 * q + 60]
    assert "60 items, as vectors their code, for faiss; faiss.read_index_binary(" in capsys.readouterr().out


def test_folders_of_others_and_a_missing_faiss_are_refused(parted, tmp_path, monkeypatch):
    config = export.ExportConfig(gallery=parted.path, out=str(tmp_path))
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        export.run(config)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ValueError, match="faiss cannot be imported"):
        export.run(dataclasses.replace(config, out=str(tmp_path / "export")))
    monkeypatch.setitem(sys.modules, "lance", None)
    with pytest.raises(ValueError, match="pip install pylance"):
        export.run(dataclasses.replace(config, to="lance", out=str(tmp_path / "export"), dry_run=True))
    assert "--out" in " ".join(dataclasses.replace(config, out="s3://bucket/export").problems())
    assert "--to csv: allowed are faiss, parquet-vectors, lance" in " ".join(dataclasses.replace(config, to="csv").problems())
    assert "--vector hash" in " ".join(dataclasses.replace(config, vector="hash").problems())
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_vectors_are_exported_part_by_part_and_replaced(parted, tmp_path, capsys):
    config = export.ExportConfig(gallery=parted.path, to="parquet-vectors", out=str(tmp_path / "export"))
    for _ in range(2):
        assert export.run(config) == 60
    assert {path.name for path in (tmp_path / "export").iterdir()} == {"vectors.parquet", "config.yaml"}
    assert pq.ParquetFile(tmp_path / "export" / "vectors.parquet").num_row_groups == 9
    assert "60 items, as vectors their code, for parquet-vectors" in capsys.readouterr().out
    with pytest.raises(ValueError, match="holds other files"):
        export.run(dataclasses.replace(config, to="embedding-atlas"))

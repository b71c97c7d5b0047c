"""Exports: another library reads them and finds the same items."""

import dataclasses
import sys

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from eet.gallery import open_gallery, read_model_record
from eet.retrieval.gallery_index import GalleryIndex
from pipelines import encode, export


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


def test_a_model_is_exported_to_a_folder_for_a_hub_and_encodes_from_any_store(tiny_model, photos, tmp_path, capsys):
    config = export.ExportConfig(model=str(tiny_model), to="hub-folder", out=str(tmp_path / "birds-16"))
    assert export.run(dataclasses.replace(config, dry_run=True)) == 0 and not (tmp_path / "birds-16").exists()
    for _ in range(2):  # the second replaces the first
        assert export.run(config) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["birds-16", "birds-16.config.yaml"]
    assert "16 bits, " in capsys.readouterr().out and (tmp_path / "birds-16" / "README.md").read_text().count("# birds-16\n") == 1
    filesystem = fsspec.filesystem("memory")
    filesystem.put(f"{tmp_path / 'birds-16'}/", "/hub/birds-16/", recursive=True)
    encode.run(encode.EncodeConfig(model="memory://hub/birds-16", images=str(photos), out=str(tmp_path / "gallery"), engine="local"))
    assert open_gallery(str(tmp_path / "gallery")).manifest.model_digest == read_model_record(tiny_model).digest


@pytest.mark.slow
def test_a_model_is_exported_to_onnx_and_replaced(tiny_model, tmp_path, capsys):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    config = export.ExportConfig(model=str(tiny_model), to="onnx", out=str(tmp_path / "birds.onnx"))
    (tmp_path / "birds.onnx").write_bytes(b"an older one")
    assert config.problems() == []
    assert export.run(config) == 1 and (tmp_path / "birds.onnx").stat().st_size > 100_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["birds.config.yaml", "birds.onnx"]
    assert "no bit of 192 differs in onnxruntime, in batches of 1, 3, 8 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"model": "m", "to": "onnx", "out": "m"}, "give a file that ends in .onnx"),
        ({"gallery": "g", "to": "onnx", "out": "m.onnx"}, "--model is missing: --to onnx exports a model"),
        ({"gallery": "g", "model": "m", "to": "lance", "out": "o"}, "--model m: --to lance exports a gallery"),
        ({"model": "m", "to": "hub-folder", "vector": "code", "out": "o"}, "--vector code: --to hub-folder exports a model"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, problem):
    assert problem in " ".join(export.ExportConfig(**options).problems())

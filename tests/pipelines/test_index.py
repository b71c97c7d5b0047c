"""Indexes: what they answer, how they grow, what they refuse."""

import dataclasses
import shutil

import numpy as np
import pytest
from search_by_loop import answered, loop
from tied_gallery import tied_gallery

from eet.gallery import open_gallery, write_manifest
from eet.retrieval import search as searching
from eet.retrieval.gallery_index import GalleryIndex
from eet.retrieval.search import search_gallery
from pipelines import index, search


@pytest.mark.parametrize("with_hash", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_an_appended_gallery_an_index_and_blocks_of_queries_give_the_loops_hits(parted, asked, tmp_path, monkeypatch, with_hash, own):
    monkeypatch.setattr(searching, "QUERIES_AT_ONCE", 7)
    queries, hashes = (parted, None) if own else (asked[1], asked[2]) if with_hash else (asked[0], None)
    index.run(index.IndexConfig(gallery=parted.path, out=str(tmp_path / "index")))
    mapped = GalleryIndex.load(str(tmp_path / "index")).search
    for k in (1, 8, 60):
        plain = search_gallery(parted, queries, k=k)
        assert sorted_by_query(answered(plain)) == sorted_by_query(loop(parted, queries, k, hashes))
        assert search_gallery(parted, queries, k=k, search=mapped).equals(plain)


def sorted_by_query(rows: list[tuple]) -> list[tuple]:
    return sorted(rows, key=lambda row: (row[0], row[1]))


@pytest.fixture
def ivf(parted, asked, tmp_path) -> search.SearchConfig:
    """A search in 6 lists of the 60 items."""
    index.run(index.IndexConfig(gallery=parted.path, out=str(tmp_path / "ivf"), kind="ivf", lists=6))
    return search.SearchConfig(
        gallery=parted.path, queries=asked[0].path, k=20, index=str(tmp_path / "ivf"), probes=1, out=str(tmp_path / "hits.parquet")
    )


def test_an_ivf_index_is_extended_in_its_own_lists_and_kinds_are_not_mixed(parted, asked, tmp_path):
    copy, out = tmp_path / "gallery", tmp_path / "index"
    shutil.copytree(parted.path, copy)
    write_manifest(str(copy), dataclasses.replace(parted.manifest, num_parts=5, num_rows=35, num_ok=35))
    make = index.IndexConfig(gallery=str(copy), out=str(out), kind="ivf", lists=5)
    first = index.run(make)
    write_manifest(str(copy), parted.manifest)
    index.run(dataclasses.replace(make, kind=None, lists=None))
    second = GalleryIndex.load(str(out)).codes
    assert second.kind == "ivf" and second.num_items == 60
    np.testing.assert_array_equal(second.centroids_LB, first.codes.centroids_LB)
    second = second.with_probes(5)
    found = dataclasses.replace(GalleryIndex.load(str(out)), codes=second).search
    assert search_gallery(parted, asked[0], k=9, search=found).equals(search_gallery(parted, asked[0], k=9))
    with pytest.raises(ValueError, match="is of kind ivf, not exact"):
        index.run(dataclasses.replace(make, kind="exact", lists=None))
    with pytest.raises(ValueError, match="has 5 lists, not 7"):
        index.run(dataclasses.replace(make, lists=7))
    index.run(index.IndexConfig(gallery=str(copy), out=str(tmp_path / "exact")))
    exact, hits = str(tmp_path / "exact"), str(tmp_path / "hits.parquet")
    ask = search.SearchConfig(gallery=str(copy), queries=asked[0].path, index=exact, probes=2, out=hits)
    with pytest.raises(ValueError, match="kind exact, which has no lists: leave probes out"):
        search.run(ask)


def test_impossible_options_of_an_index_are_named():
    assert "--lists needs --kind ivf or faiss-ivf" in index.IndexConfig(gallery="g", out="i", lists=4).problems()
    assert "--kind flat: allowed are exact, ivf, faiss-ivf, faiss-hnsw" in index.IndexConfig(gallery="g", out="i", kind="flat").problems()
    assert "--lists 0" in " ".join(index.IndexConfig(gallery="g", out="i", kind="ivf", lists=0).problems())
    links = [index.IndexConfig(gallery="g", out="i", kind=kind, links=1).problems() for kind in ("ivf", "faiss-hnsw")]
    assert "--links needs --kind faiss-hnsw" in links[0] and links[1] == ["--links 1: use 2 to 256"]
    message = " ".join(search.SearchConfig(gallery="g", queries="q", out="h.parquet", probes=0, recall_queries=0).problems())
    assert "--probes 0" in message and "--probes needs an --index" in message and "--recall_queries 0" in message


def test_an_index_never_takes_the_place_of_other_files(parted, tmp_path):
    copy = tmp_path / "gallery"
    shutil.copytree(parted.path, copy)
    for out in (copy, tmp_path):
        with pytest.raises(ValueError, match="holds other files"):
            index.run(index.IndexConfig(gallery=str(copy), out=str(out)))
    assert open_gallery(str(copy)).table().equals(parted.table()) and {path.name for path in tmp_path.iterdir()} == {"gallery"}


@pytest.mark.parametrize("name", ["notes.txt", "my/precious/thesis.txt", "part-000000.parquet"])
def test_files_of_others_in_an_index_stay(tmp_path, name):
    """H4."""
    gallery = tied_gallery(tmp_path / "gallery")
    config = index.IndexConfig(gallery=gallery.path, out=str(tmp_path / "index"))
    index.run(config)
    mine = tmp_path / "index" / name
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("mine")
    with pytest.raises(ValueError, match=f"is an index and holds other files too .{name.split('/')[0]}"):
        index.run(config)
    assert mine.read_text() == "mine"


@pytest.mark.parametrize(("kind", "options"), [("faiss-ivf", {"lists": 6}), ("faiss-hnsw", {"links": 8})])
def test_approximate_indexes_of_faiss_are_searched_measured_and_extended(parted, asked, tmp_path, capsys, kind, options):
    pytest.importorskip("faiss", reason="FAISS is not installed")
    copy, out = tmp_path / "gallery", tmp_path / "index"
    shutil.copytree(parted.path, copy)
    write_manifest(str(copy), dataclasses.replace(parted.manifest, num_parts=5, num_rows=35, num_ok=35))
    make = index.IndexConfig(gallery=str(copy), out=str(out), kind=kind, **options)
    index.run(make)
    write_manifest(str(copy), parted.manifest)
    index.run(dataclasses.replace(make, kind=None, **dict.fromkeys(options)))
    extended = GalleryIndex.load(str(out)).codes
    assert (extended.kind, extended.num_items, dict(extended.options)) == (kind, 60, options)
    hits = tmp_path / "hits.parquet"
    ask = search.SearchConfig(gallery=str(copy), queries=asked[0].path, k=20, index=str(out), probes=2, out=str(hits))
    search.run(ask)
    assert "approximate: recall@20 " in capsys.readouterr().out
    with pytest.raises(ValueError, match="faiss searches all codes"):
        search.run(dataclasses.replace(ask, backend="faiss"))
    with pytest.raises(ValueError, match=f"is of kind {kind}, not exact"):
        index.run(dataclasses.replace(make, kind="exact", **dict.fromkeys(options)))

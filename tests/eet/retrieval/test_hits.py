"""Hits with their galleries: images of them, tables of them, on disk and back."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import eet
from eet.datasets import synthetic
from eet.gallery import HITS_SCHEMA


@pytest.fixture(scope="module")
def gallery(tiny_model, tiny_birds):
    birds = synthetic.load(str(tiny_birds)).select("test")
    paths = [birds.location(row) for row in range(len(birds))]
    return eet.encode(tiny_model, paths, labels=birds.labels.tolist(), label_names=birds.label_names)


@pytest.fixture(scope="module")
def hits(gallery) -> eet.Hits:
    return eet.search(gallery, gallery, k=4)


def test_hits_say_what_they_are(hits, gallery):
    assert len(hits) == 4 * 16
    assert hits.query_ids == hits.table["query_id"].to_pylist()[::4]
    assert repr(hits) == f"Hits(64 hits of 16 queries in {gallery.path})"


def test_a_table_for_pandas_has_one_row_a_hit(hits):
    frame = hits.to_pandas()
    assert list(frame.columns) == HITS_SCHEMA.names
    assert frame["rank"].tolist() == [1, 2, 3, 4] * 16
    assert frame["item_id"].tolist() == hits.table["item_id"].to_pylist()
    assert (frame.groupby("query_id")["distance"].diff().dropna() >= 0).all()


def test_a_panel_shows_the_query_and_its_first_hits(hits):
    panel = hits.panel(2, top=3)
    assert panel.mode == "RGB" and min(panel.size) > 48
    for same in (hits.query_ids[2], 2 - 16, np.int64(2)):
        np.testing.assert_array_equal(np.asarray(hits.panel(same, top=3)), np.asarray(panel))
    assert hits.panel(2, top=4).width > panel.width or hits.panel(2, top=4).height > panel.height


@pytest.mark.parametrize("query", [16, -17, "nobody.png"])
def test_a_query_that_is_not_there_is_refused(hits, query):
    with pytest.raises(eet.EetError, match="give a number from 0 to 15, or the id of a query"):
        hits.panel(query)


def test_a_query_whose_image_is_gone_is_named(tiny_model, gallery, tmp_path):
    image = tmp_path / "query.png"
    shutil.copy(gallery.codes()[1][0].as_py(), image)
    hits = eet.search(gallery, eet.encode(tiny_model, [image]), k=2)
    hits.panel(0)
    image.unlink()
    with pytest.raises(eet.EetError, match="can no longer be read"):
        hits.panel(0)


@pytest.mark.parametrize("kind", [str, Path])
def test_hits_are_saved_and_loaded(hits, tmp_path, kind):
    path = kind(tmp_path / "hits.parquet")
    hits.save(path)
    loaded = eet.Hits.load(path, hits.gallery, hits.queries)
    assert loaded.table.equals(hits.table) and loaded.recall is None
    assert dict(eet.evaluate(loaded)) == dict(eet.evaluate(hits))


def test_the_recall_of_an_approximate_search_is_kept(hits, tmp_path):
    approximate = eet.Hits(hits.table, hits.gallery, hits.queries, {"recall@4": 0.98})
    approximate.save(tmp_path / "hits.parquet")
    assert eet.Hits.load(tmp_path / "hits.parquet", hits.gallery, hits.queries).recall == {"recall@4": 0.98}


def test_hits_are_one_parquet_file(hits, tmp_path):
    with pytest.raises(eet.EetError, match=r"ends in \.parquet"):
        hits.save(tmp_path / "hits.csv")
    with pytest.raises(eet.EetError, match="no file of hits"):
        eet.Hits.load(tmp_path / "nothing.parquet", hits.gallery, hits.queries)

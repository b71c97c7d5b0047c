"""Search of a gallery against a loop over every pair."""

from pathlib import Path

import numpy as np
import pytest
from search_by_loop import BITS, answered, hand_made, loop
from tied_gallery import tied_bits, tied_gallery

from eet.gallery import Gallery, open_gallery
from eet.retrieval.search import search_gallery


@pytest.fixture
def gallery(tmp_path) -> Gallery:
    return tied_gallery(tmp_path / "gallery")


@pytest.mark.parametrize("k", [1, 7, 57, 58, 200])
def test_a_gallery_against_itself_finds_all_but_the_query_ties_by_id(gallery, k):
    assert answered(search_gallery(gallery, gallery, k=k)) == loop(gallery, gallery, k)


def test_the_same_folder_by_another_name_is_the_same_gallery(gallery, monkeypatch):
    monkeypatch.chdir(Path(gallery.path).parent)
    hits = search_gallery(gallery, open_gallery("gallery"), k=60)
    assert all(query != item for query, _, item, _ in answered(hits)) and len(hits) == 58 * 57


@pytest.mark.parametrize("k", [3, 100])
def test_another_gallery_with_the_same_ids_keeps_them(gallery, tmp_path, k):
    queries = hand_made(tmp_path / "queries", tied_bits()[:4], [0, 1, 2, None])
    hits = search_gallery(gallery, queries, k=k)
    assert answered(hits) == loop(gallery, queries, k)
    assert len(hits) == 4 * min(k, 58)


@pytest.mark.parametrize("k", [1, 9, 58])
def test_inside_a_distance_the_hash_orders_then_the_id_and_scores_fall_with_the_rank(gallery, tmp_path, k):
    hashes = np.random.default_rng(1).integers(-8, 9, (5, BITS)).astype(np.float32) + 0.5  # exact sums: real ties, no rounding
    codes = (hashes > 0).astype(np.uint8)
    queries = hand_made(tmp_path / "queries", codes, [0] * 5, prefix="query", hashes=hashes)
    hits = search_gallery(gallery, queries, k=k)
    assert answered(hits) == loop(gallery, queries, k, hashes)
    by_distance = search_gallery(gallery, hand_made(tmp_path / "without", codes, [0] * 5, prefix="query"), k=k)
    assert k == 1 or answered(hits) != answered(by_distance)
    for found in (hits, by_distance):
        scores, ids = np.array(found["score"].to_pylist()), np.array(found["query_id"].to_pylist())
        assert all((np.diff(scores[ids == query]) <= 1e-6).all() for query in np.unique(ids))


def test_labels_come_along_and_unknown_ones_are_null(gallery, tmp_path):
    queries = hand_made(tmp_path / "queries", tied_bits()[:2], [1, None], prefix="query")
    hits = search_gallery(gallery, queries, k=58)
    label_of = dict(zip(gallery.codes()[1].to_pylist(), gallery.labels().tolist(), strict=True))
    assert hits["query_label"].to_pylist() == [1] * 58 + [None] * 58
    for row in hits.to_pylist():
        assert row["item_label"] == (None if label_of[row["item_id"]] < 0 else label_of[row["item_id"]])


def test_labels_of_queries_are_matched_by_name(tmp_path):
    items = hand_made(tmp_path / "items", tied_bits()[:3], [0, 1, 2], names=("crow", "jay", "owl"))
    queries = hand_made(tmp_path / "queries", tied_bits()[:4], [0, 1, 2, None], names=("emu", "jay", "crow"), prefix="query")
    hits = search_gallery(items, queries, k=1)
    assert hits["query_label"].to_pylist() == [3, 1, 0, None]


def test_a_link_to_the_gallery_is_the_gallery(gallery, tmp_path):
    (tmp_path / "link").symlink_to(gallery.path)
    hits = search_gallery(gallery, open_gallery(str(tmp_path / "link")), k=3)
    assert all(query != item for query, _, item, _ in answered(hits))

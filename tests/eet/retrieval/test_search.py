"""Search of a gallery against a loop over every pair."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from search_by_loop import BITS, answered, hand_made, loop
from tied_gallery import tied_bits, tied_gallery

import eet
from eet.errors import InputError
from eet.gallery import Gallery, open_gallery, part_table, write_manifest, write_part
from eet.options.defaults import number_of_hits
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


def test_queries_that_all_failed_are_refused_with_the_reason(gallery, tmp_path):
    manifest = replace(gallery.manifest, num_rows=2, num_ok=0, errors={"truncated": 2}, num_parts=1, has_hash=False)
    path = str(tmp_path / "queries")
    codes = np.zeros((2, -(-BITS // 8)), np.uint8)
    table = part_table(["q1", "q2"], ["q1", "q2"], None, codes, ["truncated"] * 2, ["the file ends early"] * 2, schema=manifest.schema)
    write_part(path, 0, table)
    write_manifest(path, manifest)
    with pytest.raises(InputError, match=r"all 2 images failed \(2 truncated\); q1: the file ends early. Give images that can be read"):
        search_gallery(gallery, open_gallery(path), k=3)


@pytest.mark.parametrize("backend", ["native", "faiss"])
@pytest.mark.parametrize("with_hash", [False, True])
def test_within_a_radius_are_all_items_or_the_first_k_through_both_backends(gallery, tmp_path, backend, with_hash):
    hashes = np.random.default_rng(2).integers(-8, 9, (6, BITS)).astype(np.float32) + 0.5 if with_hash else None
    codes = tied_bits()[:6] if hashes is None else (hashes > 0).astype(np.uint8)
    queries = hand_made(tmp_path / "queries", codes, [0] * 6, prefix="query", hashes=hashes)
    for radius in (0, 2, 5, BITS, 1000):
        for asked, k in ((queries, None), (queries, 7), (gallery, None), (gallery, 1)):
            found = eet.search(gallery, asked, k=k, radius=radius, backend=backend)
            assert answered(found.table) == loop(gallery, asked, k or 1000, hashes if asked is queries else None, radius=radius)
    near_and_far = np.concatenate([tied_bits()[:3], 1 - tied_bits()[:3]])
    near = eet.search(gallery, hand_made(tmp_path / "far", near_and_far, [0] * 6, prefix="query"), radius=0, backend=backend)
    assert len(near.query_ids) < 6 == eet.evaluate(near)["queries"]  # those without any hit count, too


def test_without_a_radius_there_are_100_hits_and_options_out_of_range_are_refused(gallery):
    assert len(eet.search(gallery, gallery)) == 58 * 57
    assert (number_of_hits(None, None), number_of_hits(None, 3), number_of_hits(7, 3)) == (100, None, 7)
    for options in ({"k": 0}, {"radius": -1}, {"radius": 2, "rescore": -1}, {"k": 3, "rescore": 4}, {"backend": "hnsw"}):
        with pytest.raises(InputError, match=f"{list(options)[-1]}.*use|ask for 1"):
            eet.search(gallery, gallery, **options)

"""FAISS's approximate indexes against exact search: what they find is right and in order, and how much they find is bounded from below."""

import sys

import numpy as np
import pytest

from eet.hashing.distance import asymmetric_scores, hamming_distances
from eet.hashing.packing import pack
from eet.search import HammingIndex, build_index, load_index
from eet.search.faiss_approximate import FaissHNSWIndex, FaissIVFIndex

pytest.importorskip("faiss", reason="FAISS is not installed")
KINDS = {"faiss-ivf": {"lists": 20}, "faiss-hnsw": {"links": 16}}
BITS = [12, 64, 100]


def clustered(bits: int, num_items: int, seed: int = 0) -> np.ndarray:
    """As of trained networks: one of 20 target codes, with a tenth of its bits flipped."""
    targets = np.random.default_rng(bits).integers(0, 2, (20, bits))
    rng = np.random.default_rng([bits, seed])
    return pack(targets[rng.integers(0, 20, num_items)] ^ (rng.random((num_items, bits)) < 0.1))


def recall(found_Qk: np.ndarray, exact_Qk: np.ndarray) -> float:
    return float(((found_Qk >= 0) & (found_Qk <= exact_Qk[:, -1:])).mean())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", BITS)
def test_hits_are_items_at_their_distances_in_the_order_of_every_index(kind, bits):
    items, query_hash = clustered(bits, 900), np.random.default_rng(1).integers(-9, 9, (20, bits)) + 0.5
    queries = pack(query_hash)
    index = build_index(kind, items, num_bits=bits, **KINDS[kind]).with_probes(3)
    assert not index.is_exact and index.num_items == 900
    np.testing.assert_array_equal(index.packed_codes(), items)
    scores_QN = asymmetric_scores(query_hash, items)
    for k in (1, 40, 900):
        distances, rows = index.search(queries, k, query_hash=query_hash)
        for q in range(20):
            found = rows[q][rows[q] >= 0]
            assert len(found) and len(set(found)) == len(found) and (distances[q, len(found) :] == -1).all()
            np.testing.assert_array_equal(distances[q, : len(found)], hamming_distances(queries[q : q + 1], items[found])[0])
            order = np.lexsort((found, -scores_QN[q, found], distances[q, : len(found)]))
            np.testing.assert_array_equal(order, np.arange(len(found)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [64, 100])
def test_more_probes_find_more_until_nearly_all(kind, bits):
    items, queries = clustered(bits, 3000), clustered(bits, 50, seed=1)
    exact = HammingIndex.build(items).search(queries, 20)[0]
    index = build_index(kind, items, **KINDS[kind])
    found = [recall(index.with_probes(probes).search(queries, 20)[0], exact) for probes in (1, 19, 200)]
    assert found == sorted(found) and found[1] > 0.95 and found[2] > 0.99


@pytest.mark.parametrize("bits", BITS)
def test_the_graph_with_enough_candidates_gives_the_exact_answer(bits):
    items, queries = clustered(bits, 600), clustered(bits, 30, seed=1)
    index, exact = FaissHNSWIndex.build(items, num_bits=bits).with_probes(600), HammingIndex.build(items, num_bits=bits)
    for options in ({"k": 600}, {"radius": bits // 4}, {"radius": bits // 4, "k": 600}):
        for found, wanted in zip(index.find(queries, **options), exact.find(queries, **options), strict=True):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("bits", BITS)
def test_all_but_one_list_hold_all_but_its_items(bits):
    """FAISS's own search of lists, next to a loop over the items that are not in the list whose centroid is farthest."""
    items, queries = clustered(bits, 600), clustered(bits, 30, seed=1)
    index = FaissIVFIndex.build(items, lists=7)
    few = index.with_probes(index.num_lists - 1)
    width = items.shape[1]
    to_centroids = hamming_distances(items, np.ascontiguousarray(index.centroids_LB[:, :width]))
    distances, rows = few.search(queries, 600)
    of_queries = hamming_distances(queries, np.ascontiguousarray(index.centroids_LB[:, :width]))
    for q in range(30):
        farthest = np.flatnonzero(of_queries[q] == of_queries[q].max())
        missed = np.setdiff1d(np.arange(600), rows[q])
        # An item lies with one of its nearest centroids, and the missed ones lie with one of the farthest of the query.
        assert (to_centroids[missed][:, farthest].min(axis=1, initial=99) == to_centroids[missed].min(axis=1)).all()
        assert len(missed) < 600 and (np.diff(distances[q, : 600 - len(missed)]) >= 0).all()


def test_all_lists_give_the_exact_answer():
    items, queries = clustered(64, 900), clustered(64, 30, seed=1)
    index = FaissIVFIndex.build(items, lists=9)
    assert index.is_exact and not index.with_probes(8).is_exact  # 16 lists of 9 are probed by default
    expected = HammingIndex.build(items).search(queries, 50)
    for searched in (index, index.with_probes(100), index.with_probes(1).exact()):
        for found, wanted in zip(searched.search(queries, 50), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [12, 64])
def test_a_saved_index_answers_as_the_one_that_was_built(tmp_path, kind, bits):
    items, queries = clustered(bits, 900), clustered(bits, 9, seed=1)
    built = build_index(kind, items, num_bits=bits, **KINDS[kind])
    built.save(tmp_path)
    loaded = load_index(tmp_path)
    assert type(loaded) is type(built) and loaded.options == built.options and loaded.nbytes == built.nbytes and loaded.num_bits == bits
    for one, other in zip(loaded.with_probes(2).search(queries, 20), built.with_probes(2).search(queries, 20), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_rebuilding_keeps_what_was_learned_and_the_probes(kind):
    items, queries = clustered(64, 900), clustered(64, 9, seed=1)
    first = build_index(kind, items[:400], num_bits=64, **KINDS[kind]).with_probes(5)
    again = first.rebuilt(items)
    assert (again.probes, dict(again.options), again.num_bits, again.num_items) == (5, KINDS[kind], 64, 900)
    assert recall(again.search(queries, 10)[0], HammingIndex.build(items).search(queries, 10)[0]) > 0.8
    if isinstance(first, FaissIVFIndex):
        np.testing.assert_array_equal(again.centroids_LB, first.centroids_LB)


@pytest.mark.parametrize("kind", KINDS)
def test_without_items_and_without_faiss(kind, tmp_path, monkeypatch):
    items = clustered(64, 30)
    empty = build_index(kind, items[:0])
    empty.save(tmp_path)
    assert load_index(tmp_path).search(items[:2], 3)[1].shape == (2, 0) and empty.rebuilt(items).num_items == 30
    with pytest.raises(ValueError, match="probes=0"):
        empty.with_probes(0)
    with pytest.raises(ValueError, match="lists=0|links=1"):
        build_index(kind, items, **{"faiss-ivf": {"lists": 0}, "faiss-hnsw": {"links": 1}}[kind])
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ValueError, match="this kind of index is not available, because faiss .* or use the kind exact or ivf"):
        build_index(kind, items)

"""An inverted file against a plain sort of what lies in its lists."""

import numpy as np
import pytest

from eet.hashing.distance import asymmetric_scores, hamming_distances
from eet.hashing.packing import pack
from eet.search import HammingIndex, IVFIndex, load_index
from eet.search.ivf_index import learn_centroids


def drawn(bits: int, num_items: int, num_values: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng([bits, num_items, num_values, seed])
    return pack(rng.integers(0, 2, (num_values, bits)))[rng.integers(0, num_values, num_items)]


def slow_search(items, queries, k, centroids, probes, query_hash=None):  # type: ignore[no-untyped-def]
    """Rows of each query's answer: every item lies with the first of its nearest centroids, and all items of the query's nearest lists are
    sorted.
    """
    list_of_item = hamming_distances(items, centroids).argmin(axis=1)
    distances = hamming_distances(queries, items)
    scores = np.zeros(distances.shape) if query_hash is None else asymmetric_scores(query_hash, items)
    answer = np.full((len(queries), k), -1)
    for q, to_centroids in enumerate(hamming_distances(queries, centroids)):
        probed = np.argsort(to_centroids, kind="stable")[:probes]
        rows = np.flatnonzero(np.isin(list_of_item, probed))
        rows = rows[np.lexsort((rows, -scores[q, rows], distances[q, rows]))][:k]
        answer[q, : len(rows)] = rows
    return answer


@pytest.mark.parametrize("bits", [12, 32, 48, 64, 128])
@pytest.mark.parametrize("num_values", [30, 100_000])  # grouped: items share codes; flat: they do not
@pytest.mark.parametrize("lists", [12, 40])
@pytest.mark.parametrize("with_hash", [False, True])
@pytest.mark.slow
def test_an_answer_is_the_sorted_content_of_the_probed_lists(bits: int, num_values: int, with_hash: bool, lists: int) -> None:
    items = drawn(bits, 600, num_values)
    query_hash = np.random.default_rng(1).integers(-9, 9, (20, bits)) + 0.5  # exact sums: real ties
    queries = pack(query_hash)
    index = IVFIndex.build(items, num_bits=bits, lists=lists)
    assert index.num_items == 600 and index.num_lists == min(lists, len(np.unique(items, axis=0)))
    np.testing.assert_array_equal(index.packed_codes(), items)
    for probes in (1, 3, 11):
        for k in (1, 40, 600):
            found, rows = index.with_probes(probes).search(queries, k, query_hash=query_hash if with_hash else None)
            expected = slow_search(items, queries, k, index.centroids_LB, probes, query_hash if with_hash else None)
            np.testing.assert_array_equal(rows, expected)
            of_rows = np.take_along_axis(hamming_distances(queries, items), np.maximum(rows, 0), axis=1)
            np.testing.assert_array_equal(found, np.where(rows < 0, -1, of_rows))


@pytest.mark.parametrize("num_values", [30, 100_000])
def test_all_lists_give_the_exact_answer_and_so_does_the_exact_index_over_them(num_values: int) -> None:
    items, queries = drawn(64, 500, num_values), drawn(64, 30, 1000, seed=1)
    index = IVFIndex.build(items, lists=9)
    expected = HammingIndex.build(items).search(queries, 50)
    few = index.with_probes(1)
    assert index.is_exact and not few.is_exact  # 16 lists of 9 are probed by default
    for searched in (index, index.with_probes(9), index.with_probes(100), few.exact()):
        for found, wanted in zip(searched.search(queries, 50), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
    assert not np.array_equal(few.search(queries, 50)[1], expected[1])


def test_another_number_of_probes_is_another_index_over_the_same_arrays() -> None:
    index = IVFIndex.build(drawn(64, 5000, 400), lists=40)
    few, many = index.with_probes(3), index.with_probes(39)
    assert (few.probes, index.probes, many.probes) == (3, 16, 39)
    assert few.codes is index.codes and few.exact() is index.exact() and few.centroids_LB is index.centroids_LB
    assert [index.with_probes(probes).is_exact for probes in (39, 40, 41)] == [False, True, True]


@pytest.mark.parametrize("num_values", [30, 100_000])
def test_rebuilding_keeps_the_lists_and_the_probes(num_values: int) -> None:
    items, queries = drawn(64, 900, num_values), drawn(64, 9, 1000, seed=1)
    first = IVFIndex.build(items[:400], num_bits=64, lists=11).with_probes(2)
    again = first.rebuilt(items)
    np.testing.assert_array_equal(again.centroids_LB, first.centroids_LB)
    assert again.probes == 2 and again.options == {"lists": 11} and again.num_bits == 64
    np.testing.assert_array_equal(again.search(queries, 30)[1], slow_search(items, queries, 30, first.centroids_LB, 2))
    assert IVFIndex.build(items[:0]).rebuilt(items).num_lists > 1


def test_more_is_found_than_the_first_arrays_hold() -> None:
    items = drawn(64, 9000, 8999)
    index = IVFIndex.build(items, lists=2).with_probes(1)
    queries = items[:3]
    np.testing.assert_array_equal(index.search(queries, 9000)[1], slow_search(items, queries, 9000, index.centroids_LB, 1))


def test_centroids_of_clustered_codes_are_what_the_clusters_were_drawn_around() -> None:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, (8, 64))
    items = pack(targets[rng.integers(0, 8, 4000)] ^ (rng.random((4000, 64)) < 0.1))
    learned = learn_centroids(items, 40)
    assert hamming_distances(pack(targets), learned).min(axis=1).max() <= 4  # an item is 6 bits off on average
    near = lambda centroids: hamming_distances(items, centroids).min(axis=1).mean()  # noqa: E731
    assert near(learned) < near(items[:40]) - 0.5
    np.testing.assert_array_equal(learned, learn_centroids(items, 40))


@pytest.mark.parametrize("num_values", [30, 100_000])
def test_a_saved_index_is_loaded_as_what_it_is(tmp_path, num_values: int) -> None:  # type: ignore[no-untyped-def]
    items, queries = drawn(48, 400, num_values), drawn(48, 9, 400, seed=2)
    built = IVFIndex.build(items, num_bits=48, lists=7)
    built.save(tmp_path / "ivf")
    HammingIndex.build(items).save(tmp_path / "exact")
    loaded = load_index(tmp_path / "ivf")
    assert isinstance(loaded, IVFIndex) and loaded.num_bits == 48 and loaded.nbytes == built.nbytes
    assert type(load_index(tmp_path / "exact")) is HammingIndex
    assert built.nbytes == built.codes.nbytes + built.centroids_LB.nbytes + 8 * 8
    np.testing.assert_array_equal(loaded.with_probes(2).search(queries, 20)[1], built.with_probes(2).search(queries, 20)[1])
    np.testing.assert_array_equal(loaded.packed_codes(), items)


def test_given_centroids_are_kept_and_few_codes_make_few_lists() -> None:
    items = drawn(16, 300, 100)
    centroids = drawn(16, 5, 5)
    np.testing.assert_array_equal(IVFIndex.build(items, centroids_LB=centroids).centroids_LB, centroids)
    assert IVFIndex.build(items[:3], lists=50).num_lists <= 3
    assert IVFIndex.build(drawn(64, 900, 100_000)).num_lists == 120
    empty = IVFIndex.build(items[:0])
    assert empty.num_items == 0 and empty.search(items[:2], 3)[1].shape == (2, 0)
    assert IVFIndex.build(items, centroids_LB=empty.centroids_LB).num_lists > 1
    with pytest.raises(ValueError, match="lists=0"):
        IVFIndex.build(items, lists=0)

"""The cut of a search into tiles and pieces against a plain sort, which has neither."""

import threading

import numpy as np
import pytest

from eet.hashing.distance import asymmetric_scores, hamming_distances
from eet.hashing.packing import pack
from eet.search.distinct_codes import DistinctCodes
from eet.search.tiled_search import Candidates, Scan, merged, tiled_search
from eet.search.tiling import Tiling

BITS = 24
NUM_ITEMS = 300


def drawn(number: int, num_values: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng([num_values, seed])
    return pack(rng.integers(0, 2, (num_values, BITS)))[rng.integers(0, num_values, number)]


class PlainScan:
    """All codes of the given ranges are candidates, in an order that has no meaning. Counts its calls."""

    def __init__(self, codes: DistinctCodes) -> None:
        self.codes = codes
        self.calls: list[tuple[int, list[list[int]]]] = []
        self.threads: set[int] = set()

    def find(self, words_TW: np.ndarray, k: int, ranges_R2: np.ndarray) -> Candidates:
        self.calls.append((len(words_TW), ranges_R2.tolist()))
        self.threads.add(threading.get_ident())
        places = np.concatenate([np.arange(first, end) for first, end in ranges_R2])[::-1]
        distances = np.bitwise_count(words_TW[:, None] ^ self.codes.words_UW[None, places]).sum(axis=2)
        starts = np.arange(len(words_TW) + 1) * len(places)
        return starts, np.tile(places, len(words_TW)), distances.astype(np.uint16).ravel()

    def scan(self, whole: bool = False) -> Scan:
        return Scan(self.find, least=2, most=4, whole=whole)


@pytest.mark.parametrize("num_values", [20, 100_000])  # grouped and flat
@pytest.mark.parametrize("with_hash", [False, True])
@pytest.mark.parametrize("tile", [1, 3, 7])
@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_no_cut_changes_the_answer(monkeypatch, num_values: int, with_hash: bool, tile: int, pieces: int) -> None:
    items, query_hash = drawn(NUM_ITEMS, num_values, 0), np.random.default_rng(1).integers(-9, 9, (7, BITS)) + 0.5
    queries = pack(query_hash)
    codes = DistinctCodes.build(items, num_bits=BITS)
    monkeypatch.setattr("eet.search.tiled_search.tiling", lambda *sizes, **limits: Tiling(tile, pieces))
    scores = asymmetric_scores(query_hash, items) if with_hash else np.zeros((7, NUM_ITEMS))
    distances = hamming_distances(queries, items)
    for k in (1, 30, NUM_ITEMS, 1000):
        scan = PlainScan(codes)
        found = tiled_search(codes, scan.scan(), queries, k=k, query_hash=query_hash if with_hash else None, threads=3).dense(
            min(k, NUM_ITEMS)
        )
        expected = np.stack([np.lexsort((np.arange(NUM_ITEMS), -scores[q], distances[q]))[:k] for q in range(7)])
        for values, wanted, dtype in zip(found, (distances, scores, None), (np.int32, np.float32, np.int64), strict=True):
            np.testing.assert_array_equal(values, expected if wanted is None else np.take_along_axis(wanted, expected, axis=1))
            assert values.dtype == dtype
        assert sum(count for count, _ in scan.calls) == 7 * pieces and len(scan.calls) == -(-7 // tile) * pieces
        ends = sorted({tuple(ranges[0]) for _, ranges in scan.calls})
        assert [first for first, _ in ends] == [0] + [end for _, end in ends[:-1]] and ends[-1][1] == len(codes)


def test_the_cut_is_what_tiling_says_for_the_scan(monkeypatch) -> None:
    asked = []
    monkeypatch.setattr("eet.search.tiled_search.tiling", lambda *sizes, **limits: (asked.append((sizes, limits)), Tiling(4, 1))[1])
    codes = DistinctCodes.build(drawn(50, 100_000, 0))
    tiled_search(codes, PlainScan(codes).scan(whole=True), drawn(9, 9, 1), k=3, threads=6)
    assert asked == [((9, 50), {"threads": 6, "least": 2, "most": 4, "whole": True})]


def test_a_scan_of_all_codes_is_called_by_one_thread_at_a_time() -> None:
    codes = DistinctCodes.build(drawn(50, 100_000, 0))
    scan = PlainScan(codes)
    tiled_search(codes, scan.scan(whole=True), drawn(40, 40, 1), k=3, threads=6)
    assert len(scan.calls) == 10 and len(scan.threads) == 1


@pytest.mark.parametrize("tile", [2, 9])
def test_what_is_not_found_has_row_and_distance_minus_one(monkeypatch, tile: int) -> None:
    monkeypatch.setattr("eet.search.tiled_search.tiling", lambda *sizes, **limits: Tiling(tile, 1))
    items = drawn(50, 100_000, 0)
    codes = DistinctCodes.build(items)
    scan = PlainScan(codes)
    first_ten = Scan(lambda words, k, ranges: scan.find(words, k, np.array([[0, 10]])), 2, 4, True)
    distances, scores, rows = tiled_search(codes, first_ten, drawn(9, 9, 1), k=30, threads=2).dense(30)
    assert (np.sort(rows[:, :10]) == np.arange(10)).all() and (rows[:, 10:] == -1).all() and (distances[:, 10:] == -1).all()
    assert not scores.any()


def test_merged_candidates_are_those_of_every_piece() -> None:
    first = np.array([0, 2, 2, 3]), np.array([4, 1, 0]), np.array([9, 8, 7], np.uint16)
    second = np.array([0, 1, 3, 3]), np.array([12, 11, 10]), np.array([3, 2, 1], np.uint16)
    starts, codes, distances = merged([first, second])
    assert starts.tolist() == [0, 3, 5, 6]
    assert codes.tolist() == [4, 1, 12, 11, 10, 0] and distances.tolist() == [9, 8, 3, 2, 1, 7]


def test_empty_sides_and_wrong_arguments_call_no_scan() -> None:
    scan = Scan(lambda *_: pytest.fail("called"), 2, 4, False)
    none, some = DistinctCodes.build(np.zeros((0, 3), np.uint8)), DistinctCodes.build(drawn(5, 5, 0))
    assert [values.shape for values in tiled_search(none, scan, drawn(2, 2, 1), k=4).dense(0)] == [(2, 0)] * 3
    assert [values.shape for values in tiled_search(some, scan, np.zeros((0, 3), np.uint8), k=4).dense(4)] == [(0, 4)] * 3
    with pytest.raises(ValueError, match="k=0"):
        tiled_search(some, scan, drawn(2, 2, 1), k=0)
    with pytest.raises(ValueError, match="2 bytes"):
        tiled_search(some, scan, np.zeros((1, 2), np.uint8), k=1)

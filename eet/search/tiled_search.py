"""A Hamming search on all threads for any index: queries in tiles, codes in pieces, and one order of the result.

An index provides a `Scan`, which finds candidates; `tiled_search` cuts the work, calls the scan, and ranks the candidates. So the results
of every index have the same order.

Shape suffixes: Q queries, T queries of a tile, N items, U distinct codes, B bytes, b bits, W machine words, R ranges.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeAlias

import numpy as np

from eet.errors import InputError
from eet.hashing.distance import asymmetric_tables
from eet.search.distinct_codes import DistinctCodes, read_only, wide_words
from eet.search.tiling import tiling

Candidates: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]
"""(starts (T + 1,), codes, distances): those of query t are codes[starts[t] : starts[t + 1]]; they include every code of its result."""


class Scan(NamedTuple):
    """How an index finds candidates.

    Attributes:
        find: (words (T, W) of some queries, k, ranges (R, 2) of codes) -> candidates among the codes of those ranges.
        least: number of queries that a call should have, if every thread still has work.
        most: most queries of a call.
        whole: it ignores the ranges and searches all codes, so codes are not cut into pieces; one thread calls it at a time.
    """

    find: Callable[[np.ndarray, int, np.ndarray], Candidates]
    least: int
    most: int
    whole: bool


class Found(NamedTuple):
    """Hits of a search; queries may have different numbers of them.

    Attributes:
        starts: int64 (Q + 1,); the hits of query q are starts[q] : starts[q + 1] of the other arrays, nearest first.
        distances: int32 (n,).
        scores: float32 (n,), asymmetric scores; 0 without query hashes.
        rows: int64 (n,), numbers of the items.
    """

    starts: np.ndarray
    distances: np.ndarray
    scores: np.ndarray
    rows: np.ndarray

    def dense(self, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(distances, scores, rows), each (Q, k), for queries with at most k hits.

        Where there are fewer, distance and row are -1 and the score is 0.
        """
        num_queries = len(self.starts) - 1
        if len(self.rows) == num_queries * k:
            shape = num_queries, k
            return self.distances.reshape(shape), self.scores.reshape(shape), self.rows.reshape(shape)
        filled = np.arange(k) < np.diff(self.starts)[:, None]
        arrays = []
        for values, missing in ((self.distances, -1), (self.scores, 0), (self.rows, -1)):
            arrays.append(np.full((num_queries, k), missing, values.dtype))
            arrays[-1][filled] = values
        return arrays[0], arrays[1], arrays[2]


def tiled_search(
    codes: DistinctCodes,
    scan: Scan,
    packed_QB: np.ndarray,
    *,
    k: int | None = None,
    radius: int | None = None,
    query_hash: np.ndarray | None = None,
    threads: int | None = None,
) -> Found:
    """Finds the k nearest items for each query, all items within a radius, or the k nearest of these, among the candidates of a scan.

    Args:
        codes: the codes that the scan searches.
        scan: finds the candidates.
        packed_QB: uint8 (Q, B), packed codes of the queries.
        k: most items for each query, 1 or more; None for all within the radius.
        radius: largest distance, 0 or more; None for any.
        query_hash: (Q, b), real-valued hashes of the queries, or None.
        threads: CPU threads; default all.

    Returns:
        The items, by distance, then asymmetric score, then row.

    Raises:
        InputError: k < 1, radius < 0 or neither is given, or the queries do not fit the codes.
    """
    codes.check_queries(packed_QB, query_hash)
    if k is None and radius is None:
        raise InputError("neither k nor radius is given: give the number of items, the distance within which they lie, or both.")
    if k is not None and k < 1:
        raise InputError(f"k={k}; ask for at least 1 item.")
    if radius is not None and radius < 0:
        raise InputError(f"radius={radius}; use 0 bits or more.")
    num_queries, most = len(packed_QB), codes.num_items if k is None else min(k, codes.num_items)
    if most == 0 or num_queries == 0:
        return Found(np.zeros(num_queries + 1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0, np.int64))
    from eet.search.scan import rank

    words_QW = wide_words(packed_QB)
    threads = threads or os.cpu_count() or 1
    tile, pieces = tiling(num_queries, len(codes), threads=threads, least=scan.least, most=scan.most, whole=scan.whole)
    tiles = [slice(start, start + tile) for start in range(0, num_queries, tile)]
    bounds = np.linspace(0, len(codes), pieces + 1).astype(np.int64)
    ranges_R2 = np.stack([bounds[:-1], bounds[1:]], axis=1)
    no_tables = np.empty((0, 0, 256), np.float32)

    def answer(block: slice, candidates: Candidates | None = None) -> Found:
        tables = read_only(no_tables if query_hash is None else asymmetric_tables(query_hash[block]))
        candidates = candidates or scan.find(read_only(words_QW[block]), most, ranges_R2)
        if radius is not None and not (inside := candidates[2] <= radius).all():
            candidates = _chosen(candidates, inside)
        starts = _joined_starts([np.minimum(_num_items(codes, candidates), most)])
        found = Found(starts, np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32), np.empty(starts[-1], np.int64))
        rank(codes.words_UW, codes.offsets, codes.rows_N, tables, *candidates, *found)
        return found

    if pieces == len(tiles) == 1:
        return answer(tiles[0])
    with ThreadPoolExecutor(1 if scan.whole else threads) as pool:
        if pieces == 1:
            return _joined(list(pool.map(answer, tiles)))
        answers = []
        for block in tiles:
            words_TW = read_only(words_QW[block])
            parts = pool.map(lambda place, words_TW=words_TW: scan.find(words_TW, most, ranges_R2[place : place + 1]), range(pieces))
            answers.append(answer(block, merged(list(parts))))
    return _joined(answers)


def _num_items(codes: DistinctCodes, candidates: Candidates) -> np.ndarray:
    """Number of items of each query's candidates, (T,)."""
    starts, found, _ = candidates
    if not len(codes.offsets):
        return np.diff(starts)
    return np.diff(np.concatenate([[0], np.cumsum(codes.offsets[found + 1] - codes.offsets[found])])[starts])


def _chosen(candidates: Candidates, chosen: np.ndarray) -> Candidates:
    """Those candidates for which `chosen` is true."""
    starts, codes, distances = candidates
    return np.concatenate([[0], np.cumsum(chosen)])[starts], codes[chosen], distances[chosen]


def _joined_starts(counts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(counts), dtype=np.int64)])


def _joined(answers: list[Found]) -> Found:
    """The hits of all tiles, in their order."""
    starts, *columns = zip(*answers, strict=True)
    return Found(_joined_starts([np.diff(own) for own in starts]), *map(np.concatenate, columns))


def merged(parts: list[Candidates]) -> Candidates:
    """Joins candidates of the same queries from several pieces of the codes; those of a query are in the order of the pieces."""
    num_queries = len(parts[0][0]) - 1
    query_n = np.concatenate([np.repeat(np.arange(num_queries), np.diff(starts)) for starts, _, _ in parts])
    codes, distances = (np.concatenate([part[place] for part in parts]) for place in (1, 2))
    return by_query(query_n, codes, distances, num_queries)


def successive(parts: list[Candidates]) -> Candidates:
    """Joins the candidates of queries that follow each other."""
    starts = _joined_starts([np.diff(starts) for starts, _, _ in parts])
    codes, distances = (np.concatenate([part[place] for part in parts]) for place in (1, 2))
    return starts, codes, distances


def by_query(query_n: np.ndarray, code_n: np.ndarray, distance_n: np.ndarray, num_queries: int) -> Candidates:
    """Candidates from pairs of a query and a code in any order; those of a query keep their order."""
    order = np.argsort(query_n, kind="stable")
    starts = np.searchsorted(query_n[order], np.arange(num_queries + 1))
    return starts, code_n[order], distance_n[order].astype(np.uint16, copy=False)

"""A Hamming search on all threads, whatever finds its candidates: queries in tiles, codes in pieces, and one order of the answer.

An index gives a `Scan`, which finds candidates; `tiled_search` cuts the work, calls the scan, and ranks what it found. So every index
answers in the same order.

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
"""(starts (T + 1,), codes, distances): those of query t are codes[starts[t] : starts[t + 1]], among them every code that may be in its
answer."""


class Scan(NamedTuple):
    """How candidates are found.

    Attributes:
        find: (words (T, W) of some queries, k, ranges (R, 2) of codes) -> candidates among the codes of those ranges.
        least: queries that it should get at once, if that leaves work for every thread.
        most: queries that it may get at once.
        whole: it searches all codes, whatever the ranges, so codes are not cut into pieces; it is called by one thread at a time.
    """

    find: Callable[[np.ndarray, int, np.ndarray], Candidates]
    least: int
    most: int
    whole: bool


def tiled_search(
    codes: DistinctCodes, scan: Scan, packed_QB: np.ndarray, k: int, *, query_hash: np.ndarray | None = None, threads: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The k nearest of the items that a scan finds, for each query.

    Args:
        codes: those that the scan searches.
        scan: finds the candidates of some queries.
        packed_QB, k, query_hash, threads: as `eet.search.Index.search` takes them.

    Returns:
        distances, int32 (Q, min(k, N)), scores, float32, and rows, int64, as `eet.search.Index.search_scored` returns them; -1, 0 and -1
        where a query has fewer candidates.

    Raises:
        ValueError: k < 1, or queries that do not fit the codes.
    """
    codes.check_queries(packed_QB, query_hash)
    if k < 1:
        raise InputError(f"k={k}; ask for at least 1 item.")
    num_queries, k = len(packed_QB), min(k, codes.num_items)
    distances_Qk = np.full((num_queries, k), -1, dtype=np.int32)
    scores_Qk = np.zeros((num_queries, k), dtype=np.float32)
    rows_Qk = np.full((num_queries, k), -1, dtype=np.int64)
    if k == 0 or num_queries == 0:
        return distances_Qk, scores_Qk, rows_Qk
    from eet.search.scan import rank

    words_QW = wide_words(packed_QB)
    threads = threads or os.cpu_count() or 1
    tile, pieces = tiling(num_queries, len(codes), threads=threads, least=scan.least, most=scan.most, whole=scan.whole)
    tiles = [slice(start, start + tile) for start in range(0, num_queries, tile)]
    bounds = np.linspace(0, len(codes), pieces + 1).astype(np.int64)
    ranges_R2 = np.stack([bounds[:-1], bounds[1:]], axis=1)
    no_tables = np.empty((0, 0, 256), np.float32)

    def answer(block: slice, candidates: Candidates | None = None) -> None:
        tables = read_only(no_tables if query_hash is None else asymmetric_tables(query_hash[block]))
        candidates = candidates or scan.find(read_only(words_QW[block]), k, ranges_R2)
        found = distances_Qk[block], scores_Qk[block], rows_Qk[block]
        rank(codes.words_UW, codes.offsets, codes.rows_N, tables, *candidates, k, *found)

    if pieces == len(tiles) == 1:
        answer(tiles[0])
        return distances_Qk, scores_Qk, rows_Qk
    with ThreadPoolExecutor(1 if scan.whole else threads) as pool:
        if pieces == 1:
            list(pool.map(answer, tiles))
        else:
            for block in tiles:
                words_TW = read_only(words_QW[block])
                parts = pool.map(lambda place, words_TW=words_TW: scan.find(words_TW, k, ranges_R2[place : place + 1]), range(pieces))
                answer(block, merged(list(parts)))
    return distances_Qk, scores_Qk, rows_Qk


def merged(parts: list[Candidates]) -> Candidates:
    """Candidates of the same queries from different pieces of the codes, in one; those of a query in the order of the pieces."""
    counts = np.stack([np.diff(starts) for starts, _, _ in parts])
    query = np.concatenate([np.repeat(np.arange(counts.shape[1]), count) for count in counts])
    order = np.argsort(query, kind="stable")
    codes, distances = (np.concatenate([part[place] for part in parts])[order] for place in (1, 2))
    return np.concatenate([[0], np.cumsum(counts.sum(axis=0))]), codes, distances

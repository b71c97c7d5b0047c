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


def tiled_search(
    codes: DistinctCodes, scan: Scan, packed_QB: np.ndarray, k: int, *, query_hash: np.ndarray | None = None, threads: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Finds the k nearest items for each query, among the candidates of a scan.

    Args:
        codes: the codes that the scan searches.
        scan: finds the candidates.
        packed_QB: uint8 (Q, B), packed codes of the queries.
        k: items for each query, 1 or more.
        query_hash: (Q, b), real-valued hashes of the queries, or None.
        threads: CPU threads; default all.

    Returns:
        distances: int32 (Q, min(k, N)), ascending; -1 where a query has fewer candidates.
        scores: float32, asymmetric scores; 0 there, and without query_hash.
        rows: int64, numbers of the items; -1 there.

    Raises:
        InputError: k < 1, or the queries do not fit the codes.
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
    """Joins candidates of the same queries from several pieces of the codes; those of a query are in the order of the pieces."""
    counts = np.stack([np.diff(starts) for starts, _, _ in parts])
    query = np.concatenate([np.repeat(np.arange(counts.shape[1]), count) for count in counts])
    order = np.argsort(query, kind="stable")
    codes, distances = (np.concatenate([part[place] for part in parts])[order] for place in (1, 2))
    return np.concatenate([[0], np.cumsum(counts.sum(axis=0))]), codes, distances

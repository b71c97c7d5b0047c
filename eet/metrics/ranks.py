"""The matches of a query in a Hamming ranking of a whole gallery, in one pass and without a sort: counts by distance, or ranks.

Shape suffixes: N items, T queries of a block, W words of a code, H = bits + 1 distances, m matches of a query.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from eet.hashing.distance import as_words
from eet.metrics.match_lists import MatchLists

QUERIES_AT_ONCE = 64  # their counts are small compared with a gallery


T = TypeVar("T")


class MatchCounts(NamedTuple):
    """Counts at each distance from each query. A query that is an item of the gallery does not count itself.

    Attributes:
        total_QH: int64 (Q, H), items.
        relevant_QH: int64 (Q, H), matches.
    """

    total_QH: np.ndarray
    relevant_QH: np.ndarray


class MatchRanks(NamedTuple, Generic[T]):
    """The result of `match_ranks`.

    Attributes:
        measured: for each query, the result of `measure` for the ranks of its matches.
        total_QH, relevant_QH: as of `MatchCounts`.
    """

    measured: list[T]
    total_QH: np.ndarray
    relevant_QH: np.ndarray


def match_counts(
    query_codes: np.ndarray,
    gallery_codes: np.ndarray,
    matches: MatchLists,
    *,
    num_bits: int,
    query_rows: np.ndarray | None = None,
    threads: int | None = None,
) -> MatchCounts:
    """Count the items and the matches at each Hamming distance of every query.

    In memory are only the codes and the result.

    Args:
        query_codes, gallery_codes: uint8 (Q, B) and (N, B), packed as `eet.hashing.pack` does.
        matches: of Q queries and N items.
        num_bits: bits of a code.
        query_rows: integers (Q,), the row of each query in the gallery if the queries are gallery items, else None.
        threads: number of threads; None for one per CPU.
    """
    from eet.metrics.match_scan import count

    data = _Scan(query_codes, gallery_codes, matches, num_bits, query_rows)

    def count_block(block: slice) -> None:
        count(
            data.queries_QW[block], data.first_Q[block], data.last_Q[block], data.matches_M, data.rows_Q[block], data.codes_NW,
            data.total_QH[block], data.relevant_QH[block],
        )  # fmt: skip

    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        list(pool.map(count_block, data.blocks))
    return MatchCounts(data.total_QH, data.relevant_QH)


def match_ranks(
    query_codes: np.ndarray,
    gallery_codes: np.ndarray,
    matches: MatchLists,
    *,
    num_bits: int,
    measure: Callable[[np.ndarray], T],
    query_rows: np.ndarray | None = None,
    threads: int | None = None,
) -> MatchRanks[T]:
    """Rank the gallery for every query by Hamming distance, ties by row.

    One pass over the gallery counts, for every item, how many earlier items have the same distance. This count and the counts of smaller
    distances give the rank. In memory are only the codes, the ranks of some queries, and the result.

    Args:
        query_codes, gallery_codes, matches, num_bits, query_rows, threads: as of `match_counts`.
        measure: called with the ranks of one query's matches, int64 (m,) from 1, ascending; its result is kept. Several threads call it.
    """
    from eet.metrics.match_scan import scan

    data = _Scan(query_codes, gallery_codes, matches, num_bits, query_rows)
    most = matches.counts_Q

    def rank(block: slice) -> list[T]:
        starts = np.concatenate([[0], np.cumsum(most[block])])
        ranks = np.empty(starts[-1], np.int64)
        counts = scan(
            data.queries_QW[block], data.first_Q[block], data.last_Q[block], data.matches_M, data.rows_Q[block], data.codes_NW,
            starts, data.total_QH[block], data.relevant_QH[block], ranks,
        )  # fmt: skip
        return [measure(np.sort(ranks[start : start + count])) for start, count in zip(starts, counts, strict=False)]

    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        measured = [value for part in pool.map(rank, data.blocks) for value in part]
    return MatchRanks(measured, data.total_QH, data.relevant_QH)


class _Scan:
    """Both sides in the form that the compiled loops need, the counts that they fill, and the blocks of queries."""

    def __init__(
        self,
        query_codes: np.ndarray,
        gallery_codes: np.ndarray,
        matches: MatchLists,
        num_bits: int,
        query_rows: np.ndarray | None,
    ) -> None:
        number = len(query_codes)
        self.queries_QW, self.codes_NW = (np.ascontiguousarray(as_words(codes).astype(np.uint64)) for codes in (query_codes, gallery_codes))
        self.first_Q, self.last_Q, self.matches_M = matches.first_Q, matches.last_Q, matches.rows_M
        self.rows_Q = np.full(number, -1, np.int64) if query_rows is None else np.asarray(query_rows).astype(np.int64)
        self.total_QH = np.zeros((number, num_bits + 1), np.int64)
        self.relevant_QH = np.zeros_like(self.total_QH)
        self.blocks = [slice(start, start + QUERIES_AT_ONCE) for start in range(0, number, QUERIES_AT_ONCE)]

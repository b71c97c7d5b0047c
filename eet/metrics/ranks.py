"""The matches of a query in a Hamming ranking of a whole gallery, in one pass and without a sort: counts by distance, or ranks.

Shape suffixes: N items, T queries of a block, W words of a code, H = bits + 1 distances, m matches of a query.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from eet.hashing.distance import as_words

QUERIES_AT_ONCE = 64  # their counts stay small beside a gallery


T = TypeVar("T")


class MatchCounts(NamedTuple):
    """Items and matches at each distance, int64 (Q, H). The query itself, where it is an item, is in none of them."""

    total_QH: np.ndarray
    relevant_QH: np.ndarray


class MatchRanks(NamedTuple, Generic[T]):
    """measured: for each query what was made of the ranks of its matches. total_QH, relevant_QH: as of `MatchCounts`."""

    measured: list[T]
    total_QH: np.ndarray
    relevant_QH: np.ndarray


def match_counts(
    query_codes: np.ndarray,
    query_labels: np.ndarray,
    gallery_codes: np.ndarray,
    gallery_labels: np.ndarray,
    *,
    num_bits: int,
    query_rows: np.ndarray | None = None,
    threads: int | None = None,
) -> MatchCounts:
    """Count the items and the matches at each Hamming distance of every query.

    Memory: the codes, and what is returned.

    Args:
        query_codes, gallery_codes: uint8 (Q, B) and (N, B), packed as `eet.hashing.pack` does.
        query_labels, gallery_labels: integers (Q,) and (N,).
        query_rows: integers (Q,), the row of each query in the gallery where queries are items of it.
        threads: default all of the machine's.
    """
    from eet.metrics.match_scan import count

    given = _Given(query_codes, query_labels, gallery_codes, gallery_labels, num_bits, query_rows)

    def count_block(block: slice) -> None:
        count(
            given.queries_QW[block], given.query_labels[block], given.rows_Q[block], given.codes_NW, given.gallery_labels,
            given.total_QH[block], given.relevant_QH[block],
        )  # fmt: skip

    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        list(pool.map(count_block, given.blocks))
    return MatchCounts(given.total_QH, given.relevant_QH)


def match_ranks(
    query_codes: np.ndarray,
    query_labels: np.ndarray,
    gallery_codes: np.ndarray,
    gallery_labels: np.ndarray,
    *,
    num_bits: int,
    measure: Callable[[np.ndarray], T],
    query_rows: np.ndarray | None = None,
    threads: int | None = None,
) -> MatchRanks[T]:
    """Rank the gallery for every query by Hamming distance, ties by row.

    One pass over the gallery counts, for every item, how many of its distance came before it; with the counts of smaller distances
    that is its rank. Memory: the codes, the ranks of some queries, and what is returned.

    Args:
        query_codes, query_labels, gallery_codes, gallery_labels, query_rows, threads: as of `match_counts`.
        measure: of the ranks of one query's matches, int64 (m,) from 1, ascending, what is kept of them; called from several threads.
            Items of one distance stand in the order of their rows.
    """
    from eet.metrics.match_scan import scan

    given = _Given(query_codes, query_labels, gallery_codes, gallery_labels, num_bits, query_rows)
    label_sizes = dict(zip(*(values.tolist() for values in np.unique(given.gallery_labels, return_counts=True)), strict=True))
    most = np.array([label_sizes.get(label, 0) for label in given.query_labels.tolist()], np.int64)

    def rank(block: slice) -> list[T]:
        starts = np.concatenate([[0], np.cumsum(most[block])])
        ranks = np.empty(starts[-1], np.int64)
        found = scan(
            given.queries_QW[block], given.query_labels[block], given.rows_Q[block], given.codes_NW, given.gallery_labels,
            starts, given.total_QH[block], given.relevant_QH[block], ranks,
        )  # fmt: skip
        return [measure(np.sort(ranks[start : start + count])) for start, count in zip(starts, found, strict=False)]

    with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
        measured = [value for part in pool.map(rank, given.blocks) for value in part]
    return MatchRanks(measured, given.total_QH, given.relevant_QH)


class _Given:
    """The two sides as the compiled loops take them, the counts that they fill, and the blocks of queries."""

    def __init__(
        self,
        query_codes: np.ndarray,
        query_labels: np.ndarray,
        gallery_codes: np.ndarray,
        gallery_labels: np.ndarray,
        num_bits: int,
        query_rows: np.ndarray | None,
    ) -> None:
        number = len(query_codes)
        self.queries_QW, self.codes_NW = (np.ascontiguousarray(as_words(codes).astype(np.uint64)) for codes in (query_codes, gallery_codes))
        self.query_labels, self.gallery_labels = (np.asarray(labels).astype(np.int64) for labels in (query_labels, gallery_labels))
        self.rows_Q = np.full(number, -1, np.int64) if query_rows is None else np.asarray(query_rows).astype(np.int64)
        self.total_QH = np.zeros((number, num_bits + 1), np.int64)
        self.relevant_QH = np.zeros_like(self.total_QH)
        self.blocks = [slice(start, start + QUERIES_AT_ONCE) for start in range(0, number, QUERIES_AT_ONCE)]

"""All measures of a Hamming ranking of the whole gallery, over a set of queries.

Shape suffixes: Q queries, N items, B bytes, H = bits + 1 distances.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from eet.errors import InputError
from eet.metrics.distance_histogram import check_codes
from eet.metrics.intervals import means_with_intervals, recall_of_all
from eet.metrics.match_lists import MatchLists, matches_by_label
from eet.metrics.measures import measures_of_groups
from eet.metrics.ranks import match_counts, match_ranks
from eet.metrics.tie_groups import TieGroups, check_ranks, check_ties
from eet.options.choices import Ties

QUERIES_AT_ONCE = 4096  # their intermediate values take 20 MB at 64 bits


class RankedGallery(NamedTuple):
    """The result of `rank_gallery`.

    Attributes:
        measures: the measures by name, see `rank_gallery`.
        total_QH: int64 (Q, num_bits + 1), the number of items at each distance from each query, for `precision_recall_curve`.
        relevant_QH: int64 (Q, num_bits + 1), the number of matches at each distance from each query.
    """

    measures: dict[str, float]
    total_QH: np.ndarray
    relevant_QH: np.ndarray


def ranked_metrics(
    query_codes: np.ndarray, query_labels: np.ndarray, gallery_codes: np.ndarray, gallery_labels: np.ndarray, **options: Any
) -> dict[str, float]:
    """Only the measures of `rank_gallery`, with matches by label.

    Args:
        query_codes, gallery_codes: as of `rank_gallery`.
        query_labels, gallery_labels: integers (Q,) and (N,).
        options: as of `rank_gallery`.
    """
    return rank_gallery(query_codes, gallery_codes, matches_by_label(query_labels, gallery_labels), **options).measures


def rank_gallery(
    query_codes: np.ndarray,
    gallery_codes: np.ndarray,
    matches: MatchLists,
    *,
    num_bits: int,
    query_rows: np.ndarray | None = None,
    ks: Sequence[int] = (1, 10),
    recall_ks: Sequence[int] = (1, 2, 4, 8),
    count_query: bool = False,
    ties: Ties = "expected",
    all_queries: bool = False,
) -> RankedGallery:
    """Rank the whole gallery for every query by Hamming distance and average the measures over the queries.

    Every measure is the mean over random order inside ties, computed in closed form from the number of items and of matches at each
    distance (`eet.metrics.tie_groups`). There is no table of queries and items in memory: each of a million items takes a few bytes.

    Args:
        query_codes, gallery_codes: uint8 (Q, B) and (N, B), packed as `eet.hashing.pack` does.
        matches: of Q queries and N items, by label or by distance.
        num_bits: bits of a code.
        query_rows: integers (Q,), the row of each query in the gallery if the queries are gallery items: a query is
            never its own hit. None if the queries are not in the gallery.
        ks: ranks k, from 1, for precision.
        recall_ks: ranks k, from 1, for recall (1 if any of the first k is a match).
        count_query: R-precision and MAP@R with R + 1 for R, the published form (see `eet.metrics.r_precision`).
        ties: "stable" adds, for comparison, each measure with ties in the order of gallery rows, as "mAP_stable" and so on.
        all_queries: also recall over all queries, where one without a match counts as 0, as "recall@1_all" and so on.

    Returns:
        The counts by distance, and the measures: "mAP", "P@k" for each of ks, "recall@k" for each of recall_ks, "R-precision", "MAP@R", all
        in [0, 1], and the bounds of their 95 % confidence intervals, "mAP_low", "mAP_high" and so on (see
        `eet.metrics.means_with_intervals`); "queries", the number of queries in the means, and "queries_without_relevant", the number of
        queries that are left out because the gallery holds no match for them. The measures are NaN if no query is left.

    Raises:
        InputError: shapes or dtypes that do not fit together, query_rows outside the gallery, k < 1, or an unknown value of `ties`.
    """
    check_codes(query_codes, num_bits, "query")
    check_codes(gallery_codes, num_bits, "gallery")
    if len(matches.list_Q) != len(query_codes) or matches.num_items != len(gallery_codes):
        raise InputError(
            f"matches of {len(matches.list_Q)} queries and {matches.num_items} items came with {len(query_codes)} query codes and "
            f"{len(gallery_codes)} gallery codes: give one label or position for each code."
        )
    check_ranks(ks, recall_ks)
    check_ties(ties)
    if query_rows is not None:
        query_rows = np.asarray(query_rows)
        if query_rows.shape != (len(query_codes),) or not np.all((query_rows >= 0) & (query_rows < len(gallery_codes))):
            raise InputError(
                f"query_rows has shape {query_rows.shape} and must hold one row, 0 to {len(gallery_codes) - 1}, "
                f"for each of {len(query_codes)} queries."
            )

    def measured(groups: TieGroups, num_relevant_Q: np.ndarray) -> dict[str, np.ndarray]:
        return measures_of_groups(groups, num_relevant_Q, ks=ks, recall_ks=recall_ks, count_query=count_query)

    def of_ranks(ranks_m: np.ndarray) -> list[float]:
        if not len(ranks_m):
            return []
        return [float(value[0]) for value in measured(TieGroups.of_ranks(ranks_m), np.array([len(ranks_m)])).values()]

    sides = (query_codes, gallery_codes, matches)
    stable: list[list[float]] = []
    if ties == "stable":
        stable, *counts = match_ranks(*sides, num_bits=num_bits, query_rows=query_rows, measure=of_ranks)
    else:
        counts = list(match_counts(*sides, num_bits=num_bits, query_rows=query_rows))
    total_QH, relevant_QH = counts
    blocks = []
    for start in range(0, max(len(query_codes), 1), QUERIES_AT_ONCE):
        total_TH, relevant_TH = (values[start : start + QUERIES_AT_ONCE] for values in counts)
        num_relevant_T = relevant_TH.sum(axis=1)
        used_T = num_relevant_T > 0
        blocks.append(measured(TieGroups.of_counts(total_TH[used_T], relevant_TH[used_T]), num_relevant_T[used_T]))
    values = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    used = len(values["mAP"])
    if ties == "stable":
        stable_QM = np.array([row for row in stable if row]).reshape(used, len(values))
        values |= {f"{name}_stable": column for name, column in zip(list(values), stable_QM.T, strict=True)}
    without = len(query_codes) - used
    means = means_with_intervals({**values, **(recall_of_all(values, without) if all_queries else {})})
    return RankedGallery({**means, "queries": used, "queries_without_relevant": without}, total_QH, relevant_QH)

"""All measures of a Hamming ranking of the whole gallery, over a set of queries."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from eet.errors import InputError
from eet.metrics.distance_histogram import check_codes, expected_average_precision
from eet.metrics.ranks import match_ranks


class RankedGallery(NamedTuple):
    """measures: as `ranked_metrics` gives them. total_QH, relevant_QH: int64 (Q, num_bits + 1), items and matches at each distance of
    each query, for `precision_recall_curve`.
    """

    measures: dict[str, float]
    total_QH: np.ndarray
    relevant_QH: np.ndarray


def ranked_metrics(*given: np.ndarray, **options: object) -> dict[str, float]:
    """The measures of `rank_gallery` alone; arguments are the same."""
    return rank_gallery(*given, **options).measures  # type: ignore[arg-type]


def rank_gallery(
    query_codes: np.ndarray,
    query_labels: np.ndarray,
    gallery_codes: np.ndarray,
    gallery_labels: np.ndarray,
    *,
    num_bits: int,
    query_rows: np.ndarray | None = None,
    ks: Sequence[int] = (1, 10),
    recall_ks: Sequence[int] = (1, 2, 4, 8),
    count_query: bool = False,
) -> RankedGallery:
    """Rank the whole gallery for every query by Hamming distance and average the measures over the queries.

    Ties stay in the order of gallery rows, except in mAP, which is the expected one over all orders inside ties. No table of queries
    and items is held: a million items take a few bytes each.

    Args:
        query_codes, gallery_codes: uint8 (Q, B) and (N, B), packed as `eet.hashing.pack` does.
        query_labels, gallery_labels: integers (Q,) and (N,).
        num_bits: bits of a code.
        query_rows: integers (Q,), the row of each query in the gallery when queries are gallery items: a query is
            never its own hit. None when the two are different.
        ks: ranks for precision.
        recall_ks: ranks for recall (1 if any of the first k is a match).
        count_query: R-precision and MAP@R with R + 1 for R, the published form (see `eet.metrics.r_precision`).

    Returns:
        measures: "mAP", "mAP_stable", "P@k" for each of ks, "recall@k" for each of recall_ks, "R-precision", "MAP@R", all in
        [0, 1]; "queries", the number averaged over, and "queries_without_relevant", the number left out because the
        gallery holds no match for them. NaN measures when no query is left. And the counts by distance.

    Raises:
        ValueError: shapes or dtypes that do not fit together, query_rows outside the gallery, or k < 1.
    """
    check_codes(query_codes, query_labels, num_bits, "query")
    check_codes(gallery_codes, gallery_labels, num_bits, "gallery")
    check_ranks(ks, recall_ks)
    if query_rows is not None:
        query_rows = np.asarray(query_rows)
        if query_rows.shape != (len(query_codes),) or not np.all((query_rows >= 0) & (query_rows < len(gallery_codes))):
            raise InputError(
                f"query_rows has shape {query_rows.shape} and must name, for each of {len(query_codes)} queries, "
                f"a row in 0 to {len(gallery_codes) - 1}."
            )
    ranked = match_ranks(
        query_codes, query_labels, gallery_codes, gallery_labels, num_bits=num_bits, query_rows=query_rows,
        measure=lambda hit_ranks: measures_of_ranks(hit_ranks, ks, recall_ks, count_query) if len(hit_ranks) else [],
    )  # fmt: skip
    names = ["mAP_stable", *measure_names(ks, recall_ks)]
    sums = dict.fromkeys(["mAP", *names], 0.0)
    used = 0
    for values, expected in zip(ranked.measured, expected_average_precision(ranked.total_QH, ranked.relevant_QH), strict=True):
        if not values:
            continue
        sums["mAP"] += float(expected)
        for name, value in zip(names, values, strict=True):
            sums[name] += value
        used += 1
    means = {name: value / used if used else float("nan") for name, value in sums.items()}
    measures = {**means, "queries": used, "queries_without_relevant": len(query_codes) - used}
    return RankedGallery(measures, ranked.total_QH, ranked.relevant_QH)


def check_ranks(ks: Sequence[int], recall_ks: Sequence[int]) -> None:
    """ValueError where a rank to measure at is below 1."""
    if min([1, *ks, *recall_ks]) < 1:
        raise InputError(f"ks={tuple(ks)}, recall_ks={tuple(recall_ks)}; give numbers from 1.")


def measure_names(ks: Sequence[int], recall_ks: Sequence[int]) -> list[str]:
    """What `measures_of_ranks` gives behind the average precision, in its order."""
    return [*(f"P@{k}" for k in ks), *(f"recall@{k}" for k in recall_ks), "R-precision", "MAP@R"]


def measures_of_ranks(hit_ranks: np.ndarray, ks: Sequence[int], recall_ks: Sequence[int], count_query: bool) -> list[float]:
    """Average precision, then `measure_names`, of one query, from the ranks (from 1, ascending, at least one) of its matches."""
    precision_at_hits = np.arange(1, len(hit_ranks) + 1) / hit_ranks
    r = len(hit_ranks) + count_query
    hits_in_r = int(np.searchsorted(hit_ranks, r, side="right"))
    return [
        float(precision_at_hits.mean()),
        *(float(np.searchsorted(hit_ranks, k, side="right") / k) for k in ks),
        *(float(hit_ranks[0] <= k) for k in recall_ks),
        hits_in_r / r,
        float(precision_at_hits[:hits_in_r].sum() / r),
    ]

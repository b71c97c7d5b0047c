"""Evaluation of Hamming rankings from counts: the number of items, and of matches, at each distance from a query.

The tie-aware average precision and the precision-recall curve need only these counts.

Shape suffixes: Q queries, N items, B bytes, H = bits + 1 distances (0 to bits).
"""

import numpy as np

from eet.errors import InputError
from eet.metrics.tie_groups import TieGroups, expected_precision_sum


def check_codes(codes: np.ndarray, num_bits: int, side: str) -> None:
    """InputError unless `codes` are packed codes of `num_bits` bits."""
    width = -(-num_bits // 8)
    if num_bits < 1 or codes.dtype != np.uint8 or codes.ndim != 2 or codes.shape[1] != width:
        raise InputError(
            f"{side} codes are {codes.dtype} {codes.shape}; for num_bits={num_bits} give uint8 (N, {width}) with num_bits >= 1."
        )


def expected_average_precision(total_QH: np.ndarray, relevant_QH: np.ndarray) -> np.ndarray:
    """Average precision of each query, as the mean over all orders inside each distance, from its histograms.

    The formula is in `eet.metrics.tie_groups`.

    Args:
        total_QH: counts of items by distance, as `rank_gallery` gives them.
        relevant_QH: counts of matches by distance.

    Returns:
        float64 (Q,) in [0, 1]; NaN where a query has no match.

    Raises:
        InputError: shapes that differ, or more matches than items at some distance.
    """
    total_QH, relevant_QH = _histograms(total_QH, relevant_QH)
    matches_Q = relevant_QH.sum(axis=1)
    precision_sum_Q = expected_precision_sum(TieGroups.of_counts(total_QH, relevant_QH))
    return np.where(matches_Q > 0, precision_sum_Q / np.maximum(matches_Q, 1), np.nan)


def precision_recall_curve(total_QH: np.ndarray, relevant_QH: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall if all items within Hamming radius 0, 1, ... bits are taken, with counts pooled over queries.

    Queries without any match are left out.

    Args:
        total_QH: counts of items by distance, as `rank_gallery` gives them.
        relevant_QH: counts of matches by distance.

    Returns:
        recall and precision, float64 (H,), by radius. Precision is NaN at radii within which no query has an item,
        and both are NaN if no query has a match.

    Raises:
        InputError: shapes that differ, or more matches than items at some distance.
    """
    total_QH, relevant_QH = _histograms(total_QH, relevant_QH)
    used = relevant_QH.sum(axis=1) > 0
    matches_H = np.cumsum(relevant_QH[used].sum(axis=0)).astype(np.float64)
    items_H = np.cumsum(total_QH[used].sum(axis=0)).astype(np.float64)
    undefined = np.full_like(matches_H, np.nan)
    recall_H = np.divide(matches_H, matches_H[-1], out=undefined.copy(), where=matches_H[-1:] > 0)
    precision_H = np.divide(matches_H, items_H, out=undefined, where=items_H > 0)
    return recall_H, precision_H


def _histograms(total_QH: np.ndarray, relevant_QH: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    total_QH, relevant_QH = np.asarray(total_QH), np.asarray(relevant_QH)
    if total_QH.ndim != 2 or total_QH.shape != relevant_QH.shape or total_QH.shape[1] < 1:
        raise InputError(f"histograms {total_QH.shape} and {relevant_QH.shape} must both be (queries, bits + 1).")
    if (relevant_QH > total_QH).any() or (relevant_QH < 0).any():
        raise InputError("a distance has more matches than items, or a negative number of matches; give counts (total, relevant).")
    return total_QH, relevant_QH

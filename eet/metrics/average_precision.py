"""Average precision of one query's ranking, where many items may share one distance."""

from typing import Literal

import numpy as np

from eet.errors import InputError


def average_precision(distances_N: np.ndarray, relevant_N: np.ndarray, *, ties: Literal["expected", "stable"] = "expected") -> float:
    """Mean, over the relevant items, of the precision at their rank, when items are ranked by ascending distance.

    Hamming distances are integers, so an order inside one distance is chance or an accident of storage. ``expected``
    is the exact mean over all orders inside each group of equal distances. With a group of n items, r of them
    relevant, that follows N0 items, R0 of them relevant, its rank j (1 to n) is held by a relevant item with
    probability r / n, and then (j - 1)(r - 1) / (n - 1) relevant ones are expected before it in the group, so it adds

        r / n * (R0 + 1 + (j - 1) * (r - 1) / (n - 1)) / (N0 + j)

    (McSherry and Najork, Computing information retrieval performance measures efficiently in the presence of tied
    scores, ECIR 2008). ``stable`` takes ties in the order given.

    Args:
        distances_N: real numbers, without NaN; smaller is nearer.
        relevant_N: bool, True where the item is a match. The query itself must not be among the items.
        ties: "expected" or "stable".

    Returns:
        In [0, 1]; NaN when no item is relevant, as the measure is not defined then.

    Raises:
        ValueError: shapes that differ or are not (N,), NaN distances, or another value of `ties`.
    """
    distances_N = np.asarray(distances_N)
    relevant_N = np.asarray(relevant_N).astype(bool)
    if distances_N.ndim != 1 or distances_N.shape != relevant_N.shape:
        raise InputError(f"distances {distances_N.shape} and relevant {relevant_N.shape} must both be (N,).")
    if ties not in ("expected", "stable"):
        raise InputError(f"ties={ties!r}; give 'expected' or 'stable'.")
    if distances_N.dtype.kind == "f" and np.isnan(distances_N).any():
        raise InputError("distances hold NaN, which has no rank; drop those items first.")
    num_relevant = int(relevant_N.sum())
    if num_relevant == 0:
        return float("nan")

    order = np.argsort(distances_N, kind="stable")
    ranked = relevant_N[order]
    ranks = np.arange(1, len(ranked) + 1)
    if ties == "stable":
        return float((np.cumsum(ranked) / ranks)[ranked].mean())

    sorted_distances = distances_N[order]
    starts = np.flatnonzero(np.r_[True, sorted_distances[1:] != sorted_distances[:-1]])
    sizes = np.diff(np.r_[starts, len(ranked)])
    relevant_in_group = np.add.reduceat(ranked.astype(np.int64), starts)
    relevant_before = np.cumsum(relevant_in_group) - relevant_in_group
    # In a group of one nothing comes before, whatever the slope; maximum only avoids 0 / 0.
    slope = (relevant_in_group - 1) / np.maximum(sizes - 1, 1)
    group = np.repeat(np.arange(len(starts)), sizes)
    expected_hits = relevant_before[group] + 1 + (ranks - 1 - starts[group]) * slope[group]
    return float(((relevant_in_group / sizes)[group] * expected_hits / ranks).sum() / num_relevant)

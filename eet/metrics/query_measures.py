"""Measures of one query's ranking, from the distances of the items and which of them are matches.

Items are ranked by ascending distance. Where several share a distance, ``ties="expected"`` gives the exact mean over all orders inside each
group of equal distances (the formulas are in `eet.metrics.tie_groups`), and ``ties="stable"`` keeps the order of the arguments.

The query itself is never among the items. R is the number of matches of the query in the whole gallery, the query not counted (Musgrave et
al., A metric learning reality check, ECCV 2020). A list of k hits may hold fewer matches: then give R as `num_relevant`.
"""

import numpy as np

from eet.errors import InputError
from eet.metrics.tie_groups import TieGroups, check_ties, expected_matches, expected_precision_sum, expected_recall
from eet.options.choices import Denominator, Ties


def average_precision(
    distances_N: np.ndarray,
    relevant_N: np.ndarray,
    *,
    ties: Ties = "expected",
    num_relevant: int | None = None,
    denominator: Denominator = "all",
) -> float:
    """Mean, over the relevant items, of the precision at their rank.

    For a list that was cut after k hits this is the average precision at k, AP@k. Three forms of it are in use. They divide the sum of the
    precisions by different numbers:

    - "all": R, all relevant items, as TREC does. It can be compared between different k, and stays below 1 if k < R.
    - "reachable": min(R, k), so that the best possible list of k hits has 1.
    - "found": the number of relevant items in the list. It measures the order of these items only, not how many are missing; it is 0 if
      there are none.

    Args:
        distances_N: real numbers, without NaN; smaller is nearer.
        relevant_N: bool, True where the item is a match.
        ties: "expected" or "stable".
        num_relevant: R, if the list was cut; None if all relevant items are in the list.
        denominator: the form for a list that was cut; without `num_relevant` all three are equal.

    Returns:
        In [0, 1]; NaN if R is 0, because the measure is then not defined.

    Raises:
        InputError: shapes that differ or are not (N,), NaN distances, more matches in the list than R, or an unknown value of an option.
    """
    groups, num_found = _groups(distances_N, relevant_N, ties)
    if denominator not in ("all", "reachable", "found"):
        raise InputError(f"denominator={denominator!r}; give 'all', 'reachable' or 'found'.")
    r = _num_relevant(num_relevant, num_found, most=num_relevant)
    if r == 0:
        return float("nan")
    divisor = {"all": r, "reachable": min(r, len(np.asarray(distances_N))), "found": num_found}[denominator]
    return float(expected_precision_sum(groups)[0] / max(divisor, 1))


def precision_at_k(distances_N: np.ndarray, relevant_N: np.ndarray, k: int, *, ties: Ties = "expected") -> float:
    """Share of matches among the first k. Ranks after the end of the list hold no match.

    Args:
        distances_N, relevant_N, ties: as of `average_precision`.
        k: at least 1.

    Returns:
        In [0, 1].

    Raises:
        InputError: k < 1, and the errors of `average_precision`.
    """
    return float(expected_matches(_groups(distances_N, relevant_N, ties)[0], _at_least_1(k))[0] / k)


def recall_at_k(distances_N: np.ndarray, relevant_N: np.ndarray, k: int, *, ties: Ties = "expected") -> float:
    """1 if any of the first k is a match, else 0: the recall@k of metric learning, whose mean is a hit rate.

    If ties leave it open, the result is the probability that any of the first k is a match.

    Args:
        distances_N, relevant_N, ties: as of `average_precision`.
        k: at least 1.

    Returns:
        In [0, 1].

    Raises:
        InputError: k < 1, and the errors of `average_precision`.
    """
    return float(expected_recall(_groups(distances_N, relevant_N, ties)[0], _at_least_1(k))[0])


def r_precision(
    distances_N: np.ndarray,
    relevant_N: np.ndarray,
    *,
    ties: Ties = "expected",
    num_relevant: int | None = None,
    count_query: bool = False,
) -> float:
    """Share of matches among the first R.

    Args:
        distances_N, relevant_N, ties: as of `average_precision`.
        num_relevant: R, if the list was cut; the list must have at least R items (R + 1 with `count_query`). None if all relevant items
            are in the list; then ranks after its end hold no match.
        count_query: use R + 1 instead of R. That is the form of the published re-ranking code, whose R also counts the query, so that a
            perfect ranking stays below 1. Only this form can be compared with its published tables.

    Returns:
        In [0, 1]; NaN if R is 0.

    Raises:
        InputError: a list too short for R, R < 0, more matches in the list than R, and the errors of `average_precision`.
    """
    groups, r = _first_r(distances_N, relevant_N, ties, num_relevant, count_query)
    return float(expected_matches(groups, r)[0] / r) if r else float("nan")


def map_at_r(
    distances_N: np.ndarray,
    relevant_N: np.ndarray,
    *,
    ties: Ties = "expected",
    num_relevant: int | None = None,
    count_query: bool = False,
) -> float:
    """Average precision at R: (1 / R) * sum, over the ranks up to R that hold a match, of the precision at that rank.

    Its mean over queries is MAP@R.

    Args:
        distances_N, relevant_N, ties: as of `average_precision`.
        num_relevant, count_query: as of `r_precision`.

    Returns:
        In [0, 1]; NaN if R is 0.

    Raises:
        InputError: as of `r_precision`.
    """
    groups, r = _first_r(distances_N, relevant_N, ties, num_relevant, count_query)
    return float(expected_precision_sum(groups, r)[0] / r) if r else float("nan")


def _groups(distances_N: np.ndarray, relevant_N: np.ndarray, ties: Ties) -> tuple[TieGroups, int]:
    """Groups of one query, (1, G), and the number of relevant items."""
    distances_N = np.asarray(distances_N)
    relevant_N = np.asarray(relevant_N).astype(bool)
    if distances_N.ndim != 1 or distances_N.shape != relevant_N.shape:
        raise InputError(f"distances {distances_N.shape} and relevant {relevant_N.shape} must both be (N,), of one query.")
    check_ties(ties)
    if distances_N.dtype.kind == "f" and np.isnan(distances_N).any():
        raise InputError("distances hold NaN, which has no rank; drop those items first.")
    order = np.argsort(distances_N, kind="stable")
    distances_N, relevant_N = distances_N[order], relevant_N[order]
    starts = np.arange(len(order))
    if ties == "expected" and len(order):
        starts = np.flatnonzero(np.r_[True, distances_N[1:] != distances_N[:-1]])
    sizes = np.diff(np.r_[starts, len(order)])
    matches_before = np.r_[0, np.cumsum(relevant_N)]
    return TieGroups.of_counts(sizes[None], np.diff(matches_before[np.r_[starts, len(order)]])[None]), int(relevant_N.sum())


def _num_relevant(num_relevant: int | None, num_found: int, *, most: int | None) -> int:
    """R; InputError if it is below 0, or if the list holds more than `most` matches."""
    if num_relevant is None:
        return num_found
    if num_relevant < 0:
        raise InputError(f"num_relevant={num_relevant}; give 0 or more.")
    if most is not None and num_found > most:
        raise InputError(f"the list holds {num_found} matches, more than R={most}; R counts the whole gallery.")
    return num_relevant


def _first_r(
    distances_N: np.ndarray, relevant_N: np.ndarray, ties: Ties, num_relevant: int | None, count_query: bool
) -> tuple[TieGroups, int]:
    """Groups and the rank to cut at, which is 0 if no item is relevant."""
    groups, num_found = _groups(distances_N, relevant_N, ties)
    # The published form may keep the query itself at the end of the list.
    r = _num_relevant(num_relevant, num_found, most=None if num_relevant is None else num_relevant + count_query)
    if r == 0:
        return groups, 0
    cut, ranks = r + count_query, len(np.asarray(distances_N))
    if num_relevant is not None and ranks < cut:
        raise InputError(f"the list has {ranks} ranks, but R is {cut}; rank at least R items, or leave R-precision and MAP@R out.")
    return groups, cut


def _at_least_1(k: int) -> int:
    if k < 1:
        raise InputError(f"k={k}; give 1 or more.")
    return k

"""Measures of one query's ranking, from the distances of the items and which of them are matches.

Items are ranked by ascending distance. Where several share a distance, ``ties="expected"`` gives the exact mean over all orders inside each
group of equal distances (the formulas are in `eet.metrics.tie_groups`), and ``ties="stable"`` takes them in the order given.

The query itself is never among the items. R is the number of matches of the query in the whole gallery, the query not counted (Musgrave et
al., A metric learning reality check, ECCV 2020). A list of k hits may hold fewer: then say R by `num_relevant`.
"""

from typing import Literal

import numpy as np

from eet.errors import InputError
from eet.metrics.tie_groups import TieGroups, check_ties, expected_matches, expected_precision_sum, expected_recall

Ties = Literal["expected", "stable"]
Denominator = Literal["all", "reachable", "found"]


def average_precision(
    distances_N: np.ndarray,
    relevant_N: np.ndarray,
    *,
    ties: Ties = "expected",
    num_relevant: int | None = None,
    denominator: Denominator = "all",
) -> float:
    """Mean, over the relevant items, of the precision at their rank.

    Of a list that was cut after k hits this is the average precision at k, AP@k, of which three forms are in use. They differ in what the
    sum of the precisions is divided by:

    - "all": R, all relevant items, as TREC does. It can be compared over k, and stays below 1 where k < R.
    - "reachable": min(R, k), so that the best list of k hits has 1.
    - "found": the relevant items in the list. It says how well those are placed, and nothing of those that are missing; 0 where none is.

    Args:
        distances_N: real numbers, without NaN; smaller is nearer.
        relevant_N: bool, True where the item is a match.
        ties: "expected" or "stable".
        num_relevant: R, where the list is cut; None: all relevant items are in the list.
        denominator: of a list that is cut; without `num_relevant` all three are the same.

    Returns:
        In [0, 1]; NaN when R is 0, as the measure is not defined then.

    Raises:
        ValueError: shapes that differ or are not (N,), NaN distances, more matches in the list than R, or another value of an option.
    """
    groups, found = _groups(distances_N, relevant_N, ties)
    if denominator not in ("all", "reachable", "found"):
        raise InputError(f"denominator={denominator!r}; give 'all', 'reachable' or 'found'.")
    r = _num_relevant(num_relevant, found, most=num_relevant)
    if r == 0:
        return float("nan")
    divisor = {"all": r, "reachable": min(r, len(np.asarray(distances_N))), "found": found}[denominator]
    return float(expected_precision_sum(groups)[0] / max(divisor, 1))


def precision_at_k(distances_N: np.ndarray, relevant_N: np.ndarray, k: int, *, ties: Ties = "expected") -> float:
    """Share of matches among the first k. Ranks beyond the end of the list hold no match.

    Args:
        distances_N, relevant_N, ties: as of `average_precision`.
        k: at least 1.

    Returns:
        In [0, 1].

    Raises:
        ValueError: k < 1, and the errors of `average_precision`.
    """
    return float(expected_matches(_groups(distances_N, relevant_N, ties)[0], _at_least_1(k))[0] / k)


def recall_at_k(distances_N: np.ndarray, relevant_N: np.ndarray, k: int, *, ties: Ties = "expected") -> float:
    """1 if any of the first k is a match, else 0: the recall@k of metric learning, whose mean is a hit rate. Where ties leave it open, the
    probability that one is.

    Arguments, range and errors are those of `precision_at_k`.
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
        num_relevant: R, where the list is cut; it must be at least R long (R + 1 with `count_query`). None: all relevant items are in the
            list, and ranks beyond its end hold no match.
        count_query: take R + 1 for R. That is the form of the published re-ranking code, whose R counts the query too, so that a perfect
            ranking stays below 1; only that form compares with its published tables.

    Returns:
        In [0, 1]; NaN when R is 0.

    Raises:
        ValueError: a list too short for R, R < 0, more matches in the list than R, and the errors of `average_precision`.
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
    """Average precision at R: (1 / R) * sum, over the ranks up to R that hold a match, of the precision at that rank. Its mean over queries
    is MAP@R.

    Arguments, range and errors are those of `r_precision`.
    """
    groups, r = _first_r(distances_N, relevant_N, ties, num_relevant, count_query)
    return float(expected_precision_sum(groups, r)[0] / r) if r else float("nan")


def _groups(distances_N: np.ndarray, relevant_N: np.ndarray, ties: Ties) -> tuple[TieGroups, int]:
    """Groups of one query, (1, G), and how many items are relevant."""
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


def _num_relevant(num_relevant: int | None, found: int, *, most: int | None) -> int:
    """R; ValueError where that is below 0, or the list holds more than `most` matches."""
    if num_relevant is None:
        return found
    if num_relevant < 0:
        raise InputError(f"num_relevant={num_relevant}; give 0 or more.")
    if most is not None and found > most:
        raise InputError(f"the list holds {found} matches, more than R={most}; R counts the whole gallery.")
    return num_relevant


def _first_r(
    distances_N: np.ndarray, relevant_N: np.ndarray, ties: Ties, num_relevant: int | None, count_query: bool
) -> tuple[TieGroups, int]:
    """Groups and the rank to cut at, which is 0 when nothing is relevant."""
    groups, found = _groups(distances_N, relevant_N, ties)
    # The published form may keep the query itself at the end of the list.
    r = _num_relevant(num_relevant, found, most=None if num_relevant is None else num_relevant + count_query)
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

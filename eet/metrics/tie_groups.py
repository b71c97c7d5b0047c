"""Measures of a ranking whose items form groups of equal distance, as means over random order inside the groups.

The order inside a group of equal distances is random, or an accident of storage. Every measure here is the exact mean over all orders of
the items of each group, in closed form. Consider the first t ranks of a group of n items with r matches that follows N0 items with R0
matches:

- r * t / n matches are expected among them (the mean of the hypergeometric distribution);
- none of them is a match with probability C(n - r, t) / C(n, t);
- its rank j is held by a match with probability r / n, and then R0 + (j - 1)(r - 1) / (n - 1) matches are expected before it. The sum
  of the precisions at its matches is therefore, with S = 1 / (N0 + 1) + ... + 1 / (N0 + t),

      r / n * ((R0 + 1) * S + (r - 1) / (n - 1) * (t - (N0 + 1) * S))

(McSherry and Najork, Computing information retrieval performance measures efficiently in the presence of tied scores, ECIR 2008.)

Shape suffixes: Q queries, G groups of a query, by ascending distance.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from eet.errors import InputError


class TieGroups(NamedTuple):
    """Groups of equal distance, by ascending distance.

    Queries with fewer groups than others are filled up with groups of 0 items, which change nothing. Groups without a match may be left
    out, if `before_QG` counts their items.

    Attributes:
        before_QG: int64 (Q, G), items before the group.
        total_QG: int64 (Q, G), items in the group.
        matches_before_QG: int64 (Q, G), matches before the group.
        matches_QG: int64 (Q, G), matches in the group.
    """

    before_QG: np.ndarray
    total_QG: np.ndarray
    matches_before_QG: np.ndarray
    matches_QG: np.ndarray

    @classmethod
    def of_counts(cls, total_QG: np.ndarray, matches_QG: np.ndarray) -> "TieGroups":
        """Groups that make up the whole ranking, from the number of items and of matches in each."""
        total_QG, matches_QG = np.asarray(total_QG), np.asarray(matches_QG)
        before_QG, matches_before_QG = (np.cumsum(counts, axis=1) - counts for counts in (total_QG, matches_QG))
        return cls(before_QG, total_QG, matches_before_QG, matches_QG)

    @classmethod
    def of_ranks(cls, ranks_m: np.ndarray) -> "TieGroups":
        """One query without ties, from the ranks (from 1, ascending) of its matches."""
        ones = np.ones((1, len(ranks_m)), np.int64)
        return cls(np.asarray(ranks_m, np.int64)[None] - 1, ones, np.arange(len(ranks_m))[None], ones)


def expected_matches(groups: TieGroups, cut_Q: np.ndarray | int) -> np.ndarray:
    """Expected number of matches among the first `cut_Q` ranks, float64 (Q,). Ranks after the end of the ranking hold none."""
    taken_QG = _taken(groups, cut_Q)
    return (groups.matches_QG * taken_QG / np.maximum(groups.total_QG, 1)).sum(axis=1)


def expected_recall(groups: TieGroups, cut_Q: np.ndarray | int) -> np.ndarray:
    """Probability that any of the first `cut_Q` ranks holds a match, float64 (Q,)."""
    if not groups.total_QG.shape[1]:
        return np.zeros(len(groups.total_QG))
    # Only the first group with a match counts: a cut in a later group comes after all matches of the first.
    first_Q = np.argmax(groups.matches_QG > 0, axis=1)[:, None]
    taken, total, matches = (
        np.take_along_axis(values_QG, first_Q, axis=1)[:, 0] for values_QG in (_taken(groups, cut_Q), groups.total_QG, groups.matches_QG)
    )
    return np.where(matches > 0, 1 - _none_drawn(total, matches, taken), 0.0)


def expected_precision_sum(groups: TieGroups, cut_Q: np.ndarray | int | None = None) -> np.ndarray:
    """Expected sum of the precisions at the matches among the first `cut_Q` ranks (None: among all ranks), float64 (Q,)."""
    before_QG, total_QG, matches_before_QG, matches_QG = groups
    taken_QG = total_QG if cut_Q is None else _taken(groups, cut_Q)
    inverse_ranks_QG = sum_of_inverses(before_QG, taken_QG)
    slope_QG = (matches_QG - 1) / np.maximum(total_QG - 1, 1)
    # With t = 1 the only rank has j - 1 = 0; computing t - (N0 + 1) * S would not give exactly 0.
    offsets_QG = np.where(taken_QG > 1, taken_QG - (before_QG + 1) * inverse_ranks_QG, 0.0)
    gain_QG = (matches_before_QG + 1) * inverse_ranks_QG + slope_QG * offsets_QG
    gain_QG *= matches_QG / np.maximum(total_QG, 1)
    return gain_QG.sum(axis=1)


def check_ranks(ks: Sequence[int], recall_ks: Sequence[int]) -> None:
    """InputError if a rank k is below 1."""
    if min([1, *ks, *recall_ks]) < 1:
        raise InputError(f"ks={tuple(ks)}, recall_ks={tuple(recall_ks)}; give numbers from 1.")


def check_ties(ties: str) -> None:
    """InputError unless `ties` is "expected" or "stable"."""
    if ties not in ("expected", "stable"):
        raise InputError(f"ties={ties!r}; give 'expected' or 'stable'.")


def _taken(groups: TieGroups, cut_Q: np.ndarray | int) -> np.ndarray:
    """Number of ranks of each group that are among the first `cut_Q`, int64 (Q, G)."""
    cut_Q = np.broadcast_to(np.asarray(cut_Q, np.int64), len(groups.total_QG))
    return np.clip(cut_Q[:, None] - groups.before_QG, 0, groups.total_QG)


def _none_drawn(total_Q: np.ndarray, matches_Q: np.ndarray, taken_Q: np.ndarray) -> np.ndarray:
    """C(total - matches, taken) / C(total, taken): the probability that `taken` items drawn without replacement hold no match.

    It is a product of min(matches, taken) factors, because a difference of log-gamma values loses all digits in large groups.
    """
    larger_Q, smaller_Q = np.maximum(matches_Q, taken_Q), np.minimum(matches_Q, taken_Q)
    none_Q = np.ones(len(total_Q))
    step = 0
    while (active := np.flatnonzero((smaller_Q > step) & (none_Q > 1e-18))).size:
        none_Q[active] *= np.maximum(total_Q[active] - larger_Q[active] - step, 0) / (total_Q[active] - step)
        step += 1
    return none_Q


# Up to this number harmonic numbers are summed; above it, the first omitted term of the expansion, 1 / (252 x^6), is < 2e-17.
_SUMMED = 256
_HARMONIC = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, _SUMMED + 1))])


def sum_of_inverses(start: np.ndarray, count: np.ndarray) -> np.ndarray:
    """1 / (start + 1) + ... + 1 / (start + count), without a loop.

    High ranks use the difference of two expansions of the harmonic numbers, with the logarithms combined in log1p: the plain difference
    of two large harmonic numbers would lose the digits that t - (N0 + 1) * S needs.
    """
    end = start + count
    low = np.maximum(start, _SUMMED).astype(np.float64)
    high = np.maximum(end, _SUMMED).astype(np.float64)
    beyond = np.log1p((high - low) / low) + _tail(high) - _tail(low)
    return _HARMONIC[np.minimum(end, _SUMMED)] - _HARMONIC[np.minimum(start, _SUMMED)] + beyond


def _tail(x: np.ndarray) -> np.ndarray:
    return 1 / (2 * x) - 1 / (12 * x**2) + 1 / (120 * x**4)

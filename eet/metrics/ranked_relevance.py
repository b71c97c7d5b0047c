"""Measures of one query's ranked list, given as booleans in rank order: is the item at this rank a match?

The query itself is never in the list. R is the number of matches of the query in the whole gallery, the query not
counted (Musgrave et al., A metric learning reality check, ECCV 2020). ``count_query=True`` gives the form of the
published re-ranking code, whose R counts the query too, so that a perfect ranking stays below 1; only that form
compares with its published tables.
"""

import numpy as np

from eet.errors import InputError


def precision_at_k(ranked_N: np.ndarray, k: int) -> float:
    """Share of matches among the first k. Ranks beyond the end of the list hold no match.

    Raises:
        ValueError: k < 1, or a list that is not one-dimensional.
    """
    return float(_ranked(ranked_N, k, "k")[:k].sum() / k)


def recall_at_k(ranked_N: np.ndarray, k: int) -> float:
    """1.0 if any of the first k is a match, else 0.0: the recall@k of metric learning. Its mean is a hit rate.

    Raises:
        ValueError: k < 1, or a list that is not one-dimensional.
    """
    return float(_ranked(ranked_N, k, "k")[:k].any())


def r_precision(ranked_N: np.ndarray, num_relevant: int, *, count_query: bool = False) -> float:
    """Share of matches among the first R.

    Args:
        ranked_N: bool, in rank order, at least R long (R + 1 with `count_query`).
        num_relevant: R, without the query.
        count_query: take R + 1 for R, as the published re-ranking code does.

    Returns:
        In [0, 1]; NaN when R is 0.

    Raises:
        ValueError: a list too short for R, R < 0, or more matches in the list than R.
    """
    if num_relevant == 0:
        return float("nan")
    first = _first_r(ranked_N, num_relevant, count_query)
    return float(first.mean())


def map_at_r(ranked_N: np.ndarray, num_relevant: int, *, count_query: bool = False) -> float:
    """Mean average precision at R: (1 / R) * sum over ranks k <= R that hold a match of the precision at k.

    Arguments, range and errors are those of `r_precision`.
    """
    if num_relevant == 0:
        return float("nan")
    first = _first_r(ranked_N, num_relevant, count_query)
    precision = np.cumsum(first) / np.arange(1, len(first) + 1)
    return float((precision * first).mean())


def _ranked(ranked_N: np.ndarray, smallest: int, name: str) -> np.ndarray:
    ranked_N = np.asarray(ranked_N).astype(bool)
    if ranked_N.ndim != 1:
        raise InputError(f"ranked relevance has shape {ranked_N.shape}; give one query's list (N,).")
    if smallest < 1:
        raise InputError(f"{name}={smallest}; give 1 or more.")
    return ranked_N


def _first_r(ranked_N: np.ndarray, num_relevant: int, count_query: bool) -> np.ndarray:
    ranked_N = _ranked(ranked_N, num_relevant, "num_relevant")
    r = num_relevant + count_query
    if len(ranked_N) < r:
        raise InputError(f"the list has {len(ranked_N)} ranks, but R is {r}; rank at least R items, or leave R-precision and MAP@R out.")
    # The published form may keep the query itself at the end of the list.
    if ranked_N.sum() > r:
        raise InputError(f"the list holds {int(ranked_N.sum())} matches, more than R={r}; R counts the whole gallery.")
    return ranked_N[:r]

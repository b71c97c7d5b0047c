"""The Pareto set: the candidates that no other candidate dominates."""

import numpy as np

from eet.errors import InputError


def pareto_set(values_NM: np.ndarray) -> np.ndarray:
    """Finds the candidates that no other candidate dominates. Higher values are better (give costs as negative numbers).

    One candidate dominates another if it is at least as good in every value and better in one. Equal candidates do not dominate each
    other. A candidate with a NaN is never in the set.

    Args:
        values_NM: real numbers (N, M): M >= 1 values of each of N candidates.

    Returns:
        bool (N,): True for the candidates in the set.

    Raises:
        InputError: another shape.
    """
    values_NM = np.asarray(values_NM, dtype=float)
    if values_NM.ndim != 2 or values_NM.shape[1] < 1:
        raise InputError(f"values are {values_NM.shape}: give one row a candidate and one column a value")
    known_N = ~np.isnan(values_NM).any(axis=1)
    # -inf is worse than everything, so that a candidate with a NaN dominates none.
    values_NM = np.where(known_N[:, None], values_NM, -np.inf)
    no_worse_NN = (values_NM[:, None] >= values_NM[None]).all(axis=2)
    better_NN = (values_NM[:, None] > values_NM[None]).any(axis=2)
    return known_N & ~(no_worse_NN & better_NN).any(axis=0)

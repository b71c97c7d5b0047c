"""The Pareto set: what no other beats in everything."""

import numpy as np

from eet.errors import InputError


def pareto_set(values_NM: np.ndarray) -> np.ndarray:
    """Which of N candidates no other dominates, where more of each of the M values is better (give costs negative).

    One dominates another if it is at least as good in every value and better in one; equal candidates stand together. A candidate with a
    NaN is never in the set. values_NM: (N, M), M >= 1. Returns bool (N,). ValueError for another shape.
    """
    values_NM = np.asarray(values_NM, dtype=float)
    if values_NM.ndim != 2 or values_NM.shape[1] < 1:
        raise InputError(f"values are {values_NM.shape}: give one row a candidate and one column a value")
    known_N = ~np.isnan(values_NM).any(axis=1)
    # -inf loses to everything, so that what has a NaN dominates nothing.
    values_NM = np.where(known_N[:, None], values_NM, -np.inf)
    no_worse_NN = (values_NM[:, None] >= values_NM[None]).all(axis=2)
    better_NN = (values_NM[:, None] > values_NM[None]).any(axis=2)
    return known_N & ~(no_worse_NN & better_NN).any(axis=0)

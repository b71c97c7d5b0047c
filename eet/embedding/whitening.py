"""Whitening PCA: a linear layer that makes vectors shorter, fitted without labels.

Shapes: N vectors, W their width, d width of the result.
"""

import numpy as np

from eet.errors import InputError
from eet.hashing.itq import Projection

VARIANCE_FLOOR = 1e-9


def fit_whitening(vectors_NW: np.ndarray, *, width: int, power: float = 1.0) -> Projection:
    """y = diag((lambda + 1e-9)^(-power / 2)) U^T (x - mean), U the first d principal directions and lambda their variances.

    power 1 is whitening: all directions get the same variance. power 0 is PCA alone, which keeps distances. Few vectors, or queries that
    look different from them, want a small power: the last directions are then mostly noise.

    Source: Jegou and Chum, Negative evidences and co-occurences in image retrieval, ECCV 2012, section 3; the published code of
    Patch-NetVLAD, with power 1, n - 1 and 1e-9.

    Args:
        vectors_NW: real numbers, N >= 2.
        width: d, at most the number of directions with variance: N - 1 or fewer.
        power: in [0, 1].

    Returns:
        weight (d, W) and bias (d,), float32, of a linear layer.

    Raises:
        InputError: width or power is out of range.
    """
    if not 0 <= power <= 1:
        raise InputError(f"whitening {power}: use 0 (PCA alone) to 1 (all directions alike)")
    vectors_NW = np.asarray(vectors_NW, np.float64)
    rows = len(vectors_NW)
    if rows < 2:
        raise InputError(f"{rows} vectors: give 2 or more, because directions are fitted to their differences")
    mean_W = vectors_NW.mean(axis=0)
    centred_NW = vectors_NW - mean_W
    rounding = max(vectors_NW.shape) * np.finfo(np.float64).eps
    if vectors_NW.shape[1] > rows:  # the dual form: a smaller matrix has the same variances
        values_N, left_NN = np.linalg.eigh(centred_NW @ centred_NW.T)
        order = values_N.argsort()[::-1]
        values, left = values_N[order], left_NN[:, order]
        kept = values > rounding * max(values[0], 0)
        directions_dW = (left[:, kept] / np.sqrt(values[kept])).T @ centred_NW
    else:
        values_W, directions_WW = np.linalg.eigh(centred_NW.T @ centred_NW)
        order = values_W.argsort()[::-1]
        values, directions_dW = values_W[order], directions_WW[:, order].T
        kept = values > rounding * max(values[0], 0)
        directions_dW = directions_dW[kept]
    if not 1 <= width <= len(directions_dW):
        raise InputError(f"a width of {width}: {rows} images give 1 to {len(directions_dW)} directions; use fewer, or give more images")
    variances_d = values[kept][:width] / (rows - 1)
    # The sign of a direction is arbitrary: its greatest coordinate is made positive.
    directions_dW = directions_dW[:width]
    greatest_d = np.take_along_axis(directions_dW, np.abs(directions_dW).argmax(axis=1)[:, None], axis=1)
    weight_dW = np.sign(greatest_d) * directions_dW / (variances_d[:, None] + VARIANCE_FLOOR) ** (power / 2)
    return Projection(weight_dW.astype(np.float32), -(weight_dW @ mean_W).astype(np.float32))

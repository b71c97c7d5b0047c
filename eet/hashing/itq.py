"""Iterative quantisation: a linear hash, fitted without labels, that gives near vectors near codes.

Shapes: N vectors, D of their dimensions, d principal directions, b bits.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from eet.errors import InputError

BLOCK_ROWS = 4096


class Projection(NamedTuple):
    """A linear hash: ``hash = vectors @ weight_bD.T + bias_b``; a bit of the code is 1 where the hash is > 0."""

    weight_bD: np.ndarray
    bias_b: np.ndarray


def fit_itq(vectors_ND: np.ndarray, *, num_bits: int, rounds: int = 50, seed: int = 0, max_samples: int = 50_000) -> Projection:
    """Fit a linear hash to vectors by iterative quantisation.

    The centred vectors are projected on their first principal directions, V (N, d). A rotation R (d, b) is then fitted so that V R is
    near its own signs: two steps alternate, ``B = sign(V R)`` and the R that minimises ``||B - V R||`` (Procrustes). Neither step can
    increase this error.

    With more bits than directions, R is rectangular with orthonormal rows. ``||V R|| = ||V||`` then holds as for a square rotation, so
    the same step solves it. The columns of V R have mean 0 and none of them is 0, so every bit takes both values among the vectors used.

    Args:
        vectors_ND: real numbers (N, D), N >= 2, also a memory map. Give vectors at unit length if they are compared by cosine.
        num_bits: b, 1 or more; fewer than, as many as or more than D. Directions without variance are left out, and
            d = min(num_bits, number of directions with variance).
        rounds: rounds of the two steps, 0 or more. 0 leaves the random rotation.
        seed: of the first rotation and of the choice of rows. The same seed gives the same projection.
        max_samples: the largest number of rows used, 2 or more. If there are more, this number is drawn without replacement; the others
            are not read.

    Returns:
        weight_bD (b, D) and bias_b (b,), float32. The bias removes the mean of the rows used.

    Raises:
        InputError: not a matrix of real numbers, fewer than 2 rows, no column, NaN, infinity or numbers outside float32 among the rows
            used, all of these rows equal, or a count below its minimum.

    Source: Y. Gong, S. Lazebnik, "Iterative Quantization: A Procrustean Approach to Learning Binary Codes", CVPR 2011, section 2. The
    form with more bits than directions is not in the paper.
    """
    vectors_ND = np.asarray(vectors_ND)
    if vectors_ND.ndim != 2 or vectors_ND.dtype.kind not in "biuf" or vectors_ND.shape[1] < 1:
        raise InputError(f"vectors are {vectors_ND.dtype} {vectors_ND.shape}; give real numbers (vectors, dimensions).")
    if len(vectors_ND) < 2:
        raise InputError(f"{len(vectors_ND)} vectors: give at least 2, because directions are fitted to their differences.")
    for name, given, least in (("num_bits", num_bits, 1), ("rounds", rounds, 0), ("max_samples", max_samples, 2)):
        if given < least:
            raise InputError(f"{name}={given}: give {least} or more.")
    random = np.random.default_rng(seed)
    num_rows = min(len(vectors_ND), max_samples)
    rows_N = np.arange(num_rows) if num_rows == len(vectors_ND) else np.sort(random.choice(len(vectors_ND), num_rows, replace=False))

    mean_D, magnitude = _mean(vectors_ND, rows_N)
    directions_Dd = _principal_directions(vectors_ND, rows_N, mean_D, magnitude)[:, :num_bits]
    projected_Nd = np.concatenate([(block_nD - mean_D) @ directions_Dd for block_nD in _blocks(vectors_ND, rows_N)])
    rotation_db = _rotation(projected_Nd, num_bits, rounds, random)
    weight_bD = (directions_Dd @ rotation_db).T.astype(np.float32)
    # The bias is computed from the rounded weights, so that the mean becomes 0 as exactly as float32 allows.
    bias_b = -(weight_bD.astype(np.float64) @ mean_D)
    return Projection(np.ascontiguousarray(weight_bD), bias_b.astype(np.float32))


def _blocks(vectors_ND: np.ndarray, rows_N: np.ndarray) -> Iterator[np.ndarray]:
    """The rows in float64, BLOCK_ROWS at a time."""
    for start in range(0, len(rows_N), BLOCK_ROWS):
        yield vectors_ND[rows_N[start : start + BLOCK_ROWS]].astype(np.float64)


def _mean(vectors_ND: np.ndarray, rows_N: np.ndarray) -> tuple[np.ndarray, float]:
    """The mean of the rows, and the greatest absolute value among them."""
    total_D = np.zeros(vectors_ND.shape[1])
    magnitude = 0.0
    for block_nD in _blocks(vectors_ND, rows_N):
        greatest = float(np.abs(block_nD).max())
        if not greatest <= float(np.finfo(np.float32).max):  # NaN compares false too
            raise InputError("vectors hold NaN, infinity or numbers outside float32; look for the model or image that made them.")
        magnitude = max(magnitude, greatest)
        total_D += block_nD.sum(axis=0)
    return total_D / len(rows_N), magnitude


def _principal_directions(vectors_ND: np.ndarray, rows_N: np.ndarray, mean_D: np.ndarray, magnitude: float) -> np.ndarray:
    """All directions with variance, as columns (D, rank), the greatest variance first."""
    num_rows, dimensions = len(rows_N), len(mean_D)
    covariance_DD = np.zeros((dimensions, dimensions))
    for block_nD in _blocks(vectors_ND, rows_N):
        centred_nD = block_nD - mean_D
        covariance_DD += centred_nD.T @ centred_nD
    variances_D, directions_DD = np.linalg.eigh(covariance_DD / num_rows)
    # Rounding leaves a little variance where there is none: from the sums of the mean, and from the covariance.
    epsilon = np.finfo(np.float64).eps
    mean_rounding = dimensions * (num_rows * epsilon * magnitude) ** 2
    covariance_rounding = max(num_rows, dimensions) * epsilon * max(variances_D[-1], 0.0)
    varies_D = variances_D > mean_rounding + covariance_rounding
    if not varies_D.any():
        raise InputError(f"all {num_rows} vectors used are equal; give vectors that differ.")
    directions_Dr = directions_DD[:, varies_D][:, ::-1]
    # The sign of a direction is arbitrary: its greatest coordinate is made positive.
    greatest_r = np.abs(directions_Dr).argmax(axis=0)
    return directions_Dr * np.where(directions_Dr[greatest_r, np.arange(directions_Dr.shape[1])] < 0, -1.0, 1.0)


def _rotation(projected_Nd: np.ndarray, num_bits: int, rounds: int, random: np.random.Generator) -> np.ndarray:
    """R (d, b) with orthonormal rows: `rounds` rounds, starting with a random R."""
    num_directions = projected_Nd.shape[1]
    orthonormal_bd, triangle_dd = np.linalg.qr(random.standard_normal((num_bits, num_directions)))
    # The signs of a QR factorisation are arbitrary: a positive diagonal also makes R uniformly distributed.
    rotation_db = (orthonormal_bd * np.where(np.diag(triangle_dd) < 0, -1.0, 1.0)).T
    before_db = np.zeros_like(rotation_db)
    for _ in range(rounds):
        correlation_db = np.zeros_like(rotation_db)
        for start in range(0, len(projected_Nd), BLOCK_ROWS):
            block_nd = projected_Nd[start : start + BLOCK_ROWS]
            correlation_db += block_nd.T @ np.where(block_nd @ rotation_db > 0, 1.0, -1.0)
        if np.array_equal(correlation_db, before_db):
            break  # the signs do not change any more, so every further round would give this R
        before_db = correlation_db
        left_dd, _, right_db = np.linalg.svd(correlation_db, full_matrices=False)
        rotation_db = left_dd @ right_db
    return rotation_db

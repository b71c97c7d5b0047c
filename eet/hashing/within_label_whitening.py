"""Whitening by the differences between images of one label, so that these differences count less in a code.

Shapes: N vectors, D their width.
"""

import numpy as np

from eet.errors import InputError
from eet.hashing.itq import Projection

SHRINKAGE = 0.5


def fit_within_label_whitening(vectors_ND: np.ndarray, labels_N: np.ndarray, *, shrinkage: float = SHRINKAGE) -> Projection:
    """A linear layer y = S^(-1/2) (x - mean), S the covariance of the vectors around the means of their labels.

    Directions in which images of one label differ get a smaller weight. That also helps labels that were never trained, where the same
    kinds of differences (pose, light, background) separate images of one label. S is fitted to few images, so it is shrunk:
    ``(1 - shrinkage) S + shrinkage v I`` with v the mean of its eigenvalues, and divided by v: the scale of the vectors stays as it is.

    Args:
        vectors_ND: real numbers (N, D), N >= 1.
        labels_N: integers (N,).
        shrinkage: in (0, 1]; 1 only removes the mean.

    Returns:
        weight_bD (D, D), symmetric, and bias_b (D,), float32. If no two images have the same label, the weight is the identity.

    Raises:
        InputError: shapes that do not fit, vectors that are not finite, or a shrinkage outside its range.

    Source: A. Hatch, S. Kajarekar, A. Stolcke, "Within-class covariance normalization for SVM-based speaker recognition", Interspeech 2006;
    shrinkage with a fixed intensity in the form of O. Ledoit, M. Wolf, "A well-conditioned estimator for large-dimensional covariance
    matrices", 2004.
    """
    vectors_ND = np.asarray(vectors_ND, np.float64)
    labels_N = np.asarray(labels_N)
    if vectors_ND.ndim != 2 or not len(vectors_ND) or vectors_ND.shape[:1] != labels_N.shape:
        raise InputError(f"vectors are {vectors_ND.shape} and labels {labels_N.shape}: give one row and one label for each image")
    if not np.isfinite(vectors_ND).all():
        raise InputError("vectors hold NaN or infinity; look for the model or image that made them")
    if not 0 < shrinkage <= 1:
        raise InputError(f"shrinkage {shrinkage}: use a value above 0, up to 1")
    mean_D, width = vectors_ND.mean(axis=0), vectors_ND.shape[1]
    _, inverse_N, counts_C = np.unique(labels_N, return_inverse=True, return_counts=True)
    sums_CD = np.zeros((len(counts_C), width))
    np.add.at(sums_CD, inverse_N, vectors_ND)
    within_ND = vectors_ND - (sums_CD / counts_C[:, None])[inverse_N]
    variances_D, directions_DD = np.linalg.eigh(within_ND.T @ within_ND / len(vectors_ND))
    mean_variance = variances_D.mean()
    weight_DD = np.eye(width)
    if mean_variance > np.finfo(np.float64).eps * np.square(vectors_ND).mean():
        shrunk_D = (1 - shrinkage) * np.maximum(variances_D, 0) / mean_variance + shrinkage
        weight_DD = directions_DD / np.sqrt(shrunk_D) @ directions_DD.T
    weight_DD = weight_DD.astype(np.float32)
    return Projection(weight_DD, -(weight_DD.astype(np.float64) @ mean_D).astype(np.float32))

"""The words of a vocabulary of local descriptors, by k-means.

Shapes: M descriptors, D their width, K words.
"""

import math

import numpy as np
import torch
from torch import Tensor

from eet.errors import InputError

ROUNDS = 100
MOST_DESCRIPTORS = 200_000
NEXT_SHARE = 0.01
"""With NetVLAD's first weights, the second word of a descriptor has this share of the nearest one's weight, on average."""


def check_words(words: int) -> None:
    """InputError where a vocabulary has no word."""
    if words < 1:
        raise InputError(f"words={words}: use 1 or more")


def kmeans_words(descriptors_MD: Tensor, words: int, *, seed: int = 0) -> Tensor:
    """The centres of k-means (FAISS), float32 (K, D).

    Args:
        descriptors_MD: M >= K; of more than 200,000 rows, as many are drawn.
        words: K.
        seed: of the first centres and the draw. The same seed gives the same words on one machine.

    Raises:
        InputError: there are fewer descriptors than words.
    """
    import faiss

    check_words(words)
    rows_MD = np.ascontiguousarray(descriptors_MD.detach().cpu().numpy(), np.float32)
    if len(rows_MD) < words:
        raise InputError(f"{len(rows_MD)} local descriptors are too few for {words} words: give more images, or fewer words")
    if len(rows_MD) > MOST_DESCRIPTORS:
        rows_MD = rows_MD[np.sort(np.random.default_rng(seed).choice(len(rows_MD), MOST_DESCRIPTORS, replace=False))]
    counts = {"min_points_per_centroid": 1, "max_points_per_centroid": len(rows_MD)}  # no warning, and no draw of its own
    kmeans = faiss.Kmeans(rows_MD.shape[1], words, niter=ROUNDS, seed=seed % 2**31, **counts)
    kmeans.train(rows_MD)
    return torch.from_numpy(np.array(kmeans.centroids, np.float32))


def assignment_scale(descriptors_MD: Tensor, directions_KD: Tensor) -> float:
    """alpha = -ln(0.01) / mean(s1 - s2), where s1 and s2 are a descriptor's two largest cosines with the words.

    With softmax(alpha s) as assignment, the nearest word then weighs 100 times the second one, at the mean difference.

    Source: the published training code of NetVLAD (Arandjelovic et al., CVPR 2016) in Patch-NetVLAD.

    Args:
        descriptors_MD: unit length.
        directions_KD: words at unit length, K >= 2.

    Raises:
        InputError: there is one word, or every descriptor is as near to two words.
    """
    if len(directions_KD) < 2:
        raise InputError("netvlad needs 2 words or more: with one, nothing is assigned")
    total, rows = 0.0, 0
    for block_MD in descriptors_MD.split(65_536):
        first_M, second_M = (block_MD @ directions_KD.T).topk(2, dim=1).values.unbind(dim=1)
        total, rows = total + float((first_M - second_M).sum(dtype=torch.float64)), rows + len(block_MD)
    if not total > 0:
        raise InputError("every local descriptor is equally near to two words: give images that differ")
    return -math.log(NEXT_SHARE) * rows / total

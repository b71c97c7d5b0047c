"""VLAD: sums of the differences between patches and the words of a vocabulary that they belong to; the form that is never trained.

Shapes: B images, N patches, D their width, K words, M patches of many images.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from eet.embedding.aggregation import Aggregation
from eet.embedding.words import check_words, kmeans_words
from eet.errors import InputError


def unit_descriptors(patches_BND: Tensor, *, centred: bool) -> Tensor:
    """Patches as descriptors: float32 (B, N, D) of unit length. centred: less the mean patch of their image, before the norm."""
    patches_BND = patches_BND.float()
    if centred:
        patches_BND = patches_BND - patches_BND.mean(dim=1, keepdim=True)
    return F.normalize(patches_BND, dim=-1)


def residual_vector(descriptors_BND: Tensor, shares_BNK: Tensor, words_KD: Tensor) -> Tensor:
    """V_k = sum_i a_k(x_i) (x_i - c_k), each V_k at unit length (intra-normalisation), all of them in a row, at unit length.

    Source: Jegou et al., Aggregating local descriptors into a compact image representation, CVPR 2010; intra-normalisation: Arandjelovic
    and Zisserman, All about VLAD, CVPR 2013.

    Args:
        descriptors_BND: x.
        shares_BNK: a, how much of a descriptor belongs to each word.
        words_KD: c.

    Returns:
        (B, K * D). A word without descriptors is 0.
    """
    sums_BKD = torch.einsum("bnk,bnd->bkd", shares_BNK, descriptors_BND) - shares_BNK.sum(dim=1).unsqueeze(-1) * words_KD
    return F.normalize(F.normalize(sums_BKD, dim=-1).flatten(1), dim=-1)


class VladAggregation(Aggregation):
    """VLAD with a vocabulary of k-means: each patch belongs to the nearest word alone. Nothing is trained.

    Args:
        width: D.
        num_patches: N, not used.
        words: K, at least 1.
        centred: take the mean patch of an image away from its patches. What all patches share, such as the light, is then left out.

    Raises:
        InputError: words is below 1.
    """

    starts = True
    words_KD: Tensor

    def __init__(self, width: int, num_patches: int, *, words: int = 64, centred: bool = False) -> None:
        super().__init__()
        check_words(words)
        self.width, self.centred = words * width, centred
        self.register_buffer("words_KD", torch.zeros(words, width))

    def descriptors(self, patches_BND: Tensor) -> Tensor:
        return unit_descriptors(patches_BND, centred=self.centred)

    def start(self, descriptors_MD: Tensor, *, seed: int) -> None:
        """The words become the centres of k-means."""
        self.words_KD.copy_(kmeans_words(descriptors_MD, len(self.words_KD), seed=seed))

    def forward(self, vector_BD: Tensor, patches_BND: Tensor | None) -> Tensor:
        assert patches_BND is not None
        if not self.words_KD.any():
            raise InputError("this model's words are not fitted to images yet: `eet fit-base` does that")
        descriptors_BND = self.descriptors(patches_BND)
        nearest_BN = torch.cdist(descriptors_BND, self.words_KD, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=-1)
        return residual_vector(descriptors_BND, F.one_hot(nearest_BN, len(self.words_KD)).float(), self.words_KD)

"""NetVLAD: VLAD whose assignment is a softmax, so that it can be trained.

Shapes: B images, N patches, D their width, K words.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eet.embedding.aggregation import Aggregation
from eet.embedding.vlad import residual_vector, unit_descriptors
from eet.embedding.words import assignment_scale, check_words, kmeans_words


class NetVLADAggregation(Aggregation):
    """a_k(x) = softmax_k(w_k . x) of patches x at unit length, then `eet.embedding.vlad.residual_vector`. w and c are trained apart.

    It starts from k-means: c_k is a centre, and w_k = alpha c_k / |c_k| with the alpha of `eet.embedding.words.assignment_scale`.

    Source: Arandjelovic et al., NetVLAD: CNN architecture for weakly supervised place recognition, CVPR 2016, section 3.1; the form without
    biases and its start are those of its published training code in Patch-NetVLAD.

    Args:
        width: D.
        num_patches: N, not used.
        words: K, at least 1; published: 16 for MSLS, else 64.
        centred: take the mean patch of an image away from its patches (not published).

    Raises:
        InputError: words is below 1.
    """

    starts = True

    def __init__(self, width: int, num_patches: int, *, words: int = 64, centred: bool = False) -> None:
        super().__init__()
        check_words(words)
        self.width, self.centred = words * width, centred
        self.words_KD = nn.Parameter(F.normalize(torch.randn(words, width), dim=1))
        self.assignment_KD = nn.Parameter(self.words_KD.detach().clone())

    def descriptors(self, patches_BND: Tensor) -> Tensor:
        return unit_descriptors(patches_BND, centred=self.centred)

    @torch.no_grad()
    def start(self, descriptors_MD: Tensor, *, seed: int) -> None:
        """Words by k-means, and the assignment that belongs to them."""
        words_KD = kmeans_words(descriptors_MD, len(self.words_KD), seed=seed)
        directions_KD = F.normalize(words_KD, dim=1)
        self.words_KD.copy_(words_KD)
        self.assignment_KD.copy_(assignment_scale(descriptors_MD.cpu(), directions_KD) * directions_KD)

    def forward(self, vector_BD: Tensor, patches_BND: Tensor | None) -> Tensor:
        assert patches_BND is not None
        descriptors_BND = self.descriptors(patches_BND)
        return residual_vector(descriptors_BND, (descriptors_BND @ self.assignment_KD.T).softmax(dim=-1), self.words_KD)

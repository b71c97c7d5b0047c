"""The triplet loss of groups of a query, its positive and its mined negatives, as place recognition uses it.

Shapes: G groups, n negatives of a group, B = G (2 + n) images, E width of the embedding.
"""

from math import inf

import torch.nn.functional as F
from torch import Tensor

from eet.embedding.loss import EmbeddingLoss
from eet.errors import InputError

PUBLISHED_TRIPLET_MARGIN = 0.1**0.5


class TripletObjective(EmbeddingLoss):
    """The mean over all negatives of max(0, ||q - p|| - ||q - x|| + margin), for a query q, its positive p and a negative x.

    A batch is made of groups: a query, its positive, its n negatives, and then the next query. `eet.training` mines them by position.

    Source: NetVLAD (Arandjelovic et al., CVPR 2016), as the published training code of Patch-NetVLAD has it: distances between unit
    vectors, not their squares, and a margin of sqrt(0.1). The loss is torch's.

    Args:
        num_labels: not used: what matches is a matter of positions.
        negatives: n, at least 1.
        margin: at least 0.

    Raises:
        InputError: an option is out of range.
    """

    def __init__(self, num_labels: int, *, negatives: int = 5, margin: float = PUBLISHED_TRIPLET_MARGIN) -> None:
        super().__init__()
        if negatives < 1 or not 0 <= margin < inf:
            raise InputError(f"negatives={negatives}, margin={margin} of triplet: use 1 negative or more, and a margin of 0 or more")
        self.mined_negatives, self.margin = negatives, margin

    def forward(
        self, embeddings_BE: Tensor, labels_B: Tensor, chance_B2: Tensor, tokens_BKE: Tensor | None = None, mass_BK: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        groups = embeddings_BE.unflatten(0, (-1, 2 + self.mined_negatives))
        query_GnE, positive_GnE = (groups[:, one : one + 1].expand(-1, self.mined_negatives, -1) for one in (0, 1))
        each_Gn = F.triplet_margin_loss(query_GnE, positive_GnE, groups[:, 2:], margin=self.margin, reduction="none")
        return each_Gn.mean(), {"triplet": each_Gn.detach().mean(), "with_loss": (each_Gn.detach() > 0).float().mean()}

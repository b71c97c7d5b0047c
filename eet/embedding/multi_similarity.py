"""The multi-similarity loss, for base models of places above all: several images of each place in a batch.

Shapes: B images, E width of the embedding.
"""

from math import inf

from torch import Tensor

from eet.embedding.loss import EmbeddingLoss
from eet.errors import InputError


class MultiSimilarityObjective(EmbeddingLoss):
    """The mean over images of 1/a ln(1 + sum_p e^(-a (s_ip - l))) + 1/b ln(1 + sum_n e^(b (s_in - l))), with cosines s.

    Of the positives p and negatives n, those count that are hard: s_in > min_p s_ip - epsilon, and s_ip < max_n s_in + epsilon. Loss and
    mining are pytorch-metric-learning's.

    Source: Wang et al., Multi-similarity loss with general pair weighting for deep metric learning, CVPR 2019, section 4; the defaults are
    those of GSV-Cities (Ali-bey et al., 2022), which trains places with it.

    Args:
        num_labels: not used: the loss has no parameters of its own.
        alpha: a, above 0.
        beta: b, above 0.
        base: l, a cosine.
        epsilon: margin of the mining, at least 0.

    Raises:
        InputError: an option is out of range.
    """

    def __init__(self, num_labels: int, *, alpha: float = 1.0, beta: float = 50.0, base: float = 0.0, epsilon: float = 0.1) -> None:
        super().__init__()
        from pytorch_metric_learning.losses import MultiSimilarityLoss
        from pytorch_metric_learning.miners import MultiSimilarityMiner

        if not (0 < alpha < inf and 0 < beta < inf and -1 <= base <= 1 and 0 <= epsilon < inf):
            raise InputError(
                f"alpha={alpha}, beta={beta}, base={base}, epsilon={epsilon} of multi_similarity: use alpha and beta above 0, a base from "
                "-1 to 1, and an epsilon of 0 or more"
            )
        self.loss, self.miner = MultiSimilarityLoss(alpha=alpha, beta=beta, base=base), MultiSimilarityMiner(epsilon=epsilon)

    def forward(
        self, embeddings_BE: Tensor, labels_B: Tensor, chance_B2: Tensor, tokens_BKE: Tensor | None = None, mass_BK: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        pairs = self.miner(embeddings_BE, labels_B)
        # Every embedding gets a gradient even if no pair is hard: distributed workers wait for each other's gradients.
        total = self.loss(embeddings_BE, labels_B, pairs) + 0 * embeddings_BE.sum()
        share = embeddings_BE.new_tensor(len(pairs[2].unique()) / len(labels_B))
        return total, {"multi_similarity": total.detach(), "with_hard_negatives": share}

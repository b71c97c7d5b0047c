"""The training step of base models: distance-weighted triplets and the margin loss.

Shapes: B images, E width of the embedding, K tokens, T triplets.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eet.embedding.loss import EmbeddingLoss
from eet.errors import InputError
from eet.matching import MARGINALS, TokenSet, structural_distance
from eet.options.defaults import PUBLISHED_BOUNDARY, PUBLISHED_BOUNDARY_LEARNING_RATE, PUBLISHED_MARGIN

NEAREST = 0.5  # published: closer negatives count as if they were this far, against noisy gradients
_FARTHEST = 1.999  # opposite points have no density at all, so an unbounded weight


def distance_weighted_triplets(embeddings_BE: Tensor, labels_B: Tensor, chance_B2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Draws one triplet for each anchor: a random positive, and a negative by the inverse density of distances on the sphere.

    A negative at distance d has weight 1 / q(d), q(d) = d^(n-2) (1 - d^2/4)^((n-3)/2), where d is at least 0.5 and n = E. So negatives of
    all distances are drawn, not mostly those near sqrt(2). The published code has n = 128, its width; its cut-off at 1.4 has no effect.

    pytorch-metric-learning's DistanceWeightedMiner is not used because it differs: it returns as many triplets for an anchor as its label
    has images in the batch, and cuts off at 1.4. Its float32 weights are relative to the largest of the whole batch: from a width of
    about 150 on, an anchor whose negatives are all far gets no triplet as soon as some other pair is near.

    Source: Wu et al., Sampling matters in deep embedding learning, ICCV 2017, section 4.

    Args:
        embeddings_BE: of unit length.
        labels_B: integers.
        chance_B2: uniform in [0, 1), for each anchor's positive and negative.

    Returns:
        Rows of anchors, positives and negatives, int64 (T,) each, T <= B. An anchor without a positive or a negative has no triplet.
    """
    with torch.no_grad():
        width = embeddings_BE.shape[1]
        same_BB = labels_B[:, None] == labels_B[None, :]
        positives_BB = same_BB & ~torch.eye(len(labels_B), dtype=torch.bool, device=labels_B.device)
        d_BB = torch.cdist(embeddings_BE.double(), embeddings_BE.double()).clamp(NEAREST, _FARTHEST)
        log_weights_BB = (2 - width) * d_BB.log() - (width - 3) / 2 * (1 - d_BB.square() / 4).log()
        log_weights_BB = log_weights_BB.masked_fill(same_BB, -math.inf)
        usable_B = positives_BB.any(dim=1) & ~same_BB.all(dim=1)
        anchors_T = usable_B.nonzero().squeeze(1)
        positives_T = _drawn(positives_BB[anchors_T].double(), chance_B2[anchors_T, 0])
        negatives_T = _drawn(log_weights_BB[anchors_T].softmax(dim=1), chance_B2[anchors_T, 1])
        return anchors_T, positives_T, negatives_T


def _drawn(weights_TB: Tensor, chance_T: Tensor) -> Tensor:
    """One column of each row, int64 (T,), drawn by weight: the first whose cumulative share exceeds the chance."""
    sums_TB = weights_TB.cumsum(dim=1)
    return torch.searchsorted(sums_TB, chance_T.double()[:, None] * sums_TB[:, -1:], right=True).squeeze(1)


class MarginObjective(EmbeddingLoss):
    """The margin loss with one learned boundary beta_y for each training label, over distance-weighted triplets of a batch.

    (sum over triplets of relu(d_ap - beta_y + margin) + relu(beta_y - d_an + margin)) / number of those terms above 0, y the anchor's
    label. The loss is pytorch-metric-learning's. The distance of a pair of images is

        d = (1 - structural) d_global + structural d_struct

    d_global is Euclidean between unit embeddings. d_struct is `eet.matching.structural_distance` of the images' tokens: the mean distance
    of those that optimal transport matches, its plan held fixed. Triplets are drawn by d_global whatever `structural` is.

    Source: Wu et al. (above), section 4.2, without its term on beta (nu = 0), as in the published re-ranking code. With structural = 0.5,
    where d = (d_struct + d_global) / 2: DIML (Zhao et al., Towards interpretable deep metric learning with structural matching, ICCV
    2021), its published training code. That uses the marginal cross_correlation.

    Args:
        num_labels: training labels are 0 .. num_labels - 1.
        margin: at least 0.
        beta: initial value of every boundary, a distance between unit vectors (0 to 2).
        beta_learning_rate: learning rate of the boundaries.
        structural: share of the structural distance, in [0, 1]. At 0 tokens are not read.
        marginal: of the transport, one of `eet.matching.MARGINALS`; the centres of those that read correlations are the embeddings.

    Raises:
        InputError: structural is out of range, or the marginal is unknown.
    """

    def __init__(
        self,
        num_labels: int,
        *,
        margin: float = PUBLISHED_MARGIN,
        beta: float = PUBLISHED_BOUNDARY,
        beta_learning_rate: float = PUBLISHED_BOUNDARY_LEARNING_RATE,
        structural: float = 0.0,
        marginal: str = "uniform",
    ) -> None:
        super().__init__()
        from pytorch_metric_learning.losses import MarginLoss

        if not 0 <= structural <= 1:
            raise InputError(f"structural={structural} is a share of the distance; give 0 (none) to 1 (published: 0.5).")
        if marginal not in MARGINALS:
            raise InputError(f"marginal {marginal!r} is unknown; choose one of {', '.join(MARGINALS)}.")
        distance = {"distance": _given_distances()} if structural else {}
        self.loss = MarginLoss(margin=margin, nu=0, beta=beta, learn_beta=True, num_classes=num_labels, **distance)
        self.structural, self.marginal = structural, marginal
        self.beta_learning_rate = beta_learning_rate

    @property
    def reads_tokens(self) -> bool:  # type: ignore[override]
        return self.structural > 0

    @property
    def learning_rates(self) -> Mapping[str, float]:
        return {"loss.beta": self.beta_learning_rate}

    def forward(
        self, embeddings_BE: Tensor, labels_B: Tensor, chance_B2: Tensor, tokens_BKE: Tensor | None = None, mass_BK: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch.

        Args:
            embeddings_BE: of unit length, float32.
            labels_B: integers.
            chance_B2: see `distance_weighted_triplets`.
            tokens_BKE: float32; read where `structural` is above 0.
            mass_BK: of the tokens, on any scale; read by the marginal importance.

        Returns:
            loss: a scalar.
            terms: detached scalars to log: mean distances of positives and negatives, and mean beta; where `structural` is above 0, mean
                structural distances too.

        Raises:
            InputError: `structural` is above 0 and tokens, or the mass that the marginal reads, are missing or do not fit.
        """
        triplets = distance_weighted_triplets(embeddings_BE, labels_B, chance_B2)
        anchors_T, positives_T, negatives_T = triplets
        structural_2T = None
        if self.structural:
            if tokens_BKE is None:
                raise InputError("the structural distance needs tokens: give tokens_BKE, or use structural=0.")
            pairs = torch.stack([anchors_T.repeat(2), torch.cat([positives_T, negatives_T])], dim=1)
            tokens = TokenSet(tokens_BKE, mass_BK, embeddings_BE.detach())
            structural_2T = structural_distance(tokens, tokens, pairs, marginal=self.marginal)
            unit_BE = F.normalize(embeddings_BE, dim=1)
            # Only the entries of pairs are read.
            structural_BB = structural_2T.new_zeros(len(unit_BE), len(unit_BE)).index_put(tuple(pairs.T), structural_2T)
            compared = (1 - self.structural) * torch.cdist(unit_BE, unit_BE) + self.structural * structural_BB
        else:
            compared = embeddings_BE
        total = self.loss(compared, labels_B, triplets)
        with torch.no_grad():
            terms = {
                "positive_distance": _mean_distance(embeddings_BE, anchors_T, positives_T),
                "negative_distance": _mean_distance(embeddings_BE, anchors_T, negatives_T),
                "beta": self.loss.beta.mean(),
            }
            if structural_2T is not None:
                of_positives_T, of_negatives_T = structural_2T.chunk(2)
                terms["positive_structural"] = of_positives_T.sum() / max(1, len(anchors_T))
                terms["negative_structural"] = of_negatives_T.sum() / max(1, len(anchors_T))
        # Every parameter gets a gradient even if no term is above 0: distributed workers wait for each other's gradients.
        return total + 0 * self.loss.beta.sum(), terms


def _given_distances() -> nn.Module:
    """A distance of pytorch-metric-learning for a loss whose 'embeddings' are the matrix of distances itself."""
    from pytorch_metric_learning.distances import BaseDistance

    class GivenDistances(BaseDistance):
        def compute_mat(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
            return query_emb

    return GivenDistances(normalize_embeddings=False)


def _mean_distance(embeddings_BE: Tensor, first_T: Tensor, second_T: Tensor) -> Tensor:
    """0 where there are no pairs."""
    return (embeddings_BE[first_T] - embeddings_BE[second_T]).norm(dim=1).sum() / max(1, len(first_T))

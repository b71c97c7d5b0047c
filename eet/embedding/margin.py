"""The training step of base models: distance-weighted triplets and the margin loss.

Shapes: B images, E width of the embedding, T triplets.
"""

import math

import torch
from torch import Tensor, nn

PUBLISHED_MARGIN, PUBLISHED_BETA = 0.2, 0.6
PUBLISHED_BETA_LEARNING_RATE = 5e-4
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


class MarginObjective(nn.Module):
    """The margin loss with one learned boundary beta_y for each training label, over distance-weighted triplets of a batch.

    (sum over triplets of relu(d_ap - beta_y + margin) + relu(beta_y - d_an + margin)) / number of those terms above 0, d Euclidean between
    unit embeddings, y the anchor's label. The loss is pytorch-metric-learning's.

    Source: Wu et al. (above), section 4.2, without its term on beta (nu = 0), as in the published re-ranking code.

    Args:
        num_labels: training labels are 0 .. num_labels - 1.
        margin: at least 0.
        beta: initial value of every boundary.
    """

    def __init__(self, num_labels: int, *, margin: float = PUBLISHED_MARGIN, beta: float = PUBLISHED_BETA) -> None:
        super().__init__()
        from pytorch_metric_learning.losses import MarginLoss

        self.loss = MarginLoss(margin=margin, nu=0, beta=beta, learn_beta=True, num_classes=num_labels)

    def forward(self, embeddings_BE: Tensor, labels_B: Tensor, chance_B2: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch.

        Args:
            embeddings_BE: of unit length, float32.
            labels_B: integers.
            chance_B2: see `distance_weighted_triplets`.

        Returns:
            loss: a scalar.
            terms: detached scalars to log: mean distances of positives and negatives, and mean beta.
        """
        triplets = distance_weighted_triplets(embeddings_BE, labels_B, chance_B2)
        anchors_T, positives_T, negatives_T = triplets
        total = self.loss(embeddings_BE, labels_B, triplets)
        with torch.no_grad():
            terms = {
                "positive_distance": _mean_distance(embeddings_BE, anchors_T, positives_T),
                "negative_distance": _mean_distance(embeddings_BE, anchors_T, negatives_T),
                "beta": self.loss.beta.mean(),
            }
        # Every parameter gets a gradient even if no term is above 0: distributed workers wait for each other's gradients.
        return total + 0 * self.loss.beta.sum(), terms


def _mean_distance(embeddings_BE: Tensor, first_T: Tensor, second_T: Tensor) -> Tensor:
    """0 where there are no pairs."""
    return (embeddings_BE[first_T] - embeddings_BE[second_T]).norm(dim=1).sum() / max(1, len(first_T))

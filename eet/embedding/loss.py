"""The interface of the losses that train base models.

Shapes: B images, E width of the embedding, K tokens.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn


class EmbeddingLoss(nn.Module, ABC):
    """A loss over the embeddings of a whole batch. Its constructor takes the number of training labels, then options with defaults.

    To add one, write a class that inherits this one, and add it to `eet.embedding.LOSSES`.
    """

    reads_tokens: bool = False
    """Whether `forward` reads tokens and their mass; without them they are not computed."""
    mined_negatives: int = 0
    """Negatives of each query in a batch of mined groups: a query, its positive, its negatives, and so on. 0 for a loss over labels."""

    @property
    def learning_rates(self) -> Mapping[str, float]:
        """Name -> learning rate, for parameters of the loss that have their own."""
        return {}

    @abstractmethod
    def forward(
        self, embeddings_BE: Tensor, labels_B: Tensor, chance_B2: Tensor, tokens_BKE: Tensor | None = None, mass_BK: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch. Every parameter of the loss must get a gradient: distributed workers wait for each other's.

        Args:
            embeddings_BE: of unit length, float32.
            labels_B: integers, 0 .. labels - 1. Each label has several images in a batch.
            chance_B2: uniform in [0, 1), the same on every worker, for a loss that draws.
            tokens_BKE: float32; None unless `reads_tokens`.
            mass_BK: of the tokens, on any scale; None unless `reads_tokens`.

        Returns:
            loss: a scalar.
            terms: detached scalars to log, by name.
        """

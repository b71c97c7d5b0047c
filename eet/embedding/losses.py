"""All losses of base models, by name."""

from collections.abc import Callable
from typing import Any

from eet.embedding.by_name import class_by_name
from eet.embedding.loss import EmbeddingLoss
from eet.embedding.margin import MarginObjective
from eet.embedding.multi_similarity import MultiSimilarityObjective
from eet.embedding.triplet import TripletObjective

LOSSES: dict[str, Callable[..., EmbeddingLoss]] = {
    "margin": MarginObjective,
    "multi_similarity": MultiSimilarityObjective,
    "triplet": TripletObjective,
}
"""Name, as users give it -> class, whose first argument is the number of training labels."""


def build_loss(name: str, num_labels: int, **options: Any) -> EmbeddingLoss:
    """Builds a loss.

    Args:
        name: a name in LOSSES.
        num_labels: training labels are 0 .. num_labels - 1.
        **options: options of the loss.

    Raises:
        InputError: an unknown name, an option that the loss does not have, or invalid values of its options.
    """
    return class_by_name("loss", LOSSES, name, options, positional=1)(num_labels, **options)

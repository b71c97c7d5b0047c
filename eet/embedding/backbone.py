"""What a base model needs of a network: one vector, a map of patch tokens, and how much each patch has in the vector.

Shapes: B images, D width, R x C grid of patches.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from eet.images import Preprocessing


class BackboneOutput(NamedTuple):
    """What a backbone says of a batch of images, before the linear head."""

    vector: Tensor
    """(B, D) what the head turns into the image's embedding: CLS behind the final norm, or the mean of the patches."""
    patches: Tensor | None
    """(B, R, C, D) patch tokens, as the head may read them too; None where they were not asked for."""
    importance: Tensor | None
    """(B, r, c) >= 0, what CLS draws from each cell of the picture, on the backbone's own grid of cells; None where patches were not asked
    for, or where the vector is their mean, so that each patch's share follows from the patch itself."""


class Backbone(nn.Module, ABC):
    """A network under a base model's head.

    width: D. grid: rows and columns of patches at the input size of `preprocessing`.
    """

    head_std: ClassVar[float | None] = None
    """Of the head's first weights (truncated normal, bias 0); None is PyTorch's own for a linear layer."""

    width: int
    grid: tuple[int, int]
    preprocessing: Preprocessing

    @abstractmethod
    def forward(self, images_B3HW: Tensor, *, patches: bool) -> BackboneOutput:
        """patches: give the patch tokens and their importance too."""

    @abstractmethod
    def load_weights(self, state: Mapping[str, Tensor], *, source: str) -> None:
        """Loads a checkpoint without its classifier. source: what it is called in an error. ValueError naming what does not fit."""

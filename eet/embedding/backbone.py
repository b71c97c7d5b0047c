"""The interface between a base model and its network: one vector, a map of patch tokens, and the share of each patch in the vector.

Shapes: B images, D width, R x C grid of patches.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from eet.errors import InputError
from eet.images import Preprocessing


class BackboneOutput(NamedTuple):
    """Outputs of a backbone for a batch of images, before the linear head."""

    vector: Tensor
    """(B, D), from which the head makes the image's embedding: CLS after the final norm, or the mean of the patches."""
    patches: Tensor | None
    """(B, R, C, D) patch tokens, which the head can read too; None where they were not requested."""
    importance: Tensor | None
    """(B, r, c) >= 0, how much CLS attends to each cell of the image, on the backbone's own grid of cells; None where patches were not
    requested, or where the vector is their mean: then the share of a patch follows from the patch itself."""


class Backbone(nn.Module, ABC):
    """A network to which a base model adds its head.

    Attributes:
        width: D.
        grid: rows and columns of patches at the input size of `preprocessing`.
        preprocessing: of the images.
        patch_size: (height, width) in pixels that the sides of the input must be multiples of; 1 x 1 where any size is seen whole.
    """

    head_std: ClassVar[float | None] = None
    """Standard deviation of the head's initial weights (truncated normal, bias 0); None for PyTorch's default of a linear layer."""

    width: int
    grid: tuple[int, int]
    preprocessing: Preprocessing
    patch_size: tuple[int, int] = (1, 1)

    @abstractmethod
    def forward(self, images_B3HW: Tensor, *, patches: bool) -> BackboneOutput:
        """Outputs for preprocessed images. patches: return the patch tokens and their importance too."""

    def take_patches_from(self, block: int, *, vector: bool) -> None:
        """Takes patches, and their importance, from an earlier block. Called once, after the weights are loaded.

        Args:
            block: number of the block, from 1.
            vector: the vector is needed too, from the last block; otherwise the blocks after this one are removed.

        Raises:
            InputError: there is no such block, or this kind of network has none to choose from.
        """
        raise InputError(f"patches can be taken from a block of a ViT (deit_*, vit_*), not of a {type(self).__name__}: leave the block out")

    @abstractmethod
    def load_weights(self, state: Mapping[str, Tensor], *, source: str) -> None:
        """Loads a checkpoint without its classifier. source: what errors call it. InputError names the weights that do not fit."""

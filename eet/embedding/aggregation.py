"""The interface of the layers that turn a backbone's output into one vector for each image.

Shapes: B images, N patches of an image, D width of a patch, M patches of many images, W width of the result.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn


class Aggregation(nn.Module, ABC):
    """A layer between backbone and head. Its constructor takes D and N, then options with defaults.

    To add one, write a class that inherits this one, and add it to `eet.embedding.AGGREGATIONS`.

    Attributes:
        width: W.
    """

    reads_vector: ClassVar[bool] = False
    """Whether `forward` reads the backbone's own vector. Blocks after that of the patches are left out of a model that does not."""
    reads_patches: ClassVar[bool] = True
    """Whether `forward` reads patches; without them they are not computed."""
    shares_head: ClassVar[bool] = False
    """Whether the head projects patches too, to become tokens. Where it does not, tokens are the patches themselves."""
    starts: ClassVar[bool] = False
    """Whether `start` sets anything."""

    width: int

    @abstractmethod
    def forward(self, vector_BD: Tensor, patches_BND: Tensor | None) -> Tensor:
        """(B, W) of a backbone's output. patches_BND is None unless `reads_patches`."""

    def descriptors(self, patches_BND: Tensor) -> Tensor:
        """(B, N, D) what `start` reads of the patches."""
        return patches_BND

    def start(self, descriptors_MD: Tensor, *, seed: int) -> None:  # noqa: B027  (most layers start from random weights)
        """Sets the first weights from descriptors of many images, without labels.

        Args:
            descriptors_MD: float32, rows of `descriptors`.
            seed: of any random choice.

        Raises:
            InputError: there are too few descriptors.
        """


class VectorAggregation(Aggregation):
    """The backbone's own vector: CLS, or the mean of the patches."""

    reads_vector = True
    reads_patches = False
    shares_head = True

    def __init__(self, width: int, num_patches: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, vector_BD: Tensor, patches_BND: Tensor | None) -> Tensor:
        return vector_BD

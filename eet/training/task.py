"""Training tasks: networks, images, the objective, and the evaluation. Each kind of model has its own kind of task."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from eet.datasets import ImageTable
from eet.training.samplers import StepSampler
from eet.training.settings import CPU_MICRO_BATCH, FitSettings

Embed = Callable[[str, ImageTable], np.ndarray | None]
Evaluate = Callable[[Any, np.ndarray], dict[str, dict[str, float]]]


@dataclass(frozen=True, kw_only=True)
class TrainingTask(ABC):
    """Networks, and the images and objective that train them. `eet.training.fit` runs the training.

    Attributes:
        networks: name -> network, trained or a frozen teacher, on the CPU with its initial weights; each has a `preprocessing`.
        train: labelled training images.
        val: labelled validation images, or None.
        test: labelled test images, or None.
    """

    networks: dict[str, Any]
    train: ImageTable
    val: ImageTable | None = None
    test: ImageTable | None = None

    flips: ClassVar[bool] = True
    """Whether half of the training views are mirrored."""
    quality: ClassVar[str]
    """The measure of the validation images that chooses the checkpoint; higher is better."""

    @property
    @abstractmethod
    def chosen(self) -> str:
        """The network whose validation chooses the checkpoint."""

    @property
    def trained(self) -> tuple[str, ...]:
        """The networks that are trained."""
        return tuple(self.networks)

    @property
    def learning_rates(self) -> Mapping[str, float]:
        """Name -> learning rate, for parameters of the objective that have their own."""
        return {}

    @property
    def images_per_epoch(self) -> int:
        """Images of an epoch, from which its steps follow."""
        return len(self.train)

    def timed_images(self, settings: FitSettings) -> int:
        """Number of images in the measurement for an estimate."""
        return min(settings.micro_batch_size or CPU_MICRO_BATCH, settings.batch_size)

    @abstractmethod
    def objective(self, settings: FitSettings) -> nn.Module:
        """The module over the networks. Its forward takes images (B, 3, H, W) and labels (B,), and returns StepLosses.

        Raises:
            InputError: the networks do not fit each other.
        """

    def start(self, embed: Embed) -> Any:
        """Fits values before the first epoch, for example a head. Called on every worker.

        Args:
            embed: called with the name of a network and a table; returns the features of its images, (N, D) on rank 0 and None on the
                other ranks.

        Returns:
            Values for `set_fitted`; None for none.
        """
        return None

    def finish(self, embed: Embed) -> Any:
        """Fits values after the last epoch, with the chosen weights. Arguments and result are those of `start`."""
        return None

    def set_fitted(self, fitted: Any) -> None:  # noqa: B027  (most kinds fit nothing)
        """Sets the values that `start` or `finish` fitted on rank 0: plain values and arrays."""

    @property
    def baseline(self) -> str | None:
        """A name for the networks before the first epoch, for a row in the table of test measures; None for no such row."""
        return None

    def sampler(self, settings: FitSettings, *, rank: int, world: int, micro_batch_size: int) -> StepSampler:
        """The images of each step for one worker."""
        return StepSampler(
            len(self.train),
            batch_size=settings.batch_size,
            micro_batch_size=micro_batch_size,
            rank=rank,
            world=world,
            seed=settings.seed,
        )

    @abstractmethod
    def represent(self, network: Any, images_B3HW: Tensor) -> np.ndarray:
        """The representations of images that a search compares (codes or embeddings), one row for each."""

    def embed(self, network: Any, images_B3HW: Tensor) -> np.ndarray:
        """Features of images (B, D) float32, for `start` and `finish`."""
        return self.represent(network, images_B3HW)

    def represent_for_validation(self, network: Any, images_B3HW: Tensor) -> np.ndarray:
        """The representations for `validate`; the default is `represent`."""
        return self.represent(network, images_B3HW)

    @abstractmethod
    def validate(self, rows: np.ndarray) -> dict[str, float]:
        """Measures of the validation images, including `quality`, from their representations by the chosen network."""

    @abstractmethod
    def evaluate(self, network: Any, rows: np.ndarray) -> dict[str, dict[str, float]]:
        """{protocol: {measure: value}} of the test images, from representations by `network`. All protocols have the same measures."""

    @property
    def evaluations(self) -> tuple[tuple[ImageTable | None, Evaluate], ...]:
        """Tables of images on which a network is evaluated, each with the function that evaluates their representations."""
        return ((self.test, self.evaluate),)

    @abstractmethod
    def describe(self, network: Any) -> str:
        """A description of the network in one line."""

    @abstractmethod
    def save(self, name: str, folder: Path, training: dict[str, Any]) -> None:
        """Writes a trained network's bundle into `folder`. training: how it was trained, as plain values."""

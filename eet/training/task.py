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
Judge = Callable[[Any, np.ndarray], dict[str, dict[str, float]]]


@dataclass(frozen=True, kw_only=True)
class TrainingTask(ABC):
    """What is trained, and on which images. `eet.training.fit` runs it.

    Attributes:
        networks: name -> network that learns or teaches, on the CPU with its initial weights; each has a `preprocessing`.
        train: labelled training images.
        val: labelled validation images, or None.
        test: labelled test images, or None.
    """

    networks: dict[str, Any]
    train: ImageTable
    val: ImageTable | None = None
    test: ImageTable | None = None

    quality: ClassVar[str]
    """The measure of the validation images that chooses the checkpoint; higher is better."""

    @property
    @abstractmethod
    def chosen(self) -> str:
        """The network whose validation chooses the checkpoint."""

    @property
    def trained(self) -> tuple[str, ...]:
        """The networks that learn."""
        return tuple(self.networks)

    @property
    def learning_rates(self) -> Mapping[str, float]:
        """Name -> learning rate, for parameters of the objective that have their own."""
        return {}

    def timed_images(self, settings: FitSettings) -> int:
        """Number of images in the measurement for an estimate."""
        return min(settings.micro_batch_size or CPU_MICRO_BATCH, settings.batch_size)

    @abstractmethod
    def objective(self, settings: FitSettings) -> nn.Module:
        """The module over the networks whose forward takes (images (B, 3, H, W), labels (B,)) to StepLosses.

        Raises:
            InputError: the networks do not fit each other.
        """

    def start(self, embed: Embed) -> Any:
        """What training begins at beyond the networks' own first weights, for `set_fitted`; None: nothing. Called on every worker.

        embed: gives a network's embeddings of a table's images, (N, D) on rank 0 and None on the others.
        """
        return None

    def finish(self, embed: Embed) -> Any:
        """What is fitted once the chosen weights are loaded, for `set_fitted`; None: nothing. Called on every worker; see `start`."""
        return None

    def set_fitted(self, fitted: Any) -> None:  # noqa: B027  (most kinds fit nothing)
        """Takes over what `start` or `finish` fitted on rank 0: plain values and arrays."""

    @property
    def baseline(self) -> str | None:
        """What the networks are before the first epoch, where that is worth a row in the table of test measures; None: nothing."""
        return None

    def sampler(self, settings: FitSettings, *, rank: int, world: int, micro_batch_size: int) -> StepSampler:
        """Which images one worker takes in which step."""
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
        """The representation of images by which they are searched (hash or embedding), one row for each."""

    def embed(self, network: Any, images_B3HW: Tensor) -> np.ndarray:
        """The networks' features of images (b, D) float32, for `start` and `finish`."""
        return self.represent(network, images_B3HW)

    def represent_for_validation(self, network: Any, images_B3HW: Tensor) -> np.ndarray:
        """What `validate` judges; default what `represent` gives."""
        return self.represent(network, images_B3HW)

    @abstractmethod
    def validate(self, rows: np.ndarray) -> dict[str, float]:
        """Measures of the validation images, `quality` among them, from their representations by the chosen network."""

    @abstractmethod
    def evaluate(self, network: Any, rows: np.ndarray) -> dict[str, dict[str, float]]:
        """{protocol: {measure: value}} of the test images, from `network`'s representations. Every protocol has the same measures."""

    @property
    def judged(self) -> tuple[tuple[ImageTable | None, Judge], ...]:
        """The images that measure a trained network, each table with the function that measures its representations of them."""
        return ((self.test, self.evaluate),)

    @abstractmethod
    def describe(self, network: Any) -> str:
        """A description of the network in one line."""

    @abstractmethod
    def save(self, name: str, folder: Path, training: dict[str, Any]) -> None:
        """Writes a trained network's bundle into `folder`. training: how it was trained, as plain values."""

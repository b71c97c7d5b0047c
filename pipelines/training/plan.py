"""What is trained: made and checked by the driver, carried out by every worker. Each kind of model has a kind of plan."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from eet.datasets import ImageTable
from eet.training.samplers import StepSampler
from pipelines.job.options import TrainOptions

CPU_MICRO_BATCH = 16  # measured: on a CPU a larger one leaves the cache and is slower


def micro_batch_size(options: TrainOptions, share: int, device: str) -> int:
    """Images a worker runs at once, of its share of a step. device: 'cuda' or 'cpu'."""
    return options.micro_batch_size or (share if device == "cuda" else min(share, CPU_MICRO_BATCH))


@dataclass(frozen=True, kw_only=True)
class TrainingPlan(ABC):
    """Everything a worker needs.

    networks: what learns or teaches, by name, on the CPU with its first weights; each has a `preprocessing`.
    train, val, test: labelled images; val and test may be None. threads: CPU threads of a worker. board: where progress goes.
    """

    networks: dict[str, Any]
    train: ImageTable
    val: ImageTable | None
    test: ImageTable | None
    options: TrainOptions
    seed: int
    threads: int
    board: Any

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
    def constant_rate(self) -> bool:
        """Whether the learning rate stays as it is behind the warm-up; else it falls as a cosine."""
        return False

    @property
    def learning_rates(self) -> Mapping[str, float]:
        """Of the objective's parameters that have one of their own, by name."""
        return {}

    @property
    def steps_per_epoch(self) -> int:
        return len(self.train) // self.options.batch_size

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.options.epochs

    @property
    def warmup_steps(self) -> int:
        """As asked, or min(500, a ninth of all steps)."""
        asked = self.options.warmup_steps
        return min(500, self.total_steps // 9) if asked is None else asked

    @property
    def timed_images(self) -> int:
        """How many images at once an estimate is measured on."""
        return min(self.options.micro_batch_size or CPU_MICRO_BATCH, self.options.batch_size)

    @abstractmethod
    def objective(self) -> nn.Module:
        """The module over the networks whose forward takes (images (B, 3, H, W), labels (B,)) to StepLosses. ValueError where the networks
        do not fit each other.
        """

    def start(self) -> None:  # noqa: B027  (most kinds have nothing to set)
        """Sets what training begins at, beyond the networks' own first weights."""

    def sampler(self, *, rank: int, world: int, micro_batch_size: int) -> StepSampler:
        """Which images one worker takes in which step."""
        return StepSampler(
            len(self.train),
            batch_size=self.options.batch_size,
            micro_batch_size=micro_batch_size,
            rank=rank,
            world=world,
            seed=self.seed,
        )

    @abstractmethod
    def represent(self, network: Any, images_B3HW: Tensor) -> np.ndarray:
        """What a network makes of images to find them again, one row each."""

    @abstractmethod
    def validate(self, rows: np.ndarray) -> dict[str, float]:
        """Measures of the validation images, `quality` among them, from what the chosen network makes of them."""

    @abstractmethod
    def evaluate(self, network: Any, rows: np.ndarray) -> dict[str, dict[str, float]]:
        """{protocol: {measure: value}} of the test images, from what `network` makes of them. Every protocol has the same measures."""

    @abstractmethod
    def describe(self, network: Any) -> str:
        """What it is, in a line."""

    @abstractmethod
    def save(self, name: str, folder: Path, training: dict[str, Any]) -> None:
        """Writes a trained network's bundle into `folder`. training: plain values that say how it was trained."""

"""Settings of a training, for any kind of model."""

import math
from dataclasses import dataclass
from typing import Literal

from eet.errors import InputError
from eet.options.choices import Precision
from eet.options.defaults import PUBLISHED_MIN_CROP_AREA

CPU_MICRO_BATCH = 16  # measured: on a CPU a larger one does not fit the cache and is slower


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """Settings of a training. Defaults are the published ones of EET.

    Attributes:
        epochs: passes over the training images.
        batch_size: images of a step, over all workers.
        micro_batch_size: images that a worker runs at once; None for its whole share on a GPU, at most 16 on a CPU.
        optimizer: "sgd" (with momentum), "adam" or "adamw".
        learning_rate: of the backbone, after warm-up.
        head_learning_rate: of the heads; None for that of the backbone.
        momentum: of sgd.
        weight_decay: of any optimizer.
        warmup_steps: steps of linear warm-up; None for min(500, a ninth of all steps).
        constant_rate: keep the learning rate constant after the warm-up; else it falls as a cosine to 0.
        min_crop_area: smallest share of the image area in a random training crop, in (0, 1].
        loader_workers: image loading processes of a worker; None for 0 on a CPU, at most 8 on a GPU.
        precision: "auto" (bf16 autocast on CUDA, fp32 on a CPU), "fp32" or "bf16".
        compile: run the networks through torch.compile.
        seed: of order, augmentation and dropout.
    """

    epochs: int = 90
    batch_size: int = 64
    micro_batch_size: int | None = None
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: float = 0.01
    head_learning_rate: float | None = None
    momentum: float = 0.9
    weight_decay: float = 0.0
    warmup_steps: int | None = None
    constant_rate: bool = False
    min_crop_area: float = PUBLISHED_MIN_CROP_AREA
    loader_workers: int | None = None
    precision: Precision = "auto"
    compile: bool = False
    seed: int = 42

    def steps_per_epoch(self, num_images: int) -> int:
        """Optimizer steps of an epoch; the last, incomplete batch is left out."""
        return num_images // self.batch_size

    def total_steps(self, num_images: int) -> int:
        return self.steps_per_epoch(num_images) * self.epochs

    def warmup(self, num_images: int) -> int:
        """Steps of warm-up: `warmup_steps`, or min(500, a ninth of all steps)."""
        return min(500, self.total_steps(num_images) // 9) if self.warmup_steps is None else self.warmup_steps

    def micro_batch(self, share: int, device: str) -> int:
        """Number of images that a worker runs at once; its share of a step is `share` images. device: "cuda" or "cpu"."""
        return self.micro_batch_size or (share if device == "cuda" else min(share, CPU_MICRO_BATCH))

    def check(self, num_images: int) -> None:
        """InputError if the training images are too few for one step, or for the steps of the warm-up."""
        if self.steps_per_epoch(num_images) < 1:
            raise InputError(f"batch_size {self.batch_size} is more than the {num_images} training images: use a smaller one")
        if self.warmup(num_images) > self.total_steps(num_images):
            raise InputError(
                f"warmup_steps {self.warmup(num_images)} is more than the {self.total_steps(num_images)} steps of {self.epochs} "
                "epochs: use fewer, or train longer"
            )


def learning_rate_factor(step: int, *, warmup_steps: int, total_steps: int, constant: bool = False) -> float:
    """The learning rate of a step as a share of the full rate: EET's published schedule.

    It rises linearly from 1 / warmup_steps to 1 in the warm-up, then falls as a cosine to 0 at `total_steps`.

    Args:
        step: optimizer step, from 0.
        warmup_steps: steps of the warm-up.
        total_steps: steps of the whole training.
        constant: stay at 1 after the warm-up.

    Returns:
        In [0, 1].
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if constant:
        return 1.0
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

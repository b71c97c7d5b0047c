"""How a training runs, whatever is trained."""

import math
from dataclasses import dataclass
from typing import Literal

from eet.device import Precision
from eet.errors import InputError
from eet.images.preprocessing import PUBLISHED_MIN_CROP_AREA

CPU_MICRO_BATCH = 16  # measured: on a CPU a larger one leaves the cache and is slower


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """How a training runs. Defaults are the published ones of EET.

    Attributes:
        epochs: passes over the training images.
        batch_size: images of a step, over all workers.
        micro_batch_size: images that a worker runs at once; default all of its share on a GPU, 16 on a CPU.
        optimizer: "sgd" (with momentum), "adam" or "adamw".
        learning_rate: of the backbone, after warm-up.
        head_learning_rate: of the heads; default as the backbone's.
        momentum: of sgd.
        weight_decay: of any optimizer.
        warmup_steps: steps of linear warm-up; default min(500, a ninth of all steps).
        constant_rate: the learning rate stays after the warm-up; else it falls as a cosine to 0.
        min_crop_area: least share of an image in a random training crop, in (0, 1].
        loader_workers: image loading processes of a worker; default 0 on a CPU, 8 at most on a GPU.
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
        """Steps of warm-up: as asked, or min(500, a ninth of all steps)."""
        return min(500, self.total_steps(num_images) // 9) if self.warmup_steps is None else self.warmup_steps

    def micro_batch(self, share: int, device: str) -> int:
        """Images that a worker runs at once, of its share of a step. device: "cuda" or "cpu"."""
        return self.micro_batch_size or (share if device == "cuda" else min(share, CPU_MICRO_BATCH))

    def check(self, num_images: int) -> None:
        """ValueError where so many training images make no step, or fewer steps than the warm-up has."""
        if self.steps_per_epoch(num_images) < 1:
            raise InputError(f"batch_size {self.batch_size} is more than the {num_images} training images: use a smaller one")
        if self.warmup(num_images) > self.total_steps(num_images):
            raise InputError(
                f"warmup_steps {self.warmup(num_images)} is more than the {self.total_steps(num_images)} steps of {self.epochs} "
                "epochs: use fewer, or train longer"
            )


def learning_rate_factor(step: int, *, warmup_steps: int, total_steps: int, constant: bool = False) -> float:
    """Linear from 1/warmup to 1 over the warm-up, then a cosine to 0 at `total_steps` (EET's published schedule), or constant.

    Stepped per batch.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if constant:
        return 1.0
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

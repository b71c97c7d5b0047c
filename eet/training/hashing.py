"""The training of students and teachers: two-step hashing, distilled or alone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from eet.datasets import ImageTable
from eet.distillation import PUBLISHED_BETA, PUBLISHED_MASKED_PATCHES, PUBLISHED_SIGMA, DistillationObjective, HashingObjective
from eet.metrics import encoded_protocol, published_protocol
from eet.training.settings import FitSettings
from eet.training.task import TrainingTask
from eet.vit import Student, save_bundle


@dataclass(frozen=True, kw_only=True)
class HashingTask(TrainingTask):
    """Two-step hashing: a student taught by its teacher, or a teacher alone.

    Attributes:
        networks: "student" and "teacher", or "teacher" alone.
        joint: whether the teacher learns too.
        target_codes_Cb: (C, bits) int8 in {-1, +1}.
        beta, sigma, masked_patches: see `eet.distillation.DistillationObjective`.
    """

    networks: dict[str, Student]
    joint: bool
    target_codes_Cb: np.ndarray
    beta: float = PUBLISHED_BETA
    sigma: float = PUBLISHED_SIGMA
    masked_patches: int = PUBLISHED_MASKED_PATCHES

    quality: ClassVar[str] = "val_mAP"

    @property
    def chosen(self) -> str:
        return "student" if "student" in self.networks else "teacher"

    @property
    def trained(self) -> tuple[str, ...]:
        return tuple(name for name in self.networks if name == self.chosen or self.joint)

    @property
    def label_counts(self) -> np.ndarray:
        """Training images of each label, (C,)."""
        return np.bincount(self.train.labels, minlength=self.train.num_labels)

    def objective(self, settings: FitSettings) -> HashingObjective | DistillationObjective:
        codes_Cb = torch.from_numpy(self.target_codes_Cb)
        if "student" not in self.networks:
            return HashingObjective(self.networks["teacher"], codes_Cb)
        return DistillationObjective(
            self.networks["student"],
            self.networks["teacher"],
            codes_Cb,
            joint=self.joint,
            beta=self.beta,
            sigma=self.sigma,
            masked_patches=self.masked_patches,
        )

    def start(self) -> None:
        """Hash heads that read probabilities begin at the target codes."""
        for name in self.trained:
            if self.networks[name].hash_input == "probabilities":
                self.networks[name].start_hash_at_codes(torch.from_numpy(self.target_codes_Cb))

    def represent(self, network: Student, images_B3HW: Tensor) -> np.ndarray:
        """Packed codes."""
        hashes = network(images_B3HW, tokens=False).hash
        return np.packbits((hashes > 0).cpu().numpy(), axis=1)

    def validate(self, rows: np.ndarray) -> dict[str, float]:
        assert self.val is not None
        return {self.quality: self._published(rows, self.val)["mAP"]}

    def evaluate(self, network: Student, rows: np.ndarray) -> dict[str, dict[str, float]]:
        assert self.test is not None
        return {
            "encoded": encoded_protocol(rows, self.test.labels, num_bits=network.num_bits),
            "published": self._published(rows, self.test),
        }

    def _published(self, codes: np.ndarray, table: ImageTable) -> dict[str, float]:
        return published_protocol(codes, table.labels, self.target_codes_Cb, self.label_counts)

    def describe(self, network: Student) -> str:
        counts = network.schedule.kept_counts(network.num_patches)
        kept = f"keeps {', '.join(map(str, counts))} of {network.num_patches} patches" if counts else f"{network.num_patches} patches"
        return f"{network.backbone or 'given weights'}, {network.num_bits} bits, {kept}"

    def save(self, name: str, folder: Path, training: dict[str, Any]) -> None:
        save_bundle(
            self.networks[name],
            folder,
            label_names=self.train.label_names,
            target_codes=self.target_codes_Cb,
            label_counts=self.label_counts,
            training={**training, "joint": self.joint},
        )

"""The training of students and teachers: two-step hashing, with or without distillation."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from eet.datasets import ImageTable
from eet.distillation import DistillationObjective, HashingObjective, trained_hash
from eet.hashing import Projection, fit_itq, fit_within_label_whitening
from eet.metrics import encoded_protocol, published_protocol
from eet.options.defaults import PUBLISHED_BETA, PUBLISHED_MASKED_PATCHES, PUBLISHED_SIGMA
from eet.training.probe import fit_probe
from eet.training.settings import FitSettings
from eet.training.task import Embed, Evaluate, TrainingTask
from eet.vit import Student, save_bundle

MOST_FITTED = 50_000
"""Largest number of images on which a head is fitted."""
TEMPERATURES = (0.5, 0.7, 1.0, 1.5, 2.0, 3.0)
"""The validation images choose one of these."""
LEAST_MATCHED = 50
"""With fewer validation images that have another image of their label, the chosen temperature would be random."""


class FittedHeads(NamedTuple):
    """Heads fitted on stored features of a network. A layer that is None keeps its weights.

    Attributes:
        temperature: of the probabilities, > 0.
        label_weight_CD, label_bias_C: the label head.
        hash_weight_bE, hash_bias_b: the hash head, with E inputs.
        whitening: of the CLS in a joint hash input, as arrays; without it the network has none.
    """

    temperature: float
    label_weight_CD: np.ndarray | None = None
    label_bias_C: np.ndarray | None = None
    hash_weight_bE: np.ndarray | None = None
    hash_bias_b: np.ndarray | None = None
    whitening: Projection | None = None


def _num_matched(labels_N: np.ndarray) -> int:
    """Number of images that have another image of their label."""
    _, counts = np.unique(labels_N, return_counts=True)
    return int(counts[counts > 1].sum())


@dataclass(frozen=True, kw_only=True)
class HashingTask(TrainingTask):
    """Two-step hashing: a student with its teacher, or a teacher alone.

    Attributes:
        networks: "student" and "teacher", or "teacher" alone.
        joint: whether the teacher is trained too.
        target_codes_Cb: int8 (C, b) in {-1, +1}.
        unseen: images of labels that no other split has, with their own label numbers; None if all labels are trained.
        probe: start the label heads as linear probes of the initial features of the networks, instead of with random weights.
        seed: of the probes and of the rotation of a joint hash.
        beta, sigma, masked_patches: see `eet.distillation.DistillationObjective`.
    """

    networks: dict[str, Student]
    joint: bool
    target_codes_Cb: np.ndarray
    unseen: ImageTable | None = None
    probe: bool = False
    seed: int = 42
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
        codes_Cb = torch.tensor(self.target_codes_Cb)  # a copy: what Ray delivers is read-only
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

    @property
    def baseline(self) -> str | None:
        return "frozen with a probe" if self.probe else None

    def start(self, embed: Embed) -> dict[str, FittedHeads]:
        """Sets hash heads of probabilities to the target codes. Fits label heads as probes, if requested."""
        fitted = {}
        for name in self.trained:
            if self.networks[name].hash_input == "probabilities":
                self.networks[name].start_hash_at_codes(torch.from_numpy(self.target_codes_Cb))
            heads = FittedHeads(temperature=1.0)
            if self.probe:
                images = self._fitting_images
                features_ND = embed(name, images)
                if features_ND is not None:
                    head = fit_probe(features_ND, images.labels, num_labels=self.train.num_labels, seed=self.seed)
                    heads = heads._replace(label_weight_CD=head.weight_CD.numpy(), label_bias_C=head.bias_C.numpy())
            fitted[name] = heads
        return fitted

    def finish(self, embed: Embed) -> dict[str, FittedHeads]:
        """Chooses the temperature on validation images, and fits the whitening and the rotation of a joint hash on training images."""
        fitted = {}
        for name in self.trained:
            network = self.networks[name]
            if network.hash_input == "logits":
                continue
            train_ND = embed(name, self._fitting_images) if network.hash_input == "joint" else None
            val_ND = embed(name, self.val) if self.val is not None else None
            if network.hash_input == "joint" and train_ND is not None:  # on rank 0
                whitening = fit_within_label_whitening(train_ND, self._fitting_images.labels)
                network.set_whitening(whitening)
                fitted[name] = self._best_heads(network, train_ND, val_ND)._replace(whitening=whitening)
            elif network.hash_input == "probabilities":
                fitted[name] = self._best_heads(network, None, val_ND)
        return fitted

    def _best_heads(self, network: Student, train_ND: np.ndarray | None, val_ND: np.ndarray | None) -> FittedHeads:
        """The hash head at the temperature with the highest mAP on the validation images; at 1 if there are too few of them."""
        if val_ND is None or self.val is None or _num_matched(self.val.labels) < LEAST_MATCHED:
            return self._heads_at(network, 1.0, train_ND)
        val_labels = self.val.labels

        def quality(heads: FittedHeads) -> float:
            weight_bE, bias_b = heads.hash_weight_bE, heads.hash_bias_b
            if weight_bE is None or bias_b is None:
                weight_bE, bias_b = (value.detach().cpu().float().numpy() for value in (network.head_hash.weight, network.head_hash.bias))
            hashes = network.stored_hash_features(val_ND, temperature=heads.temperature) @ weight_bE.T + bias_b
            return encoded_protocol(np.packbits(hashes > 0, axis=1), val_labels, num_bits=self._bits)["mAP"]

        return max((self._heads_at(network, temperature, train_ND) for temperature in TEMPERATURES), key=quality)

    def _heads_at(self, network: Student, temperature: float, train_ND: np.ndarray | None) -> FittedHeads:
        """The hash head at a temperature: for a joint hash a rotation fitted on training images, for probabilities the trained head."""
        if train_ND is None:
            return FittedHeads(temperature)
        rotation = fit_itq(network.stored_hash_features(train_ND, temperature=temperature), num_bits=self._bits, seed=self.seed)
        return FittedHeads(temperature, hash_weight_bE=rotation.weight_bD, hash_bias_b=rotation.bias_b)

    def set_fitted(self, fitted: dict[str, FittedHeads]) -> None:
        for name, heads in fitted.items():
            network = self.networks[name]
            network.temperature = heads.temperature
            if network.hash_input == "joint":
                network.set_whitening(heads.whitening)
            with torch.no_grad():
                for layer, weight, bias in (
                    (network.trunk.head, heads.label_weight_CD, heads.label_bias_C),
                    (network.head_hash, heads.hash_weight_bE, heads.hash_bias_b),
                ):
                    if weight is not None:
                        layer.weight.copy_(torch.from_numpy(np.array(weight)))  # a copy, because arrays from Ray are read-only
                        layer.bias.copy_(torch.from_numpy(np.array(bias)))

    @property
    def _bits(self) -> int:
        return self.target_codes_Cb.shape[1]

    @cached_property
    def _fitting_images(self) -> ImageTable:
        """At most MOST_FITTED of the training images, drawn by the seed. They are enough to fit a layer."""
        if len(self.train) <= MOST_FITTED:
            return self.train
        return self.train.take(np.sort(np.random.default_rng(self.seed).permutation(len(self.train))[:MOST_FITTED]))

    def represent(self, network: Student, images_B3HW: Tensor) -> np.ndarray:
        """Packed codes, uint8 (B, ceil(b / 8))."""
        hashes = network(images_B3HW, tokens=False).hash
        return np.packbits((hashes > 0).cpu().numpy(), axis=1)

    def embed(self, network: Student, images_B3HW: Tensor) -> np.ndarray:
        """CLS vectors (B, D) float32."""
        return network(images_B3HW, tokens=False).embedding.float().cpu().numpy()

    def represent_for_validation(self, network: Student, images_B3HW: Tensor) -> np.ndarray:
        """Packed codes. The head of a joint hash is fitted at the end, so its codes are here the signs of the trained hash."""
        out = network(images_B3HW, tokens=False)
        codes_Cb = torch.tensor(self.target_codes_Cb).float().to(out.logits.device)
        return np.packbits((trained_hash(network, out, codes_Cb) > 0).cpu().numpy(), axis=1)

    def validate(self, rows: np.ndarray) -> dict[str, float]:
        assert self.val is not None
        return {self.quality: self._published(rows, self.val)["mAP"]}

    def evaluate(self, network: Student, rows: np.ndarray) -> dict[str, dict[str, float]]:
        assert self.test is not None
        measures = {"encoded": encoded_protocol(rows, self.test.labels, num_bits=network.num_bits)}
        if network.hash_input != "joint":  # the codes of a joint hash are not target codes
            measures["published"] = self._published(rows, self.test)
        return measures

    @property
    def evaluations(self) -> tuple[tuple[ImageTable | None, Evaluate], ...]:
        return (*super().evaluations, (self.unseen, self._evaluate_unseen))

    def _evaluate_unseen(self, network: Student, rows: np.ndarray) -> dict[str, dict[str, float]]:
        """Measures of the images of untrained labels, which are queries and gallery."""
        assert self.unseen is not None
        return {"unseen labels": encoded_protocol(rows, self.unseen.labels, num_bits=network.num_bits)}

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

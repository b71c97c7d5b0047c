"""A student or teacher on disk: a folder with model.safetensors and model.json; `load_bundle` loads it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from eet.errors import DamagedError, InputError
from eet.images import Preprocessing
from eet.options.choices import HashInput
from eet.options.defaults import DEFAULT_LABEL_WEIGHT
from eet.options.schedule import PruningSchedule
from eet.vit.backbone import load_named_weights, student_from_state_dict, timm_named_weights, timm_vit
from eet.vit.bundle_folder import (
    RECORD_FILE,
    STUDENT,
    check_digest,
    check_preprocessing,
    check_sizes,
    described_by,
    read_bundle_values,
    read_bundle_weights,
    tensors_digest,
    write_bundle_folder,
)
from eet.vit.initial_values import WithoutInitialValues
from eet.vit.student import Student

BUNDLE_VERSION = 5  # 5: the weights of a joint hash may have a whitening layer
# Fields that older versions lack: the first version that has them, and their value in older bundles.
_FIELDS_SINCE = {"hash_input": (2, "logits"), "temperature": (4, 1.0), "label_weight": (4, DEFAULT_LABEL_WEIGHT)}


@dataclass(frozen=True, kw_only=True)
class _Values:
    """The fields of model.json."""

    digest: str
    preprocessing_digest: str
    backbone: str | None
    backbone_options: dict[str, Any]
    num_heads: int
    num_classes: int
    num_bits: int
    prune_after: tuple[int, ...]
    keep_ratios: tuple[float, ...]
    preprocessing: dict[str, Any]
    label_names: tuple[str, ...]
    target_codes: list[str] | None
    label_counts: list[int] | None
    training: dict[str, Any]
    hash_input: HashInput
    temperature: float
    label_weight: float


@dataclass(frozen=True)
class BundleRecord:
    """The record of a bundle: everything about its model except the weights.

    Attributes:
        digest: sha256 of the weights (names, shapes, dtypes, values), the schedule, num_heads and the hash input. Two bundles with the
            same digest give the same codes.
        preprocessing_digest: sha256 of the preprocessing.
        num_bits: length of the code.
        label_names: names of the training labels.
        target_codes: int8 (C, bits) in {-1, +1}, or None.
        label_counts: int64 (C,), the number of training images of each label, or None.
        training: how it was trained, as plain values.
        hash_input: input of the hash head, see `eet.vit.Student`.
    """

    digest: str
    preprocessing_digest: str
    num_bits: int
    label_names: tuple[str, ...] = ()
    target_codes: np.ndarray | None = None
    label_counts: np.ndarray | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    hash_input: HashInput = "logits"


def weights_digest(student: Student) -> str:
    """sha256 of everything that determines a code: the weights by their timm names, the schedule, num_heads and the hash input."""
    shape = [student.schedule.prune_after, student.schedule.keep_ratios, _num_heads(student)]
    hash_reads: list[Any] = [] if student.hash_input == "logits" else [student.hash_input]
    if student.hash_input != "logits" and student.temperature != 1.0:  # with 1 the digest equals that of versions without a temperature
        hash_reads.append(student.temperature)
    if student.hash_input == "joint":
        hash_reads.append(student.label_weight)
    return tensors_digest([*shape, *hash_reads], timm_named_weights(student))


def _num_heads(student: Student) -> int:
    return student.trunk.blocks[0].attn.num_heads


def save_bundle(
    student: Student,
    path: str | Path,
    *,
    label_names: Sequence[str] = (),
    target_codes: np.ndarray | Tensor | None = None,
    label_counts: np.ndarray | None = None,
    training: Mapping[str, Any] | None = None,
) -> BundleRecord:
    """Writes a student as a bundle, and returns its record.

    The record is written last, so a folder with model.json is complete.

    Args:
        student: the student or teacher.
        path: local folder, created if missing.
        label_names: C names; the index is the label.
        target_codes: (C, bits) in {-1, +1}, the target codes of step 1, for the published protocol.
        label_counts: integers (C,), the number of training images of each label.
        training: how it was trained, as plain values.

    Raises:
        InputError: the arguments have different numbers of labels, or target codes of another length.
    """
    codes = None if target_codes is None else np.asarray(target_codes)
    sizes = {"label_names": len(label_names) or None, "target_codes": None if codes is None else len(codes)}
    sizes["label_counts"] = None if label_counts is None else len(label_counts)
    if len({size for size in sizes.values() if size is not None}) > 1:
        raise InputError(f"label_names, target_codes and label_counts disagree on the number of labels: {sizes}")
    if codes is not None and codes.shape[1] != student.num_bits:
        raise InputError(f"target codes of {codes.shape[1]} bits for a student of {student.num_bits} bits")
    record = {
        "bundle_version": BUNDLE_VERSION,
        "digest": weights_digest(student),
        "preprocessing_digest": student.preprocessing.digest,
        "backbone": student.backbone,
        "backbone_options": student.backbone_options,
        "num_heads": _num_heads(student),
        "num_classes": student.num_classes,
        "num_bits": student.num_bits,
        "prune_after": list(student.schedule.prune_after),
        "keep_ratios": list(student.schedule.keep_ratios),
        "preprocessing": student.preprocessing.to_dict(),
        "hash_input": student.hash_input,
        "temperature": student.temperature,
        "label_weight": student.label_weight,
        "label_names": list(label_names),
        "target_codes": None if codes is None else ["".join("1" if bit > 0 else "0" for bit in row) for row in codes],
        "label_counts": None if label_counts is None else [int(count) for count in label_counts],
        "training": dict(training or {}),
    }
    write_bundle_folder(path, timm_named_weights(student), record)
    return read_bundle_record(path)


def _record(path: str | Path, values: _Values) -> BundleRecord:
    codes, bits = values.target_codes, values.num_bits
    if bits < 1 or any(len(row) != bits or set(row) - {"0", "1"} for row in codes or ()):
        raise DamagedError(f"{Path(path) / RECORD_FILE} is damaged: its target codes are not rows of {bits} zeros and ones")
    return BundleRecord(
        digest=values.digest,
        preprocessing_digest=values.preprocessing_digest,
        num_bits=bits,
        label_names=values.label_names,
        target_codes=None
        if codes is None
        else np.array([[1 if bit == "1" else -1 for bit in row] for row in codes], dtype=np.int8).reshape(-1, bits),
        label_counts=None if values.label_counts is None else np.array(values.label_counts, dtype=np.int64),
        training=values.training,
        hash_input=values.hash_input,
    )


def _read(path: str | Path) -> _Values:
    return read_bundle_values(path, kind=STUDENT, version=BUNDLE_VERSION, fields=_Values, since=_FIELDS_SINCE)


def read_bundle_record(path: str | Path) -> BundleRecord:
    """The record of the bundle at `path`, without loading weights. InputError where there is no bundle of a student."""
    return _record(path, _read(path))


def load_bundle(path: str | Path) -> Student:
    """Loads the student or teacher of a bundle.

    Only JSON and safetensors are read, so a bundle cannot run code.

    Args:
        path: folder of the bundle, or its URI, such as hf://OWNER/NAME (see `eet.vit.remote_bundle`).

    Returns:
        The student in eval mode on the CPU. Its `.preprocess` turns a PIL image into a tensor; `.num_bits` is the length of its code.

    Raises:
        InputError: the folder holds no bundle of a student, is damaged, or the digest of the weights is not the recorded one.
    """
    values = _read(path)
    state = read_bundle_weights(path)
    with described_by(path):
        preprocessing = Preprocessing.from_dict(values.preprocessing)
        check_preprocessing(path, preprocessing.digest, values.preprocessing_digest)
        check_sizes(path, [values.num_heads, values.num_classes, values.num_bits, values.backbone_options, preprocessing.image_size], state)
        student = _built(values, state, preprocessing)
        check_digest(path, weights_digest(student), values.digest)
    return student.eval()


def _built(values: _Values, state: dict[str, Tensor], preprocessing: Preprocessing) -> Student:
    if values.backbone is None:
        return student_from_state_dict(
            state,
            num_heads=values.num_heads,
            prune_after=values.prune_after,
            keep_ratios=values.keep_ratios,
            preprocessing=preprocessing,
            hash_input=values.hash_input,
            temperature=values.temperature,
            label_weight=values.label_weight,
        )
    with WithoutInitialValues():  # all of them are read
        trunk = timm_vit(values.backbone, values.backbone_options, num_classes=values.num_classes, pretrained=False)
        student = Student(
            trunk,
            num_bits=values.num_bits,
            schedule=PruningSchedule(values.prune_after, values.keep_ratios),
            preprocessing=preprocessing,
            hash_input=values.hash_input,
            temperature=values.temperature,
            label_weight=values.label_weight,
            backbone=values.backbone,
            backbone_options=values.backbone_options,
        )
    load_named_weights(student, state)
    return student

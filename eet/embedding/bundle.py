"""A base model on disk: the same two files as the bundle of a student; `load_base` loads it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from eet.embedding.base_model import BaseModel, build_base
from eet.images import Preprocessing
from eet.vit.bundle_folder import (
    BASE_MODEL,
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

BUNDLE_VERSION = 2
_SINCE: dict[str, tuple[int, Any]] = {
    "aggregation": (2, "vector"),
    "aggregation_options": (2, {}),
    "tokens_from_block": (2, None),
    "num_bits": (2, None),
}
"""Fields that version 1 lacks, with the values of its models."""


@dataclass(frozen=True, kw_only=True)
class _Values:
    """The fields of model.json."""

    digest: str
    preprocessing_digest: str
    backbone: str
    backbone_options: dict[str, Any]
    embedding_width: int
    aggregation: str
    aggregation_options: dict[str, Any]
    tokens_from_block: int | None
    num_bits: int | None
    preprocessing: dict[str, Any]
    label_names: tuple[str, ...]
    training: dict[str, Any]


@dataclass(frozen=True)
class BaseRecord:
    """The record of a base model's bundle.

    Attributes:
        digest: sha256 of the weights (names, shapes, dtypes, values) and of the backbone's name and options.
        preprocessing_digest: sha256 of the preprocessing.
        embedding_width: E.
        code_bits: length of a code that is not the signs of the embedding, or None.
        label_names: names of the training labels.
        training: how it was trained, as plain values.
    """

    digest: str
    preprocessing_digest: str
    embedding_width: int
    code_bits: int | None = None
    label_names: tuple[str, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_bits(self) -> int:
        """Length of a code: of the linear hash if the model has one, else of the signs of an embedding."""
        return self.embedding_width if self.code_bits is None else self.code_bits


def base_digest(model: BaseModel) -> str:
    """sha256 of everything that determines an output: the weights, names and options of backbone and aggregation, and the block."""
    header: list[Any] = [model.backbone_name, sorted(model.backbone_options.items())]
    # Left out where they are the defaults, so that models of before have the digest that their galleries carry.
    if model.aggregation_name != "vector" or model.tokens_from_block is not None:
        header += [model.aggregation_name, sorted(model.aggregation_options.items()), model.tokens_from_block]
    return tensors_digest(header, model.state_dict())


def save_base(
    model: BaseModel, path: str | Path, *, label_names: Sequence[str] = (), training: Mapping[str, Any] | None = None
) -> BaseRecord:
    """Writes a base model as a bundle, and returns its record.

    Args:
        model: the model.
        path: local folder, created if missing.
        label_names: names of the training labels.
        training: how it was trained, as plain values.
    """
    record = {
        "bundle_version": BUNDLE_VERSION,
        "kind": BASE_MODEL,
        "digest": base_digest(model),
        "preprocessing_digest": model.preprocessing.digest,
        "backbone": model.backbone_name,
        "backbone_options": model.backbone_options,
        "embedding_width": model.embedding_width,
        "aggregation": model.aggregation_name,
        "aggregation_options": model.aggregation_options,
        "tokens_from_block": model.tokens_from_block,
        "num_bits": None if model.code is None else model.num_bits,
        "preprocessing": model.preprocessing.to_dict(),
        "label_names": list(label_names),
        "training": dict(training or {}),
    }
    write_bundle_folder(path, model.state_dict(), record)
    return read_base_record(path)


def _read(path: str | Path) -> _Values:
    return read_bundle_values(path, kind=BASE_MODEL, version=BUNDLE_VERSION, fields=_Values, since=_SINCE)


def read_base_record(path: str | Path) -> BaseRecord:
    """The record of the bundle at `path`, without loading weights. InputError where it holds no base model."""
    values = _read(path)
    return BaseRecord(
        digest=values.digest,
        preprocessing_digest=values.preprocessing_digest,
        embedding_width=values.embedding_width,
        code_bits=values.num_bits,
        label_names=values.label_names,
        training=values.training,
    )


def load_base(path: str | Path) -> BaseModel:
    """Loads the base model of a bundle.

    Only JSON and safetensors are read, so a bundle cannot run code.

    Args:
        path: folder of the bundle, or its URI, such as hf://OWNER/NAME (see `eet.vit.remote_bundle`).

    Returns:
        The model in eval mode on the CPU; its `.preprocess` turns a PIL image into a tensor.

    Raises:
        InputError: the folder holds no base model, is damaged, or the digest of the weights is not the recorded one.
    """
    values = _read(path)
    state = read_bundle_weights(path)
    with described_by(path):
        preprocessing = Preprocessing.from_dict(values.preprocessing)
        check_preprocessing(path, preprocessing.digest, values.preprocessing_digest)
        sizes = [values.embedding_width, values.backbone_options, values.aggregation_options, values.num_bits, preprocessing.image_size]
        check_sizes(path, sizes, state)
        headless = values.aggregation != "vector" and "head.weight" not in state
        with WithoutInitialValues():  # all of them are read
            model = build_base(
                values.backbone,
                embedding_width=None if headless else values.embedding_width,
                image_size=preprocessing.image_size,
                weights="none",
                backbone_options=values.backbone_options,
                aggregation=values.aggregation,
                aggregation_options=values.aggregation_options,
                tokens_from_block=values.tokens_from_block,
                cut_patches=True,
            )
            if values.num_bits is not None:
                model.code = nn.Linear(model.embedding_width, values.num_bits)
        model.load_state_dict(state)
        model.backbone.preprocessing = preprocessing
        check_digest(path, base_digest(model), values.digest)
    return model.eval()

"""A base model on disk: the same two files as the bundle of a student; `load_base` loads it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eet.embedding.base_model import BaseModel, build_base
from eet.errors import InputError
from eet.images import Preprocessing
from eet.vit.bundle_folder import BASE_MODEL, check_digest, read_bundle_values, read_bundle_weights, tensors_digest, write_bundle_folder

BUNDLE_VERSION = 1
_FIELDS = "bundle_version digest preprocessing_digest backbone backbone_options embedding_width preprocessing label_names training".split()


@dataclass(frozen=True)
class BaseRecord:
    """The record of a base model's bundle.

    Attributes:
        digest: sha256 of the weights (names, shapes, dtypes, values) and of the backbone's name and options.
        preprocessing_digest: sha256 of the preprocessing.
        embedding_width: E.
        label_names: names of the training labels.
        training: how it was trained, as plain values.
    """

    digest: str
    preprocessing_digest: str
    embedding_width: int
    label_names: tuple[str, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_bits(self) -> int:
        """Length of a code: the signs of an embedding."""
        return self.embedding_width


def base_digest(model: BaseModel) -> str:
    """sha256 of everything that determines an embedding: the weights, and the name and options of the backbone."""
    return tensors_digest([model.backbone_name, sorted(model.backbone_options.items())], model.state_dict())


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
        "preprocessing": model.preprocessing.to_dict(),
        "label_names": list(label_names),
        "training": dict(training or {}),
    }
    write_bundle_folder(path, model.state_dict(), record)
    return _record(record)


def _record(values: Mapping[str, Any]) -> BaseRecord:
    return BaseRecord(
        digest=values["digest"],
        preprocessing_digest=values["preprocessing_digest"],
        embedding_width=values["embedding_width"],
        label_names=tuple(values["label_names"]),
        training=values["training"],
    )


def _read(path: str | Path) -> dict[str, Any]:
    return read_bundle_values(path, kind=BASE_MODEL, version=BUNDLE_VERSION, fields=_FIELDS)


def read_base_record(path: str | Path) -> BaseRecord:
    """The record of the bundle at `path`, without loading weights. InputError where it holds no base model."""
    return _record(_read(path))


def load_base(path: str | Path) -> BaseModel:
    """Loads the base model of a bundle.

    Only JSON and safetensors are read, so a bundle cannot run code.

    Args:
        path: folder of the bundle.

    Returns:
        The model in eval mode on the CPU; its `.preprocess` turns a PIL image into a tensor.

    Raises:
        InputError: the folder holds no base model, is damaged, or the digest of the weights is not the recorded one.
    """
    values = _read(path)
    state = read_bundle_weights(path)
    preprocessing = Preprocessing.from_dict(values["preprocessing"])
    model = build_base(
        values["backbone"],
        embedding_width=values["embedding_width"],
        image_size=preprocessing.image_size,
        weights="none",
        backbone_options=values["backbone_options"],
    )
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"the weights in {path} do not fit its record: {error}") from error
    model.backbone.preprocessing = preprocessing
    check_digest(path, base_digest(model), values["digest"])
    return model.eval()

"""A base model on disk: the same two files as a student's bundle, that `load_base` makes a ready model of."""

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
    """What a bundle says of its base model beside the weights.

    digest: sha256 of the weights (names, shapes, dtypes, values), the backbone's name and options. preprocessing_digest: of the
    preprocessing alone. label_names: what it was trained on. training: how, as plain values.
    """

    digest: str
    preprocessing_digest: str
    embedding_width: int
    label_names: tuple[str, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_bits(self) -> int:
        """Of the code that the signs of an embedding are."""
        return self.embedding_width


def base_digest(model: BaseModel) -> str:
    """sha256 over what decides an embedding: every weight, and what the backbone is built from."""
    return tensors_digest([model.backbone_name, sorted(model.backbone_options.items())], model.state_dict())


def save_base(
    model: BaseModel, path: str | Path, *, label_names: Sequence[str] = (), training: Mapping[str, Any] | None = None
) -> BaseRecord:
    """Writes `model` as a bundle into the folder `path` (made where it is missing), and returns its record.

    label_names: of the training labels. training: plain values that say how it was trained.
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
    """The record of the bundle at `path`, without loading weights. ValueError where it holds no base model."""
    return _record(_read(path))


def load_base(path: str | Path) -> BaseModel:
    """The base model that the bundle at `path` holds, in eval mode on the CPU.

    Its `.preprocess` takes a PIL image to a tensor. Reads JSON and safetensors only: nothing in a bundle can run. ValueError where it holds
    no base model, is damaged, or its weights are not those that its digest names.
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

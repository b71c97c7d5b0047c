"""The models that can encode a gallery: students, teachers and base models."""

from pathlib import Path
from typing import TypeAlias

import pyarrow as pa

from eet.embedding import BaseModel, BaseRecord, base_digest, load_base, read_base_record
from eet.gallery.schema import gallery_schema
from eet.options.choices import VectorForm
from eet.vit import BASE_MODEL, BundleRecord, Student, bundle_kind, load_bundle, read_bundle_record, weights_digest

GalleryModel: TypeAlias = Student | BaseModel
"""Both return hash, embedding, tokens, positions and mass of a batch of images, and have `num_bits`, `token_shape`, `embedding_width`,
`grid`, `patch_size` and `preprocessing`. A base model's hash is its embedding."""


ModelRecord: TypeAlias = BundleRecord | BaseRecord
"""Both have `digest`, `preprocessing_digest`, `num_bits` and `label_names`."""


def load_model(path: str | Path) -> GalleryModel:
    """Loads the student, teacher or base model of a bundle.

    Args:
        path: folder of the bundle, or its URI, such as hf://OWNER/NAME (see `eet.vit.remote_bundle`).

    Returns:
        The model in eval mode on the CPU.

    Raises:
        InputError: the folder holds no bundle, or a damaged one.
    """
    return load_base(path) if bundle_kind(path) == BASE_MODEL else load_bundle(path)


def read_model_record(path: str | Path) -> ModelRecord:
    """Reads the record of the bundle at `path` (digests, bits, label names) without loading weights.

    Raises:
        InputError: the folder holds no bundle.
    """
    return read_base_record(path) if bundle_kind(path) == BASE_MODEL else read_bundle_record(path)


def model_schema(
    model: GalleryModel,
    *,
    tokens: bool,
    embedding: bool,
    has_hash: bool = False,
    positions: bool = False,
    token_form: VectorForm = "float16",
    embedding_form: VectorForm = "float16",
) -> pa.Schema:
    """The schema of the parts that `model` encodes, with or without the optional columns."""
    return gallery_schema(
        num_bits=model.num_bits,
        token_shape=model.token_shape if tokens else None,
        embedding_dim=model.embedding_width if embedding else None,
        has_hash=has_hash,
        positions=positions,
        token_form=token_form,
        embedding_form=embedding_form,
    )


def record_of(model: GalleryModel) -> ModelRecord:
    """The record that a bundle of `model` would have, without label names and training."""
    if isinstance(model, BaseModel):
        return BaseRecord(
            base_digest(model), model.preprocessing.digest, model.embedding_width, None if model.code is None else model.num_bits
        )
    return BundleRecord(weights_digest(model), model.preprocessing.digest, model.num_bits)

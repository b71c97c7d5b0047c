"""The models that a gallery can be encoded with, whatever kind their bundle holds."""

from pathlib import Path
from typing import TypeAlias

import pyarrow as pa

from eet.embedding import BaseModel, BaseRecord, base_digest, load_base, read_base_record
from eet.gallery.schema import gallery_schema
from eet.vit import BASE_MODEL, BundleRecord, Student, bundle_kind, load_bundle, read_bundle_record, weights_digest

GalleryModel: TypeAlias = Student | BaseModel
"""Both give hash, embedding, tokens, positions and mass of a batch of images, and say `num_bits`, `token_shape`, `embedding_width`, `grid`,
`patch_size` and `preprocessing`. A base model's hash is its embedding."""


ModelRecord: TypeAlias = BundleRecord | BaseRecord
"""Both say `digest`, `preprocessing_digest`, `num_bits` and `label_names`."""


def load_model(path: str | Path) -> GalleryModel:
    """The student, teacher or base model that the bundle at `path` holds, in eval mode on the CPU. ValueError where it holds none."""
    return load_base(path) if bundle_kind(path) == BASE_MODEL else load_bundle(path)


def read_model_record(path: str | Path) -> ModelRecord:
    """The record of the bundle at `path`, without loading weights: digests, bits, label names. ValueError where it holds none."""
    return read_base_record(path) if bundle_kind(path) == BASE_MODEL else read_bundle_record(path)


def model_schema(model: GalleryModel, *, tokens: bool, embedding: bool, has_hash: bool = False) -> pa.Schema:
    """The columns of a gallery that `model` encodes."""
    return gallery_schema(
        num_bits=model.num_bits,
        token_shape=model.token_shape if tokens else None,
        embedding_dim=model.embedding_width if embedding else None,
        has_hash=has_hash,
    )


def record_of(model: GalleryModel) -> ModelRecord:
    """The record that a bundle of `model` would have, but for labels and training."""
    if isinstance(model, BaseModel):
        return BaseRecord(base_digest(model), model.preprocessing.digest, model.embedding_width)
    return BundleRecord(weights_digest(model), model.preprocessing.digest, model.num_bits)

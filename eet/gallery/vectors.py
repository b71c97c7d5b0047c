"""Tokens and embeddings of rows of a gallery, in whatever form they are stored."""

from typing import Literal

import numpy as np
import pyarrow as pa

from eet.gallery.manifest import Manifest
from eet.gallery.schema import fixed_binary_to_numpy
from eet.hashing.quantisation import restored, stored_bytes
from eet.options.choices import VectorForm


def vectors_of(rows: pa.Table, column: Literal["tokens", "embedding"], manifest: Manifest, *, rotated: bool = False) -> np.ndarray:
    """The tokens (N, K, D) or embeddings (N, D) of rows that have them, float16.

    Args:
        rows: of a gallery.
        column: which.
        manifest: of the gallery.
        rotated: in the coordinates of the quantised forms (see `eet.hashing.quantisation.restored`), which such a gallery is read in
            fastest. Both sides of a cosine must be read in the same ones.
    """
    leading: tuple[int, ...]
    if column == "tokens":
        assert manifest.token_shape is not None
        leading, dim, form = manifest.token_shape[:1], manifest.token_shape[1], manifest.token_dtype or "float16"
    else:
        assert manifest.embedding_dim is not None
        leading, dim, form = (), manifest.embedding_dim, manifest.embedding_dtype
    kind, width = ("<f2", dim) if form == "float16" else (np.uint8, stored_bytes(form, dim))
    return restored(fixed_binary_to_numpy(rows[column], kind, (*leading, width)), form, dim, rotated=rotated)


def is_rotated(manifest: Manifest) -> bool:
    """Whether tokens or embeddings of a gallery are stored in rotated coordinates."""
    forms: tuple[VectorForm | None, ...] = (manifest.token_dtype, manifest.embedding_dtype)
    return any(form not in (None, "float16") for form in forms)

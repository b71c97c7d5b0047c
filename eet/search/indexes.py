"""All kinds of index, by name."""

import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np

from eet.errors import InputError
from eet.options.choices import Backend
from eet.search.distinct_codes import RECORD_FILE, CodesRecord
from eet.search.faiss_approximate import FaissHNSWIndex, FaissIVFIndex
from eet.search.faiss_index import FaissIndex, faiss_finds_gpus, imported_faiss
from eet.search.hamming_index import HammingIndex
from eet.search.index import Index
from eet.search.ivf_index import IVFIndex
from eet.storage import read_json

INDEXES: dict[str, type[Index]] = {
    "exact": HammingIndex,
    "ivf": IVFIndex,
    "faiss-ivf": FaissIVFIndex,
    "faiss-hnsw": FaissHNSWIndex,
}
"""Kind, as users name it -> class."""


def build_index(kind: str, packed_NB: np.ndarray, *, num_bits: int | None = None, **options: Any) -> Index:
    """Indexes the codes of a gallery.

    Args:
        kind: a name in INDEXES.
        packed_NB: uint8 (N, B), from `eet.hashing.pack`; row i is item i. N may be 0.
        num_bits: bits of a code, with B = ceil(num_bits / 8); if given, query hashes are checked against it.
        **options: options of the kind, such as lists=400 for "ivf"; None means the default.

    Raises:
        InputError: an unknown kind, an option that the kind does not have, or invalid arguments of its `build`.

    Example:
        index = build_index("ivf", packed_NB, num_bits=64, lists=400)
    """
    return index_class(kind).build(packed_NB, num_bits=num_bits, **known_options(kind, options))


def index_class(kind: str) -> type[Index]:
    """The class of a kind of index. InputError where there is none."""
    if kind not in INDEXES:
        raise InputError(f"there is no index of kind {kind}: use one of {', '.join(INDEXES)}.")
    return INDEXES[kind]


def known_options(kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are given, which are not None. InputError where the kind lacks one."""
    given = {name: value for name, value in options.items() if value is not None}
    unknown = sorted(given.keys() - inspect.signature(index_class(kind).build).parameters.keys())
    if unknown:
        raise InputError(f"an index of kind {kind} has no option {', '.join(unknown)}.")
    return given


def with_backend(index: Index, backend: str, device: str = "cpu") -> Index:
    """The same index, searched by a backend. The results are equal, whichever it is. Codes are not copied, except by FAISS.

    Args:
        index: an index of any kind.
        backend: "native" is the search of the index's own kind; "faiss" is FAISS's flat binary index over the same codes; "auto" is faiss
            for an exact search on a GPU, if FAISS is installed for GPUs, else native.
        device: where the index will be searched.

    Raises:
        InputError: another backend, faiss for an approximate index, or FAISS cannot be imported.
    """
    check_backend(backend)
    if backend == "auto":
        on_gpu = device.startswith("cuda") and index.is_exact and faiss_finds_gpus()
        backend = "faiss" if on_gpu else "native"
    if backend == "native":
        return index
    if not index.is_exact:
        raise InputError(f"the backend faiss searches all codes, but this index of kind {index.kind} only some: use auto or native.")
    return FaissIndex(index.codes)


def check_backend(backend: str) -> None:
    """InputError where this is no backend, or it is faiss, which cannot be imported."""
    if backend not in get_args(Backend):
        raise InputError(f"there is no backend {backend}: use one of {', '.join(get_args(Backend))}.")
    if backend == "faiss":
        imported_faiss()


def load_index(folder: str | os.PathLike[str]) -> Index:
    """Loads an index of any kind from a folder, memory-mapped.

    Raises:
        FileNotFoundError: the folder has none.
        InputError: it is of a kind that this version does not have.
    """
    kind = read_json(str(Path(folder) / RECORD_FILE), CodesRecord).kind
    if kind not in INDEXES:
        raise InputError(f"{folder} is an index of kind {kind}, which this version does not have: it has {', '.join(INDEXES)}.")
    return INDEXES[kind].load(folder)

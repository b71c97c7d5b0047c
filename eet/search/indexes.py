"""All kinds of index, by name."""

import inspect
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from eet.errors import InputError
from eet.search.distinct_codes import RECORD_FILE
from eet.search.hamming_index import HammingIndex
from eet.search.index import Index
from eet.search.ivf_index import IVFIndex

INDEXES: dict[str, type[Index]] = {"exact": HammingIndex, "ivf": IVFIndex}
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
    if kind not in INDEXES:
        raise InputError(f"there is no index of kind {kind}: use one of {', '.join(INDEXES)}.")
    build = INDEXES[kind].build
    given = {name: value for name, value in options.items() if value is not None}
    unknown = sorted(given.keys() - inspect.signature(build).parameters.keys())
    if unknown:
        raise InputError(f"an index of kind {kind} has no option {', '.join(unknown)}.")
    return build(packed_NB, num_bits=num_bits, **given)


def load_index(folder: str | os.PathLike[str]) -> Index:
    """Loads an index of any kind from a folder, memory-mapped.

    Raises:
        FileNotFoundError: the folder has none.
        InputError: it is of a kind that this version does not have.
    """
    kind = json.loads((Path(folder) / RECORD_FILE).read_text())["kind"]
    if kind not in INDEXES:
        raise InputError(f"{folder} is an index of kind {kind}, which this version does not have: it has {', '.join(INDEXES)}.")
    return INDEXES[kind].load(folder)

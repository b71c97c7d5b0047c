"""Finding the nearest codes: search in Hamming space, exact or in an inverted file, with a defined order inside ties."""

import json
import os
from pathlib import Path

from eet.search.distinct_codes import RECORD_FILE
from eet.search.hamming_index import HammingIndex
from eet.search.ivf_index import IVFIndex

INDEXES: dict[str, type[HammingIndex]] = {"exact": HammingIndex, "ivf": IVFIndex}
"""By kind, as users name it."""


def load_index(folder: str | os.PathLike[str]) -> HammingIndex:
    """The index of any kind that was saved into a folder, mapped. Raises FileNotFoundError where there is none."""
    return INDEXES[json.loads((Path(folder) / RECORD_FILE).read_text())["kind"]].load(folder)


__all__ = ["INDEXES", "HammingIndex", "IVFIndex", "load_index"]

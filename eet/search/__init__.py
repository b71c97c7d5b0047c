"""Finding the nearest codes: search in Hamming space, exact or in an inverted file, with a defined order inside ties."""

from eet.search.hamming_index import HammingIndex
from eet.search.index import Index
from eet.search.indexes import INDEXES, build_index, load_index
from eet.search.ivf_index import IVFIndex

__all__ = ["INDEXES", "HammingIndex", "IVFIndex", "Index", "build_index", "load_index"]

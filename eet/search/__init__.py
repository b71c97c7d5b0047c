"""Nearest codes in Hamming space: exact search and inverted file (IVF), with a defined order of items at equal distance."""

from eet.search.hamming_index import HammingIndex
from eet.search.index import Index
from eet.search.indexes import INDEXES, build_index, load_index
from eet.search.ivf_index import IVFIndex

__all__ = ["INDEXES", "HammingIndex", "IVFIndex", "Index", "build_index", "load_index"]

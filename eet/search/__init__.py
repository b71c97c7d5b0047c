"""Nearest codes in Hamming space: exact search and inverted file (IVF), with a defined order of items at equal distance."""

from eet.options.choices import Backend
from eet.search.faiss_index import FaissIndex
from eet.search.hamming_index import HammingIndex
from eet.search.index import Index
from eet.search.indexes import INDEXES, build_index, check_backend, index_class, known_options, load_index, with_backend
from eet.search.ivf_index import IVFIndex
from eet.search.numbered_codes import NumberedCodes

__all__ = [
    "INDEXES",
    "Backend",
    "FaissIndex",
    "HammingIndex",
    "IVFIndex",
    "Index",
    "NumberedCodes",
    "build_index",
    "check_backend",
    "index_class",
    "known_options",
    "load_index",
    "with_backend",
]

"""Finding the nearest codes: exact search in Hamming space, with a defined order inside ties."""

from eet.search.hamming_index import HammingIndex

__all__ = ["HammingIndex"]

"""What approximate indexes share: a query searches a part of the codes, and the number of probes says how much."""

import copy
import math
from abc import abstractmethod
from typing import Self

from eet.errors import InputError
from eet.search.distinct_codes import DistinctCodes
from eet.search.hamming_index import HammingIndex
from eet.search.index import Index
from eet.search.tiled_search import Scan

SAMPLE_PER_LIST = 32
"""Codes for each list from which centroids are learned."""
_MOST_LISTS = 1 << 16


class ProbedIndex(Index):
    """An index of which a query searches a part.

    Attributes:
        probes: how much of the index a query searches; `with_probes` returns an index with another number.
    """

    def __init__(self, codes: DistinctCodes, probes: int) -> None:
        self.codes = codes
        self.probes = probes
        self._exact = HammingIndex(codes)

    def exact(self) -> HammingIndex:
        return self._exact

    def with_probes(self, probes: int) -> Self:
        if probes < 1:
            raise InputError(f"probes={probes}; give 1 or more.")
        other = copy.copy(self)
        other.probes = probes
        return other

    def scan(self, device: str, *, radius: int | None = None, threads: int | None = None) -> Scan:
        """As `Index.scan`. A search of a part runs on the CPU, whatever the device."""
        if self.is_exact:
            return self._exact.scan(device, radius=radius, threads=threads)
        return self.part_scan(8 * self.codes.width if radius is None else radius, threads)

    @abstractmethod
    def part_scan(self, radius: int, threads: int | None) -> Scan:
        """The scan of the part that `probes` allows. radius: in bits. threads: of the CPU; None for all."""


def check_lists(lists: int | None) -> None:
    """InputError where the number of lists is below 1. None stands for the default."""
    if lists is not None and lists < 1:
        raise InputError(f"lists={lists}; give 1 or more.")


def number_of_lists(lists: int | None, num_codes: int) -> int:
    """The wanted number of lists, by default 4 times the square root of the number of codes, at most 65,536; never more than codes."""
    return min(lists or min(_MOST_LISTS, math.ceil(4 * math.sqrt(num_codes))), num_codes)

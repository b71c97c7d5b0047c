"""Exact Hamming search over distinct codes.

Shape suffixes: Q queries, T queries of a tile, N items, B bytes, W machine words, R ranges.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from eet.search.distinct_codes import DistinctCodes
from eet.search.index import Index
from eet.search.numbered_codes import NumberedCodes, write_codes
from eet.search.tiled_search import Scan

if TYPE_CHECKING:
    from eet.search.device_scan import DeviceScan

QUERIES_ON_DEVICE = 1024  # at once; their byte tables take bytes * 1 kB a query
_FEW_CODES, _FEW_QUERIES = 1 << 21, 8  # with fewer codes, a thread takes 8 queries or more; with more, threads share the codes instead


class HammingIndex(Index):
    """Exact search over the codes of a gallery. Make one with `build` or `load`."""

    kind = "exact"

    def __init__(self, codes: DistinctCodes) -> None:
        """Makes an index over existing codes, which are not copied."""
        self.codes = codes
        self._on_device: DeviceScan | None = None

    @classmethod
    def build(cls, packed_NB: np.ndarray, *, num_bits: int | None = None) -> Self:
        """Indexes the codes of a gallery.

        Args:
            packed_NB: uint8 (N, B), from `eet.hashing.pack`; row i is item i. N may be 0.
            num_bits: bits of a code, with B = ceil(num_bits / 8); if given, query hashes are checked against it.

        Raises:
            InputError: the codes are not packed, or their width does not fit num_bits.
        """
        return cls(DistinctCodes.build(packed_NB, num_bits=num_bits))

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        return cls(DistinctCodes.load(folder))

    @classmethod
    def write(cls, folder: Path, codes: NumberedCodes, before: Self | None = None, **options: Any) -> None:
        write_codes(folder, codes, None if before is None else before.codes, kind=cls.kind, sorted_before=True)

    def scan(self, device: str, *, radius: int | None = None, threads: int | None = None) -> Scan:
        codes, num_bits = self.codes, 8 * self.codes.width
        if device == "cpu":
            from eet.search.scan import QUERIES_AT_ONCE, nearest

            most = num_bits if radius is None else radius
            return Scan(
                lambda words_TW, k, ranges_R2: nearest(codes.words_UW, codes.offsets, words_TW, k, num_bits, most, ranges_R2),
                least=_FEW_QUERIES if len(codes) < _FEW_CODES else QUERIES_AT_ONCE,
                most=QUERIES_AT_ONCE,
                whole=False,
            )
        on_device = self.device_scan(device)
        return Scan(
            lambda words_TW, k, _: on_device.nearest(words_TW, k, radius), least=QUERIES_ON_DEVICE, most=QUERIES_ON_DEVICE, whole=True
        )

    def device_scan(self, device: str) -> "DeviceScan":
        """The codes on a torch device; they are copied there once."""
        from eet.search.device_scan import DeviceScan

        if self._on_device is None or self._on_device.device != device:
            self._on_device = DeviceScan(self.codes.words_UW, self.codes.offsets, num_bits=8 * self.codes.width, device=device)
        return self._on_device

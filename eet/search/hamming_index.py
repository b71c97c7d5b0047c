"""Exact Hamming search over distinct codes.

Shape suffixes: Q queries, N items, U distinct codes, B bytes, b bits, W machine words.
"""

import os
from typing import Any

import numpy as np

from eet.search.distinct_codes import DistinctCodes
from eet.search.tiled_search import Scan, tiled_search

_QUERIES_AT_ONCE = 1024  # on a device; their byte tables take bytes * 1 kB a query
_FEW_CODES, _FEW_QUERIES = 1 << 21, 8  # with fewer codes, a thread takes 8 queries or more; with more, threads share the codes instead


class HammingIndex:
    """The codes of a gallery, ready to be searched exactly. Make one with `build` or `load`."""

    kind = "exact"

    def __init__(self, codes: DistinctCodes) -> None:
        """Over codes that are there; nothing is copied."""
        self.codes = codes
        self._on_device: Any = None

    @classmethod
    def build(cls, packed_NB: np.ndarray, *, num_bits: int | None = None) -> "HammingIndex":
        """Index a gallery's codes.

        Args:
            packed_NB: uint8 (N, B), as `eet.hashing.pack` makes them; row i is item i. N may be 0.
            num_bits: bits of a code, for which B must be ceil(num_bits / 8); query hashes are then checked against it.

        Raises:
            ValueError: not packed codes, or a width that does not fit num_bits.
        """
        return cls(DistinctCodes.build(packed_NB, num_bits=num_bits))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the index into a local folder, from which `load` maps it into memory."""
        self.codes.save(folder, kind=self.kind)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "HammingIndex":
        """The index that `save` wrote: mapped, so that it opens at once and its pages are shared between processes.

        Raises FileNotFoundError where there is none.
        """
        return cls(DistinctCodes.load(folder))

    @property
    def num_bits(self) -> int | None:
        """Bits of a code, where they are known."""
        return self.codes.num_bits

    @property
    def num_items(self) -> int:
        """Items in the gallery, N."""
        return self.codes.num_items

    @property
    def num_codes(self) -> int:
        """Codes that are searched: the distinct ones, or one per item in the flat form."""
        return len(self.codes)

    @property
    def nbytes(self) -> int:
        """Memory that the index takes, in bytes."""
        return self.codes.nbytes

    def packed_codes(self) -> np.ndarray:
        """The codes of all items in the order of their rows, uint8 (N, B), as they were given to `build`."""
        return self.codes.packed_codes()

    def search(
        self,
        packed_QB: np.ndarray,
        k: int,
        *,
        query_hash: np.ndarray | None = None,
        device: str = "cpu",
        threads: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest items of each query, exactly, by Hamming distance.

        Ties are ordered by row. With `query_hash` they are ordered by `eet.hashing.distance.asymmetric_scores`, highest
        first, then by row. The list is cut to k after that, so the answer depends on the gallery alone, not on device or threads.

        Args:
            packed_QB: uint8 (Q, B).
            k: items wanted for a query; any number.
            query_hash: real-valued (Q, b), the hashes whose signs the query codes are.
            device: where distances are computed: "cpu" (compiled by numba), or a torch device such as "cuda".
            threads: CPU threads; default all.

        Returns:
            distances, int32 (Q, min(k, N)), ascending, and rows, int64 of the same shape.

        Raises:
            ValueError: k < 1, not packed codes, or widths that differ from the gallery's.
        """
        distances_Qk, _, rows_Qk = self.search_scored(packed_QB, k, query_hash=query_hash, device=device, threads=threads)
        return distances_Qk, rows_Qk

    def search_scored(
        self,
        packed_QB: np.ndarray,
        k: int,
        *,
        query_hash: np.ndarray | None = None,
        device: str = "cpu",
        threads: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`search`, with the asymmetric scores (float32, 0 without `query_hash`) between distances and rows: what answers of several
        indexes are merged by.
        """
        return tiled_search(self.codes, self._scan(device), packed_QB, k, query_hash=query_hash, threads=threads)

    def _scan(self, device: str) -> Scan:
        """How candidates are found on a device."""
        if device == "cpu":
            from eet.search.scan import QUERIES_AT_ONCE, nearest

            num_bits = 8 * self.codes.width
            return Scan(
                lambda words_TW, k, ranges_R2: nearest(self.codes.words_UW, self.codes.offsets, words_TW, k, num_bits, ranges_R2),
                least=_FEW_QUERIES if self.num_codes < _FEW_CODES else QUERIES_AT_ONCE,
                most=QUERIES_AT_ONCE,
                whole=False,
            )
        from eet.search.device_scan import DeviceScan

        if self._on_device is None or self._on_device.device != device:
            self._on_device = DeviceScan(self.codes.words_UW, self.codes.offsets, num_bits=8 * self.codes.width, device=device)
        return Scan(lambda words_TW, k, _: self._on_device.nearest(words_TW, k), _QUERIES_AT_ONCE, _QUERIES_AT_ONCE, whole=True)

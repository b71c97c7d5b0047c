"""Exact Hamming search over distinct codes.

Shape suffixes: Q queries, N items, U distinct codes, B bytes, b bits, W machine words.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from eet.hashing.distance import asymmetric_tables
from eet.search.distinct_codes import DistinctCodes, read_only, wide_words

_QUERIES_AT_ONCE = 1024  # their byte tables take bytes * 1 kB a query
_FEW_CODES, _FEW_QUERIES = 1 << 21, 8  # of so few codes threads take so many queries each; more codes are split between them instead
_LEAST_PAIRS, _LEAST_CODES = 1 << 18, 1 << 12  # of queries and codes, and of codes, that are worth a thread of their own

Candidates: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray]
"""(starts, codes, distances): those of query t are codes[starts[t] : starts[t + 1]], among them all that may be in its answer."""


class Scan(NamedTuple):
    """How candidates are found.

    find: (words (T, W) of some queries, k, ranges (R, 2) of codes) -> candidates among those codes. most: queries that it should get at
    once, where there are as many; least: where that gives every thread some. whole: it looks at all codes, whatever the ranges.
    """

    find: Callable[[np.ndarray, int, np.ndarray], Candidates]
    least: int
    most: int
    whole: bool


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
        self.codes.check_queries(packed_QB, query_hash)
        if k < 1:
            raise ValueError(f"k={k}; ask for at least 1 item.")
        num_queries, k = len(packed_QB), min(k, self.num_items)
        distances_Qk = np.full((num_queries, k), -1, dtype=np.int32)
        scores_Qk = np.zeros((num_queries, k), dtype=np.float32)
        rows_Qk = np.full((num_queries, k), -1, dtype=np.int64)
        if k == 0 or num_queries == 0:
            return distances_Qk, scores_Qk, rows_Qk
        words_QW = wide_words(packed_QB)
        threads = threads or os.cpu_count() or 1
        scan = self._scan(device)
        least = scan.least if -(-num_queries // scan.least) >= threads else scan.most
        tile = min(scan.most, max(least, -(-num_queries // threads)))
        tile = -(-num_queries // -(-num_queries // tile))  # as many queries in each
        tiles = [slice(start, start + tile) for start in range(0, num_queries, tile)]
        # Fewer tiles than threads: each is searched by all of them, piece by piece.
        worth = self.num_codes // max(_LEAST_CODES, _LEAST_PAIRS // tile)
        pieces = 1 if scan.whole or len(tiles) >= threads else max(1, min(threads, worth))
        bounds = np.linspace(0, self.num_codes, pieces + 1).astype(np.int64)
        ranges = np.stack([bounds[:-1], bounds[1:]], axis=1)
        from eet.search.scan import rank

        no_tables = np.empty((0, 0, 256), np.float32)

        def answer(block: slice, candidates: Candidates | None = None) -> None:
            tables = read_only(no_tables if query_hash is None else asymmetric_tables(query_hash[block]))
            candidates = candidates or scan.find(read_only(words_QW[block]), k, ranges)
            found = distances_Qk[block], scores_Qk[block], rows_Qk[block]
            rank(self.codes.words_UW, self.codes.offsets, self.codes.rows_N, tables, *candidates, k, *found)

        if pieces == len(tiles) == 1:
            answer(tiles[0])
            return distances_Qk, scores_Qk, rows_Qk
        with ThreadPoolExecutor(1 if scan.whole else threads) as pool:  # a device does one thing after another
            if pieces == 1:
                list(pool.map(answer, tiles))
            else:
                for block in tiles:
                    words_TW = read_only(words_QW[block])
                    parts = pool.map(lambda place, words_TW=words_TW: scan.find(words_TW, k, ranges[place : place + 1]), range(pieces))
                    answer(block, _merged(list(parts)))
        return distances_Qk, scores_Qk, rows_Qk

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


def _merged(parts: list[Candidates]) -> Candidates:
    """Candidates of the same queries among different codes, together."""
    counts = np.stack([np.diff(starts) for starts, _, _ in parts])
    query = np.concatenate([np.repeat(np.arange(counts.shape[1]), count) for count in counts])
    order = np.argsort(query, kind="stable")
    codes, distances = (np.concatenate([part[place] for part in parts])[order] for place in (1, 2))
    return np.concatenate([[0], np.cumsum(counts.sum(axis=0))]), codes, distances

"""Exact Hamming search over distinct codes.

A trained code has few values: a label's pictures pile up on a handful. So the distinct codes are searched, and an offset
table expands each found code to its items. Ties then come out as groups, which gives them a defined order.

Shape suffixes: Q queries, N items, U distinct codes, B bytes, b bits, W machine words.
"""

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from eet.hashing.distance import as_words, asymmetric_tables
from eet.hashing.packing import check_packed

# With this share of distinct codes or more, items are indexed as they are: grouping would then save no work, and its tables
# would take more memory than the codes that it saves.
FLAT_FROM_DISTINCT_SHARE = 0.83

_FILES = ("codes", "offsets", "rows")
RECORD_FILE = "codes.json"
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

    def __init__(self, words_UW: np.ndarray, offsets: np.ndarray, rows_N: np.ndarray, *, width: int, num_bits: int | None) -> None:
        """Use `build` or `load`. words_UW: uint32 or uint64. Empty `offsets`: every code has one item, rows_N[u], or item u where that is
        empty too (the flat form).
        """
        self._words_UW = frozen(words_UW)
        self._offsets = frozen(offsets)
        self._rows_N = frozen(rows_N)
        self._width = width
        self.num_bits = num_bits
        self._on_device: Any = None

    @classmethod
    def build(cls, packed_NB: np.ndarray, *, num_bits: int | None = None) -> "HammingIndex":
        """Index a gallery's codes.

        Args:
            packed_NB: uint8 (N, B), as `eet.hashing.pack` makes them; row i is item i. N may be 0.
            num_bits: bits of a code, if query hashes shall be checked against it; B must be ceil(num_bits / 8).

        Raises:
            ValueError: not packed codes, or a width that does not fit num_bits.
        """
        check_packed(packed_NB, "packed_NB")
        width = packed_NB.shape[1]
        if num_bits is not None and -(-num_bits // 8) != width:
            raise ValueError(
                f"codes are {width} bytes wide, but num_bits={num_bits} needs {-(-num_bits // 8)}; "
                "pass the number of bits that the model has."
            )
        words_NW = wide_words(packed_NB)
        num_items = len(words_NW)
        narrow = np.uint32 if num_items < 2**32 else np.int64
        # Stable sorts, so the rows of one code ascend.
        order = np.argsort(words_NW[:, 0], kind="stable") if words_NW.shape[1] == 1 else np.lexsort(words_NW.T)
        order = order.astype(narrow)
        sorted_words = words_NW[order]
        is_first = np.ones(num_items, dtype=bool)
        is_first[1:] = (sorted_words[1:] != sorted_words[:-1]).any(axis=1)
        if np.count_nonzero(is_first) >= FLAT_FROM_DISTINCT_SHARE * num_items:
            return cls(words_NW, np.empty(0, np.int64), np.empty(0, narrow), width=width, num_bits=num_bits)
        firsts = np.flatnonzero(is_first)
        return cls(sorted_words[firsts], np.append(firsts, num_items), order, width=width, num_bits=num_bits)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the index into a local folder, from which `load` maps it into memory."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        for name, array in zip(_FILES, (self._words_UW, self._offsets, self._rows_N), strict=True):
            np.save(target / f"{name}.npy", array)
        (target / RECORD_FILE).write_text(json.dumps({"kind": self.kind, "width": self._width, "num_bits": self.num_bits}) + "\n")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "HammingIndex":
        """The index that `save` wrote: mapped, so that it opens at once and its pages are shared between processes.

        Raises FileNotFoundError where there is none.
        """
        record = json.loads((Path(folder) / RECORD_FILE).read_text())
        words, offsets, rows = (np.load(Path(folder) / f"{name}.npy", mmap_mode="r").view(np.ndarray) for name in _FILES)
        return cls(words, offsets, rows, width=record["width"], num_bits=record["num_bits"])

    @property
    def num_items(self) -> int:
        """Items in the gallery, N."""
        return len(self._rows_N) or len(self._words_UW)

    @property
    def num_codes(self) -> int:
        """Codes that are searched: the distinct ones, or one per item in the flat form."""
        return len(self._words_UW)

    @property
    def nbytes(self) -> int:
        """Memory that the index takes, in bytes."""
        return self._words_UW.nbytes + self._offsets.nbytes + self._rows_N.nbytes

    def packed_codes(self) -> np.ndarray:
        """The codes of all items in the order of their rows, uint8 (N, B), as they were given to `build`."""
        words = self._words_UW
        if len(self._rows_N):
            words = np.empty((self.num_items, words.shape[1]), words.dtype)
            words[self._rows_N] = np.repeat(self._words_UW, np.diff(self._offsets), axis=0) if len(self._offsets) else self._words_UW
        return np.ascontiguousarray(words).view(np.uint8)[:, : self._width].copy()

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
        check_packed(packed_QB, "packed_QB")
        if packed_QB.shape[1] != self._width:
            raise ValueError(
                f"query codes are {packed_QB.shape[1]} bytes wide, the gallery's {self._width}; "
                "encode the queries with the gallery's model."
            )
        if k < 1:
            raise ValueError(f"k={k}; ask for at least 1 item.")
        if query_hash is not None:
            self._check_hash(query_hash, len(packed_QB))
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
            tables = frozen(no_tables if query_hash is None else asymmetric_tables(query_hash[block]))
            candidates = candidates or scan.find(frozen(words_QW[block]), k, ranges)
            found = distances_Qk[block], scores_Qk[block], rows_Qk[block]
            rank(self._words_UW, self._offsets, self._rows_N, tables, *candidates, k, *found)

        if pieces == len(tiles) == 1:
            answer(tiles[0])
            return distances_Qk, scores_Qk, rows_Qk
        with ThreadPoolExecutor(1 if scan.whole else threads) as pool:  # a device does one thing after another
            if pieces == 1:
                list(pool.map(answer, tiles))
            else:
                for block in tiles:
                    words_TW = frozen(words_QW[block])
                    parts = pool.map(lambda place, words_TW=words_TW: scan.find(words_TW, k, ranges[place : place + 1]), range(pieces))
                    answer(block, _merged(list(parts)))
        return distances_Qk, scores_Qk, rows_Qk

    def _scan(self, device: str) -> Scan:
        """How candidates are found on a device."""
        if device == "cpu":
            from eet.search.scan import QUERIES_AT_ONCE, nearest

            num_bits = 8 * self._width
            return Scan(
                lambda words_TW, k, ranges_R2: nearest(self._words_UW, self._offsets, words_TW, k, num_bits, ranges_R2),
                least=_FEW_QUERIES if self.num_codes < _FEW_CODES else QUERIES_AT_ONCE,
                most=QUERIES_AT_ONCE,
                whole=False,
            )
        from eet.search.device_scan import DeviceScan

        if self._on_device is None or self._on_device.device != device:
            self._on_device = DeviceScan(self._words_UW, self._offsets, num_bits=8 * self._width, device=device)
        return Scan(lambda words_TW, k, _: self._on_device.nearest(words_TW, k), _QUERIES_AT_ONCE, _QUERIES_AT_ONCE, whole=True)

    def _check_hash(self, query_hash: np.ndarray, num_queries: int) -> None:
        bits = query_hash.shape[1] if query_hash.ndim == 2 else 0
        fits = bits == self.num_bits if self.num_bits is not None else -(-bits // 8) == self._width
        if not fits or len(query_hash) != num_queries:
            allowed = self.num_bits if self.num_bits is not None else f"{8 * self._width - 7} to {8 * self._width}"
            raise ValueError(f"query_hash has shape {query_hash.shape}; give ({num_queries}, {allowed}), one hash for each query code.")


def _merged(parts: list[Candidates]) -> Candidates:
    """Candidates of the same queries among different codes, together."""
    counts = np.stack([np.diff(starts) for starts, _, _ in parts])
    query = np.concatenate([np.repeat(np.arange(counts.shape[1]), count) for count in counts])
    order = np.argsort(query, kind="stable")
    codes, distances = (np.concatenate([part[place] for part in parts])[order] for place in (1, 2))
    return np.concatenate([[0], np.cumsum(counts.sum(axis=0))]), codes, distances


def frozen(array: np.ndarray) -> np.ndarray:
    """A view that cannot be written to. A mapped index and what comes from another process is like that; were the rest not, every loop
    would be compiled for both.
    """
    view = array.view()
    view.flags.writeable = False
    return view


def wide_words(packed_NB: np.ndarray) -> np.ndarray:
    """Codes as uint32 (N, 1) up to 4 bytes, else as uint64 words (N, W)."""
    words_NW = as_words(packed_NB)
    return words_NW.astype(np.uint32) if words_NW.itemsize < 4 else words_NW

"""Approximate Hamming search: an inverted file (IVF). A query searches only the nearest lists.

Each code is in the list of its nearest centroid. The lists that a query probes are scanned as `HammingIndex` scans all codes, so the hits
have the same order, and with all lists probed the result is exact.

Shape suffixes: U distinct codes, N items, B bytes, b bits, L lists, S codes of the training sample.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np

from eet.search.distinct_codes import DistinctCodes, read_only, wide_words
from eet.search.hamming_index import HammingIndex
from eet.search.numbered_codes import NumberedCodes, write_codes, write_groups
from eet.search.probed_index import SAMPLE_PER_LIST, ProbedIndex, check_lists, number_of_lists
from eet.search.record_sort import sorted_records
from eet.search.tiled_search import Scan

_PROBES = 16
_ROUNDS = 6
ITEMS_AT_ONCE = 1 << 16
"""Items whose lists are found in one block."""
_CENTROIDS, _LIST_STARTS = "centroids.npy", "list_starts.npy"


class IVFIndex(ProbedIndex):
    """The codes of a gallery in lists around centroids. Make one with `build` or `load`.

    Attributes:
        centroids_LB: uint8 (L, B), the centroid of each list.
        probes: number of lists that a query searches; `with_probes` returns an index with another number. With `num_lists` or more the
            result is exact. With fewer, the search always runs on the CPU.
    """

    kind = "ivf"

    def __init__(self, codes: DistinctCodes, centroids_LB: np.ndarray, list_starts: np.ndarray) -> None:
        """Use `build` or `load`. The codes of list l are list_starts[l] up to list_starts[l + 1]."""
        super().__init__(codes, _PROBES)
        self.centroids_LB = read_only(centroids_LB)
        self._centroids_LW = read_only(wide_words(centroids_LB))
        self._list_starts = read_only(list_starts)

    @classmethod
    def build(
        cls, packed_NB: np.ndarray, *, num_bits: int | None = None, lists: int | None = None, centroids_LB: np.ndarray | None = None
    ) -> Self:
        """Indexes the codes of a gallery.

        Args:
            packed_NB: uint8 (N, B), from `eet.hashing.pack`; row i is item i. N may be 0.
            num_bits: bits of a code, with B = ceil(num_bits / 8); if given, query hashes are checked against it.
            lists: number of lists, 1 or more; default 4 times the square root of the number of distinct codes, at most
                65,536. Never more than codes.
            centroids_LB: uint8 (L, B), centroids to use instead of learning them with `learn_centroids`; `lists` is then ignored. If empty,
                they are learned.

        Raises:
            InputError: the codes are not packed, their width does not fit num_bits, or lists < 1.
        """
        check_lists(lists)
        codes = DistinctCodes.build(packed_NB, num_bits=num_bits)
        centroids_LB = _centroids(codes, lists, centroids_LB)
        list_U = _nearest_centroid(codes.codes_UB, centroids_LB)
        order_U = np.argsort(list_U, kind="stable").astype(np.uint32 if len(codes) < 2**32 else np.int64)
        list_starts = np.searchsorted(list_U[order_U], np.arange(len(centroids_LB) + 1))
        return cls(codes.reordered(order_U), centroids_LB, list_starts)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        starts = np.load(Path(folder) / _LIST_STARTS, mmap_mode="r").view(np.ndarray)
        return cls(DistinctCodes.load(folder), np.load(Path(folder) / _CENTROIDS), starts)

    def save(self, folder: str | os.PathLike[str]) -> None:
        super().save(folder)
        np.save(Path(folder) / _CENTROIDS, self.centroids_LB)
        np.save(Path(folder) / _LIST_STARTS, self._list_starts)

    def rebuilt(self, packed_NB: np.ndarray) -> Self:
        """An index with the same bits, lists and probes over other codes, each in the list of its nearest centroid.

        Lists are learned if this index has none.
        """
        return self.build(packed_NB, num_bits=self.num_bits, centroids_LB=self.centroids_LB).with_probes(self.probes)

    @classmethod
    def write(cls, folder: Path, codes: NumberedCodes, before: Self | None = None, *, lists: int | None = None, **options: Any) -> None:
        """As `Index.write`. The centroids, and the size of each list, are all that is held in memory."""
        check_lists(lists)
        old = None if before is None else before.codes
        write_codes(folder, codes, old, kind=cls.kind, sorted_before=False)
        distinct = DistinctCodes.load(folder)
        centroids_LB = _centroids(distinct, lists, None if before is None else before.centroids_LB)
        counts_L = write_in_lists(folder, distinct, codes, HammingIndex.build(centroids_LB))
        np.save(folder / _CENTROIDS, centroids_LB)
        np.save(folder / _LIST_STARTS, np.concatenate([np.zeros(1, np.int64), np.cumsum(counts_L)]))

    @property
    def options(self) -> dict[str, int]:
        """lists: their number."""
        return {"lists": self.num_lists}

    @property
    def num_lists(self) -> int:
        """Number of lists, L."""
        return len(self.centroids_LB)

    @property
    def nbytes(self) -> int:
        return super().nbytes + self.centroids_LB.nbytes + self._list_starts.nbytes

    def describe(self) -> str:
        return f"{super().describe()} in {self.num_lists:,} lists"

    @property
    def is_exact(self) -> bool:
        return self.probes >= self.num_lists

    def part_scan(self, radius: int, threads: int | None) -> Scan:
        from eet.search.scan import QUERIES_AT_ONCE, nearest_in_lists

        codes, num_bits, lists = self.codes, 8 * self.codes.width, (self._centroids_LW, self._list_starts, self.probes)
        return Scan(
            lambda words_TW, k, _: nearest_in_lists(codes.words_UW, codes.offsets, words_TW, k, num_bits, radius, *lists),
            least=1,
            most=QUERIES_AT_ONCE,
            whole=True,
        )


def learn_centroids(codes_UB: np.ndarray, num_lists: int) -> np.ndarray:
    """Learns centroids of codes, which are codes too, by k-means with the Hamming distance.

    Each bit of a centroid is the majority of its codes (k-majority: Grana et al., "A fast approach for integrating ORB descriptors in the
    bag of words model", 2013).

    They are learned from a sample of 32 codes for each centroid; the same codes always lead to the same centroids.

    Args:
        codes_UB: uint8, packed.
        num_lists: L, at most U.

    Returns:
        uint8 (L, B).
    """
    assert num_lists <= len(codes_UB)
    rng = np.random.default_rng(0)
    sample_SB = codes_UB[rng.choice(len(codes_UB), min(len(codes_UB), SAMPLE_PER_LIST * num_lists), replace=False)]
    centroids_LB = sample_SB[:num_lists].copy()
    for _ in range(_ROUNDS):
        list_S = _nearest_centroid(sample_SB, centroids_LB)
        order_S = np.argsort(list_S, kind="stable")
        used, firsts, counts = np.unique(list_S[order_S], return_index=True, return_counts=True)
        if not len(used):
            break
        bits_Sb = np.unpackbits(sample_SB[order_S], axis=1)
        ones = np.add.reduceat(bits_Sb, firsts, axis=0, dtype=np.int32)
        before = np.unpackbits(centroids_LB[used], axis=1)
        # In a tie the bit stays. A list without codes starts again around a random code.
        centroids_LB = sample_SB[rng.integers(0, len(sample_SB), num_lists)]
        centroids_LB[used] = np.packbits(2 * ones + before > counts[:, None], axis=1)
    return centroids_LB


def write_in_lists(folder: Path, distinct: DistinctCodes, codes: NumberedCodes, centroids: HammingIndex) -> np.ndarray:
    """Writes what `DistinctCodes.reordered` of the codes by their lists would save, and returns the number of codes in each list, (L,).

    Args:
        folder: where `distinct` is mapped from; its arrays are replaced.
        distinct: the codes in the order of `DistinctCodes.build`.
        codes: for the sort of `distinct` by list.
        centroids: an index over the centroids.
    """
    words_UW, is_grouped = distinct.words_UW, len(distinct.offsets) > 0
    counts_L = np.zeros(centroids.num_items, np.int64)
    num_words = words_UW.shape[1]
    # Grouped: by list, code and row. Flat: by list and row.
    key_words = num_words + 1 if is_grouped else 1
    dtype = np.dtype([("key", words_UW.dtype, (key_words,)), ("row", codes.row_type), ("words", words_UW.dtype, (num_words,))])

    def records() -> Iterator[np.ndarray]:
        last: np.ndarray | None = None
        for words_nW, row_n in DistinctCodes.stored_item_blocks(folder, ITEMS_AT_ONCE):
            is_first = np.ones(len(row_n), bool)
            if is_grouped:
                is_first[1:] = (words_nW[1:] != words_nW[:-1]).any(axis=1)
            firsts = np.flatnonzero(is_first)
            bytes_uB = np.ascontiguousarray(words_nW[firsts]).view(np.uint8)[:, : distinct.width]
            list_u = centroids.search(bytes_uB, 1)[1].ravel()
            continues = is_grouped and last is not None and bool((words_nW[0] == last).all())
            counts_L[:] += np.bincount(list_u[int(continues) :], minlength=len(counts_L))
            last = words_nW[-1]
            block = np.empty(len(row_n), dtype)
            block["key"][:, -1] = np.repeat(list_u, np.diff(np.append(firsts, len(row_n))))
            if is_grouped:
                block["key"][:, :-1] = words_nW
            block["words"], block["row"] = words_nW, row_n
            yield block

    with tempfile.TemporaryDirectory(dir=folder, prefix="sorting-") as scratch:
        ordered = Path(scratch) / "ordered"
        ordered.mkdir()
        write_groups(ordered, sorted_records(records(), scratch, at_once=codes.at_once), dtype, grouped=is_grouped)
        for path in ordered.iterdir():
            path.replace(folder / path.name)
    return counts_L


def _centroids(codes: DistinctCodes, lists: int | None, known_LB: np.ndarray | None) -> np.ndarray:
    """The known centroids, or learned ones where there are none."""
    if known_LB is not None and len(known_LB):
        return known_LB
    return learn_centroids(codes.codes_UB, number_of_lists(lists, len(codes)))


def _nearest_centroid(codes_SB: np.ndarray, centroids_LB: np.ndarray) -> np.ndarray:
    """The list of each code; of equally near ones the first."""
    return HammingIndex.build(centroids_LB).search(codes_SB, 1)[1].ravel()

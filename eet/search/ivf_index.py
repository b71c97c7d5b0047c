"""Approximate Hamming search: an inverted file (IVF), of which a query looks into the nearest lists alone.

The codes lie in lists, each code in that of its nearest centroid. The lists that a query looks into are scanned as `HammingIndex` scans
everything, so what is found stands in the same order, and with all lists probed the answer is the exact one.

Shape suffixes: U distinct codes, N items, B bytes, b bits, L lists, S codes of the training sample.
"""

import math
import os
from pathlib import Path

import numpy as np

from eet.search.distinct_codes import DistinctCodes, read_only, wide_words
from eet.search.hamming_index import HammingIndex
from eet.search.tiled_search import Scan

_PROBES = 16
_SAMPLE_PER_LIST = 32
_ROUNDS = 6
_MOST_LISTS = 1 << 16
_CENTROIDS, _LIST_STARTS = "centroids.npy", "list_starts.npy"


class IVFIndex(HammingIndex):
    """The codes of a gallery in lists around centroids. Make one with `build` or `load`.

    Where the lists that a query looks into hold fewer than k items, the rest of its answer is row -1 at distance -1.

    Attributes:
        probes: how many lists a search looks into; set it before. With `num_lists` or more the answer is exact. Fewer are searched on the
            CPU, whatever the device.
    """

    kind = "ivf"

    def __init__(self, codes: DistinctCodes, centroids_LB: np.ndarray, list_starts: np.ndarray) -> None:
        """Use `build` or `load`. codes: those of list l are list_starts[l] up to list_starts[l + 1]."""
        super().__init__(codes)
        self.centroids_LB = read_only(centroids_LB)
        self._centroids_LW = read_only(wide_words(centroids_LB))
        self._list_starts = read_only(list_starts)
        self.probes = _PROBES

    @classmethod
    def build(
        cls, packed_NB: np.ndarray, *, num_bits: int | None = None, lists: int | None = None, centroids_LB: np.ndarray | None = None
    ) -> "IVFIndex":
        """Index a gallery's codes.

        Args:
            packed_NB, num_bits: as `HammingIndex.build` takes them.
            lists: how many; default 4 times the square root of the number of distinct codes, at most 65,536. Never more than codes.
            centroids_LB: of another index, to lay the codes into its lists; default learned by `learn_centroids`.

        Raises:
            ValueError: as `HammingIndex.build` does, and for lists below 1.
        """
        if lists is not None and lists < 1:
            raise ValueError(f"lists={lists}; give 1 or more.")
        codes = DistinctCodes.build(packed_NB, num_bits=num_bits)
        if centroids_LB is None or not len(centroids_LB):
            wanted = lists or min(_MOST_LISTS, math.ceil(4 * math.sqrt(len(codes))))
            centroids_LB = learn_centroids(codes.codes_UB, min(wanted, len(codes)))
        list_U = _nearest_centroid(codes.codes_UB, centroids_LB)
        order_U = np.argsort(list_U, kind="stable").astype(np.uint32 if len(codes) < 2**32 else np.int64)
        list_starts = np.searchsorted(list_U[order_U], np.arange(len(centroids_LB) + 1))
        return cls(codes.reordered(order_U), centroids_LB, list_starts)

    @property
    def num_lists(self) -> int:
        """Lists that the codes lie in, L."""
        return len(self.centroids_LB)

    @property
    def nbytes(self) -> int:
        """Memory that the index takes, in bytes."""
        return super().nbytes + self.centroids_LB.nbytes + self._list_starts.nbytes

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the index into a local folder, from which `load` maps it into memory."""
        super().save(folder)
        np.save(Path(folder) / _CENTROIDS, self.centroids_LB)
        np.save(Path(folder) / _LIST_STARTS, self._list_starts)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "IVFIndex":
        """The index that `save` wrote, mapped. Raises FileNotFoundError where there is none."""
        starts = np.load(Path(folder) / _LIST_STARTS, mmap_mode="r").view(np.ndarray)
        return cls(DistinctCodes.load(folder), np.load(Path(folder) / _CENTROIDS), starts)

    def exact(self) -> HammingIndex:
        """The exact index over the same codes; nothing is copied."""
        return HammingIndex(self.codes)

    def _scan(self, device: str) -> Scan:
        if self.probes >= self.num_lists:
            return super()._scan(device)
        from eet.search.scan import QUERIES_AT_ONCE, nearest_in_lists

        lists = self._centroids_LW, self._list_starts, self.probes
        return Scan(
            lambda words_TW, k, _: nearest_in_lists(self.codes.words_UW, self.codes.offsets, words_TW, k, 8 * self.codes.width, *lists),
            least=1,
            most=QUERIES_AT_ONCE,
            whole=True,
        )


def learn_centroids(codes_UB: np.ndarray, num_lists: int) -> np.ndarray:
    """Centroids for codes, themselves codes: k-means with the Hamming distance, where each bit of a centroid is what most of its codes have
    (k-majority: Grana et al., "A fast approach for integrating ORB descriptors in the bag of words model", 2013).

    Learned from a sample of 32 codes for each; the same codes always give the same centroids.

    Args:
        codes_UB: uint8, packed.
        num_lists: L, at most U.

    Returns:
        uint8 (L, B).
    """
    assert num_lists <= len(codes_UB)
    rng = np.random.default_rng(0)
    sample_SB = codes_UB[rng.choice(len(codes_UB), min(len(codes_UB), _SAMPLE_PER_LIST * num_lists), replace=False)]
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
        # Where as many have it as not, the bit stays. A list without codes begins anew around any code.
        centroids_LB = sample_SB[rng.integers(0, len(sample_SB), num_lists)]
        centroids_LB[used] = np.packbits(2 * ones + before > counts[:, None], axis=1)
    return centroids_LB


def _nearest_centroid(codes_SB: np.ndarray, centroids_LB: np.ndarray) -> np.ndarray:
    """The list of each code; the first of those that are equally near."""
    return HammingIndex.build(centroids_LB).search(codes_SB, 1)[1].ravel()

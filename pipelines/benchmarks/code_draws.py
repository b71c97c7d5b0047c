"""Codes drawn for a benchmark, in steps, so that drawing a hundred million needs little more memory than the codes.

Shape suffixes: N codes, C clusters, b bits, B bytes.
"""

from dataclasses import dataclass

import numpy as np

from eet.errors import InputError
from eet.gallery import Gallery
from eet.search import HammingIndex
from eet.search.ivf_index import learn_centroids

CLUSTERS = 200
CODES_AT_ONCE = 1 << 18


def draw_uniform(rng: np.random.Generator, number: int, bits: int) -> np.ndarray:
    """Uniformly drawn packed codes, uint8 (number, B)."""
    return rng.integers(0, 256, (number, bits // 8), dtype=np.uint8)


@dataclass(frozen=True)
class Clusters:
    """Clusters of codes, like those of trained networks.

    Attributes:
        weight_C: share of all codes in each cluster.
        ones_Cb: share of a cluster's codes in which a bit is 1.
    """

    weight_C: np.ndarray
    ones_Cb: np.ndarray

    @classmethod
    def around_targets(cls, rng: np.random.Generator, bits: int, flip_share: float) -> "Clusters":
        """200 random target codes, each bit flipped with probability `flip_share`."""
        targets_Cb = rng.integers(0, 2, (CLUSTERS, bits), dtype=np.uint8)
        return cls(np.full(CLUSTERS, 1 / CLUSTERS), np.where(targets_Cb, 1 - flip_share, flip_share).astype(np.float32))

    @classmethod
    def of_gallery(cls, gallery: Gallery) -> "Clusters":
        """Clusters by the labels of a gallery; without labels, up to 200 learned centroids with their nearest codes.

        Raises InputError for a gallery without codes.
        """
        codes_NB, _, labels_N = gallery.coded_rows(ids=False)
        known = labels_N >= 0
        if known.any():
            codes_NB, cluster_N = codes_NB[known], labels_N[known]
        elif len(codes_NB):
            centroids_CB = learn_centroids(codes_NB, min(CLUSTERS, len(codes_NB)))
            cluster_N = HammingIndex.build(centroids_CB).search(codes_NB, 1)[1].ravel()
        else:
            raise InputError(f"{gallery.path} has no codes to follow")
        order_N = np.argsort(cluster_N, kind="stable")
        _, firsts, counts = np.unique(cluster_N[order_N], return_index=True, return_counts=True)
        bits_Nb = np.unpackbits(codes_NB[order_N], axis=1, count=gallery.manifest.num_bits)
        ones_Cb = np.add.reduceat(bits_Nb, firsts, axis=0, dtype=np.int32) / counts[:, None]
        return cls(counts / len(codes_NB), ones_Cb.astype(np.float32))

    @property
    def flip_share(self) -> float:
        """Mean share of a code's bits that differ from the majority of its cluster."""
        return float(self.weight_C @ np.minimum(self.ones_Cb, 1 - self.ones_Cb).mean(axis=1))

    def draw(self, rng: np.random.Generator, number: int) -> np.ndarray:
        """Packed codes, uint8 (number, B). Bits are drawn independently. Bits of real codes are correlated within a cluster, so
        drawn codes are somewhat farther apart.
        """
        bits = self.ones_Cb.shape[1]
        packed = np.empty((number, bits // 8), np.uint8)
        for start in range(0, number, CODES_AT_ONCE):
            part = packed[start : start + CODES_AT_ONCE]
            cluster = rng.choice(len(self.weight_C), len(part), p=self.weight_C)
            part[:] = np.packbits(rng.random((len(part), bits), dtype=np.float32) < self.ones_Cb[cluster], axis=1)
        return packed

"""Approximate Hamming search by FAISS over the distinct codes: its binary inverted file (IVF) and its binary graph (HNSW).

FAISS finds the nearest codes that it comes across; hits are put in order as those of every index.

Shape suffixes: U distinct codes, T queries of a tile, W machine words, n codes that FAISS returns for a query, L lists, B bytes.
"""

import functools
import os
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from eet.errors import InputError
from eet.options.defaults import MOST_LINKS
from eet.search.distinct_codes import DistinctCodes, read_only
from eet.search.faiss_index import QUERIES_ON_CPU, faiss_threads, flat_index, imported_faiss
from eet.search.probed_index import SAMPLE_PER_LIST, ProbedIndex, check_lists, number_of_lists
from eet.search.tiled_search import Candidates, Scan, by_query

FAISS_FILE = "index.faiss"
LEAST_ASKED = 64
"""Codes that a query asks for at least, so that the ties of a small k are ordered as they should be."""
FEW_CODES = 1 << 16
"""Up to this many codes, one thread builds an index: several would mostly wait for each other."""
_NEEDED = {"needed_by": "this kind of index", "instead": "the kind exact or ivf"}


class FaissApproximate(ProbedIndex):
    """An approximate index of FAISS over the distinct codes. FAISS holds a copy of them."""

    default_probes: ClassVar[int]

    def __init__(self, codes: DistinctCodes, faiss_index: Any) -> None:
        """Use `build` or `load`. faiss_index: over the codes, in their order; None without codes."""
        super().__init__(codes, self.default_probes)
        self._faiss = faiss_index

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        codes = DistinctCodes.load(folder)
        faiss = imported_faiss(**_NEEDED)
        return cls(codes, faiss.read_index_binary(str(Path(folder) / FAISS_FILE), faiss.IO_FLAG_MMAP) if len(codes) else None)

    def save(self, folder: str | os.PathLike[str]) -> None:
        super().save(folder)
        if self._faiss is not None:
            imported_faiss(**_NEEDED).write_index_binary(self._faiss, str(Path(folder) / FAISS_FILE))

    @property
    def is_exact(self) -> bool:
        return not len(self.codes)

    @abstractmethod
    def parameters(self) -> Any:
        """The parameters of a search, as FAISS takes them."""

    def part_scan(self, radius: int, threads: int | None) -> Scan:
        def find(words_TW: np.ndarray, k: int, _: np.ndarray) -> Candidates:
            with faiss_threads(threads):
                return self._nearest(words_TW, k, radius)

        return Scan(find, least=QUERIES_ON_CPU, most=QUERIES_ON_CPU, whole=True)

    def _nearest(self, words_TW: np.ndarray, k: int, radius: int) -> Candidates:
        """The nearest codes that FAISS finds for k items, or all that it finds within the radius if k is the number of items."""
        num_codes = len(self.codes)
        asked = min(num_codes, max(LEAST_ASKED, k if k < self.num_items else 4 * LEAST_ASKED))
        todo_t = np.arange(len(words_TW))
        queries, codes, distances = [], [], []
        while len(todo_t):
            distance_tn, code_tn = self._faiss.search(_bytes_of(words_TW[todo_t]), asked, params=self.parameters())
            # More may lie within the radius: the last place is taken by one that does.
            more_t = (code_tn[:, -1] >= 0) & (distance_tn[:, -1] <= radius) & (k >= self.num_items) & (asked < num_codes)
            place_t, place_n = np.nonzero((code_tn >= 0) & (distance_tn <= radius) & ~more_t[:, None])
            queries.append(todo_t[place_t])
            codes.append(code_tn[place_t, place_n])
            distances.append(distance_tn[place_t, place_n])
            todo_t, asked = todo_t[more_t], min(num_codes, 4 * asked)
        return by_query(np.concatenate(queries), np.concatenate(codes), np.concatenate(distances), len(words_TW))


class FaissIVFIndex(FaissApproximate):
    """FAISS's binary inverted file: the codes in lists around centroids that FAISS learns.

    `probes` is the number of lists that a query searches. With `num_lists` or more the result is exact, by EET's own scan.
    """

    kind = "faiss-ivf"
    default_probes = 16

    @classmethod
    def build(
        cls, packed_NB: np.ndarray, *, num_bits: int | None = None, lists: int | None = None, centroids_LB: np.ndarray | None = None
    ) -> Self:
        """Indexes the codes of a gallery.

        Args:
            packed_NB: uint8 (N, B), from `eet.hashing.pack`; row i is item i. N may be 0.
            num_bits: bits of a code, with B = ceil(num_bits / 8); if given, query hashes are checked against it.
            lists: number of lists, 1 or more; default 4 times the square root of the number of distinct codes, at most 65,536. Never more
                than codes.
            centroids_LB: uint8 (L, bytes of whole machine words), centroids to use instead of learning them; `lists` is then ignored. If
                empty, they are learned.

        Raises:
            InputError: the codes are not packed, their width does not fit num_bits, lists < 1, or FAISS cannot be imported.
        """
        check_lists(lists)
        faiss = imported_faiss(**_NEEDED)
        codes = DistinctCodes.build(packed_NB, num_bits=num_bits)
        if not len(codes):
            return cls(codes, None)
        bytes_UB = _bytes_of(codes.words_UW)
        bits = 8 * bytes_UB.shape[1]
        quantizer = flat_index(bits, "cpu")
        if centroids_LB is not None and len(centroids_LB):
            quantizer.add(np.ascontiguousarray(centroids_LB))
            lists = len(centroids_LB)
        lists = number_of_lists(lists, len(codes))
        index = faiss.IndexBinaryIVF(quantizer, bits, lists)
        index.cp.min_points_per_centroid = 1  # else it warns where there are few codes
        sample = np.random.default_rng(0).choice(len(codes), min(len(codes), SAMPLE_PER_LIST * lists), replace=False)
        with faiss_threads(_building_threads(codes)):
            index.train(bytes_UB[sample])  # learns nothing where the quantizer has its centroids already
            index.add(bytes_UB)
        return cls(codes, index)

    def rebuilt(self, packed_NB: np.ndarray) -> Self:
        """An index with the same bits, lists and probes over other codes, each in the list of its nearest centroid."""
        return self.build(packed_NB, num_bits=self.num_bits, centroids_LB=self.centroids_LB).with_probes(self.probes)

    @functools.cached_property
    def centroids_LB(self) -> np.ndarray:
        """uint8 (L, bytes of whole machine words), the centroid of each list."""
        if self._faiss is None:
            return np.empty((0, self.codes.width), np.uint8)
        faiss = imported_faiss(**_NEEDED)
        quantizer = faiss.downcast_IndexBinary(self._faiss.quantizer)
        return read_only(faiss.vector_to_array(quantizer.xb).reshape(self.num_lists, -1))

    @property
    def options(self) -> dict[str, int]:
        """lists: their number."""
        return {"lists": self.num_lists}

    @property
    def num_lists(self) -> int:
        """Number of lists, L."""
        return 0 if self._faiss is None else self._faiss.nlist

    @property
    def nbytes(self) -> int:
        own = 0 if self._faiss is None else (len(self.codes) + self.num_lists) * (self._faiss.code_size + 8)
        return super().nbytes + own

    def describe(self) -> str:
        return f"{super().describe()} in {self.num_lists:,} lists of FAISS"

    @property
    def is_exact(self) -> bool:
        return self.probes >= self.num_lists

    def parameters(self) -> Any:
        return imported_faiss(**_NEEDED).SearchParametersIVF(nprobe=self.probes)


class FaissHNSWIndex(FaissApproximate):
    """FAISS's binary graph (HNSW: Malkov and Yashunin, 2016): each code is linked to codes near it, and a query walks along the links.

    `probes` is the number of candidates that a query keeps on its walk (efSearch). Threads build the graph of many codes together, so two
    graphs of the same codes can differ.
    """

    kind = "faiss-hnsw"
    default_probes = 64
    default_links = 32

    def __init__(self, codes: DistinctCodes, faiss_index: Any, links: int | None = None) -> None:
        super().__init__(codes, faiss_index)
        stored = None if faiss_index is None else faiss_index.hnsw.nb_neighbors(1)
        self._links = links or stored or self.default_links

    @classmethod
    def build(cls, packed_NB: np.ndarray, *, num_bits: int | None = None, links: int | None = None) -> Self:
        """Indexes the codes of a gallery.

        Args:
            packed_NB: uint8 (N, B), from `eet.hashing.pack`; row i is item i. N may be 0.
            num_bits: bits of a code, with B = ceil(num_bits / 8); if given, query hashes are checked against it.
            links: of a code on each level of the graph (M), 2 to MOST_LINKS; default 32. Twice as many on the lowest.

        Raises:
            InputError: the codes are not packed, their width does not fit num_bits, links are out of range, or FAISS cannot be imported.
        """
        links = cls.default_links if links is None else links
        if not 2 <= links <= MOST_LINKS:
            raise InputError(f"links={links}; give 2 to {MOST_LINKS}.")
        faiss = imported_faiss(**_NEEDED)
        codes = DistinctCodes.build(packed_NB, num_bits=num_bits)
        if not len(codes):
            return cls(codes, None, links)
        bytes_UB = _bytes_of(codes.words_UW)
        index = faiss.IndexBinaryHNSW(8 * bytes_UB.shape[1], links)
        with faiss_threads(_building_threads(codes)):
            index.add(bytes_UB)
        return cls(codes, index, links)

    def rebuilt(self, packed_NB: np.ndarray) -> Self:
        """A new graph with the same bits, links and probes over other codes."""
        return self.build(packed_NB, num_bits=self.num_bits, links=self._links).with_probes(self.probes)

    @property
    def options(self) -> dict[str, int]:
        """links: of a code on each level."""
        return {"links": self._links}

    @property
    def nbytes(self) -> int:
        own = 0 if self._faiss is None else len(self.codes) * (self._faiss.code_size + 8 * self._links + 12)
        return super().nbytes + own

    def describe(self) -> str:
        return f"{super().describe()} in a graph of FAISS with {self._links} links"

    def parameters(self) -> Any:
        return imported_faiss(**_NEEDED).SearchParametersHNSW(efSearch=self.probes)


def _building_threads(codes: DistinctCodes) -> int | None:
    return 1 if len(codes) <= FEW_CODES else None


def _bytes_of(words_UW: np.ndarray) -> np.ndarray:
    """Codes as FAISS takes them: the bytes of whole machine words, whose last bits are 0 on both sides."""
    return np.ascontiguousarray(words_UW).view(np.uint8)

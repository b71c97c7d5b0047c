"""The interface of every index, so that a job works with any kind.

Shape suffixes: Q queries, N items, B bytes, b bits.
"""

import os
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from eet.errors import InputError
from eet.search.distinct_codes import DistinctCodes
from eet.search.numbered_codes import NumberedCodes
from eet.search.tiled_search import Found, Scan, tiled_search


class Index(Protocol):
    """An index over the codes of a gallery.

    To add a kind of index, write a class that inherits this one, with `kind`, `build`, `load` and `scan`, and add it to
    `eet.search.INDEXES`. The candidates that its scan finds become a result in the order of every index. An index that is approximate, or
    that has its own options or files, also overrides the methods for these.

    Attributes:
        kind: its name in `eet.search.INDEXES`.
        codes: the distinct codes of the gallery and their items.
    """

    kind: ClassVar[str]
    codes: DistinctCodes

    @classmethod
    @abstractmethod
    def build(cls, packed_NB: np.ndarray, *args: Any, **options: Any) -> Self:
        """Indexes the codes of a gallery.

        Args:
            packed_NB: uint8 (N, B), from `eet.hashing.pack`; row i is item i. N may be 0.
            num_bits (int | None): bits of a code, with B = ceil(num_bits / 8); if given, query hashes are checked against it.
            **options: options of the kind, keywords with defaults.

        Raises:
            InputError: the codes are not packed, their width does not fit num_bits, or an option is out of range.
        """

    @classmethod
    @abstractmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Loads an index that `save` wrote. It is memory-mapped, so that it opens at once and processes share its pages.

        Raises:
            FileNotFoundError: the folder has none.
        """

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the index into a local folder, created if missing."""
        self.codes.save(folder, kind=self.kind)

    @classmethod
    def write(cls, folder: Path, codes: NumberedCodes, before: Self | None = None, **options: Any) -> None:
        """Writes the files of an index over codes that may not fit in memory: those that `build`, or `rebuilt`, and `save` would write.

        This holds the codes in memory; a kind that need not do so overrides it.

        Args:
            folder: an existing, empty local folder.
            codes: the codes of all items.
            before: the index of the first items, which `codes.moved` numbers. It gives the options then.
            **options: options of `build`, for a new index.

        Raises:
            InputError: as in `build`.
        """
        packed_NB = codes.in_memory(None if before is None else before.codes)
        index = cls.build(packed_NB, num_bits=codes.num_bits, **options) if before is None else before.rebuilt(packed_NB)
        index.save(folder)

    def rebuilt(self, packed_NB: np.ndarray) -> Self:
        """An index of the same kind, with the same bits and options, over other codes. What was learned from the old codes is kept.

        Args:
            packed_NB: uint8 (N, B).

        Raises:
            InputError: as in `build`.
        """
        return self.build(packed_NB, num_bits=self.num_bits, **self.options)

    @property
    def options(self) -> Mapping[str, Any]:
        """The options of this index, by the names of `build`'s arguments."""
        return {}

    @property
    def num_bits(self) -> int | None:
        """Bits of a code; None where unknown."""
        return self.codes.num_bits

    @property
    def num_items(self) -> int:
        """Items in the gallery, N."""
        return self.codes.num_items

    @property
    def num_codes(self) -> int:
        """Codes that are searched: the distinct ones, or one for each item where codes hardly repeat."""
        return len(self.codes)

    @property
    def nbytes(self) -> int:
        """Memory of the index, in bytes."""
        return self.codes.nbytes

    def describe(self) -> str:
        """One line for the user, such as "1,000,000 items, 12,345 distinct codes"."""
        return f"{self.num_items:,} items, {self.num_codes:,} distinct codes"

    def packed_codes(self) -> np.ndarray:
        """The codes of all items in the order of their rows, uint8 (N, B), as passed to `build`."""
        return self.codes.packed_codes()

    @property
    def is_exact(self) -> bool:
        """Whether the results equal those of a search over all codes."""
        return True

    def exact(self) -> "Index":
        """An exact index over the same codes, which are not copied: this one, if its kind is exact."""
        return self

    def with_probes(self, probes: int) -> Self:
        """The same index, in which a query searches another number of lists. Nothing is copied, and this index stays as it is.

        Args:
            probes: number of lists, 1 or more; with all lists or more the result is exact. Of a graph, the candidates that a query keeps.

        Raises:
            InputError: this kind of index has no lists, or probes < 1.
        """
        raise InputError(f"this index is of kind {self.kind}, which has no lists: leave probes out.")

    def search(
        self,
        packed_QB: np.ndarray,
        k: int,
        *,
        query_hash: np.ndarray | None = None,
        device: str = "cpu",
        threads: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Finds the k nearest items of each query by Hamming distance; an approximate index may miss some.

        Ties are ordered by row. With `query_hash` they are ordered by `eet.hashing.distance.asymmetric_scores`, highest first, then by row.
        The list is cut to k after that, so the result depends on the gallery only, not on device or threads.

        Args:
            packed_QB: uint8 (Q, B), packed codes of the queries.
            k: items for each query, 1 or more.
            query_hash: (Q, b), real-valued hashes of the queries; their signs are the codes.
            device: where distances are computed: "cpu" (compiled by numba), or a torch device such as "cuda".
            threads: CPU threads; default all.

        Returns:
            distances: int32 (Q, min(k, N)), ascending.
            rows: int64 of the same shape, numbers of the items. An approximate index that finds fewer than k items fills up with row -1
                at distance -1.

        Raises:
            InputError: k < 1, the codes are not packed, or their width differs from the gallery's.
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
        """`search`, with the asymmetric scores (float32, 0 without `query_hash`) between distances and rows.

        The scores order the merged results of several indexes.
        """
        return self.find(packed_QB, k=k, query_hash=query_hash, device=device, threads=threads).dense(min(k, self.num_items))

    def find(
        self,
        packed_QB: np.ndarray,
        *,
        k: int | None = None,
        radius: int | None = None,
        query_hash: np.ndarray | None = None,
        device: str = "cpu",
        threads: int | None = None,
    ) -> Found:
        """Finds all items within a radius of each query, its k nearest items, or the k nearest of those within the radius.

        They have the order of `search`.

        Args:
            packed_QB: uint8 (Q, B), packed codes of the queries.
            k: most items for each query, 1 or more; None for all within the radius.
            radius: largest distance in bits, 0 or more; None for any.
            query_hash: (Q, b), real-valued hashes of the queries; their signs are the codes.
            device: as for `search`.
            threads: CPU threads; default all.

        Raises:
            InputError: as in `search`; radius < 0, or neither k nor radius is given.

        Example:
            found = index.find(packed_QB, radius=8)
            rows_of_first = found.rows[found.starts[0] : found.starts[1]]
        """
        scan = self.scan(device, radius=radius, threads=threads)
        return tiled_search(self.codes, scan, packed_QB, k=k, radius=radius, query_hash=query_hash, threads=threads)

    @abstractmethod
    def scan(self, device: str, *, radius: int | None = None, threads: int | None = None) -> Scan:
        """How candidates are found.

        Args:
            device: as for `search`.
            radius: codes beyond this distance are not needed; None for any.
            threads: CPU threads of a scan that has its own; default all.
        """

"""What every index can do, so that a job works with any kind of it.

Shape suffixes: Q queries, N items, B bytes, b bits.
"""

import os
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from eet.errors import InputError
from eet.search.distinct_codes import DistinctCodes


class Index(Protocol):
    """The codes of a gallery, ready to be searched.

    To add a kind of index, write a class that inherits this one, with `kind`, `build`, `load` and `search_scored`, and add it to
    `eet.search.INDEXES`. `eet.search.tiled_search` makes the answer from the candidates that a library finds, in the order that every index
    has. An index that is approximate, or that has options or files of its own, also overrides the methods that concern these.

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
            packed_NB: uint8 (N, B), as `eet.hashing.pack` makes them; row i is item i. N may be 0.
            num_bits (int | None): bits of a code, for which B must be ceil(num_bits / 8); query hashes are then checked against it.
            **options: those of the kind, keywords with defaults.

        Raises:
            ValueError: not packed codes, a width that does not fit num_bits, or an option out of its range.
        """

    @classmethod
    @abstractmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """The index that `save` wrote: mapped, so that it opens at once and its pages are shared between processes.

        Raises:
            FileNotFoundError: there is none.
        """

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the index into a local folder, which is made where there is none."""
        self.codes.save(folder, kind=self.kind)

    def rebuilt(self, packed_NB: np.ndarray) -> Self:
        """An index of the same kind, with the same bits and options, over other codes. What was learned from the first codes is kept.

        Args:
            packed_NB: uint8 (N, B).

        Raises:
            ValueError: as `build` does.
        """
        return self.build(packed_NB, num_bits=self.num_bits, **self.options)

    @property
    def options(self) -> Mapping[str, Any]:
        """The options of its kind that this index has, by the names that `build` gives them."""
        return {}

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
        """Codes that are searched: the distinct ones, or one for each item where codes hardly repeat."""
        return len(self.codes)

    @property
    def nbytes(self) -> int:
        """Memory that the index takes, in bytes."""
        return self.codes.nbytes

    def describe(self) -> str:
        """One line for people, such as "1,000,000 items, 12,345 distinct codes"."""
        return f"{self.num_items:,} items, {self.num_codes:,} distinct codes"

    def packed_codes(self) -> np.ndarray:
        """The codes of all items in the order of their rows, uint8 (N, B), as they were given to `build`."""
        return self.codes.packed_codes()

    @property
    def is_exact(self) -> bool:
        """Whether the answers are those of a search of all codes."""
        return True

    def exact(self) -> "Index":
        """An exact index over the same codes, which are not copied: this one, if its kind is exact."""
        return self

    def with_probes(self, probes: int) -> Self:
        """The same index, in which a query searches another number of lists. Nothing is copied, and this index stays as it is.

        Args:
            probes: lists, 1 or more; as many as there are, or more, make the answer exact.

        Raises:
            ValueError: this kind of index has no lists, or probes < 1.
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
        """The k nearest items of each query by Hamming distance; of an approximate index, the nearest of those that it finds.

        Ties are ordered by row. With `query_hash` they are ordered by `eet.hashing.distance.asymmetric_scores`, highest first, then by row.
        The list is cut to k after that, so the answer depends on the gallery alone, not on device or threads.

        Args:
            packed_QB: uint8 (Q, B).
            k: items wanted for a query; any number from 1.
            query_hash: real-valued (Q, b), the hashes whose signs the query codes are.
            device: where distances are computed: "cpu" (compiled by numba), or a torch device such as "cuda".
            threads: CPU threads; default all.

        Returns:
            distances, int32 (Q, min(k, N)), ascending, and rows, int64 of the same shape. An approximate index that finds fewer than k
            items fills up with row -1 at distance -1.

        Raises:
            ValueError: k < 1, not packed codes, or widths that differ from the gallery's.
        """
        distances_Qk, _, rows_Qk = self.search_scored(packed_QB, k, query_hash=query_hash, device=device, threads=threads)
        return distances_Qk, rows_Qk

    @abstractmethod
    def search_scored(
        self,
        packed_QB: np.ndarray,
        k: int,
        *,
        query_hash: np.ndarray | None = None,
        device: str = "cpu",
        threads: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`search`, with the asymmetric scores (float32, 0 without `query_hash`) between distances and rows. Answers of several indexes are
        merged by them.
        """

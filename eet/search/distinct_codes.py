"""The distinct codes of a gallery and their items, which every index searches.

Trained codes have few values: the images of a label share a handful of codes. So the distinct codes are searched, and an offset table
expands each found code to its items. Ties then appear as groups, in a defined order.

Shape suffixes: Q queries, N items, U distinct codes, B bytes, b bits, W machine words.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from eet.errors import DamagedError, InputError
from eet.hashing.distance import as_words
from eet.hashing.packing import check_packed
from eet.storage import read_json

FLAT_FROM_DISTINCT_SHARE = 0.83
"""From this share of distinct codes on, items are not grouped: grouping would save no work, and its tables would take more memory than the
codes that it saves."""

RECORD_FILE = "codes.json"

"""The file of a saved index that names its kind."""

FILES = ("codes", "offsets", "rows")
"""Names of the arrays of saved codes, without .npy."""


@dataclass(frozen=True)
class CodesRecord:
    """The contents of codes.json: the kind of the index, the bytes of a code, and its bits if known."""

    kind: str
    width: int
    num_bits: int | None

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes codes.json into a folder."""
        (Path(folder) / RECORD_FILE).write_text(json.dumps(asdict(self)) + "\n")


@dataclass(frozen=True, eq=False)
class DistinctCodes:
    """Codes and their items. Make one with `build` or `load`. The arrays are read-only.

    Two forms. Grouped: the items of code u are rows_N[offsets[u] : offsets[u + 1]], ascending. Flat, where `offsets` is empty: every code
    has one item, which is rows_N[u], or item u where `rows_N` is empty too; then codes may repeat.

    Attributes:
        words_UW: the codes, uint32 (U, 1) up to 4 bytes, else uint64 (U, W).
        offsets: int64 (U + 1,), or empty.
        rows_N: uint32 or int64 (N,), or empty.
        width: bytes of a packed code, B.
        num_bits: bits of a code; None where unknown.
    """

    words_UW: np.ndarray
    offsets: np.ndarray
    rows_N: np.ndarray
    width: int
    num_bits: int | None

    def __post_init__(self) -> None:
        for name in ("words_UW", "offsets", "rows_N"):
            object.__setattr__(self, name, read_only(getattr(self, name)))

    @classmethod
    def build(cls, packed_NB: np.ndarray, *, num_bits: int | None = None) -> "DistinctCodes":
        """Groups the codes of a gallery.

        Args:
            packed_NB: uint8 (N, B), from `eet.hashing.pack`; row i is item i. N may be 0.
            num_bits: bits of a code, with B = ceil(num_bits / 8); if given, query hashes are checked against it.

        Raises:
            InputError: the codes are not packed, or their width does not fit num_bits.
        """
        check_packed(packed_NB, "packed_NB")
        width = packed_NB.shape[1]
        if num_bits is not None and -(-num_bits // 8) != width:
            raise InputError(
                f"codes are {width} bytes wide, but num_bits={num_bits} needs {-(-num_bits // 8)}; pass the number of bits of the model."
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
            return cls(words_NW, np.empty(0, np.int64), np.empty(0, narrow), width, num_bits)
        firsts = np.flatnonzero(is_first)
        return cls(sorted_words[firsts], np.append(firsts, num_items), order, width, num_bits)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "DistinctCodes":
        """Loads codes that `save` wrote. They are memory-mapped, so that they open at once and processes share their pages.

        Raises:
            FileNotFoundError: the folder has none.
        """
        record = read_json(str(Path(folder) / RECORD_FILE), CodesRecord)
        codes = cls.of_arrays(folder, record.width, record.num_bits)
        num_words = 1 if record.width <= 8 else -(-record.width // 8)
        words = codes.words_UW
        if words.ndim != 2 or words.shape[1] != num_words or codes.offsets.ndim != 1 or codes.rows_N.ndim != 1:
            raise DamagedError(f"{folder} is damaged: {RECORD_FILE} does not describe its arrays. Make the index again")
        return codes

    @classmethod
    def of_arrays(cls, folder: str | os.PathLike[str], width: int, num_bits: int | None) -> "DistinctCodes":
        """Maps the arrays that `save` wrote, without codes.json."""
        words, offsets, rows = (np.load(Path(folder) / f"{name}.npy", mmap_mode="r").view(np.ndarray) for name in FILES)
        return cls(words, offsets, rows, width, num_bits)

    def save(self, folder: str | os.PathLike[str], *, kind: str) -> None:
        """Writes the codes into a local folder, created if missing.

        Args:
            folder: where codes.npy, offsets.npy, rows.npy and codes.json are written.
            kind: kind of the index that holds these codes; `eet.search.load_index` reads it.
        """
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        for name, array in zip(FILES, (self.words_UW, self.offsets, self.rows_N), strict=True):
            np.save(target / f"{name}.npy", array)
        CodesRecord(kind, self.width, self.num_bits).save(target)

    def __len__(self) -> int:
        """Codes, U: the distinct ones, or one for each item in the flat form."""
        return len(self.words_UW)

    @property
    def num_items(self) -> int:
        """Items in the gallery, N."""
        return len(self.rows_N) or len(self.words_UW)

    @property
    def nbytes(self) -> int:
        """Memory of the codes and their tables, in bytes."""
        return self.words_UW.nbytes + self.offsets.nbytes + self.rows_N.nbytes

    @property
    def codes_UB(self) -> np.ndarray:
        """The codes as packed bytes, uint8 (U, B): a view where the words allow it."""
        return _packed(self.words_UW, self.width)

    def packed_codes(self) -> np.ndarray:
        """The codes of all items in the order of their rows, uint8 (N, B), as passed to `build`; a copy."""
        words = self.words_UW
        if len(self.rows_N):
            words = np.empty((self.num_items, words.shape[1]), words.dtype)
            words[self.rows_N] = np.repeat(self.words_UW, np.diff(self.offsets), axis=0) if len(self.offsets) else self.words_UW
        return _packed(words, self.width).copy()

    def item_blocks(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The items in the order of their codes, `size` at a time: words (n, W) and rows (n,)."""
        return (self._items(start, min(start + size, self.num_items)) for start in range(0, self.num_items, size))

    @classmethod
    def stored_item_blocks(cls, folder: str | os.PathLike[str], size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """`item_blocks` of saved codes. Each block maps the files again, so that the pages of earlier blocks leave the resident memory."""
        number = cls.of_arrays(folder, 0, None).num_items
        for start in range(0, number, size):
            yield cls.of_arrays(folder, 0, None)._items(start, min(start + size, number))

    def _items(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Words (n, W) and rows (n,) of the items from `start` to `stop`, in the order of their codes."""
        rows_n = self.rows_N[start:stop] if len(self.rows_N) else np.arange(start, stop)
        if not len(self.offsets):
            return self.words_UW[start:stop], rows_n
        first = int(np.searchsorted(self.offsets, start, side="right")) - 1
        last = int(np.searchsorted(self.offsets, stop, side="left"))
        sizes = np.diff(np.clip(self.offsets[first : last + 1], start, stop))
        return np.repeat(self.words_UW[first:last], sizes, axis=0), rows_n

    def reordered(self, order_U: np.ndarray) -> "DistinctCodes":
        """The same items and codes, with the codes in another order.

        Args:
            order_U: unsigned or signed integers (U,), a permutation: code u of the result is code order_U[u] of this one.
        """
        words_UW = self.words_UW[order_U]
        if not len(self.offsets):
            rows_N = self.rows_N[order_U] if len(self.rows_N) else order_U
            return DistinctCodes(words_UW, self.offsets, rows_N, self.width, self.num_bits)
        sizes_U = np.diff(self.offsets)[order_U]
        offsets = np.concatenate([[0], np.cumsum(sizes_U)])
        place_N = np.repeat(self.offsets[order_U] - offsets[:-1], sizes_U) + np.arange(offsets[-1])
        return DistinctCodes(words_UW, offsets, self.rows_N[place_N], self.width, self.num_bits)

    def check_queries(self, packed_QB: np.ndarray, query_hash: np.ndarray | None) -> None:
        """Refuses queries that cannot be compared with these codes.

        Args:
            packed_QB: uint8 (Q, B), the codes of the queries.
            query_hash: (Q, b), their real-valued hashes, or None.

        Raises:
            InputError: the codes are not packed or have another width, or the hash has another shape.
        """
        check_packed(packed_QB, "packed_QB")
        if packed_QB.shape[1] != self.width:
            raise InputError(
                f"query codes are {packed_QB.shape[1]} bytes wide, the gallery's {self.width}; encode the queries with the gallery's model."
            )
        if query_hash is None:
            return
        bits = query_hash.shape[1] if query_hash.ndim == 2 else 0
        fits = bits == self.num_bits if self.num_bits is not None else -(-bits // 8) == self.width
        if not fits or len(query_hash) != len(packed_QB):
            allowed = self.num_bits if self.num_bits is not None else f"{8 * self.width - 7} to {8 * self.width}"
            raise InputError(f"query_hash has shape {query_hash.shape}; give ({len(packed_QB)}, {allowed}), one hash for each query code.")


def read_only(array: np.ndarray) -> np.ndarray:
    """A read-only view.

    Mapped arrays and arrays from other processes are read-only; if the rest were not, every loop would be compiled for both kinds.
    """
    view = array.view()
    view.flags.writeable = False
    return view


def wide_words(packed_NB: np.ndarray) -> np.ndarray:
    """Packed codes as machine words: uint32 (N, 1) up to 4 bytes, else uint64 (N, W), padded with zeros."""
    words_NW = as_words(packed_NB)
    return words_NW.astype(np.uint32) if words_NW.itemsize < 4 else words_NW


def _packed(words_UW: np.ndarray, width: int) -> np.ndarray:
    """uint8 (U, B) of machine words."""
    return np.ascontiguousarray(words_UW).view(np.uint8)[:, :width]

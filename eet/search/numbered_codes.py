"""Writing the distinct codes of more items than memory holds: the files that `DistinctCodes.save` writes, byte for byte.

Shape suffixes: N items, n items of a block, U codes, u codes of a block, B bytes, W machine words.
"""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eet.errors import InputError
from eet.search.distinct_codes import FILES, FLAT_FROM_DISTINCT_SHARE, CodesRecord, DistinctCodes, wide_words
from eet.search.record_sort import RECORDS_AT_ONCE, sorted_records
from eet.storage import ArrayFile

ITEMS_OF_BLOCK = 1 << 16
"""Stored items that are read in one block."""


@dataclass(frozen=True)
class NumberedCodes:
    """The codes of a gallery as a stream, and those that an index over its first items already holds.

    Attributes:
        blocks: (packed codes, uint8 (n, B), their rows, integers (n,)); read once.
        num_items: N, with the items of `before`.
        width: bytes of a code, B.
        num_bits: bits of a code; None where unknown.
        moved: the new row of each item of the index before, ascending integers; None without such an index.
        at_once: items that are sorted in memory at once.
    """

    blocks: Iterable[tuple[np.ndarray, np.ndarray]]
    num_items: int
    width: int
    num_bits: int | None
    moved: np.ndarray | None = None
    at_once: int = RECORDS_AT_ONCE

    @property
    def row_type(self) -> np.dtype:
        """The dtype of stored rows."""
        return np.dtype(np.uint32 if self.num_items < 2**32 else np.int64)

    def in_memory(self, before: DistinctCodes | None) -> np.ndarray:
        """The codes of all items, uint8 (N, B), in the order of their rows. before: the codes of the index before."""
        packed_NB = np.zeros((self.num_items, self.width), np.uint8)
        if before is not None:
            packed_NB[self.moved] = before.packed_codes()
        for packed_nB, row_n in self.blocks:
            packed_NB[row_n] = packed_nB
        return packed_NB


def write_codes(folder: Path, codes: NumberedCodes, before: DistinctCodes | None, *, kind: str, sorted_before: bool) -> None:
    """Writes what `DistinctCodes.build` of all codes and `save` would write.

    Args:
        folder: an existing local folder. Sorted runs lie in a temporary folder in it meanwhile.
        codes: the codes. Codes of `before` are merged with them.
        before: the codes of the index before, or None.
        kind: the kind of the index, for codes.json.
        sorted_before: whether `before` is in the order of `DistinctCodes.build`, so that it need not be sorted again.

    Raises:
        InputError: the width of the codes does not fit their bits.
    """
    if codes.num_bits is not None and -(-codes.num_bits // 8) != codes.width:
        raise InputError(
            f"codes are {codes.width} bytes wide, but num_bits={codes.num_bits} needs {-(-codes.num_bits // 8)}; pass the number of bits "
            "of the model."
        )
    words = wide_words(np.zeros((0, codes.width), np.uint8))
    dtype = np.dtype([("key", words.dtype, (words.shape[1],)), ("row", codes.row_type)])
    keyed = (_record(dtype, key=wide_words(packed_nB), row=row_n) for packed_nB, row_n in codes.blocks)
    runs: list[Iterator[np.ndarray]] = []
    unsorted = [keyed]
    if before is not None:
        assert codes.moved is not None
        moved = codes.moved
        old = (_record(dtype, key=words_nW, row=moved[row_n]) for words_nW, row_n in before.item_blocks(ITEMS_OF_BLOCK))
        (runs if sorted_before and len(before.offsets) else unsorted).append(old)
    with tempfile.TemporaryDirectory(dir=folder, prefix="sorting-") as scratch:
        blocks = (block for source in unsorted for block in source)
        records = sorted_records(blocks, scratch, at_once=codes.at_once, runs=runs)
        num_distinct = write_groups(folder, records, dtype)
        if num_distinct >= FLAT_FROM_DISTINCT_SHARE * codes.num_items:
            _flatten(folder, dtype, scratch, codes.at_once)
    CodesRecord(kind, codes.width, codes.num_bits).save(folder)


def write_groups(folder: Path, records: Iterator[np.ndarray], dtype: np.dtype, *, grouped: bool = True) -> int:
    """Writes the arrays of distinct codes from records in their final order, and returns the number of codes.

    Args:
        folder: where codes.npy, offsets.npy and rows.npy are written.
        records: with the field `words`, or else `key`, as the words of the code.
        dtype: of the records.
        grouped: write the grouped form; else the flat one.
    """
    num_items = num_codes = 0
    last: np.ndarray | None = None
    words = "words" if "words" in (dtype.names or ()) else "key"
    empty = np.empty(0, dtype)[words]
    paths = [folder / f"{name}.npy" for name in FILES]
    with (
        ArrayFile(paths[0], empty.dtype, empty.shape[1]) as words_file,
        ArrayFile(paths[1], np.dtype(np.int64)) as offsets_file,
        ArrayFile(paths[2], dtype["row"]) as rows_file,
    ):
        for block in records:
            words_nW = block[words]
            is_first = np.ones(len(block), bool)
            if grouped:
                is_first[1:] = (words_nW[1:] != words_nW[:-1]).any(axis=1)
                is_first[0] = last is None or bool((words_nW[0] != last).any())
                last = words_nW[-1].copy()
            firsts = np.flatnonzero(is_first)
            words_file.append(words_nW[firsts])
            if grouped:
                offsets_file.append(num_items + firsts)
            rows_file.append(np.ascontiguousarray(block["row"]))
            num_items, num_codes = num_items + len(block), num_codes + len(firsts)
        if grouped:
            offsets_file.append(np.array([num_items]))
    return num_codes


def _flatten(folder: Path, dtype: np.dtype, scratch: str, at_once: int) -> None:
    """Turns the grouped form into the flat one: the codes in the order of their rows."""
    by_row = np.dtype([("row", dtype["row"]), ("words", dtype["key"])])
    grouped = DistinctCodes.stored_item_blocks(folder, ITEMS_OF_BLOCK)
    blocks = (_record(by_row, words=words_nW, row=row_n) for words_nW, row_n in grouped)
    ordered = Path(scratch) / "ordered"
    ordered.mkdir()
    write_groups(ordered, sorted_records(blocks, scratch, at_once=at_once), by_row, grouped=False)
    for name in FILES[:2]:
        (ordered / f"{name}.npy").replace(folder / f"{name}.npy")
    np.save(folder / f"{FILES[2]}.npy", np.empty(0, dtype["row"]))


def _record(dtype: np.dtype, **fields: np.ndarray) -> np.ndarray:
    records = np.empty(len(fields["row"]), dtype)
    for name, values in fields.items():
        records[name] = values
    return records

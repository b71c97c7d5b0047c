"""Sorting more records than memory holds: sorted runs on disk, merged block by block.

Records are structured arrays with the field `row`, a number that no other record has, and maybe `key`, K integers. They are sorted by the
last integer of `key`, then by the one before, and so on, then by `row`. Other fields are carried along.
"""

import itertools
import os
from collections.abc import Iterable, Iterator

import numpy as np

from eet.storage import naming_file

RECORDS_AT_ONCE = 1 << 21
"""Records sorted in memory at once: some 40 MB for codes of 64 bits, and twice as much during the sort."""

_LEAST_BLOCK, _MOST_BLOCK = 1 << 6, 1 << 14


def sorted_records(
    blocks: Iterable[np.ndarray], folder: str, *, at_once: int = RECORDS_AT_ONCE, runs: Iterable[Iterator[np.ndarray]] = ()
) -> Iterator[np.ndarray]:
    """All records in order, in blocks of some thousand.

    Args:
        blocks: records in any order, all of one dtype.
        folder: an existing local folder for the runs. Runs are deleted when they have been read. Nothing is written if `blocks` fit in
            memory.
        at_once: records of `blocks` in memory, 1 or more.
        runs: more records, in runs that are sorted already.
    """
    paths: list[str] = []
    gathered: list[np.ndarray] = []
    number = 0
    for block in itertools.chain.from_iterable(_cut(block, at_once) for block in blocks):
        if number + len(block) > at_once:
            paths.append(_spilled(_sorted(gathered), os.path.join(folder, f"run-{len(paths)}")))
            gathered, number = [], 0
        gathered.append(block)
        number += len(block)
    dtype = gathered[0].dtype if gathered else np.dtype(np.uint8)
    size = max(_LEAST_BLOCK, min(_MOST_BLOCK, at_once // (len(paths) + 1)))
    rest = [iter(_cut(_sorted(gathered), size))] if gathered else []
    del gathered
    yield from _merged([*runs, *(_read_back(path, dtype, size) for path in paths), *rest])
    for path in paths:
        os.unlink(path)


def _merged(runs: Iterable[Iterator[np.ndarray]]) -> Iterator[np.ndarray]:
    heads = [(head, run) for run in runs if (head := _next_block(run)) is not None]
    while heads:
        # Records up to the smallest last one of all heads come before every unread record.
        bound = min(_last(head) for head, _ in heads)
        taken, left = [], []
        for head, run in heads:
            count = _number_up_to(head, bound)
            taken.append(head[:count])
            following = head[count:] if count < len(head) else _next_block(run)
            if following is not None:
                left.append((following, run))
        yield _sorted(taken) if len(taken) > 1 else taken[0]
        heads = left


def _columns(records: np.ndarray) -> list[np.ndarray]:
    """What records are sorted by, the first criterion last, as `numpy.lexsort` takes it."""
    return [records["row"], *(records["key"].T if "key" in (records.dtype.names or ()) else ())]


def _sorted(blocks: list[np.ndarray]) -> np.ndarray:
    records = np.concatenate(blocks) if len(blocks) > 1 else blocks[0]
    return records[np.lexsort(_columns(records))]


def _last(records: np.ndarray) -> tuple[int, ...]:
    return tuple(int(column[-1]) for column in reversed(_columns(records)))


def _number_up_to(records: np.ndarray, bound: tuple[int, ...]) -> int:
    """How many of some sorted records come not after `bound`."""
    below, equal = np.zeros(len(records), bool), np.ones(len(records), bool)
    for column, value in zip(reversed(_columns(records)), bound, strict=True):
        value = column.dtype.type(value)
        below |= equal & (column < value)
        equal &= column == value
    return int(np.count_nonzero(below | equal))


def _cut(records: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (records[start : start + size] for start in range(0, len(records), size))


def _next_block(run: Iterator[np.ndarray]) -> np.ndarray | None:
    return next((block for block in run if len(block)), None)


def _spilled(records: np.ndarray, path: str) -> str:
    with naming_file(path), open(path, "wb") as file:
        file.write(records.view(np.uint8).data)
    return path


def _read_back(path: str, dtype: np.dtype, size: int) -> Iterator[np.ndarray]:
    with open(path, "rb", buffering=0) as file:
        while contents := file.read(size * dtype.itemsize):
            yield np.frombuffer(contents, dtype)

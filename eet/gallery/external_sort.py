"""Sorting more items than memory holds: sorted runs on disk, merged block by block.

Tables here have a string column `item_id`; the order is that of its UTF-8 bytes.
"""

import bisect
import os
import tempfile
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from eet.storage import naming_file

RUN_ROWS = 2_000_000
"""Rows sorted in memory at once: a few hundred MB with their locations."""

BLOCK_ROWS = 16_384
"""Rows of each run in memory during the merge: with 150 runs (300 million items) about as much as one run."""


def sorted_by_id(tables: Iterable[pa.Table], *, run_rows: int = RUN_ROWS, within: str | None = None) -> Iterator[pa.Table]:
    """All rows of `tables` (of one schema), in the order of item_id, as tables of some thousand rows. The sort is stable.

    Up to `run_rows` rows stay in memory; more are written to a temporary folder, about as many bytes as the tables hold. It lies in the
    local folder `within`; None for the system's (TMPDIR).
    """
    with tempfile.TemporaryDirectory(prefix="eet-sort-", dir=within) as folder:
        runs: list[str] = []
        gathered: list[pa.Table] = []
        rows = 0
        for table in tables:
            gathered.append(table)
            rows += len(table)
            if rows >= run_rows:
                runs.append(_spill(_sorted(gathered), os.path.join(folder, f"{len(runs)}.arrow")))
                gathered, rows = [], 0
        rest = [_blocks(_sorted(gathered))] if gathered else []
        yield from merge_by_id([*map(_read_back, runs), *rest])


def merge_by_id(runs: Iterable[Iterator[pa.Table]]) -> Iterator[pa.Table]:
    """Merges runs that are sorted by item_id each. Where ids are equal, rows of an earlier run come first."""
    heads = [_Head(block, run) for run in runs if (block := _next_block(run)) is not None]
    while heads:
        # Rows up to the smallest last id of all heads come before every unread row.
        bound = min(head.last for head in heads)
        taken = [head.take(bound) for head in heads if head.first <= bound]
        yield _sorted(taken) if len(taken) > 1 else taken[0]
        heads = [head for head in heads if head.fill()]


class _Head:
    """The rows of a run that were read and not merged yet, with their first and last id.

    Ids are compared as Python's strings: by code point, which is the order of their UTF-8 bytes. A run whose first id is greater than
    the bound of a step costs that step one comparison, so runs that hardly overlap are merged in time proportional to their rows.
    """

    _rows: pa.Table
    first: str
    last: str

    def __init__(self, block: pa.Table, run: Iterator[pa.Table]) -> None:
        self._run = run
        self._set(block)

    def take(self, bound: str) -> pa.Table:
        """Removes and returns the rows up to `bound`."""
        ids = self._rows["item_id"]
        count = len(ids) if self.last <= bound else bisect.bisect_right(range(len(ids)), bound, key=lambda row: ids[row].as_py())
        taken, self._rows = self._rows.slice(0, count), self._rows.slice(count)
        if len(self._rows):
            self.first = self._rows["item_id"][0].as_py()
        return taken

    def fill(self) -> bool:
        """Reads the next block if no row is left; returns whether there are rows."""
        if not len(self._rows):
            block = _next_block(self._run)
            if block is None:
                return False
            self._set(block)
        return True

    def _set(self, block: pa.Table) -> None:
        self._rows = block
        self.first, self.last = block["item_id"][0].as_py(), block["item_id"][-1].as_py()


def _sorted(tables: list[pa.Table]) -> pa.Table:
    table = pa.concat_tables(tables)
    return table.take(pc.sort_indices(table["item_id"]))  # stable


def _blocks(table: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, len(table), BLOCK_ROWS):
        yield table.slice(start, BLOCK_ROWS)


def _next_block(run: Iterator[pa.Table]) -> pa.Table | None:
    return next((block for block in run if len(block)), None)


def _spill(table: pa.Table, path: str) -> str:
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with naming_file(path), pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=BLOCK_ROWS)
    return path


def _read_back(path: str) -> Iterator[pa.Table]:
    with pa.OSFile(path, "rb") as file, pa.ipc.open_file(file) as reader:
        for number in range(reader.num_record_batches):
            yield pa.Table.from_batches([reader.get_batch(number)])

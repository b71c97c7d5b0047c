"""Any other dataset: a table with columns path, label and split, in any format that `eet.datasets.table_formats` reads."""

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from pyarrow import fs

from eet.datasets.image_files import folder_of
from eet.datasets.image_table import SPLITS, ImageTable
from eet.datasets.labels import contiguous_labels, folder_label_names
from eet.datasets.table_formats import TABLE_SUFFIXES, open_table
from eet.errors import InputError, NotFoundError
from eet.storage import join_location, resolve, split_options

DEFAULT_TABLE = "split.csv"
UNKNOWN_LABEL = -1
COLUMNS = ("path", "label", "split")


def load(root: str | None, table: str | None = None) -> ImageTable:
    """Reads a table of paths, labels and splits. It has these columns:

    - path: unique. Absolute paths and URIs are unchanged.
    - label: names or whole numbers, which become 0 .. C-1 in sorted order. null, -1 or a missing column mean unknown. A number is named by
      the folder of its images if each label has its own folder ("001.Black_footed_Albatross"), else by itself.
    - split: train, val or test. Only a table without labels may lack this column; then all images are 'test'.

    Args:
        root: folder or URI that paths are relative to; None for the folder of the table.
        table: .csv, .tsv, .parquet, .arrow, .jsonl or .txt file, local or a URI; None for root/split.csv.

    Raises:
        NotFoundError: there is no such file.
        InputError: its columns or cells are not as above.
    """
    if table is None:
        if root is None:
            raise InputError(
                f"dataset 'table' needs a table with columns path,label,split ({', '.join(TABLE_SUFFIXES)}), or a root "
                f"that holds {DEFAULT_TABLE}"
            )
        table = join_location(root, DEFAULT_TABLE)
    if root is None:
        root = folder_of(table)
    columns = _read_columns(table)
    paths = _read_paths(table, columns)
    labels, label_names = _read_labels(table, columns, paths)
    return ImageTable(root, tuple(paths), labels, _read_splits(table, columns, paths, labels), label_names)


def _read_columns(table: str) -> pa.Table:
    name = split_options(table)[0]
    if not name.lower().endswith(TABLE_SUFFIXES):
        raise InputError(f"{table} should end in {', '.join(TABLE_SUFFIXES[:-1])} or {TABLE_SUFFIXES[-1]}")
    filesystem, path = resolve(table)
    if filesystem.get_file_info(path).type != fs.FileType.File:
        raise NotFoundError(f"{table} is not a file: it should be a table with columns {', '.join(COLUMNS)}")
    file = open_table(name, table)
    found = file.schema.names
    if "path" not in found:
        raise InputError(f"{table} has columns {', '.join(found)}; it needs path, and may have label and split")
    doubled = [name for name in COLUMNS if found.count(name) > 1]
    if doubled:
        raise InputError(f"{table} has more than one column {', '.join(doubled)}")
    present = [name for name in COLUMNS if name in found]
    try:
        batches = [span.batch for span in file.spans(present) if span.batch is not None]
    except pa.ArrowInvalid as error:
        raise file.unreadable(error) from error
    return pa.Table.from_batches(batches) if batches else pa.table({name: pa.array([], pa.string()) for name in present})


def _read_paths(table: str, columns: pa.Table) -> list[str]:
    paths = columns["path"].to_pylist()
    wrong = [row for row, path in enumerate(paths) if not isinstance(path, str) or not path]
    if wrong:
        raise InputError(f"{table}: {_rows(wrong)} no path (text) in column path")
    return paths


def _read_splits(table: str, columns: pa.Table, paths: Sequence[str], labels: np.ndarray) -> np.ndarray:
    if "split" not in columns.column_names:
        if (labels >= 0).any():
            raise InputError(f"{table} has labels and no column split: add one with {', '.join(SPLITS)}")
        return np.full(len(paths), "test", dtype="<U5")
    splits = columns["split"].to_pylist()
    wrong = [row for row, split in enumerate(splits) if split not in SPLITS]
    if wrong:
        raise InputError(f"{table}: {_rows(wrong)} split {splits[wrong[0]]!r} in column split; allowed are {', '.join(SPLITS)}")
    return np.array(splits, dtype="<U5")


def _read_labels(table: str, columns: pa.Table, paths: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    cells = columns["label"].to_pylist() if "label" in columns.column_names else [None] * len(paths)
    labels, names = number_labels(table, cells)
    numbers = all(re.fullmatch(r"-?[0-9]+", name) for name in names)
    return labels, (folder_label_names(paths, labels, len(names)) if numbers else None) or names


def number_labels(table: str, cells: Sequence[object], *, rows: bool = True) -> tuple[np.ndarray, tuple[str, ...]]:
    """Numbers labels 0 .. C-1 in the sorted order of names or of whole numbers.

    Args:
        table: location of the table, for error messages.
        cells: N labels.
        rows: whether cells are the rows of the table, which errors then count; otherwise they are its distinct labels.

    Returns:
        labels: int32 (N,), -1 where a cell is null or -1.
        names: the C names.

    Raises:
        InputError: a cell is neither a name nor a whole number, or both occur.
    """
    # pandas writes whole numbers as 3.0 as soon as one label is missing, and Parquet may hold that as NaN.
    numbers = [_whole_number(cell) for cell in cells]
    known = [row for row, cell in enumerate(cells) if cell is not None and cell == cell and numbers[row] != UNKNOWN_LABEL]
    labels = np.full(len(cells), UNKNOWN_LABEL, dtype=np.int32)
    known_numbers = [number for row in known if (number := numbers[row]) is not None]
    if len(known_numbers) == len(known):
        negative = [row for row, number in zip(known, known_numbers, strict=True) if number < 0]
        if negative:
            raise InputError(
                f"{table}: {_rows(negative) if rows else 'it has'} {cells[negative[0]]} in column label; whole numbers from 0 are allowed, "
                f"and {UNKNOWN_LABEL} for unknown"
            )
        labels[known], used = contiguous_labels(known_numbers)
        return labels, tuple(str(number) for number in used)
    wrong = [row for row in known if not isinstance(cells[row], str)]
    if wrong:
        raise InputError(
            f"{table}: {_rows(wrong) if rows else 'it has'} {cells[wrong[0]]!r} in column label; allowed are names, "
            "or whole numbers throughout"
        )
    labels[known], used_names = contiguous_labels([str(cells[row]) for row in known])
    return labels, tuple(used_names)


def _whole_number(cell: object) -> int | None:
    if isinstance(cell, str) and re.fullmatch(r"-?[0-9]+(\.0+)?", cell):
        return int(cell.partition(".")[0])
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)
    return cell if isinstance(cell, int) and not isinstance(cell, bool) else None


def _rows(wrong: Sequence[int]) -> str:
    """'row 3 has' or '12 rows (3, 5, 9, ...) have', rows counted from 1 below the header."""
    if len(wrong) == 1:
        return f"row {wrong[0] + 1} has"
    shown = ", ".join(str(row + 1) for row in wrong[:3])
    return f"{len(wrong)} rows ({shown}{', ...' if len(wrong) > 3 else ''}) have"

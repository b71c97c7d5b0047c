"""Any other dataset: a table with columns path, label and split, in any format that `eet.datasets.table_formats` reads."""

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from pyarrow import fs

from eet.datasets.image_files import folder_of
from eet.datasets.image_table import SPLITS, ImageTable
from eet.datasets.labels import contiguous_labels, folder_label_names
from eet.datasets.places import Places
from eet.datasets.table_formats import TABLE_SUFFIXES, open_table
from eet.errors import InputError, NotFoundError
from eet.storage import join_location, resolve, split_options

DEFAULT_TABLE = "split.csv"
UNKNOWN_LABEL = -1
COLUMNS = ("path", "label", "split")
PLACE_COLUMNS = ("easting", "northing", "zone", "role", "condition", "heading")
"""Optional columns of a dataset of places."""


def load(root: str | None, table: str | None = None) -> ImageTable:
    """Reads a table of paths, labels and splits.

    It has these columns:

    - path: unique. Absolute paths and URIs are unchanged.
    - label: names or whole numbers, which become 0 .. C-1 in sorted order. null, -1 or a missing column mean unknown. Text keeps its form:
      007, 7 and 7.0 are three labels. A number is named by the folder of its images if each label has its own folder
      ("001.Black_footed_Albatross"), else by itself.
    - split: train, val or test. Only a table without labels may lack this column; then all images are 'test'.
    - easting and northing, in metres: where the image was taken. Optional, and with them zone, inside which distances exist; role, query
      or database; condition, such as day or night; heading, in degrees. Null or empty where unknown.

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
    splits = _read_splits(table, columns, paths, labels)
    return ImageTable(root, tuple(paths), labels, splits, label_names, _read_places(table, columns))


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
    present = [name for name in (*COLUMNS, *PLACE_COLUMNS) if name in found]
    file.refuse_doubled(present)
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


def _read_places(table: str, columns: pa.Table) -> Places | None:
    """The places of the rows; None where the table has no positions, as other tables may have a column role or condition of their own."""
    present = [name for name in PLACE_COLUMNS if name in columns.column_names]
    if "easting" not in present and "northing" not in present:
        return None
    if present[:2] != ["easting", "northing"]:
        raise InputError(f"{table} has the column {present[0]} alone: a position needs easting and northing")
    metres_N2 = np.stack([_numbers(table, name, columns[name].to_pylist()) for name in present[:2]], axis=1)
    zones, roles, conditions = (
        np.array([_text(cell) for cell in columns[name].to_pylist()] if name in present else [""] * len(columns), dtype=str)
        for name in PLACE_COLUMNS[2:5]
    )
    headings_N = np.array(_numbers(table, "heading", columns["heading"].to_pylist())) if "heading" in present else None
    return Places(metres_N2, zones, roles, conditions, headings_N)


def _text(cell: object) -> str:
    return "" if cell is None or cell != cell else str(cell)  # Parquet may hold a missing text as NaN


def _numbers(table: str, column: str, cells: Sequence[object]) -> list[float]:
    """Cells as floats, NaN where null or empty. InputError where one is no finite number."""
    numbers = []
    for row, cell in enumerate(cells):
        try:
            number = np.nan if cell is None or cell == "" else float(str(cell))
        except ValueError:
            number = np.inf
        if np.isinf(number):
            raise InputError(f"{table}: {_rows([row])} {cell!r:.60} in column {column}; a number is allowed, or none")
        numbers.append(number)
    return numbers


def _read_labels(table: str, columns: pa.Table, paths: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    cells = columns["label"].to_pylist() if "label" in columns.column_names else [None] * len(paths)
    labels, names = number_labels(table, cells)
    numbers = all(_whole_number(name) is not None for name in names)
    return labels, (folder_label_names(paths, labels, len(names)) if numbers else None) or names


def number_labels(table: str, cells: Sequence[object], *, rows: bool = True) -> tuple[np.ndarray, tuple[str, ...]]:
    """Numbers labels 0 .. C-1 in the sorted order of names or of whole numbers.

    Labels that are text are the same where their text is the same: 007, 7 and 7.0 are three.

    Args:
        table: location of the table, for error messages.
        cells: N labels.
        rows: whether cells are the rows of the table, which errors then count; otherwise they are its distinct labels.

    Returns:
        labels: int32 (N,), -1 where a cell is null or -1 (-1.0 in a column where pandas had a missing label).
        names: the C names.

    Raises:
        InputError: a cell is neither a name nor a whole number, or both occur.
    """
    numbers = [_whole_number(cell) for cell in cells]
    # Parquet may hold a missing label as NaN.
    known = [row for row, cell in enumerate(cells) if cell is not None and cell == cell and not _is_unknown(cell)]
    labels = np.full(len(cells), UNKNOWN_LABEL, dtype=np.int32)
    all_numbers = all(numbers[row] is not None for row in known)
    if all_numbers and (negative := [row for row in known if (numbers[row] or 0) < 0]):
        raise InputError(
            f"{table}: {_rows(negative) if rows else 'it has'} {cells[negative[0]]} in column label; whole numbers from 0 are allowed, "
            f"and {UNKNOWN_LABEL} for unknown"
        )
    wrong = [row for row in known if not isinstance(cells[row], str)]
    if wrong and not all_numbers:
        raise InputError(
            f"{table}: {_rows(wrong) if rows else 'it has'} {cells[wrong[0]]!r:.60} in column label; allowed are names, "
            "or whole numbers throughout"
        )
    texts = [cell if isinstance(cell := cells[row], str) else str(numbers[row]) for row in known]
    order = [(numbers[row] or 0) if all_numbers else 0 for row in known]
    labels[known], used = contiguous_labels(list(zip(order, texts, strict=True)))
    return labels, tuple(text for _, text in used)


def _whole_number(cell: object) -> int | None:
    if isinstance(cell, str) and re.fullmatch(r"-?[0-9]{1,100}(\.0+)?", cell):  # longer ones are names
        return int(cell.partition(".")[0])
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)
    return cell if isinstance(cell, int) and not isinstance(cell, bool) else None


def _is_unknown(cell: object) -> bool:
    """Whether this is -1. Text may be -1.0: pandas writes whole numbers so as soon as one is missing."""
    return bool(re.fullmatch(r"-1(\.0+)?", cell)) if isinstance(cell, str) else _whole_number(cell) == UNKNOWN_LABEL


def _rows(wrong: Sequence[int]) -> str:
    """'row 3 has' or '12 rows (3, 5, 9, ...) have', rows counted from 1 below the header."""
    if len(wrong) == 1:
        return f"row {wrong[0] + 1} has"
    shown = ", ".join(str(row + 1) for row in wrong[:3])
    return f"{len(wrong)} rows ({shown}{', ...' if len(wrong) > 3 else ''}) have"

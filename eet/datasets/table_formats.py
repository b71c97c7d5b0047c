"""File formats of tables: one class per format, all read as runs of rows."""

import abc
import io
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet as pq

from eet.errors import InputError
from eet.storage import resolve
from eet.storage.members import is_arrow_stream, open_arrow

BATCH_ROWS = 50_000

NULLS = ["", "null", "NULL", "NaN", "nan"]
"""Cells of a CSV that mean there is no value. "NA" and "None" are left out: they can be names."""

# Rows whose images are read at once while listing, to see which exist: few, because an image may have megabytes.
_ROWS_WITH_IMAGES = 256

_READ_BYTES = 4 * 2**20


class Span(NamedTuple):
    """Consecutive rows of a row group.

    Attributes:
        group: number of the row group.
        first: first row, counted within the row group.
        row: first row, counted within the file.
        rows: number of rows.
        batch: the requested columns; None if there are none.
        paths: for a struct column of images: the path of each row that has a path instead of bytes; None if no row has.
    """

    group: int
    first: int
    row: int
    rows: int
    batch: pa.RecordBatch | None
    paths: list[str | None] | None = None


class TableFile(abc.ABC):
    """One file of a table.

    Attributes:
        name: path relative to the listed folder.
        location: of the file.
        schema: names and types of its columns.

    Raises:
        InputError: the file cannot be read.
    """

    def __init__(self, name: str, location: str) -> None:
        self.name, self.location = name, location
        self._filesystem, self._path = resolve(location)
        try:
            self.schema = self._read_schema()
        except pa.ArrowInvalid as error:
            raise self.unreadable(error) from error

    def unreadable(self, error: Exception) -> InputError:
        """The error that what is there is not of this format."""
        suffix = next(suffix for suffix, kind in FORMATS.items() if type(self) is kind)
        return InputError(f"{self.location} cannot be read as {suffix[1:]}: {error}")

    def refuse_doubled(self, columns: Sequence[str]) -> None:
        """InputError where one of these columns occurs more than once."""
        doubled = [name for name in dict.fromkeys(columns) if self.schema.names.count(name) > 1]
        if doubled:
            raise InputError(f"{self.location} has more than one column {', '.join(doubled)}: give each column its own name")

    @abc.abstractmethod
    def _read_schema(self) -> pa.Schema: ...

    @abc.abstractmethod
    def spans(self, columns: Sequence[str], *, image: str | None = None) -> Iterator[Span]:
        """Runs of rows with these columns, in order.

        image: a struct column with fields bytes and path, whose paths are returned for rows without bytes.
        """

    def num_rows(self) -> int:
        """Number of rows; only for formats that hold images."""
        raise NotImplementedError


class CsvFile(TableFile):
    """Comma-separated, with a header line. One row group."""

    delimiter = ","

    def _read_schema(self) -> pa.Schema:
        with self._filesystem.open_input_file(self._path) as file, self._open(file, pyarrow.csv.ConvertOptions()) as reader:
            return reader.schema

    def spans(self, columns: Sequence[str], *, image: str | None = None) -> Iterator[Span]:
        # All text: a label such as 007 or a path that is a number must not be read as a number first.
        convert = pyarrow.csv.ConvertOptions(
            include_columns=list(columns),
            column_types=dict.fromkeys(columns, pa.string()),
            strings_can_be_null=True,
            null_values=NULLS,
        )
        first = 0
        with self._filesystem.open_input_file(self._path) as file, self._open(file, convert) as reader:
            for batch in reader:
                yield Span(0, first, first, len(batch), batch)
                first += len(batch)

    def _open(self, file: pa.NativeFile, convert: pyarrow.csv.ConvertOptions) -> pyarrow.csv.CSVStreamingReader:
        return pyarrow.csv.open_csv(file, parse_options=pyarrow.csv.ParseOptions(delimiter=self.delimiter), convert_options=convert)


class TsvFile(CsvFile):
    """Separated by tabs."""

    delimiter = "\t"


class ParquetFile(TableFile):
    """Parquet; its row groups are those of the file."""

    def _read_schema(self) -> pa.Schema:
        with self._filesystem.open_input_file(self._path) as file:
            return pq.read_schema(file)

    def spans(self, columns: Sequence[str], *, image: str | None = None) -> Iterator[Span]:
        with self._filesystem.open_input_file(self._path) as file:
            parquet = pq.ParquetFile(file)
            before = 0
            for group in range(parquet.metadata.num_row_groups):
                rows = parquet.metadata.row_group(group).num_rows
                without = 0 if image is None else _without_value(parquet.metadata.row_group(group), f"{image}.bytes")
                wanted, at_once = list(columns), BATCH_ROWS
                if without != 0:
                    wanted.append(f"{image}.path")
                if without not in (0, rows):  # some rows have bytes: only reading them shows which
                    wanted.append(f"{image}.bytes")
                    at_once = _ROWS_WITH_IMAGES
                if not wanted:
                    for first in range(0, rows, BATCH_ROWS):
                        yield Span(group, first, before + first, min(BATCH_ROWS, rows - first), None)
                else:
                    first = 0
                    for batch in parquet.iter_batches(at_once, row_groups=[group], columns=wanted, use_threads=False):
                        paths = None if without == 0 else paths_without_bytes(batch.column(image))
                        yield Span(group, first, before + first, len(batch), batch, paths)
                        first += len(batch)
                before += rows

    def num_rows(self) -> int:
        with self._filesystem.open_input_file(self._path) as file:
            return pq.read_metadata(file).num_rows


class ArrowFile(TableFile):
    """Arrow IPC, the file format or the stream format; its row groups are its record batches."""

    def _read_schema(self) -> pa.Schema:
        with open_arrow(self._filesystem, self._path) as file:
            return _open_ipc(file).schema

    def spans(self, columns: Sequence[str], *, image: str | None = None) -> Iterator[Span]:
        before = 0
        for group, whole in enumerate(self._batches()):
            for first in range(0, len(whole), BATCH_ROWS):
                batch = whole.slice(first, BATCH_ROWS)
                paths = None if image is None else paths_without_bytes(batch.column(image))
                yield Span(group, first, before + first, len(batch), batch.select(list(columns)), paths)
            before += len(whole)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        with open_arrow(self._filesystem, self._path) as file:
            reader = _open_ipc(file)
            if isinstance(reader, pa.ipc.RecordBatchStreamReader):
                yield from reader
            else:
                yield from map(reader.get_batch, range(reader.num_record_batches))

    def num_rows(self) -> int:
        return sum(map(len, self._batches()))


def _open_ipc(file: pa.NativeFile) -> pa.ipc.RecordBatchStreamReader | pa.ipc.RecordBatchFileReader:
    return pa.ipc.open_stream(file) if is_arrow_stream(file) else pa.ipc.open_file(file)


class _TextFile(TableFile):
    """One row per line, in UTF-8; blank lines are skipped. One row group; all cells are text or null."""

    def _rows(self) -> Iterator[tuple[int, dict[str, object]]]:
        """(line number from 1, cells by column) of each row."""
        try:
            with self._filesystem.open_input_stream(self._path, compression=None, buffer_size=_READ_BYTES) as file:
                for number, line in enumerate(io.TextIOWrapper(file, encoding="utf-8-sig"), start=1):
                    if line.strip():
                        yield number, self._row(line.rstrip("\r\n"), number)
        except UnicodeDecodeError as error:
            raise InputError(f"{self.location} is not text in UTF-8: {error}") from error

    @abc.abstractmethod
    def _row(self, line: str, number: int) -> dict[str, object]: ...

    def spans(self, columns: Sequence[str], *, image: str | None = None) -> Iterator[Span]:
        first = 0
        rows = self._rows()
        while some := list(islice(rows, BATCH_ROWS)):
            cells = {name: [self._cell(row.get(name), name, number) for number, row in some] for name in columns}
            batch = pa.RecordBatch.from_pydict(cells, pa.schema([(name, pa.string()) for name in columns])) if columns else None
            yield Span(0, first, first, len(some), batch)
            first += len(some)

    def _cell(self, cell: object, column: str, number: int) -> str | None:
        """The cell as text, like the cells of a CSV."""
        if cell is None or isinstance(cell, str):
            return cell
        if isinstance(cell, bool) or not isinstance(cell, int | float):
            raise InputError(f"{self.location}, line {number}: {column} is {cell!r:.60}; allowed are text, a number, or null")
        return str(int(cell) if isinstance(cell, float) and cell.is_integer() else cell)  # 7.0 is the number 7


class JsonLinesFile(_TextFile):
    """JSON lines: one object per line. The columns are the keys of the first object; missing keys in later objects are null."""

    def _read_schema(self) -> pa.Schema:
        _, first = next(self._rows(), (0, {}))
        return pa.schema([(str(name), pa.string()) for name in first])

    def _row(self, line: str, number: int) -> dict[str, object]:
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{self.location}, line {number} is not JSON ({error}): a .jsonl file has one object a line") from error
        if not isinstance(row, dict):
            raise InputError(f"{self.location}, line {number} is {line[:60]}; a .jsonl file has one object a line")
        return row


class PathLinesFile(_TextFile):
    """One path per line, optionally followed by a tab and a label: columns path and label."""

    def _read_schema(self) -> pa.Schema:
        return pa.schema([("path", pa.string()), ("label", pa.string())])

    def _row(self, line: str, number: int) -> dict[str, object]:
        path, *label = line.split("\t")
        if len(label) > 1:
            raise InputError(f"{self.location}, line {number} has {len(label)} tabs; allowed is PATH, or PATH, a tab and a label")
        return {"path": path, "label": label[0].strip() or None if label else None}


def _without_value(group: pq.RowGroupMetaData, column: str) -> int | None:
    """Number of rows of a row group without a value in a column; None where the file has no statistics."""
    for place in range(group.num_columns):
        chunk = group.column(place)
        if chunk.path_in_schema == column:
            statistics = chunk.statistics
            return statistics.null_count if statistics is not None and statistics.has_null_count else None
    return None


def paths_without_bytes(images: pa.StructArray) -> list[str | None]:
    """The path of each image that has no bytes, None for the others. If the field bytes was not read, no image has bytes."""
    paths = pc.struct_field(images, "path")
    if images.type.get_field_index("bytes") >= 0:
        paths = pc.if_else(pc.is_null(pc.struct_field(images, "bytes")), paths, None)
    return [path or None for path in paths.to_pylist()]


def class_label_names(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """Label names of a column that `datasets` (Hugging Face) declares as ClassLabel, in the order of their numbers; None if there are none.

    They are stored as JSON under the key "huggingface" of the schema's metadata: info.features.COLUMN.names.
    """
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
        names = feature["names"] if feature["_type"] == "ClassLabel" else None
    except (KeyError, TypeError, ValueError):
        return None
    return tuple(map(str, names)) if isinstance(names, list) else None


FORMATS: dict[str, type[TableFile]] = {
    ".csv": CsvFile,
    ".tsv": TsvFile,
    ".parquet": ParquetFile,
    ".arrow": ArrowFile,
    ".jsonl": JsonLinesFile,
    ".txt": PathLinesFile,
}
"""Suffix of a table -> class of its format."""

TABLE_SUFFIXES = tuple(FORMATS)


def open_table(name: str, location: str) -> TableFile:
    """The table at `location`, whose `name` has one of TABLE_SUFFIXES."""
    return FORMATS[next(suffix for suffix in FORMATS if name.lower().endswith(suffix))](name, location)

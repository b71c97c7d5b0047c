"""Reading a gallery: all codes at once, some rows by id, or everything part by part."""

import bisect
import collections
import contextlib
import hashlib
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from eet.errors import DamagedError, InputError
from eet.gallery.manifest import Manifest, read_manifest
from eet.gallery.parts import digest_of_file, digest_of_part, finished_parts, part_name
from eet.gallery.schema import OK, fixed_binary_to_numpy
from eet.storage import resolve

_T = TypeVar("_T")

# Files read ahead of the consumer: on an object store, small reads spend most of their time waiting for the network.
_NARROW_AHEAD = 16
_WIDE_AHEAD = 2
_FEW_ROWS_AHEAD = 8
_MAX_STRING_BYTES = 2**31 - 1


def open_gallery(path: str | os.PathLike[str]) -> "Gallery":
    """Opens a finished gallery.

    Args:
        path: a local folder or a URI.

    Raises:
        InputError: the gallery has no manifest, one of an unsupported schema version, or parts are missing.
    """
    path = os.fspath(path)
    manifest = read_manifest(path)
    there = {part for part in finished_parts(path, manifest.schema_version) if part < manifest.num_parts}
    if missing := manifest.num_parts - len(there):
        first = itertools.islice((part for part in range(manifest.num_parts) if part not in there), 5)
        examples = ", ".join(part_name(part, manifest.schema_version) for part in first)
        raise InputError(
            f"{path} lacks {missing} of its {manifest.num_parts} parts: "
            f"{examples}{', ...' if missing > 5 else ''}. Run the same `eet encode` "
            "command again: it encodes the missing parts."
        )
    return Gallery(path, manifest)


class CodedRows(NamedTuple):
    """The rows that have a code.

    Attributes:
        codes_NB: packed codes, uint8 (N, B).
        item_ids: strings (N,).
        labels_N: int32 (N,), -1 where unknown.
    """

    codes_NB: np.ndarray
    item_ids: pa.Array
    labels_N: np.ndarray


class Gallery:
    """A finished gallery, opened by `open_gallery`.

    Failed items (status other than "ok") have rows too: `table`, `parts`, `rows` and `errors` include them, `codes` and `labels` do
    not.

    Attributes:
        path: the location, as given to `open_gallery`.
        manifest: how the gallery was encoded, and what it holds.
    """

    def __init__(self, path: str, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._schema = manifest.schema
        self._filesystem, self._root = resolve(path)
        self._id_ranges: list[tuple[str, str] | None] | None = None

    def part_path(self, part: int) -> str:
        """The path of a part on the gallery's file system."""
        return f"{self._root}/{part_name(part, self.manifest.schema_version)}"

    def codes(self) -> tuple[np.ndarray, pa.Array]:
        """All codes, and the ids of their items.

        Returns:
            codes: packed, uint8 (N, B), of the rows whose status is "ok", in part order.
            item_ids: strings (N,), a `pa.string` array, or `pa.large_string` above 2 GiB.

        Raises:
            InputError: the number of such rows differs from the manifest.
        """
        coded = self.coded_rows(labels=False)
        return coded.codes_NB, coded.item_ids

    def digest(self) -> str:
        """sha256 over the model, and the ids and codes of the rows whose status is "ok".

        Equal digests mean that a search finds the same.
        """
        codes_NB, item_ids = self.codes()
        digest = hashlib.sha256(f"{self.manifest.model_digest} {self.manifest.preprocessing_digest}".encode())
        digest.update(codes_NB.tobytes())
        for item_id in item_ids.to_pylist():
            digest.update(item_id.encode() + b"\0")
        return digest.hexdigest()

    def labels(self) -> np.ndarray:
        """Labels, int32 (N,), aligned with `codes`; -1 where unknown."""
        return self.coded_rows(codes=False, ids=False).labels_N

    def hashes(self) -> np.ndarray | None:
        """Real-valued hashes, float32 (N, bits), aligned with `codes`; None where the gallery has none."""
        if not self.manifest.has_hash:
            return None
        shape = (self.manifest.num_bits,)
        pieces = [fixed_binary_to_numpy(table["hash"], "<f2", shape) for table in self._ok_rows(["hash", "status"], None)]
        return np.concatenate([np.empty((0, *shape), np.float32), *pieces]).astype(np.float32)

    def coded_rows(self, parts: Sequence[int] | None = None, *, codes: bool = True, ids: bool = True, labels: bool = True) -> "CodedRows":
        """Codes, ids and labels of the rows whose status is "ok", in part order.

        Args:
            parts: numbers of the parts to read; None for all.
            codes: read the codes; otherwise they are empty.
            ids: read the ids; otherwise they are empty.
            labels: read the labels; otherwise they are empty.

        Raises:
            InputError: a part is missing, or the number of such rows differs from the manifest.
        """
        width = -(-self.manifest.num_bits // 8)
        wanted = {"code": codes, "item_id": ids, "label": labels}
        columns = [*(name for name, asked in wanted.items() if asked), "status"]
        code_pieces, id_chunks, label_pieces = [np.empty((0, width), np.uint8)], [], [np.empty(0, np.int32)]
        num_ok = 0
        for table in self._ok_rows(columns, parts):
            num_ok += len(table)
            if codes:
                code_pieces.append(fixed_binary_to_numpy(table["code"], np.uint8, (width,)))
            if ids:
                id_chunks += table["item_id"].chunks
            if labels:
                label_pieces.append(table["label"].fill_null(-1).to_numpy())
        if parts is None:
            self.check_num_ok(num_ok)
        kind = pa.string() if sum(chunk.nbytes for chunk in id_chunks) <= _MAX_STRING_BYTES else pa.large_string()
        item_ids = pa.concat_arrays([chunk.cast(kind) for chunk in id_chunks]) if id_chunks else pa.array([], kind)
        return CodedRows(np.concatenate(code_pieces), item_ids, np.concatenate(label_pieces))

    def coded_parts(self, parts: Sequence[int]) -> Iterator[pa.Table]:
        """The rows of `coded_rows`, part by part, with the columns item_id, code and label (-1 where unknown). Parts are read ahead.

        Args:
            parts: numbers of the parts to read.

        Raises:
            InputError: a part is missing or damaged.
        """
        for table in self._ok_rows(["item_id", "code", "label", "status"], parts):
            yield pa.table({"item_id": table["item_id"], "code": table["code"], "label": table["label"].fill_null(-1)})

    def parts(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The parts in order, failed rows included. Two parts are read ahead.

        Args:
            columns: names of the columns to read; None for all.

        Raises:
            InputError: the gallery lacks a column.
        """
        return self._stream(self._known_columns(columns), _WIDE_AHEAD)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All parts as one table, failed rows included. For a large gallery read few columns, or use `parts`."""
        names = self._known_columns(columns)
        empty = pa.schema([self.manifest.schema.field(name) for name in names]).empty_table()
        return pa.concat_tables([empty, *self._stream(names, _WIDE_AHEAD)])

    def errors(self) -> pa.Table:
        """The failed rows, in part order, with the columns item_id, uri, status and error."""
        names = ["item_id", "uri", "status", "error"]
        empty = pa.schema([self.manifest.schema.field(name) for name in names]).empty_table()
        if self.manifest.num_ok == self.manifest.num_rows:
            return empty
        bad = (table.filter(pc.not_equal(table["status"], OK)) for table in self._stream(names, _NARROW_AHEAD))
        return pa.concat_tables([empty, *bad])

    def rows(self, item_ids: Sequence[str] | pa.Array, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of some items, in the given order; an id that is given twice comes twice.

        Reads the ids only of row groups whose range of ids may hold one of them, and the other columns only of row groups with such a row.

        Args:
            item_ids: ids of the items.
            columns: names of the columns to read; None for all.

        Raises:
            InputError: the gallery lacks an id (the message names up to five) or a column.
        """
        names = self._known_columns(columns)
        wanted = _string_array(item_ids)
        unique = wanted.unique()
        read = names if "item_id" in names else ["item_id", *names]
        empty = pa.schema([self.manifest.schema.field(name) for name in read]).empty_table()
        with ThreadPoolExecutor(_FEW_ROWS_AHEAD) as pool:
            ids_of_part = {part: unique.take(pa.array(places)) for part, places in self.parts_holding(unique).items()}
            found = pa.concat_tables(
                [empty, *_in_order(pool, lambda part: self.part_rows(part, ids_of_part[part], read), ids_of_part, _FEW_ROWS_AHEAD)]
            )
        order = pc.index_in(wanted, value_set=found["item_id"])
        if order.null_count:
            missing = wanted.filter(order.is_null()).unique()
            examples = ", ".join(repr(item_id) for item_id in missing.slice(0, 5).to_pylist())
            raise InputError(
                f"{self.path} has no item {examples}{', ...' if len(missing) > 5 else ''} ({len(missing)} of "
                f"{len(unique)} ids are not in it). Its ids are "
                "in the column item_id of its parts."
            )
        return found.take(order).select(names)

    def parts_holding(self, item_ids: Sequence[str] | pa.Array) -> dict[int, np.ndarray]:
        """The parts that may hold some of these ids, by the range of ids in each part.

        In a gallery that was encoded at once, an id is in the range of one part at most. After an append the ranges can overlap;
        `part_rows` finds the part that has the id.

        Returns:
            part -> int64 indices into `item_ids` of the ids that it may hold.
        """
        if self._id_ranges is None:
            with ThreadPoolExecutor(_NARROW_AHEAD) as pool:
                self._id_ranges = list(_in_order(pool, self._id_range, range(self.manifest.num_parts), _NARROW_AHEAD))
        ids = _string_array(item_ids)
        order = pc.sort_indices(ids).to_numpy()
        # Python orders strings by code point, which is the order of their UTF-8 bytes and so that of the statistics and of Arrow.
        sorted_ids = ids.take(pa.array(order)).to_pylist()
        holding = {}
        for part, id_range in enumerate(self._id_ranges):
            first, last = 0, len(sorted_ids)
            if id_range is not None:
                first, last = bisect.bisect_left(sorted_ids, id_range[0]), bisect.bisect_right(sorted_ids, id_range[1])
            if first < last:
                holding[part] = np.sort(order[first:last].astype(np.int64))
        return holding

    def part_rows(self, part: int, item_ids: pa.Array, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of one part whose id is among `item_ids`, in the order of the part.

        Reads only the row groups with such rows, and the ids of those that may hold some.

        Raises:
            InputError: the gallery lacks a column or the part.
        """
        names = self._known_columns(columns)
        with self._open_part(part) as file:
            groups = _groups_holding(file, item_ids)
            ids = file.read_row_groups(groups, columns=["item_id"], use_threads=False)["item_id"]
            rows = np.flatnonzero(pc.is_in(ids, value_set=item_ids).to_numpy())
            lengths = np.array([file.metadata.row_group(group).num_rows for group in groups], np.int64)
            ends = np.concatenate([[0], np.cumsum(lengths)])
            group_of_row = np.searchsorted(ends, rows, side="right") - 1
            used, position = np.unique(group_of_row, return_inverse=True)
            starts_read = np.concatenate([[0], np.cumsum(lengths[used])])[:-1]
            table = file.read_row_groups([groups[group] for group in used], columns=names, use_threads=False).select(names)
        return table.take(pa.array(starts_read[position] + rows - ends[group_of_row], pa.int64()))

    def _known_columns(self, columns: Sequence[str] | None) -> list[str]:
        known = self.manifest.schema.names
        unknown = [name for name in columns or () if name not in known]
        if unknown:
            raise InputError(f"{self.path} has no column {', '.join(unknown)}; it has {', '.join(known)}.")
        return known if columns is None else list(columns)

    def check_num_ok(self, found: int) -> None:
        """InputError where another number of rows with status ok was found than the manifest counts."""
        if found != self.manifest.num_ok:
            raise InputError(
                f"{self.path} is damaged: its parts hold {found} rows with status ok, its manifest counts {self.manifest.num_ok}."
            )

    @contextlib.contextmanager
    def _open_part(self, part: int) -> Iterator[pq.ParquetFile]:
        try:
            file = self._filesystem.open_input_file(self.part_path(part))
        except FileNotFoundError as error:
            raise InputError(
                f"{self.path} lacks {part_name(part, self.manifest.schema_version)}. Run the same `eet encode` command again."
            ) from error
        with file:
            try:
                opened = pq.ParquetFile(file)
            except pa.ArrowInvalid as error:
                name = part_name(part, self.manifest.schema_version)
                raise DamagedError(
                    f"{self.path} is damaged: {name} is not a complete Parquet file ({error}). Run the same `eet encode` command again."
                ) from error
            wanted = digest_of_part(self.manifest.plans, part)
            if wanted is not None and digest_of_file(opened) != wanted:
                raise DamagedError(
                    f"{self.path} is damaged: {part_name(part, self.manifest.schema_version)} was written by another job. Run the same "
                    "`eet encode` command again."
                )
            found = opened.schema_arrow
            types = dict(zip(found.names, found.types, strict=True))
            differing = [field.name for field in self._schema if types.get(field.name) != field.type]
            if differing:
                raise DamagedError(
                    f"{self.path} is damaged: {part_name(part, self.manifest.schema_version)} lacks the column {', '.join(differing)}, or "
                    "has it in another type than the manifest says"
                )
            yield opened

    def _read_part(self, part: int, columns: list[str]) -> pa.Table:
        with self._open_part(part) as file:
            return file.read(columns=columns, use_threads=False).select(columns)

    def _stream(self, columns: list[str], ahead: int, parts: Sequence[int] | None = None) -> Iterator[pa.Table]:
        wanted = range(self.manifest.num_parts) if parts is None else parts
        with ThreadPoolExecutor(ahead) as pool:
            yield from _in_order(pool, lambda part: self._read_part(part, columns), wanted, ahead)

    def _ok_rows(self, columns: list[str], parts: Sequence[int] | None) -> Iterator[pa.Table]:
        for table in self._stream(columns, _NARROW_AHEAD, parts):
            rows = table.filter(pc.equal(table["status"], OK))
            if "code" in columns and (lacking := rows["code"].null_count):
                raise InputError(f"{self.path} is damaged: {lacking} rows with status ok have no code.")
            yield rows

    def _id_range(self, part: int) -> tuple[str, str] | None:
        """First and last id by the statistics in the footer; None where it has none (ids above 4 KiB)."""
        with self._open_part(part) as file:
            ranges = _id_ranges(file)
        known = [id_range for id_range in ranges if id_range is not None]
        if not known or len(known) < len(ranges):
            return None
        return min(first for first, _ in known), max(last for _, last in known)


def _id_ranges(file: pq.ParquetFile) -> list[tuple[str, str] | None]:
    """First and last id of each row group, by its statistics; None where it has none."""
    column = file.schema_arrow.get_field_index("item_id")
    statistics = [file.metadata.row_group(group).column(column).statistics for group in range(file.metadata.num_row_groups)]
    return [None if found is None or not found.has_min_max else (found.min, found.max) for found in statistics]


def _groups_holding(file: pq.ParquetFile, item_ids: pa.Array) -> list[int]:
    """The row groups that may hold one of some ids."""
    # Python orders strings by code point, which is the order of their UTF-8 bytes and so that of the statistics.
    ids = sorted(item_ids.to_pylist())
    return [
        group
        for group, id_range in enumerate(_id_ranges(file))
        if id_range is None or bisect.bisect_left(ids, id_range[0]) < bisect.bisect_right(ids, id_range[1])
    ]


def _string_array(values: Sequence[str] | pa.Array | pa.ChunkedArray) -> pa.Array:
    array = values if isinstance(values, (pa.Array, pa.ChunkedArray)) else pa.array(values, pa.string())
    return (array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array).cast(pa.string())


def _in_order(pool: ThreadPoolExecutor, read: Callable[[int], _T], parts: Iterable[int], ahead: int) -> Iterator[_T]:
    """Results of `read` for each part, in order, with at most `ahead` reads running or waiting."""
    remaining = iter(parts)
    reads: collections.deque[Future[_T]] = collections.deque(pool.submit(read, part) for part in itertools.islice(remaining, ahead))
    try:
        while reads:
            result = reads.popleft().result()
            reads.extend(pool.submit(read, part) for part in itertools.islice(remaining, 1))
            yield result
    finally:
        for waiting in reads:
            waiting.cancel()

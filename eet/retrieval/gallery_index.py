"""A gallery, or some of its parts, ready to be searched: codes, ids and labels in the order of item_id, in memory or mapped from disk."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eet.errors import DamagedError
from eet.gallery import RUN_ROWS, CodedRows, Gallery, fixed_binary_to_numpy, merge_by_id, sorted_by_id
from eet.retrieval.index_folder import SEGMENT_FILES, read_index_record, segment_folders, write_index_record
from eet.search import HammingIndex, Index, NumberedCodes, index_class, known_options, load_index, with_backend
from eet.storage import ArrayFile, array_blocks, link_files, naming_file

IDS_FILE, LABELS_FILE = "item_ids.arrow", "labels.npy"
IDS_AT_ONCE = 1 << 20
"""Ids in a batch of the Arrow file of ids."""
_IDS_SCHEMA = pa.schema([("item_id", pa.large_string())])
MERGED_AT_ONCE = 1 << 14
"""Rows of an index that are merged, and codes that are passed on, in one block."""

FOUND_SCHEMA = pa.schema(
    [("query", pa.int64()), ("distance", pa.int32()), ("score", pa.float32()), ("item_id", pa.large_string()), ("label", pa.int32())]
)
"""The result of a search: by query number, then distance, then asymmetric score, then item_id. label: -1 where unknown."""


SEGMENT_GROWTH = 2
"""New items are joined with each last segment that has at most this many times as many items."""


@dataclass(frozen=True)
class GalleryIndex:
    """An index with the ids and labels of its items.

    An index on the disk that was extended has segments: an item is in one of them, and a search merges their answers.

    Attributes:
        codes: the index; row i is item_ids[i].
        item_ids: ascending.
        labels_N: int32, label of each item, -1 where unknown.
        added: indexes of items that came later, which have none of their own.
    """

    codes: Index
    item_ids: pa.Array | pa.ChunkedArray
    labels_N: np.ndarray
    added: tuple["GalleryIndex", ...] = ()

    @classmethod
    def of_rows(cls, rows: CodedRows, num_bits: int, build: Callable[..., Index] = HammingIndex.build) -> "GalleryIndex":
        """Indexes rows in any order. build: `build` of the wanted kind of index."""
        codes_NB, item_ids, labels_N = by_id(rows)
        return cls(build(codes_NB, num_bits=num_bits), item_ids, labels_N)

    @classmethod
    def of_gallery(cls, gallery: Gallery, parts: Sequence[int] | None = None) -> "GalleryIndex":
        """Indexes the codes of a gallery, or of some parts. InputError where a part is missing."""
        return cls.of_rows(gallery.coded_rows(parts), gallery.manifest.num_bits)

    @property
    def segments(self) -> tuple["GalleryIndex", ...]:
        """The indexes that together hold all items, each of its own alone: this one without what was added, and what was added."""
        return (replace(self, added=()), *self.added) if self.added else (self,)

    @property
    def num_items(self) -> int:
        """Items of all segments."""
        return sum(segment.codes.num_items for segment in self.segments)

    def describe(self) -> str:
        """One line for the user."""
        if not self.added:
            return self.codes.describe()
        return f"{self.num_items:,} items in {len(self.segments)} segments, the first of {self.codes.describe()}"

    def with_backend(self, backend: str, device: str = "cpu") -> "GalleryIndex":
        """The same items, searched by a backend; see `eet.search.with_backend`."""
        added = tuple(segment.with_backend(backend, device) for segment in self.added)
        return replace(self, codes=with_backend(self.codes, backend, device), added=added)

    def search(
        self,
        codes_QB: np.ndarray,
        k: int | None,
        *,
        radius: int | None = None,
        query_hash: np.ndarray | None = None,
        device: str = "cpu",
    ) -> pa.Table:
        """The first k items of each query, or those within a radius, in the columns and order of FOUND_SCHEMA.

        There are fewer if an approximate index finds fewer. k: None for all within the radius.
        """
        if self.added:
            return merged([part.search(codes_QB, k, radius=radius, query_hash=query_hash, device=device) for part in self.segments], k)
        found = self.codes.find(codes_QB, k=k, radius=radius, query_hash=query_hash, device=device)
        query = np.repeat(np.arange(len(codes_QB)), np.diff(found.starts))
        ids = taken_ids(self.item_ids, found.rows)
        columns = [query, found.distances, found.scores, ids]
        return pa.table([*columns, np.asarray(self.labels_N)[found.rows]], schema=FOUND_SCHEMA)

    def save(self, folder: Path, gallery: Gallery) -> None:
        """Writes the index of `gallery`, of one segment, into a folder, from which `load` maps it."""
        self.codes.save(folder)
        np.save(folder / LABELS_FILE, self.labels_N)
        with _IdsFile(folder / IDS_FILE) as ids_file:
            for chunk in self.item_ids.chunks if isinstance(self.item_ids, pa.ChunkedArray) else [self.item_ids]:
                ids_file.append(chunk)
        write_index_record(folder, gallery)

    @classmethod
    def write(
        cls,
        folder: Path,
        gallery: Gallery,
        *,
        kind: str = "exact",
        options: Mapping[str, Any] | None = None,
        at_once: int = RUN_ROWS,
    ) -> None:
        """Writes an index of a gallery that may not fit in memory: the files that `of_rows` and `save` would write, byte for byte.

        Ids are sorted in runs on the disk, and codes too where the kind of index does so (see `Index.write`).

        Args:
            folder: an existing, empty local folder. Sorted runs lie in it meanwhile.
            gallery: the gallery.
            kind: a name in `eet.search.INDEXES`.
            options: of the kind; None values mean the default.
            at_once: rows that are sorted in memory at once.

        Raises:
            InputError: a part is missing or damaged, or there is no such kind or option.
        """
        parts = range(gallery.manifest.num_parts)
        gallery.check_num_ok(cls._write_segment(folder, gallery, parts, kind=kind, options=options, at_once=at_once))
        write_index_record(folder, gallery)

    @classmethod
    def write_extended(cls, folder: Path, gallery: Gallery, before: str, *, at_once: int = RUN_ROWS) -> None:
        """Writes the index `before` with all parts of the gallery that it lacks.

        An exact index gets a new segment of these parts, and the files of its large segments are linked, so the work is in proportion to
        what is new. Segments with at most SEGMENT_GROWTH times as many items as come after them become part of the new one; so an index
        of N items has about log2(N) segments at most. An approximate index has one segment, in which the new items are merged with the old
        ones, and keeps what it learned from the first items.

        Args:
            folder: an existing, empty local folder, on the disk of `before`. Sorted runs lie in it meanwhile.
            gallery: the gallery.
            before: the folder of an index over its first parts.
            at_once: rows that are sorted in memory at once.

        Raises:
            InputError: a part is missing or damaged.
        """
        index, ends = cls.load(before), read_index_record(before).ends
        num_parts = gallery.manifest.num_parts
        kept = index._segments_kept(gallery.manifest.num_ok - index.num_items) if index.codes.kind == "exact" else 0
        if not kept and not index.added:
            number = cls._write_segment(folder, gallery, range(ends[-1], num_parts), before=before, at_once=at_once)
            ends = (num_parts,)
        elif not kept:
            number, ends = cls._write_segment(folder, gallery, range(num_parts), at_once=at_once), (num_parts,)
        else:
            old = segment_folders(before, len(ends))[:kept]
            ends = (*ends[:kept], num_parts)
            *linked, new = segment_folders(str(folder), len(ends))
            for source, target in zip(old, linked, strict=True):
                link_files(source, target, like=SEGMENT_FILES)
            Path(new).mkdir()
            number = sum(segment.codes.num_items for segment in index.segments[:kept])
            number += cls._write_segment(Path(new), gallery, range(ends[-2], num_parts), at_once=at_once)
        gallery.check_num_ok(number)
        write_index_record(folder, gallery, ends)

    def _segments_kept(self, num_new: int) -> int:
        """How many segments stay as they are when `num_new` items come."""
        sizes = [segment.codes.num_items for segment in self.segments]
        while sizes and sizes[-1] <= SEGMENT_GROWTH * num_new:
            num_new += sizes.pop()
        return len(sizes)

    @classmethod
    def _write_segment(
        cls,
        folder: Path,
        gallery: Gallery,
        parts: Sequence[int],
        *,
        kind: str = "exact",
        options: Mapping[str, Any] | None = None,
        before: str | None = None,
        at_once: int = RUN_ROWS,
    ) -> int:
        """Writes the files of a segment, merged with those of an index of one segment, and returns the number of its items."""
        old = None if before is None else cls.load(before)
        index_kind = index_class(kind if old is None else old.codes.kind)
        given = {} if old is not None else known_options(kind, options or {})
        manifest = gallery.manifest
        width = -(-manifest.num_bits // 8)
        with tempfile.TemporaryDirectory(dir=folder, prefix="sorting-") as scratch:
            runs = [sorted_by_id(gallery.coded_parts(parts), run_rows=at_once, within=scratch)]
            moved_file = Path(scratch) / "moved.npy"
            with (
                _IdsFile(folder / IDS_FILE) as ids_file,
                ArrayFile(folder / LABELS_FILE, np.dtype(np.int32)) as labels_file,
                ArrayFile(moved_file, np.dtype(np.int64)) as moved,
                ArrayFile(Path(scratch) / "codes.npy", np.dtype(np.uint8), width) as new_codes,
                ArrayFile(Path(scratch) / "rows.npy", np.dtype(np.int64)) as new_rows,
            ):
                if before is not None and old is not None:
                    runs.insert(0, _stored_rows(before, old.labels_N, width))
                number = 0
                for table in merge_by_id(runs):
                    for chunk in table["item_id"].chunks:
                        ids_file.append(chunk)
                    labels_file.append(table["label"].to_numpy())
                    is_new = pc.is_valid(table["code"]).to_numpy()
                    rows = np.arange(number, number + len(table))
                    moved.append(rows[~is_new])
                    new_rows.append(rows[is_new])
                    new_codes.append(fixed_binary_to_numpy(table["code"], np.uint8, (width,)))
                    number += len(table)
            codes = NumberedCodes(
                blocks=_blocks(Path(scratch) / "codes.npy", Path(scratch) / "rows.npy"),
                num_items=number,
                width=width,
                num_bits=manifest.num_bits,
                moved=None if old is None else np.load(moved_file, mmap_mode="r"),
                at_once=at_once,
            )
            index_kind.write(folder, codes, None if old is None else old.codes, **given)
        return number

    @classmethod
    def load(cls, folder: str) -> "GalleryIndex":
        """Maps what `save`, `write` or `write_extended` wrote, also while another one takes its place.

        Raises:
            InputError: there is no index.
            DamagedError: it lacks a file.
        """
        while True:
            record = read_index_record(folder)
            try:
                first, *added = map(cls._load_segment, segment_folders(folder, len(record.ends)))
            except FileNotFoundError as error:
                if read_index_record(folder) == record:
                    raise DamagedError(f"{folder} is damaged: it lacks {error.filename or error}. Make the index again") from error
            else:
                if read_index_record(folder) == record:  # else the files are of two indexes
                    return replace(first, added=tuple(added))

    @classmethod
    def _load_segment(cls, folder: str) -> "GalleryIndex":
        source = pa.memory_map(str(Path(folder) / IDS_FILE))
        ids = pa.ipc.open_file(source).read_all()["item_id"]
        labels = np.load(Path(folder) / LABELS_FILE, mmap_mode="r")
        return cls(load_index(folder), ids, labels)


class _IdsFile:
    """The ids of an index, an Arrow file with IDS_AT_ONCE in each batch, however they come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._gathered: list[pa.Array] = []
        self._number = 0

    def __enter__(self) -> Self:
        with naming_file(self.path):
            self._file = pa.OSFile(str(self.path), "wb")
            self._writer = pa.ipc.new_file(self._file, _IDS_SCHEMA)
        return self

    def append(self, ids: pa.Array) -> None:
        while len(ids):
            part = ids.slice(0, IDS_AT_ONCE - self._number)
            self._gathered.append(part.cast(pa.large_string()))
            self._number += len(part)
            ids = ids.slice(len(part))
            if self._number == IDS_AT_ONCE:
                self._flush()

    def __exit__(self, kind: object, *rest: object) -> None:
        with contextlib.ExitStack() as closing:
            closing.callback(self._file.close)
            if kind is None:
                with naming_file(self.path):
                    self._flush()
                    self._writer.close()

    def _flush(self) -> None:
        if self._gathered:
            batch = pa.record_batch([pa.concat_arrays(self._gathered)], schema=_IDS_SCHEMA)
            with naming_file(self.path):
                self._writer.write_batch(batch)
        self._gathered, self._number = [], 0


def merged(answers: list[pa.Table], k: int | None) -> pa.Table:
    """The first k of each query, or all, over answers in the columns of FOUND_SCHEMA: by distance, then asymmetric score, then item_id."""
    table = pa.concat_tables(answers)
    penalty = -table["score"].to_numpy()
    table = table.append_column("penalty", pa.array(penalty + np.float32(0)))  # no -0.0, which would sort before 0
    table = table.sort_by([(name, "ascending") for name in ("query", "distance", "penalty", "item_id")]).drop_columns("penalty")
    if k is None:
        return table.cast(FOUND_SCHEMA)
    query = table["query"].to_numpy()
    first = np.searchsorted(query, query)
    return table.filter(pa.array(np.arange(len(query)) - first < k)).cast(FOUND_SCHEMA)


def taken_ids(item_ids: pa.Array | pa.ChunkedArray, rows: np.ndarray) -> pa.Array:
    """The ids of some rows, a large_string array. pyarrow's own `take` would join all chunks first."""
    if isinstance(item_ids, pa.Array):
        return item_ids.take(pa.array(rows)).cast(pa.large_string())
    ends = np.cumsum([len(chunk) for chunk in item_ids.chunks], dtype=np.int64)
    chunk_n = np.searchsorted(ends, rows, side="right")
    order = np.argsort(chunk_n, kind="stable")
    pieces = [pa.array([], pa.large_string())]
    for number in np.unique(chunk_n):
        chunk = item_ids.chunk(int(number))
        inside = rows[chunk_n == number] - (ends[number] - len(chunk))
        pieces.append(chunk.take(pa.array(inside)).cast(pa.large_string()))
    place = np.empty(len(rows), np.int64)
    place[order] = np.arange(len(rows))
    return pa.concat_arrays(pieces).take(pa.array(place))


def _stored_rows(folder: str, labels_N: np.ndarray, width: int) -> Iterator[pa.Table]:
    """The items of an index in the columns of `Gallery.coded_parts`, with null as code. Read, not mapped, so that they leave memory."""
    start = 0
    with pa.OSFile(str(Path(folder) / IDS_FILE), "rb") as file, pa.ipc.open_file(file) as reader:
        for number in range(reader.num_record_batches):
            ids = reader.get_batch(number).column(0)
            for first in range(0, len(ids), MERGED_AT_ONCE):
                part = ids.slice(first, MERGED_AT_ONCE).cast(pa.string())
                labels = pa.array(labels_N[start : start + len(part)])
                yield pa.table({"item_id": part, "code": pa.nulls(len(part), pa.binary(width)), "label": labels})
                start += len(part)


def _blocks(codes: Path, rows: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The contents of two arrays on the disk, piece by piece."""
    return zip(array_blocks(codes, MERGED_AT_ONCE), array_blocks(rows, MERGED_AT_ONCE), strict=True)


def by_id(rows: CodedRows) -> CodedRows:
    """The rows in the order of their ids. After an append, a gallery is sorted only within each append."""
    codes_NB, item_ids, labels_N = rows
    if len(item_ids) < 2 or pc.all(pc.less(item_ids.slice(0, len(item_ids) - 1), item_ids.slice(1))).as_py():
        return rows
    order = pc.sort_indices(item_ids)
    return CodedRows(codes_NB[order.to_numpy()], item_ids.take(order), labels_N[order.to_numpy()])

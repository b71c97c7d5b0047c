"""A gallery, or some of its parts, ready to be searched: codes, ids and labels in the order of item_id, in memory or mapped from disk."""

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from eet.errors import InputError
from eet.gallery import RUN_ROWS, CodedRows, Gallery, fixed_binary_to_numpy, merge_by_id, sorted_by_id
from eet.search import HammingIndex, Index, NumberedCodes, index_class, known_options, load_index, with_backend
from eet.storage import ArrayFile, FolderKind, array_blocks, naming_file, read_json, resolve

INDEX_FILE, IDS_FILE, LABELS_FILE = "index.json", "item_ids.arrow", "labels.npy"
INDEX_FOLDER = FolderKind(
    noun="an index",
    marker=INDEX_FILE,
    names=r"item_ids\.arrow|labels\.npy|codes\.json|(codes|offsets|rows|centroids|list_starts)\.npy|index\.faiss|config\.yaml",
    complete=INDEX_FILE,
)
"""What `eet index` replaces."""
IDS_AT_ONCE = 1 << 20
"""Ids in a batch of the Arrow file of ids."""
_IDS_SCHEMA = pa.schema([("item_id", pa.large_string())])
MERGED_AT_ONCE = 1 << 14
"""Rows of an index that are merged, and codes that are passed on, in one block."""

FOUND_SCHEMA = pa.schema(
    [("query", pa.int64()), ("distance", pa.int32()), ("score", pa.float32()), ("item_id", pa.large_string()), ("label", pa.int32())]
)
"""The result of a search: by query number, then distance, then asymmetric score, then item_id. label: -1 where unknown."""


@dataclass(frozen=True, kw_only=True)
class IndexRecord:
    """The contents of index.json: the gallery whose first parts are indexed."""

    model_digest: str
    preprocessing_digest: str
    num_bits: int
    num_parts: int
    parts_digest: str


@dataclass(frozen=True)
class GalleryIndex:
    """An index with the ids and labels of its items.

    Attributes:
        codes: the index; row i is item_ids[i].
        item_ids: ascending.
        labels_N: int32, label of each item, -1 where unknown.
    """

    codes: Index
    item_ids: pa.Array | pa.ChunkedArray
    labels_N: np.ndarray

    @classmethod
    def of_rows(cls, rows: CodedRows, num_bits: int, build: Callable[..., Index] = HammingIndex.build) -> "GalleryIndex":
        """Indexes rows in any order. build: `build` of the wanted kind of index."""
        codes_NB, item_ids, labels_N = by_id(rows)
        return cls(build(codes_NB, num_bits=num_bits), item_ids, labels_N)

    @classmethod
    def of_gallery(cls, gallery: Gallery, parts: Sequence[int] | None = None) -> "GalleryIndex":
        """Indexes the codes of a gallery, or of some parts. InputError where a part is missing."""
        return cls.of_rows(gallery.coded_rows(parts), gallery.manifest.num_bits)

    def with_backend(self, backend: str, device: str = "cpu") -> "GalleryIndex":
        """The same items, searched by a backend; see `eet.search.with_backend`."""
        return replace(self, codes=with_backend(self.codes, backend, device))

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
        found = self.codes.find(codes_QB, k=k, radius=radius, query_hash=query_hash, device=device)
        query = np.repeat(np.arange(len(codes_QB)), np.diff(found.starts))
        ids = taken_ids(self.item_ids, found.rows)
        columns = [query, found.distances, found.scores, ids]
        return pa.table([*columns, np.asarray(self.labels_N)[found.rows]], schema=FOUND_SCHEMA)

    def save(self, folder: Path, gallery: Gallery) -> None:
        """Writes the index of `gallery` into a folder, from which `load` maps it."""
        self.codes.save(folder)
        np.save(folder / LABELS_FILE, self.labels_N)
        with _IdsFile(folder / IDS_FILE) as ids_file:
            for chunk in self.item_ids.chunks if isinstance(self.item_ids, pa.ChunkedArray) else [self.item_ids]:
                ids_file.append(chunk)
        _write_record(folder, gallery)

    @classmethod
    def write(
        cls,
        folder: Path,
        gallery: Gallery,
        parts: Sequence[int],
        *,
        kind: str = "exact",
        options: Mapping[str, Any] | None = None,
        extended: str | None = None,
        at_once: int = RUN_ROWS,
    ) -> None:
        """Writes an index of a gallery that may not fit in memory: the files that `of_rows` and `save` would write, byte for byte.

        Ids are sorted in runs on the disk, and codes too where the kind of index does so (see `Index.write`). Of an index that is
        extended, the ids are merged with the new ones, without being sorted again.

        Args:
            folder: an existing, empty local folder. Sorted runs lie in it meanwhile.
            gallery: the gallery.
            parts: the parts to read: all, or those that the extended index lacks.
            kind: a name in `eet.search.INDEXES`.
            options: of a new index of this kind; None values mean the default.
            extended: the folder of an index over all other parts; kind and options are its own.
            at_once: rows that are sorted in memory at once.

        Raises:
            InputError: a part is missing or damaged, or there is no such kind or option.
        """
        before = None if extended is None else cls.load(extended)
        index_kind = index_class(kind if before is None else before.codes.kind)
        given = {} if before is not None else known_options(kind, options or {})
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
                if extended is not None and before is not None:
                    runs.insert(0, _stored_rows(extended, before.labels_N, width))
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
            gallery.check_num_ok(number)
            codes = NumberedCodes(
                blocks=_blocks(Path(scratch) / "codes.npy", Path(scratch) / "rows.npy"),
                num_items=number,
                width=width,
                num_bits=manifest.num_bits,
                moved=None if before is None else np.load(moved_file, mmap_mode="r"),
                at_once=at_once,
            )
            index_kind.write(folder, codes, None if before is None else before.codes, **given)
        _write_record(folder, gallery)

    @classmethod
    def load(cls, folder: str) -> "GalleryIndex":
        """Maps what `save` wrote."""
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


def _write_record(folder: Path, gallery: Gallery) -> None:
    (folder / INDEX_FILE).write_text(json.dumps(asdict(_record(gallery, gallery.manifest.num_parts)), indent=1) + "\n")


def by_id(rows: CodedRows) -> CodedRows:
    """The rows in the order of their ids. After an append, a gallery is sorted only within each append."""
    codes_NB, item_ids, labels_N = rows
    if len(item_ids) < 2 or pc.all(pc.less(item_ids.slice(0, len(item_ids) - 1), item_ids.slice(1))).as_py():
        return rows
    order = pc.sort_indices(item_ids)
    return CodedRows(codes_NB[order.to_numpy()], item_ids.take(order), labels_N[order.to_numpy()])


def _record(gallery: Gallery, num_parts: int) -> IndexRecord:
    """A description of the first parts of a gallery: their model, and a digest of their names, sizes and times."""
    filesystem, _ = resolve(gallery.path)
    files = filesystem.get_file_info([gallery.part_path(part) for part in range(num_parts)]) if num_parts else []
    listed = "\n".join(f"{info.base_name} {info.size} {info.mtime_ns}" for info in files if info.type == pafs.FileType.File)
    return IndexRecord(
        model_digest=gallery.manifest.model_digest,
        preprocessing_digest=gallery.manifest.preprocessing_digest,
        num_bits=gallery.manifest.num_bits,
        num_parts=num_parts,
        parts_digest=hashlib.sha256(listed.encode()).hexdigest(),
    )


def read_index_record(index: str) -> IndexRecord:
    """The record of an index about its gallery. InputError where there is no index."""
    file = Path(index) / INDEX_FILE
    if not file.is_file():
        raise InputError(f"{index} is no index: it has no {INDEX_FILE}. `eet index --gallery GALLERY --out {index}` makes one")
    return read_json(str(file), IndexRecord)


def missing_parts(index: str, gallery: Gallery) -> list[int]:
    """Parts of the gallery that the index lacks. InputError where its other parts are not those that were indexed."""
    record = read_index_record(index)
    indexed = record.num_parts
    if not 0 <= indexed <= gallery.manifest.num_parts or record != _record(gallery, indexed):
        raise InputError(f"{index} is an index of another gallery than {gallery.path}, or of an earlier state of it: make a new one")
    return list(range(indexed, gallery.manifest.num_parts))

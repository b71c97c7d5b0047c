"""A gallery, or some of its parts, ready to be searched: codes, ids and labels in the order of item_id, in memory or mapped from disk."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from eet.errors import InputError
from eet.gallery import CodedRows, Gallery
from eet.search import HammingIndex, Index, load_index
from eet.storage import resolve

INDEX_FILE, IDS_FILE, LABELS_FILE = "index.json", "item_ids.arrow", "labels.npy"
FOUND_SCHEMA = pa.schema(
    [("query", pa.int64()), ("distance", pa.int32()), ("score", pa.float32()), ("item_id", pa.large_string()), ("label", pa.int32())]
)
"""The result of a search: by query number, then distance, then asymmetric score, then item_id. label: -1 where unknown."""


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

    def search(self, codes_QB: np.ndarray, k: int, *, query_hash: np.ndarray | None = None, device: str = "cpu") -> pa.Table:
        """The first k items of each query, in the columns and order of FOUND_SCHEMA; fewer if an approximate index finds fewer."""
        distances_Qk, scores_Qk, rows_Qk = self.codes.search_scored(codes_QB, k, query_hash=query_hash, device=device)
        query, place = np.nonzero(rows_Qk >= 0)
        rows = rows_Qk[query, place]
        ids = self.item_ids.take(pa.array(rows)).cast(pa.large_string())
        columns = [query, distances_Qk[query, place], scores_Qk[query, place], ids]
        return pa.table([*columns, np.asarray(self.labels_N)[rows]], schema=FOUND_SCHEMA)

    def save(self, folder: Path, gallery: Gallery) -> None:
        """Writes the index of `gallery` into a folder, from which `load` maps it."""
        self.codes.save(folder)
        np.save(folder / LABELS_FILE, self.labels_N)
        ids = self.item_ids.chunks if isinstance(self.item_ids, pa.ChunkedArray) else [self.item_ids]
        with pa.OSFile(str(folder / IDS_FILE), "wb") as file, pa.ipc.new_file(file, pa.schema([("item_id", pa.large_string())])) as writer:
            for chunk in ids:
                writer.write_batch(pa.record_batch([chunk.cast(pa.large_string())], names=["item_id"]))
        (folder / INDEX_FILE).write_text(json.dumps(_record(gallery, gallery.manifest.num_parts), indent=1) + "\n")

    @classmethod
    def load(cls, folder: str) -> "GalleryIndex":
        """Maps what `save` wrote."""
        source = pa.memory_map(str(Path(folder) / IDS_FILE))
        ids = pa.ipc.open_file(source).read_all()["item_id"]
        labels = np.load(Path(folder) / LABELS_FILE, mmap_mode="r")
        return cls(load_index(folder), ids, labels)


def by_id(rows: CodedRows) -> CodedRows:
    """The rows in the order of their ids. After an append, a gallery is sorted only within each append."""
    codes_NB, item_ids, labels_N = rows
    if len(item_ids) < 2 or pc.all(pc.less(item_ids.slice(0, len(item_ids) - 1), item_ids.slice(1))).as_py():
        return rows
    order = pc.sort_indices(item_ids)
    return CodedRows(codes_NB[order.to_numpy()], item_ids.take(order), labels_N[order.to_numpy()])


def _record(gallery: Gallery, num_parts: int) -> dict[str, object]:
    """A description of the first parts of a gallery: their model, and a digest of their names, sizes and times."""
    filesystem, _ = resolve(gallery.path)
    files = filesystem.get_file_info([gallery.part_path(part) for part in range(num_parts)]) if num_parts else []
    listed = "\n".join(f"{info.base_name} {info.size} {info.mtime_ns}" for info in files if info.type == pafs.FileType.File)
    return {
        "model_digest": gallery.manifest.model_digest,
        "preprocessing_digest": gallery.manifest.preprocessing_digest,
        "num_bits": gallery.manifest.num_bits,
        "num_parts": num_parts,
        "parts_digest": hashlib.sha256(listed.encode()).hexdigest(),
    }


def read_record(index: str) -> dict[str, object]:
    """The record of an index about its gallery. InputError where there is no index."""
    file = Path(index) / INDEX_FILE
    if not file.is_file():
        raise InputError(f"{index} is no index: it has no {INDEX_FILE}. `eet index --gallery GALLERY --out {index}` makes one")
    return json.loads(file.read_text())


def missing_parts(index: str, gallery: Gallery) -> list[int]:
    """Parts of the gallery that the index lacks. InputError where its other parts are not those that were indexed."""
    record = read_record(index)
    indexed = int(str(record["num_parts"]))
    if indexed > gallery.manifest.num_parts or record != _record(gallery, indexed):
        raise InputError(f"{index} is an index of another gallery than {gallery.path}, or of an earlier state of it: make a new one")
    return list(range(indexed, gallery.manifest.num_parts))

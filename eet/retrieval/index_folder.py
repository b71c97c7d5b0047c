"""The folder of an index: the record of the gallery that it was made from, and the folders of its segments."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path

import pyarrow.fs as pafs

from eet.errors import DamagedError, InputError
from eet.gallery import Gallery
from eet.storage import FolderKind, read_json, resolve

INDEX_FILE, SEGMENTS = "index.json", "segments"
SEGMENT_FILES = r"item_ids\.arrow|labels\.npy|codes\.json|(codes|offsets|rows|centroids|list_starts)\.npy|index\.faiss"
"""The files of a segment."""
INDEX_FOLDER = FolderKind(
    noun="an index",
    marker=INDEX_FILE,
    names=rf"{SEGMENT_FILES}|{SEGMENTS}|config\.yaml",
    complete=INDEX_FILE,
)
"""What `eet index` replaces."""


@dataclass(frozen=True, kw_only=True)
class IndexRecord:
    """The contents of index.json: the gallery whose first parts are indexed.

    segment_ends: for each segment of several the number of parts up to its end; empty where there is one.
    """

    model_digest: str
    preprocessing_digest: str
    num_bits: int
    num_parts: int
    parts_digest: str
    segment_ends: tuple[int, ...] = ()

    @property
    def ends(self) -> tuple[int, ...]:
        """For each segment the number of parts up to its end, ascending."""
        return self.segment_ends or (self.num_parts,)


def segment_folders(index: str, number: int) -> list[str]:
    """The folders of the segments of an index: its own where there is one, so that earlier versions read it; else folders below it."""
    return [index] if number == 1 else [str(Path(index) / SEGMENTS / str(segment)) for segment in range(number)]


def write_index_record(folder: Path, gallery: Gallery, ends: tuple[int, ...] = ()) -> None:
    """Writes index.json. ends: of the segments; the default is one segment of all parts."""
    record = replace(_record(gallery, gallery.manifest.num_parts), segment_ends=ends if len(ends) > 1 else ())
    values = {name: value for name, value in asdict(record).items() if name != "segment_ends" or value}
    (folder / INDEX_FILE).write_text(json.dumps(values, indent=1) + "\n")


def read_index_record(index: str) -> IndexRecord:
    """The record of an index about its gallery.

    Raises:
        InputError: there is no index.
        DamagedError: its segments are not those of an index.
    """
    file = Path(index) / INDEX_FILE
    if not file.is_file():
        raise InputError(f"{index} is no index: it has no {INDEX_FILE}. `eet index --gallery GALLERY --out {index}` makes one")
    record = read_json(str(file), IndexRecord)
    ends = (0, *record.ends)
    if ends[-1] != record.num_parts or any(end < start for start, end in pairwise(ends)):
        raise DamagedError(
            f"{file} is damaged: its segment_ends {list(record.ends)} do not ascend to {record.num_parts} parts. Make the index again"
        )
    return record


def missing_parts(index: str, gallery: Gallery) -> list[int]:
    """Parts of the gallery that the index lacks. InputError where its other parts are not those that were indexed."""
    record = read_index_record(index)
    indexed = record.num_parts
    if not 0 <= indexed <= gallery.manifest.num_parts or replace(record, segment_ends=()) != _record(gallery, indexed):
        raise InputError(f"{index} is an index of another gallery than {gallery.path}, or of an earlier state of it: make a new one")
    return list(range(indexed, gallery.manifest.num_parts))


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

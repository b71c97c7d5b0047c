"""A gallery under way: what it is made with, what it is made of, and what is planned, in begun.json until the manifest takes its place."""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow.fs as pafs

from eet.datasets.listing import ImageList
from eet.errors import InputError
from eet.gallery.manifest import MANIFEST_NAME, Manifest
from eet.gallery.parts import PARTS_FOLDER, finished_parts
from eet.gallery.plan import items_table, plan_name, planned_ids, write_plan
from eet.gallery.reader import open_gallery
from eet.gallery.schema import OK
from eet.storage import exists, hidden_beside, join_location, read_text, resolve, write_text

BEGUN_FILE = "begun.json"
_TEMPORARY_FILES = r"\..+\.tmp"
_GALLERY_FILES = (r"manifest\.json", r"begun\.json", r"config\.yaml", r"plan(-\d{6,})?\.parquet", r"part-\d+\.parquet", _TEMPORARY_FILES)
Mode = Literal["resume", "overwrite", "append"]


@dataclass(frozen=True)
class GalleryJob:
    """made_with: fields of the manifest that every part shares. input: what is encoded. mode: that began it. base: the manifest of the
    gallery that is appended to, None for a new one. num_rows, num_parts: planned by this job alone. num_known: listed, but in the
    gallery already. label_names: of the gallery when it is finished. ignored: files that are no pictures.
    """

    made_with: dict[str, Any]
    input: str
    mode: Mode
    base: Manifest | None
    num_rows: int
    num_parts: int
    num_known: int
    label_names: tuple[str, ...] | None
    ignored: int

    @property
    def first_part(self) -> int:
        return self.base.num_parts if self.base else 0

    @property
    def schema_version(self) -> int:
        """Of every part of this job."""
        return int(self.made_with["schema_version"])

    def is_of(self, made_with: Mapping[str, Any], described: str) -> bool:
        """Whether this is the job of that model, those options and that input."""
        return self.made_with == made_with and self.input == described

    def check(self, made_with: Mapping[str, Any], described: str, out: str) -> None:
        """ValueError where the job that is to go on is another than this."""
        refuse_difference({**self.made_with, "input": self.input}, {**made_with, "input": described}, f"{out} was begun differently")

    def manifest(self, statuses: Mapping[str, int]) -> Manifest:
        """Of the finished gallery. statuses: rows of this job by status."""
        base = self.base
        errors = dict(base.errors) if base else {}
        for status, count in statuses.items():
            if status != OK:
                errors[status] = errors.get(status, 0) + count
        return Manifest(
            **self.made_with,
            num_rows=self.num_rows + (base.num_rows if base else 0),
            num_ok=statuses.get(OK, 0) + (base.num_ok if base else 0),
            num_parts=self.first_part + self.num_parts,
            label_names=self.label_names,
            errors=dict(sorted(errors.items())),
            inputs=tuple(dict.fromkeys([*(base.inputs if base else ()), self.input])),
        )


def refuse_difference(then: Mapping[str, Any], now: Mapping[str, Any], what: str) -> None:
    """ValueError that names each value that was another one then."""
    changed = [f"{name}: {then.get(name)} then, {value} now" for name, value in now.items() if then.get(name) != value]
    if changed:
        raise InputError(f"{what} ({'; '.join(changed)}): go on with the same options, choose another folder (out), or use mode overwrite")


def is_begun_or_whole(out: str) -> bool:
    """Whether a folder is a gallery's, finished or not."""
    return any(exists(join_location(out, name)) for name in (MANIFEST_NAME, BEGUN_FILE, plan_name(0)))


def read_job(out: str) -> GalleryJob | None:
    """The job that was begun in `out` and is not finished; None where there is none."""
    location = join_location(out, BEGUN_FILE)
    if not exists(location):
        return None
    values = json.loads(read_text(location))
    made_with, base, label_names = values["made_with"], values["base"], values["label_names"]
    for name in ("jpegs_on", "mass", "has_hash"):  # begun before there was a choice
        made_with.setdefault(name, getattr(Manifest, name))
    made_with.setdefault("schema_version", 1)
    if made_with["token_shape"] is not None:
        made_with["token_shape"] = tuple(made_with["token_shape"])  # JSON knows lists only
    values["base"] = None if base is None else Manifest.from_json(json.dumps(base))
    values["label_names"] = None if label_names is None else tuple(label_names)
    return GalleryJob(**values)


def begin(out: str, images: ImageList, made_with: dict[str, Any], mode: Mode, base: Manifest | None) -> GalleryJob:
    """Plans the listed images, those alone that `base` lacks where it is appended to, and says in begun.json what was begun.

    Killed before begun.json is there, it begins anew. ValueError for an id given twice, and where `out` holds parts of nobody knows what.
    """
    first_part = base.num_parts if base else 0
    if base is None and not is_begun_or_whole(out) and (finished_parts(out) or finished_parts(out, 1)):
        raise InputError(f"{out} holds files called as a gallery's parts, but is no gallery: choose another folder (out)")
    _refuse_unnamed(out, base, images)
    names, numbers = joined_labels(base.label_names if base else None, images.label_names, first=base is None)

    def items() -> Iterator[Any]:
        for item_ids, uris, labels in images:
            if labels is not None and images.label_names is None and names is not None and (labels >= 0).any():
                raise InputError(
                    f"{images.description} has labels without names, {out} has named ones: give a table with a column of names"
                )
            yield items_table(item_ids, uris, labels if labels is None or numbers is None else numbers[labels])

    known = planned_ids(out, before=first_part) if base else []
    # What is there stays until what replaces it is planned.
    planned_in = hidden_beside(out) if mode == "overwrite" else out
    filesystem, fresh = resolve(planned_in)
    try:
        summary = write_plan(planned_in, items(), made_with["rows_per_part"], first_part=first_part, known_ids=known)
        if base is None and not summary.num_rows:
            raise InputError(f"{images.description} lists no image")
        if mode == "overwrite":
            clear(out)
            filesystem.create_dir(resolve(out)[1], recursive=True)
            filesystem.move(f"{fresh}/{plan_name(0)}", f"{resolve(out)[1]}/{plan_name(0)}")
    finally:
        if mode == "overwrite" and exists(planned_in):
            filesystem.delete_dir(fresh)
    job = GalleryJob(
        made_with, images.description, mode, base, summary.num_rows, summary.num_parts, summary.num_known, names, images.ignored
    )
    if summary.num_rows:
        write_text(join_location(out, BEGUN_FILE), json.dumps(dataclasses.asdict(job), indent=1, ensure_ascii=False) + "\n")
    return job


def _refuse_unnamed(out: str, base: Manifest | None, images: ImageList) -> None:
    """ValueError where named labels would be appended to labels that are numbers only: what they stand for is not known."""
    if base is None or base.label_names is not None or images.label_names is None:
        return
    if (open_gallery(out).labels() >= 0).any():
        raise InputError(f"{out} has labels without names, {images.description} has named ones: encode them into another gallery")


def joined_labels(
    ours: tuple[str, ...] | None, theirs: tuple[str, ...] | None, *, first: bool
) -> tuple[tuple[str, ...] | None, np.ndarray | None]:
    """Label names of a gallery after an append, and the new number of each of the appended list's labels (the last, for -1, stays -1).

    first: the gallery is new and takes the list's names.
    """
    if first or theirs is None or ours == theirs:
        return (theirs if first else ours), None
    names = [*(ours or ()), *(name for name in theirs if name not in (ours or ()))]
    place = {name: number for number, name in enumerate(names)}
    return tuple(names), np.array([*(place[name] for name in theirs), -1], np.int32)


def clear(out: str) -> None:
    """Deletes the gallery in a folder, whole or begun, and nothing else there; its manifest first, so that it is never taken for whole."""
    filesystem, folder = resolve(out)
    parts = f"{folder}/{PARTS_FOLDER}"
    for pattern in _GALLERY_FILES:
        for place in (folder, parts):
            for entry in filesystem.get_file_info(pafs.FileSelector(place, allow_not_found=True)):
                if entry.type == pafs.FileType.File and re.fullmatch(pattern, entry.base_name):
                    filesystem.delete_file(entry.path)
    if filesystem.get_file_info(parts).type == pafs.FileType.Directory and not filesystem.get_file_info(pafs.FileSelector(parts)):
        filesystem.delete_dir(parts)


def sweep(out: str) -> None:
    """Deletes what writers that were killed left: temporary files of a local folder."""
    filesystem, folder = resolve(out)
    for place in (folder, f"{folder}/{PARTS_FOLDER}"):
        for entry in filesystem.get_file_info(pafs.FileSelector(place, allow_not_found=True)):
            if re.fullmatch(_TEMPORARY_FILES, entry.base_name):
                filesystem.delete_file(entry.path)

"""An unfinished gallery: its options, its input and its plan. They are stored in begun.json until the manifest is written."""

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
from eet.gallery.manifest import LATER_FIELDS, MANIFEST_NAME, Manifest
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
    """An encode job that has started and is not finished.

    Attributes:
        made_with: fields of the manifest that all parts share.
        input: description of the images.
        mode: the mode in which it was started.
        base: manifest of the gallery that is appended to; None for a new gallery.
        num_rows: rows planned by this job.
        num_parts: parts planned by this job.
        num_known: listed images that the gallery already has.
        label_names: label names of the finished gallery.
        ignored: number of listed files that are not images.
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
        """The schema version of every part of this job."""
        return int(self.made_with["schema_version"])

    def is_of(self, made_with: Mapping[str, Any], described: str) -> bool:
        """Whether this job has these options and this input."""
        return self.made_with == made_with and self.input == described

    def check(self, made_with: Mapping[str, Any], described: str, out: str) -> None:
        """InputError where this job was started with other options or another input."""
        refuse_difference({**self.made_with, "input": self.input}, {**made_with, "input": described}, f"{out} was started differently")

    def manifest(self, statuses: Mapping[str, int]) -> Manifest:
        """The manifest of the finished gallery. statuses: status -> number of rows of this job."""
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
    """InputError naming each value that has changed."""
    changed = [f"{name}: {then.get(name)} then, {value} now" for name, value in now.items() if then.get(name) != value]
    if changed:
        raise InputError(f"{what} ({'; '.join(changed)}): go on with the same options, choose another folder (out), or use mode overwrite")


def is_begun_or_whole(out: str) -> bool:
    """Whether a folder holds a gallery, finished or not."""
    return any(exists(join_location(out, name)) for name in (MANIFEST_NAME, BEGUN_FILE, plan_name(0)))


def read_job(out: str) -> GalleryJob | None:
    """The unfinished job in `out`; None where there is none."""
    location = join_location(out, BEGUN_FILE)
    if not exists(location):
        return None
    values = json.loads(read_text(location))
    made_with, base, label_names = values["made_with"], values["base"], values["label_names"]
    for name in LATER_FIELDS:
        made_with.setdefault(name, getattr(Manifest, name))
    made_with.setdefault("schema_version", 1)
    if made_with["token_shape"] is not None:
        made_with["token_shape"] = tuple(made_with["token_shape"])  # JSON knows lists only
    values["base"] = None if base is None else Manifest.from_json(json.dumps(base))
    values["label_names"] = None if label_names is None else tuple(label_names)
    return GalleryJob(**values)


def begin(out: str, images: ImageList, made_with: dict[str, Any], mode: Mode, base: Manifest | None) -> GalleryJob:
    """Plans the listed images (only those that `base` lacks, if it is given), and records the job in begun.json.

    If it is killed before begun.json is written, the next job starts from the beginning.

    Raises:
        InputError: an id occurs twice, no image is listed, or `out` holds parts but no gallery.
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
    # The old gallery stays until the new one is planned.
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
    """InputError where named labels would be appended to labels without names: the names of those are unknown."""
    if base is None or base.label_names is not None or images.label_names is None:
        return
    if (open_gallery(out).labels() >= 0).any():
        raise InputError(f"{out} has labels without names, {images.description} has named ones: encode them into another gallery")


def joined_labels(
    gallery_names: tuple[str, ...] | None, appended_names: tuple[str, ...] | None, *, first: bool
) -> tuple[tuple[str, ...] | None, np.ndarray | None]:
    """Joins the label names of a gallery and of the images that are appended to it.

    Args:
        gallery_names: of the gallery.
        appended_names: of the appended images.
        first: the gallery is new and takes the appended names.

    Returns:
        names: label names of the gallery after the append.
        numbers: int32, the new number of each appended label, and -1 as the last entry (for label -1); None where no number changes.
    """
    if first or appended_names is None or gallery_names == appended_names:
        return (appended_names if first else gallery_names), None
    names = [*(gallery_names or ()), *(name for name in appended_names if name not in (gallery_names or ()))]
    number_of = {name: number for number, name in enumerate(names)}
    return tuple(names), np.array([*(number_of[name] for name in appended_names), -1], np.int32)


def clear(out: str) -> None:
    """Deletes the files of the gallery in a folder, finished or not, and no others. The manifest goes first, so that the rest does not
    look like a finished gallery.
    """
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
    """Deletes temporary files that killed writers left in a local folder."""
    filesystem, folder = resolve(out)
    for place in (folder, f"{folder}/{PARTS_FOLDER}"):
        for entry in filesystem.get_file_info(pafs.FileSelector(place, allow_not_found=True)):
            if re.fullmatch(_TEMPORARY_FILES, entry.base_name):
                filesystem.delete_file(entry.path)

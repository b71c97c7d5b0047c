"""An unfinished gallery: its options, its input and its plan. They are stored in begun.json until the manifest is written."""

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.fs as pafs

from eet.datasets.listing import ImageList
from eet.errors import InputError
from eet.gallery.manifest import LATER_FIELDS, Manifest
from eet.gallery.parts import PARTS_FOLDER, Plans
from eet.gallery.plan import items_table, plan_name, planned_ids, write_plan
from eet.gallery.reader import open_gallery
from eet.gallery.schema import OK
from eet.options.choices import Mode
from eet.storage import (
    OWNER_FILE,
    exists,
    held_folder,
    hidden_beside,
    is_hidden_name,
    is_inside,
    join_location,
    parsed_json,
    read_json,
    remove_leftovers,
    remove_leftovers_in,
    resolve,
    write_text,
)

BEGUN_FILE = "begun.json"
QUERIES_MARKER = "encoded_for.json"
"""In a gallery of query images that a search encoded, which it puts next to its hits."""
GALLERY_NAMES = r"manifest\.json|begun\.json|owner\.json|config\.yaml|plan(-\d{6,})?\.parquet|parts|part-\d{6,}\.parquet"
"""A regular expression for the files and folders of a gallery. No others are ever deleted."""
_CLEARED = (r"manifest\.json", r"config\.yaml", r"plan(-\d{6,})?\.parquet", r"part-\d{6,}\.parquet")


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
        plan_digest: digest of the plan; "" in jobs of older versions.
        digest: what the parts of this job carry, see `parts_digest`; "" in jobs of older versions.
        clearing: whether the files of the gallery that is overwritten are still being deleted. Then the plan is not in place yet.
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
    plan_digest: str = ""
    digest: str = ""
    clearing: bool = False

    @property
    def plans(self) -> Plans:
        """First part and digest of every job of the gallery after this one."""
        before = self.base.plans if self.base else ()
        return (*before, (self.first_part, self.digest)) if self.digest else before

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
            plans=self.plans,
        )


def parts_digest(made_with: Mapping[str, Any], plan_digest: str) -> str:
    """The digest that the parts of a job carry: of everything that decides their rows, except the contents of the images."""
    return hashlib.sha256(json.dumps([dict(made_with), plan_digest], sort_keys=True).encode()).hexdigest()


def check_folder(out: str, inputs: Iterable[str] = ()) -> None:
    """InputError where the folder of a new gallery holds files of others, so that none is ever replaced or deleted.

    Args:
        out: folder or URI of the gallery.
        inputs: locations of the images, which must not lie in it.
    """
    for location in inputs:
        if _lies_in(location, out):
            raise InputError(f"the images {location} lie in the folder of the gallery, {out}: give the gallery its own folder (out)")
    filesystem, folder = resolve(out)
    info = filesystem.get_file_info(folder)
    if info.type == pafs.FileType.File:
        raise InputError(f"{out} is a file: a gallery is a folder; choose another one (out)")
    names = [entry.base_name for entry in filesystem.get_file_info(pafs.FileSelector(folder, allow_not_found=True))]
    others = sorted(name for name in names if name != OWNER_FILE and not is_hidden_name(name))
    if QUERIES_MARKER in names:
        raise InputError(f"{out} holds the queries of a search, which the next search replaces: choose another folder (out)")
    if any(re.fullmatch(r"manifest\.json|begun\.json", name) for name in names):
        return
    if any(re.fullmatch(r"plan(-\d{6,})?\.parquet", name) for name in names):  # a job was killed before it wrote begun.json
        others = [name for name in others if not re.fullmatch(GALLERY_NAMES, name)]
    if others:
        shown = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
        raise InputError(f"{out} holds other files ({shown}), but is no gallery: choose another folder (out)")


def _lies_in(location: str, folder: str) -> bool:
    try:
        return is_inside(location, folder)
    except InputError:
        if any(letter in location for letter in "*?[{"):
            return False  # a pattern is not always a valid URI itself
        raise


def refuse_difference(then: Mapping[str, Any], now: Mapping[str, Any], what: str) -> None:
    """InputError naming each value that has changed."""
    changed = [f"{name}: {then.get(name)} then, {value} now" for name, value in now.items() if then.get(name) != value]
    if changed:
        raise InputError(f"{what} ({'; '.join(changed)}): use the same options, choose another folder (out), or use mode overwrite")


def read_job(out: str) -> GalleryJob | None:
    """The unfinished job in `out`; None where there is none."""
    location = join_location(out, BEGUN_FILE)
    if not exists(location):
        return None
    job = read_json(location, GalleryJob)
    made_with = dict(job.made_with)
    for name in LATER_FIELDS:
        made_with.setdefault(name, getattr(Manifest, name))
    made_with.setdefault("schema_version", 1)
    # JSON knows no tuples, and does not say what the options must be: the manifest does.
    counts = {"num_rows": 0, "num_ok": 0, "num_parts": 0}
    manifest = parsed_json(json.dumps({**made_with, **counts}), Manifest, location)
    manifest.check()
    return dataclasses.replace(job, made_with={name: getattr(manifest, name) for name in made_with})


def begin(
    out: str, images: ImageList, made_with: dict[str, Any], mode: Mode, base: Manifest | None, *, check: Callable[[], object] = lambda: None
) -> GalleryJob:
    """Plans the listed images (only those that `base` lacks, if it is given), and records the job in begun.json.

    If it is killed before begun.json is written, the next job starts from the beginning. A gallery that is overwritten stays until the
    new one is planned. Then begun.json says that it is being deleted, so that the same command goes on after a kill.

    Args:
        out: folder or URI of the gallery.
        images: images to encode.
        made_with: fields of the manifest that all parts share.
        mode: as for `encode_gallery`.
        base: manifest of the gallery that is appended to; None for a new gallery.
        check: called before files of an older gallery are deleted and before begun.json is written; what it raises stops that.

    Raises:
        InputError: an id occurs twice, or no image is listed.
    """
    first_part = base.num_parts if base else 0
    _refuse_unnamed(out, base, images)
    names, numbers = joined_labels(base.label_names if base else None, images.label_names, first=base is None)

    def items() -> Iterator[Any]:
        for item_ids, uris, labels, places in images:
            if labels is not None and images.label_names is None and names is not None and (labels >= 0).any():
                raise InputError(
                    f"{images.description} has labels without names, {out} has named ones: give a table with a column of names"
                )
            yield items_table(item_ids, uris, labels if labels is None or numbers is None else numbers[labels], places)

    known = planned_ids(out, before=first_part) if base else []
    planned_in = hidden_beside(out) if mode == "overwrite" else out
    filesystem, fresh = resolve(planned_in)
    remove_leftovers(out)
    held = held_folder(fresh) if mode == "overwrite" and isinstance(filesystem, pafs.LocalFileSystem) else contextlib.nullcontext()
    try:
        with held:
            summary = write_plan(
                planned_in, items(), made_with["rows_per_part"], first_part=first_part, known_ids=known, places=made_with["positions"]
            )
            if base is None and not summary.num_rows:
                raise InputError(f"{images.description} lists no image")
            job = GalleryJob(
                made_with,
                images.description,
                mode,
                base,
                summary.num_rows,
                summary.num_parts,
                summary.num_known,
                names,
                images.ignored,
                summary.digest,
                parts_digest(made_with, summary.digest),
            )
            check()
            if mode == "overwrite":
                _record(out, dataclasses.replace(job, clearing=True))
                clear(out)
                filesystem.move(f"{fresh}/{plan_name(0)}", f"{resolve(out)[1]}/{plan_name(0)}")
    finally:
        if mode == "overwrite" and exists(planned_in):
            filesystem.delete_dir(fresh)
    if summary.num_rows:
        _record(out, job)
    return job


def _record(out: str, job: GalleryJob) -> None:
    write_text(join_location(out, BEGUN_FILE), json.dumps(dataclasses.asdict(job), indent=1, ensure_ascii=False) + "\n")


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
    """Deletes the files of the gallery in a folder, and no others; begun.json and owner.json stay.

    The manifest is deleted first, so that the rest does not look like a finished gallery.
    """
    filesystem, folder = resolve(out)
    parts = f"{folder}/{PARTS_FOLDER}"
    for pattern in _CLEARED:
        for place in (folder, parts):
            for entry in filesystem.get_file_info(pafs.FileSelector(place, allow_not_found=True)):
                if entry.type == pafs.FileType.File and re.fullmatch(pattern, entry.base_name):
                    filesystem.delete_file(entry.path)
    if filesystem.get_file_info(parts).type == pafs.FileType.Directory and not filesystem.get_file_info(pafs.FileSelector(parts)):
        filesystem.delete_dir(parts)


def remove_temporary_files(out: str, *, wait_s: float = 0.0) -> None:
    """Deletes temporary files that killed writers left in the folders of a gallery. wait_s: as for `remove_leftovers_in`."""
    remove_leftovers_in(out, wait_s=wait_s)
    remove_leftovers_in(join_location(out, PARTS_FOLDER), wait_s=wait_s)

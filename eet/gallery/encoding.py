"""Encoding a gallery: first the plan, then part by part, the manifest last. An interrupted job continues where it stopped."""

import dataclasses
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import torch

from eet.datasets.listing import ImageList
from eet.device import Device
from eet.errors import DamagedError, InputError
from eet.gallery.encoder import DEFAULT_BATCH_SIZE, PartEncoder, check_mass
from eet.gallery.job import BEGUN_FILE, GalleryJob, begin, check_folder, read_job, refuse_difference, remove_temporary_files
from eet.gallery.manifest import Manifest, is_gallery, read_manifest, write_manifest
from eet.gallery.models import GalleryModel, ModelRecord
from eet.gallery.parts import SCHEMA_VERSION, PartFiles, finished_parts
from eet.gallery.plan import PlannedPart, items_table, planned_parts, read_planned_part
from eet.gallery.reader import Gallery, open_gallery
from eet.gallery.schema import OK
from eet.options.choices import Mode, TokenMass, VectorForm
from eet.storage import Claim, join_location, remove

READS_AHEAD = 16
MOST_BATCH, MOST_THREADS = 65_536, 4096
LABELS_COMPARED = 1000
"""Images whose labels are compared with those of a finished gallery."""
REPORT_EVERY_S = 5.0
"""Seconds between two progress reports of a part."""


class PartDone(NamedTuple):
    """A part that is on disk. statuses: status -> number of rows. encoded: whether this job encoded it, or it existed before."""

    part: int
    statuses: dict[str, int]
    encoded: bool

    @property
    def rows(self) -> int:
        return sum(self.statuses.values())


class RowsDone(NamedTuple):
    """How many rows of a part have gone through the network; the part is not on disk yet."""

    part: int
    rows: int


OnProgress = Callable[[PartDone | RowsDone], object]
EncodeParts = Callable[[list[PlannedPart], PartFiles], Iterable[PartDone]]
"""Encodes parts into these files, each once, in any order; a part is on disk when it is yielded."""


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """How a worker encodes.

    Attributes:
        tokens: store the kept patch tokens, their positions and mass.
        embedding: store the final CLS vector.
        tokens_as, embedding_as: how tokens and embedding are stored.
        hash: store the real-valued hash.
        mass: source of the tokens' mass, "importance" or "rollout" (attention rollout; not for a base model).
        precision: "auto" (bf16 on CUDA, fp32 on a CPU), "fp32" or "bf16".
        jpegs_on: what decodes ordinary JPEGs, "cpu" or "gpu".
        max_pixels: an image with more pixels becomes a row with an error.
        batch_size: images in a batch, 1 to MOST_BATCH; None for a default by device.
        threads: threads that read and decode, 1 to MOST_THREADS; None for all CPUs of the worker.
    """

    tokens: bool = False
    embedding: bool = False
    tokens_as: VectorForm = "float16"
    embedding_as: VectorForm = "float16"
    hash: bool = False
    mass: TokenMass = "importance"
    precision: str = "auto"
    jpegs_on: str = "cpu"
    max_pixels: int = 200_000_000
    batch_size: int | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        for name, most in (("batch_size", MOST_BATCH), ("threads", MOST_THREADS)):
            if (value := getattr(self, name)) is not None and not 1 <= value <= most:
                raise InputError(f"{name} {value}: use 1 to {most}")

    def encoder(self, model: GalleryModel, *, device: str, threads: int) -> PartEncoder:
        """The encoder of a worker.

        Args:
            model: in eval mode.
            device: "cpu" or "cuda".
            threads: CPUs of the worker, used where the options set no number.

        Raises:
            RuntimeError: JPEGs are to be decoded on a GPU, and the worker has none.
        """
        if self.jpegs_on == "gpu" and device == "cpu":
            raise RuntimeError("JPEGs are to be decoded on a GPU (jpegs_on='gpu'), but this worker has none")
        threads = self.threads or threads
        torch.set_num_threads(threads)
        return PartEncoder(
            model,
            device=device,
            batch_size=self.batch_size or DEFAULT_BATCH_SIZE[device],
            threads=threads,
            tokens=self.tokens,
            embedding=self.embedding,
            token_form=self.tokens_as,
            embedding_form=self.embedding_as,
            has_hash=self.hash,
            precision=self.precision,
            mass=self.mass,
            max_pixels=self.max_pixels,
            jpegs_on_device=self.jpegs_on == "gpu",
        )

    def made_with(self, model: GalleryModel, record: ModelRecord, *, rows_per_part: int) -> dict[str, Any]:
        """The fields of the manifest that all rows of a gallery share. InputError where the model cannot compute the mass."""
        check_mass(self.mass, model, tokens=self.tokens)
        return {
            "model_digest": record.digest,
            "preprocessing_digest": record.preprocessing_digest,
            "num_bits": model.num_bits,
            "token_shape": model.token_shape if self.tokens else None,
            "token_dtype": self.tokens_as if self.tokens else None,
            "embedding_dim": model.embedding_width if self.embedding else None,
            "embedding_dtype": self.embedding_as if self.embedding else "float16",
            "has_hash": self.hash,
            "precision": self.precision,
            "jpegs_on": self.jpegs_on,
            "mass": self.mass,
            "rows_per_part": rows_per_part,
            "schema_version": SCHEMA_VERSION,
        }


@dataclass(frozen=True)
class EncodeResult:
    """The gallery, its manifest (None after a dry run of a new one), and rows/s over the parts encoded now (0 where none were)."""

    gallery: str
    manifest: Manifest | None
    rate: float


@dataclass(frozen=True)
class GalleryState:
    """What lies in the folder of a gallery before images are encoded into it.

    Attributes:
        made_with: fields of the manifest that every new part shares.
        mode: how to continue: "resume", "append" or "overwrite".
        job: the interrupted job that will be continued; None if there is none.
        manifest: of a finished gallery; None if there is none, or if it will be replaced.
    """

    made_with: dict[str, Any]
    mode: Mode
    job: GalleryJob | None
    manifest: Manifest | None


def gallery_state(out: str, images: ImageList, made_with: dict[str, Any], mode: Mode) -> GalleryState:
    """Reads the state of the folder that images will be encoded into.

    Args:
        out: folder or URI of the gallery.
        images: images to encode.
        made_with: fields of the manifest, from `EncoderOptions.made_with`.
        mode: "resume" continues an interrupted job; "append" adds images that the gallery lacks; "overwrite" starts again.

    Raises:
        InputError: the folder holds a job or a gallery that was made with other options or images, or files of others.
    """
    check_folder(out)
    made_with = {**made_with, "positions": images.has_places}
    job = read_job(out)
    manifest = read_manifest(out) if is_gallery(out) else None
    if mode == "overwrite" and not (job is not None and job.mode == "overwrite" and job.is_of(made_with, images.description)):
        job = manifest = None  # replaced once the new images are listed and planned
    if job is not None:
        made_with = {**made_with, "schema_version": job.schema_version}
        if job.base is not None:  # appended parts have the size of the existing ones, whatever the option says
            made_with["rows_per_part"] = job.base.rows_per_part
        job.check(made_with, images.description, out)
        if job.clearing:  # killed while it deleted the older gallery: that goes on
            return GalleryState(made_with, "overwrite", None, None)
    elif manifest is not None:
        written = {name: getattr(manifest, name) for name in made_with}
        made_with = {**made_with, "rows_per_part": manifest.rows_per_part, "schema_version": manifest.schema_version}
        refuse_difference(written, made_with, f"{out} is a gallery made differently")
    return GalleryState(made_with, mode, job, manifest)


def encode_gallery(
    out: str,
    images: ImageList,
    state: GalleryState,
    encode_parts: EncodeParts,
    claim: Claim,
    *,
    notify: Callable[[str], object] = lambda line: None,
    on_begin: Callable[[], object] = lambda: None,
) -> EncodeResult:
    """Plans the gallery, encodes the missing parts, and writes the manifest last.

    Args:
        out: folder or URI.
        images: images to encode.
        state: of `out`, from `gallery_state`, read while the claim was held.
        encode_parts: encodes the missing parts, for example `parts_here`.
        claim: on `out`.
        notify: called with one-line messages for the user.
        on_begin: called when the job has been planned, also if an earlier run planned it.

    Raises:
        InputError: the gallery is finished and holds other images, or an id occurs twice.
        TakenOverError: another job took over the folder.
        DamagedError: parts are missing or belong to another plan.
    """
    job, manifest = state.job, state.manifest
    if job is None and manifest is not None:
        manifest = _repair(out, manifest, encode_parts, claim, notify)
        if state.mode != "append":
            return _nothing_to_do(out, manifest, images, notify)
    resumed = job is not None
    if job is None:
        notify(f"listing {images.description}")
        job = begin(out, images, state.made_with, state.mode, manifest, check=claim.check)
        if manifest is not None and not job.num_rows:
            notify(f"nothing to append: all {job.num_known} images are in {out} already")
            return EncodeResult(out, manifest, 0.0)
    on_begin()
    parts = [f"{job.num_rows} images ({job.input})"]
    parts += [f"{job.num_known} are in the gallery already"] if job.base else []
    parts += [f"{job.ignored} other files ignored"] if job.ignored else []
    notify(", ".join(parts))
    return _finish(out, job, encode_parts, claim, notify, resumed=resumed)


def _repair(out: str, manifest: Manifest, encode_parts: EncodeParts, claim: Claim, notify: Callable[[str], object]) -> Manifest:
    """Encodes parts of a finished gallery whose files are missing, damaged or of another job. Returns the manifest of what is there then.

    An image that could be read when the gallery was made may be gone; then the counts of the manifest change.
    """
    files = PartFiles(out, manifest.schema_version, manifest.plans, claim)
    with ThreadPoolExecutor(READS_AHEAD) as pool:
        there = pool.map(files.is_there, range(manifest.num_parts))
        missing = {part for part, found in enumerate(there) if not found}
    if not missing:
        return manifest
    notify(f"{len(missing)} of {manifest.num_parts} parts are missing or damaged: encoding them again")
    _encoded([part for part in planned_parts(out) if part.part in missing], encode_parts, files)
    statuses = _statuses(files, range(manifest.num_parts), {})
    errors = {status: count for status, count in sorted(statuses.items()) if status != OK}
    repaired = dataclasses.replace(manifest, num_ok=statuses[OK], errors=errors)
    if repaired != manifest:
        notify(f"{repaired.num_ok} images have a code now, {manifest.num_ok} had one before ({error_report(repaired)})")
        write_manifest(out, repaired, check=claim.check)
    return repaired


def _nothing_to_do(out: str, manifest: Manifest, images: ImageList, notify: Callable[[str], object]) -> EncodeResult:
    if images.description not in manifest.inputs:
        raise InputError(
            f"{out} is a finished gallery of {', '.join(manifest.inputs)}: use mode append to add {images.description} to it, "
            "mode overwrite to replace it, or another folder (out)"
        )
    others = [name for name in images.label_names or () if name not in (manifest.label_names or ())]
    if others and len(manifest.inputs) == 1:
        raise InputError(
            f"{images.description} has labels that {out} lacks, such as {others[0]!r}: the table was changed, or the labels come from "
            "another column (columns.label). Use mode overwrite, or another folder (out)"
        )
    if (item_id := _relabelled(open_gallery(out), images)) is not None:
        raise InputError(
            f"{images.description} gives {item_id!r} another label than {out} has: the table was changed, or the labels come from another "
            "column (columns.label). Use mode overwrite, or another folder (out)"
        )
    notify(f"{out} is finished: nothing to do (mode append encodes images that are new)")
    return EncodeResult(out, manifest, 0.0)


def _relabelled(gallery: Gallery, images: ImageList) -> str | None:
    """The id of an image whose label in the list is not that in the gallery. Only the first LABELS_COMPARED images are compared."""
    first = next(iter(images), None)
    if first is None or first.labels is None:
        return None
    few = slice(0, LABELS_COMPARED)
    listed = items_table(first.item_ids[few], first.uris[few], first.labels[few])
    label_of = dict(zip(listed["item_id"].to_pylist(), _names(listed["label"], images.label_names), strict=True))
    for part, places in gallery.parts_holding(listed["item_id"].combine_chunks()).items():
        rows = gallery.part_rows(part, listed["item_id"].take(pa.array(places)), ["item_id", "label"])
        for item_id, label in zip(rows["item_id"].to_pylist(), _names(rows["label"], gallery.manifest.label_names), strict=True):
            if label_of[item_id] != label:
                return str(item_id)
    return None


def _names(labels: pa.ChunkedArray, names: tuple[str, ...] | None) -> list[str | int | None]:
    return [label if label is None or names is None else names[label] for label in labels.to_pylist()]


def _finish(
    out: str, job: GalleryJob, encode_parts: EncodeParts, claim: Claim, notify: Callable[[str], object], *, resumed: bool
) -> EncodeResult:
    """Encodes the pending parts of a job and writes the manifest."""
    planned = [part for part in planned_parts(out) if job.first_part <= part.part < job.first_part + job.num_parts]
    if sum(part.num_rows for part in planned) != job.num_rows or any(part.digest != job.plan_digest for part in planned):
        raise DamagedError(f"{out} is damaged: its plan is not the one of the job in {BEGUN_FILE}. Use mode overwrite, or another folder")
    files = PartFiles(out, job.schema_version, job.plans, claim)
    there: dict[int, dict[str, int]] = {}
    if resumed:  # a new job has no parts yet
        numbers = sorted({part.part for part in planned} & set(finished_parts(out, job.schema_version)))
        with ThreadPoolExecutor(READS_AHEAD) as pool:
            found = zip(numbers, pool.map(files.statuses, numbers), strict=True)
            there = {part: statuses for part, statuses in found if statuses is not None}
    pending = [part for part in planned if part.part not in there]
    if len(pending) < len(planned):
        notify(f"{len(planned) - len(pending)} of {len(planned)} parts are there already; {len(pending)} to encode")
    started = time.monotonic()
    done = _encoded(pending, encode_parts, files)
    seconds = time.monotonic() - started
    rate = sum(part.rows for part in done.values() if part.encoded) / seconds if done else 0.0
    statuses = _statuses(files, (part.part for part in planned), {**there, **{part: one.statuses for part, one in done.items()}})
    if sum(statuses.values()) != job.num_rows:
        raise DamagedError(
            f"{out} is damaged: its parts hold {sum(statuses.values())} rows, and its plan has {job.num_rows}. "
            "Empty the folder and encode again"
        )
    manifest = job.manifest(statuses)
    claim.check()
    files.remove_from(manifest.num_parts)
    write_manifest(out, manifest, check=claim.check)
    remove(join_location(out, BEGUN_FILE))
    remove_temporary_files(out)
    return EncodeResult(out, manifest, rate)


def _encoded(pending: list[PlannedPart], encode_parts: EncodeParts, files: PartFiles) -> dict[int, PartDone]:
    """Encodes parts. DamagedError where they are missing from the folder afterwards."""
    done = {part.part: part for part in encode_parts(pending, files)} if pending else {}
    if absent := set(done) - set(finished_parts(files.gallery, files.version)):
        raise DamagedError(
            f"{len(absent)} parts that workers wrote are not in {files.gallery}, such as part {min(absent)}: give a folder that all nodes "
            "share, or a URI"
        )
    return done


def _statuses(files: PartFiles, parts: Iterable[int], known: Mapping[int, Mapping[str, int]]) -> Counter[str]:
    """status -> number of rows of these parts. known: those of parts that need not be read. DamagedError where a part is not there."""
    counted: Counter[str] = Counter()
    wanted = list(parts)
    with ThreadPoolExecutor(READS_AHEAD) as pool:
        read = pool.map(files.statuses, [part for part in wanted if part not in known])
        for part in wanted:
            statuses = known[part] if part in known else next(read)
            if statuses is None:
                raise DamagedError(
                    f"{files.gallery} is damaged: part {part} is missing, or was written by another job. Run the same command again"
                )
            counted.update(statuses)
    return counted


def parts_here(
    model: GalleryModel,
    options: EncoderOptions,
    files: PartFiles,
    pending: list[PlannedPart],
    on_progress: OnProgress = lambda event: None,
) -> Iterator[PartDone]:
    """Encodes parts in this process, one after another.

    Args:
        model: in eval mode.
        options: how to encode.
        files: where the parts are written.
        pending: parts to encode.
        on_progress: called every few seconds, and after each part.
    """
    encoder = options.encoder(model, device=Device.of().type, threads=os.cpu_count() or 1)
    for planned in pending:
        done = encode_part(encoder, files, planned, on_progress)
        on_progress(done)
        yield done


def encode_part(encoder: PartEncoder, files: PartFiles, planned: PlannedPart, on_progress: OnProgress) -> PartDone:
    """Encodes a part and writes it to disk. on_progress: called every few seconds."""
    last = time.monotonic()

    def on_rows(rows: int) -> None:
        nonlocal last
        if time.monotonic() - last >= REPORT_EVERY_S:
            last = time.monotonic()
            on_progress(RowsDone(planned.part, rows))

    encoded = encoder.encode(read_planned_part(files.gallery, planned), on_rows)
    files.write(planned.part, encoded.table)
    return PartDone(planned.part, dict(Counter(encoded.table["status"].to_pylist())), True)


def error_report(manifest: Manifest) -> str:
    """'images failed (2 missing, 1 truncated)'; '' where none did."""
    reasons = ", ".join(f"{count} {status}" for status, count in manifest.errors.items())
    return f"images failed ({reasons})" if manifest.num_ok < manifest.num_rows else ""

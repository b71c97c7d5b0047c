"""Encoding a gallery: first the plan, then part by part, the manifest last. An interrupted job continues where it stopped."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import torch

from eet.datasets.listing import ImageList
from eet.device import Device
from eet.errors import DamagedError, InputError
from eet.gallery.encoder import DEFAULT_BATCH_SIZE, PartEncoder, TokenMass, check_mass
from eet.gallery.job import BEGUN_FILE, GalleryJob, Mode, begin, read_job, refuse_difference, sweep
from eet.gallery.manifest import Manifest, is_gallery, read_manifest, write_manifest
from eet.gallery.models import GalleryModel, ModelRecord
from eet.gallery.parts import SCHEMA_VERSION, finished_parts, part_location, write_part
from eet.gallery.plan import PlannedPart, planned_parts, read_planned_part
from eet.hashing.quantisation import VectorForm
from eet.storage import join_location, remove, resolve, without_secrets

READS_AHEAD = 16
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
EncodeParts = Callable[[list[PlannedPart]], Iterable[PartDone]]
"""Encodes parts, each once, in any order; a part is on disk when it is yielded."""


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
        batch_size: images in a batch; None for a default by device.
        threads: threads that read and decode; None for all CPUs of the worker.
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
        job: the interrupted job that will be continued; None if there is none.
        manifest: of a finished gallery; None if there is none, or if it will be replaced.
    """

    made_with: dict[str, Any]
    job: GalleryJob | None
    manifest: Manifest | None

    @property
    def version(self) -> int:
        """The schema version of new parts: the same as that of existing parts."""
        return int(self.made_with["schema_version"])


def gallery_state(out: str, images: ImageList, made_with: dict[str, Any], mode: Mode) -> GalleryState:
    """Reads the state of the folder that images will be encoded into.

    Args:
        out: folder or URI of the gallery.
        images: images to encode.
        made_with: fields of the manifest, from `EncoderOptions.made_with`.
        mode: "resume", "append" or "overwrite".

    Raises:
        InputError: the folder holds a job or a gallery that was made with other options or images.
    """
    job = read_job(out)
    manifest = read_manifest(out) if is_gallery(out) else None
    if mode == "overwrite" and not (job is not None and job.mode == "overwrite" and job.is_of(made_with, images.description)):
        job = manifest = None  # replaced once the new images are listed and planned
    if job is not None:
        made_with = {**made_with, "schema_version": job.schema_version}
        if job.base is not None:  # appended parts have the size of the existing ones, whatever the option says
            made_with["rows_per_part"] = job.base.rows_per_part
        job.check(made_with, images.description, out)
    elif manifest is not None:
        written = {name: getattr(manifest, name) for name in made_with}
        made_with = {**made_with, "rows_per_part": manifest.rows_per_part, "schema_version": manifest.schema_version}
        refuse_difference(written, made_with, f"{out} is a gallery made differently")
    return GalleryState(made_with, job, manifest)


def encode_gallery(
    out: str,
    images: ImageList,
    state: GalleryState,
    encode_parts: EncodeParts,
    *,
    mode: Mode = "resume",
    notify: Callable[[str], object] = lambda line: None,
    on_begin: Callable[[], object] = lambda: None,
) -> EncodeResult:
    """Plans the gallery, encodes the missing parts, and writes the manifest last.

    Args:
        out: folder or URI.
        images: images to encode.
        state: of `out`, from `gallery_state`.
        encode_parts: encodes the missing parts, for example `parts_here`.
        mode: "resume" continues an interrupted job; "append" adds images that the gallery lacks; "overwrite" starts again.
        notify: called with one-line messages for the user.
        on_begin: called when a new job has been planned.

    Raises:
        InputError: the gallery is finished and holds other images, or an id occurs twice.
        DamagedError: parts are missing or belong to another plan.
    """
    job, manifest = state.job, state.manifest
    if job is None and manifest is not None:
        _repair(out, manifest, encode_parts, notify)
        if mode != "append":
            return _nothing_to_do(out, manifest, images, notify)
    resumed = job is not None
    if job is None:
        notify(f"listing {images.description}")
        job = begin(out, images, state.made_with, mode, manifest)
        if manifest is not None and not job.num_rows:
            notify(f"nothing to append: all {job.num_known} images are in {without_secrets(out)} already")
            return EncodeResult(out, manifest, 0.0)
        on_begin()
    parts = [f"{job.num_rows} images ({job.input})"]
    parts += [f"{job.num_known} are in the gallery already"] if job.base else []
    parts += [f"{job.ignored} other files ignored"] if job.ignored else []
    notify(", ".join(parts))
    return _finish(out, job, encode_parts, notify, resumed=resumed)


def _repair(out: str, manifest: Manifest, encode_parts: EncodeParts, notify: Callable[[str], object]) -> None:
    """Encodes parts of a finished gallery whose files are missing."""
    missing = sorted(set(range(manifest.num_parts)) - set(finished_parts(out, manifest.schema_version)))
    if missing:
        notify(f"{len(missing)} of {manifest.num_parts} parts are missing: encoding them again")
        _encoded(out, [part for part in planned_parts(out) if part.part in missing], encode_parts, manifest.schema_version)


def _nothing_to_do(out: str, manifest: Manifest, images: ImageList, notify: Callable[[str], object]) -> EncodeResult:
    if images.description not in manifest.inputs:
        raise InputError(
            f"{out} is a finished gallery of {', '.join(manifest.inputs)}: use mode append to add {images.description} to it, "
            "mode overwrite to replace it, or another folder (out)"
        )
    notify(f"{without_secrets(out)} is finished: nothing to do (mode append encodes images that are new)")
    return EncodeResult(out, manifest, 0.0)


def _finish(out: str, job: GalleryJob, encode_parts: EncodeParts, notify: Callable[[str], object], *, resumed: bool) -> EncodeResult:
    """Encodes the pending parts of a job and writes the manifest. A new job has no parts yet, so none are listed."""
    planned = [part for part in planned_parts(out) if job.first_part <= part.part < job.first_part + job.num_parts]
    assert sum(part.num_rows for part in planned) == job.num_rows, (planned, job)
    version = job.schema_version
    there = set(finished_parts(out, version)) if resumed else set()
    pending = [part for part in planned if part.part not in there]
    if len(pending) < len(planned):
        notify(f"{len(planned) - len(pending)} of {len(planned)} parts are there already; {len(pending)} to encode")
    started = time.monotonic()
    done = _encoded(out, pending, encode_parts, version)
    seconds = time.monotonic() - started
    rate = sum(part.rows for part in done.values() if part.encoded) / seconds if done else 0.0
    with ThreadPoolExecutor(READS_AHEAD) as pool:
        found = pool.map(lambda part: read_part_done(out, part.part, version), (part for part in planned if part.part not in done))
        statuses: Counter[str] = Counter()
        for part in (*done.values(), *found):
            statuses.update(part.statuses)
    if sum(statuses.values()) != job.num_rows:
        raise DamagedError(
            f"{out} is damaged: its parts hold {sum(statuses.values())} rows, the plan {job.num_rows}. Empty it and begin again"
        )
    manifest = job.manifest(statuses)
    write_manifest(out, manifest)
    remove(join_location(out, BEGUN_FILE))
    sweep(out)
    return EncodeResult(out, manifest, rate)


def _encoded(out: str, pending: list[PlannedPart], encode_parts: EncodeParts, version: int) -> dict[int, PartDone]:
    """Encodes parts. DamagedError where they are missing from the folder afterwards."""
    done = {part.part: part for part in encode_parts(pending)} if pending else {}
    if absent := set(done) - set(finished_parts(out, version)):
        raise DamagedError(
            f"{len(absent)} parts that workers wrote are not in {out}, such as part {min(absent)}: give a folder that all nodes share, or "
            "a URI"
        )
    return done


def parts_here(
    model: GalleryModel,
    options: EncoderOptions,
    gallery: str,
    pending: list[PlannedPart],
    on_progress: OnProgress = lambda event: None,
    *,
    version: int = SCHEMA_VERSION,
) -> Iterator[PartDone]:
    """Encodes parts in this process, one after another.

    Args:
        model: in eval mode.
        options: how to encode.
        gallery: folder or URI.
        pending: parts to encode.
        on_progress: called every few seconds, and after each part.
        version: schema version of the gallery.
    """
    encoder = options.encoder(model, device=Device.of().type, threads=os.cpu_count() or 1)
    for planned in pending:
        done = encode_part(encoder, gallery, planned, on_progress, version=version)
        on_progress(done)
        yield done


def encode_part(encoder: PartEncoder, gallery: str, planned: PlannedPart, on_progress: OnProgress, *, version: int) -> PartDone:
    """Encodes a part and writes it to disk. on_progress: called every few seconds."""
    last = time.monotonic()

    def on_rows(rows: int) -> None:
        nonlocal last
        if time.monotonic() - last >= REPORT_EVERY_S:
            last = time.monotonic()
            on_progress(RowsDone(planned.part, rows))

    encoded = encoder.encode(read_planned_part(gallery, planned), on_rows)
    write_part(gallery, planned.part, encoded.table, version)
    return PartDone(planned.part, dict(Counter(encoded.table["status"].to_pylist())), True)


def read_part_done(gallery: str, part: int, version: int) -> PartDone:
    """The statuses of the rows of a part on disk."""
    filesystem, path = resolve(part_location(gallery, part, version))
    with filesystem.open_input_file(path) as file:
        statuses = pq.ParquetFile(file).read(columns=["status"], use_threads=False)["status"]
    return PartDone(part, dict(Counter(statuses.to_pylist())), False)


def error_report(manifest: Manifest) -> str:
    """'images failed (2 missing, 1 truncated)'; '' where none did."""
    reasons = ", ".join(f"{count} {status}" for status, count in manifest.errors.items())
    return f"images failed ({reasons})" if manifest.num_ok < manifest.num_rows else ""

"""`eet encode`: images to a gallery. Ray Data hands planned parts to actors that read, decode, hash and write each part whole."""

import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import ray
import torch
from ray.exceptions import RayError

from eet.datasets import ImageTable, load_dataset
from eet.datasets.listing import Columns, ImageList, ListedImages, list_images
from eet.gallery import (
    GalleryModel,
    Manifest,
    PlannedPart,
    finished_parts,
    is_gallery,
    items_table,
    load_model,
    model_schema,
    planned_parts,
    read_manifest,
    read_model_record,
    write_manifest,
)
from eet.gallery.job import BEGUN_FILE, GalleryJob, Mode, begin, read_job, refuse_difference, sweep
from eet.images import DeviceJpegDecoder
from eet.storage import absolute, join_location, remove, split_options, without_secrets
from pipelines.actors.encoding import EncoderOptions, encode_here, encode_on_ray, read_part_done
from pipelines.job.cluster import connected
from pipelines.job.errors import JobFailed
from pipelines.job.options import DataOptions, JobOptions
from pipelines.job.output import write_config
from pipelines.job.progress import PartDone, duration

READS_AHEAD = 16


@dataclass(kw_only=True)
class EncodeConfig(JobOptions):
    """Encodes images into a gallery of hash codes. A job that was cut off goes on where it stopped, with the same command.

    Attributes:
        model: Bundle that `eet distill`, `eet train-teacher` or `eet train-base` wrote; a base model's code is the signs of its embedding.
        out: Folder of the gallery.
        images: What to encode, local or any URI: a folder of images (recursive), one image, a table (.csv, .parquet) of paths, a Parquet
            file with the images' bytes, a .tar shard (webdataset), or a glob of any of these, in quotes. Or give --data.*.
        columns: Names of a table's columns.
        images_root: What a table's paths are relative to; default the table's own folder.
        split: With --data.*: train, val, test or all.
        tokens: Store the kept patch tokens, their positions and mass (for re-ranking).
        embedding: Store the final CLS vector.
        hash: Store the real-valued hash of which a code is the signs: queries with it order hits more finely (two bytes a bit).
        mode: resume goes on with a job that was cut off; append adds images that a gallery lacks, by item_id; overwrite begins anew.
        engine: ray runs on the cluster; local in this process, quicker for a few thousand images.
        rows_per_part: Images in one Parquet file, the unit of work and of resuming.
        batch_size: Images the network takes at once; default 32 on a CPU, 256 on a GPU.
        threads: Threads of a worker that read and decode; default its CPUs.
        workers: Most encoding actors; default one a GPU, or one on a machine without.
        precision: auto is bf16 on CUDA and fp32 on a CPU.
        jpegs_on: gpu decodes ordinary JPEGs there (nvJPEG), at full size; cpu lets the threads decode all, large ones at reduced scale, as
            is always done with query pictures: of one picture the two ways may make codes that differ in a bit or two.
        max_pixels: A larger picture becomes a row with a reason.
        max_error_ratio: Above this share of bad pictures the job fails at its end; the rows are kept.
        data: Labelled images.
    """

    model: str
    out: str
    images: str | None = None
    columns: Columns = field(default_factory=Columns)
    images_root: str | None = None
    split: Literal["train", "val", "test", "all"] = "all"
    tokens: bool = False
    embedding: bool = False
    hash: bool = False
    mode: Mode = "resume"
    engine: Literal["ray", "local"] = "ray"
    rows_per_part: int = 2048
    batch_size: int | None = None
    threads: int | None = None
    workers: int | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    jpegs_on: Literal["cpu", "gpu"] = "cpu"
    max_pixels: int = 200_000_000
    max_error_ratio: float = 0.1
    data: DataOptions = field(default_factory=DataOptions)

    def problems(self) -> list[str]:
        found = super().problems(leave=() if self.images is None else ("data",))
        if self.images is not None and self.data != DataOptions():
            found.append("--images and --data.* are both given: choose one")
        for name in ("rows_per_part", "batch_size", "threads", "workers", "max_pixels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                found.append(f"--{name} {value}: use 1 or more")
        if not 0 <= self.max_error_ratio <= 1:
            found.append(f"--max_error_ratio {self.max_error_ratio}: use 0 to 1")
        return found


@dataclass(frozen=True)
class EncodeResult:
    """The gallery, its manifest (None after a dry run of a new one), and rows/s over the parts encoded now (0 where none were)."""

    gallery: str
    manifest: Manifest | None
    rate: float


def run(config: EncodeConfig, *, recorded_out: str | None = None) -> EncodeResult:
    """Plans the gallery, encodes the parts that are not there yet, and writes the manifest last.

    recorded_out: the output that config.yaml names, where the folder will be moved there.
    """
    model = load_model(config.model)
    # Absolute: Ray's workers have another working directory.
    config = replace(config, out=str(absolute(config.out)))
    _refuse_images_in_out(config)
    images = images_of(config)
    made_with = _made_with(config, model)
    job = read_job(config.out)
    manifest = read_manifest(config.out) if is_gallery(config.out) else None
    if config.mode == "overwrite" and not (job is not None and job.mode == "overwrite" and job.is_of(made_with, images.description)):
        job = manifest = None  # replaced when the new images are listed and planned
    if job is not None:
        if job.base is not None:  # appended parts are cut as those that are there, whatever was asked
            made_with["rows_per_part"] = job.base.rows_per_part
        job.check(made_with, images.description, config.out)
    elif manifest is not None:
        theirs = {name: getattr(manifest, name) for name in made_with}
        made_with["rows_per_part"] = manifest.rows_per_part
        refuse_difference(theirs, made_with, f"{config.out} is a gallery made differently")
        if not config.dry_run:
            _repair(config, model, manifest)
        if config.mode != "append":
            return _nothing_to_do(config, manifest, images)
    _refuse_without_gpu(config)
    if config.dry_run:
        _print_estimate(config, model, images)
        return EncodeResult(config.out, manifest, 0.0)
    resumed = job is not None
    if job is None:
        print(f"encode: listing {images.description}", flush=True)
        job = begin(config.out, images, made_with, config.mode, manifest)
        if manifest is not None and not job.num_rows:
            print(f"nothing to append: all {job.num_known} images are in {without_secrets(config.out)} already")
            return EncodeResult(config.out, manifest, 0.0)
        write_config(config.out, replace(config, out=recorded_out or config.out))
    told = [f"encode: {job.num_rows} images ({job.input})"]
    told += [f"{job.num_known} are in the gallery already"] if job.base else []
    told += [f"{job.ignored} other files left"] if job.ignored else []
    print(", ".join(told), flush=True)
    return _finish(config, model, job, resumed=resumed)


def _made_with(config: EncodeConfig, model: GalleryModel) -> dict[str, Any]:
    """What every row of a gallery shares: fields of its manifest."""
    record = read_model_record(config.model)
    return {
        "model_digest": record.digest,
        "preprocessing_digest": record.preprocessing_digest,
        "num_bits": model.num_bits,
        "token_shape": model.token_shape if config.tokens else None,
        "token_dtype": "float16" if config.tokens else None,
        "embedding_dim": model.embedding_width if config.embedding else None,
        "has_hash": config.hash,
        "precision": config.precision,
        "jpegs_on": config.jpegs_on,
        "rows_per_part": config.rows_per_part,
    }


def images_of(config: EncodeConfig) -> ImageList:
    """The images that the config names. ValueError or FileNotFoundError where there are none."""
    if config.images is not None:
        return list_images(str(absolute(config.images)), columns=config.columns, root=absolute(config.images_root))
    table = load_dataset(config.data.name, absolute(config.data.root), table=absolute(config.data.table)).select(config.split)
    return _DatasetImages(table, f"dataset {config.data.name} at {absolute(config.data.root or config.data.table)}, split {config.split}")


class _DatasetImages(ImageList):
    def __init__(self, table: ImageTable, description: str) -> None:
        super().__init__(description)
        self.table, self.label_names = table, table.label_names

    def __iter__(self) -> Iterator[ListedImages]:
        yield ListedImages(list(self.table.paths), [self.table.location(row) for row in range(len(self.table))], self.table.labels)


def _refuse_images_in_out(config: EncodeConfig) -> None:
    """ValueError where the pictures lie in the folder of the gallery, whose files would be taken for each other."""
    out = split_options(config.out)[0].rstrip("/")
    images = "" if config.images is None else split_options(str(absolute(config.images)))[0]
    if images == out or images.startswith(f"{out}/"):
        raise ValueError(f"--images {without_secrets(images)} lies in --out {without_secrets(out)}: give the gallery a folder of its own")


def _refuse_without_gpu(config: EncodeConfig) -> None:
    """ValueError where JPEGs are to be decoded on GPUs and what encodes has none, or none that does it: before anything is begun."""
    if config.jpegs_on == "cpu" or (config.dry_run and config.ray_address != "local"):
        return
    if config.engine == "local" or config.ray_address == "local":
        why_not = _why_not_on_gpu()
    else:
        with connected(config.ray_address) as resources:
            why_not = "the Ray cluster has no GPU"
            if resources.gpus:
                why_not = ray.get(ray.remote(num_gpus=1)(_why_not_on_gpu).remote())
    if why_not:
        raise ValueError(f"--jpegs_on gpu: {why_not}; use --jpegs_on cpu")


def _why_not_on_gpu() -> str:
    """Why this process cannot decode JPEGs on its GPU; nothing where it can."""
    if not torch.cuda.is_available():
        return "this machine has no GPU that torch sees"
    try:
        DeviceJpegDecoder(torch.device("cuda"))
    except RuntimeError as error:
        return str(error)
    return ""


def _repair(config: EncodeConfig, model: GalleryModel, manifest: Manifest) -> None:
    """Encodes parts of a finished gallery that somebody took away."""
    missing = sorted(set(range(manifest.num_parts)) - set(finished_parts(config.out)))
    if missing:
        _refuse_without_gpu(config)
        print(f"{len(missing)} of {manifest.num_parts} parts are missing: encoding them again", flush=True)
        _encoded(config, model, [part for part in planned_parts(config.out) if part.part in missing])


def _nothing_to_do(config: EncodeConfig, manifest: Manifest, images: ImageList) -> EncodeResult:
    if images.description not in manifest.inputs:
        raise ValueError(
            f"{config.out} is a finished gallery of {', '.join(manifest.inputs)}: use --mode append to add {images.description} to it, "
            "--mode overwrite to replace it, or another --out"
        )
    print(f"{without_secrets(config.out)} is finished: nothing to do (--mode append encodes images that are new)")
    return _result(config, manifest, 0.0)


def _finish(config: EncodeConfig, model: GalleryModel, job: GalleryJob, *, resumed: bool) -> EncodeResult:
    """Encodes what is pending of a job and writes the manifest. Of one that was not resumed no part can be there: none is looked for."""
    out = config.out
    planned = [part for part in planned_parts(out) if job.first_part <= part.part < job.first_part + job.num_parts]
    assert sum(part.num_rows for part in planned) == job.num_rows, (planned, job)
    there = set(finished_parts(out)) if resumed else set()
    pending = [part for part in planned if part.part not in there]
    if len(pending) < len(planned):
        print(f"{len(planned) - len(pending)} of {len(planned)} parts are there already; {len(pending)} to encode", flush=True)
    started = time.monotonic()
    done = _encoded(config, model, pending)
    seconds = time.monotonic() - started
    rate = sum(part.rows for part in done.values() if part.encoded) / seconds if done else 0.0
    with ThreadPoolExecutor(READS_AHEAD) as pool:
        found = pool.map(lambda part: read_part_done(out, part.part), (part for part in planned if part.part not in done))
        statuses: Counter[str] = Counter()
        for part in (*done.values(), *found):
            statuses.update(part.statuses)
    if sum(statuses.values()) != job.num_rows:
        raise JobFailed(
            f"{out} is damaged: its parts hold {sum(statuses.values())} rows, the plan {job.num_rows}. Empty it and begin again"
        )
    manifest = job.manifest(statuses)
    write_manifest(out, manifest)
    remove(join_location(out, BEGUN_FILE))
    sweep(out)
    return _result(config, manifest, rate)


def _encoded(config: EncodeConfig, model: GalleryModel, pending: list[PlannedPart]) -> dict[int, PartDone]:
    """Encodes parts; JobFailed where that stops, or where they are not in the folder afterwards."""
    try:
        done = {part.part: part for part in _encode(config, model, pending)}
    except RayError as error:
        cause = getattr(error, "cause", None) or error
        raise JobFailed(f"encoding stopped: {type(cause).__name__}: {cause}. Finished parts are kept; the same command goes on") from error
    if absent := set(done) - set(finished_parts(config.out)):
        raise JobFailed(
            f"{len(absent)} parts that workers wrote are not in {config.out}, such as part {min(absent)}: --out must be a folder that all "
            "nodes share, or a URI"
        )
    return done


def _encode(config: EncodeConfig, model: GalleryModel, pending: list[PlannedPart]) -> Iterator[PartDone]:
    options = encoder_options(config)
    if not pending:
        return iter(())
    if config.engine == "local":
        return encode_here(model, options, config.out, pending)
    return encode_on_ray(model, options, config.out, pending, address=config.ray_address, workers=config.workers)


def encoder_options(config: EncodeConfig) -> EncoderOptions:
    """What a worker needs to know of the config."""
    return EncoderOptions(
        tokens=config.tokens,
        embedding=config.embedding,
        hash=config.hash,
        precision=config.precision,
        jpegs_on=config.jpegs_on,
        max_pixels=config.max_pixels,
        batch_size=config.batch_size,
        threads=config.threads,
    )


def _result(config: EncodeConfig, manifest: Manifest, rate: float) -> EncodeResult:
    """Says what the gallery holds. ValueError where too many of its images are bad."""
    bad = manifest.num_rows - manifest.num_ok
    reasons = ", ".join(f"{count} {status}" for status, count in manifest.errors.items())
    print(
        f"{without_secrets(config.out)}: {manifest.num_ok} codes of {manifest.num_bits} bits"
        + (f"; {bad} images failed ({reasons})" if bad else "")
    )
    if bad > config.max_error_ratio * manifest.num_rows:
        raise ValueError(
            f"{bad} of {manifest.num_rows} images failed ({reasons}), more than "
            f"--max-error-ratio {config.max_error_ratio}; the gallery is kept, its rows say why"
        )
    return EncodeResult(config.out, manifest, rate)


def _print_estimate(config: EncodeConfig, model: GalleryModel, images: ImageList) -> None:
    """Counts the images, encodes the first in this process and scales the time; counts the bytes that the columns will take."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    options = replace(encoder_options(config), jpegs_on=config.jpegs_on if device == "cuda" else "cpu")
    encoder = options.encoder(model, device=device, threads=os.cpu_count() or 1)
    sample: list[str] = []
    num_images = 0
    for batch in images:
        sample += batch.uris[: 2 * encoder.batch_size - len(sample)]
        num_images += len(batch.uris)
    rows = items_table([str(row) for row in range(len(sample))], sample)
    encoder.encode(rows)  # warms up
    started = time.monotonic()
    encoded = encoder.encode(rows).table
    rate = len(sample) / (time.monotonic() - started)
    per_row = encoded.nbytes / len(sample)
    workers = config.workers or 1
    columns = ", ".join(model_schema(model, tokens=config.tokens, embedding=config.embedding, has_hash=config.hash).names)
    print(
        f"dry run: {num_images} images ({images.description})"
        + (f", {images.ignored} other files left" if images.ignored else "")
        + f"; model {config.model} on {device}, {model.num_bits} bits; about {per_row * num_images / 1e6:.1f} MB "
        f"({per_row:.0f} bytes a row: {columns}); {rate:.1f} images/s measured for one worker, so about "
        f"{duration(num_images / rate / workers)} with {workers}; nothing was started"
    )

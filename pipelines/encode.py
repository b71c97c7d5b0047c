"""`eet encode`: images to a gallery. Ray Data passes planned parts to actors; each actor reads, decodes, hashes and writes whole parts."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import ray
import torch
from ray.exceptions import RayError

from eet.datasets import ImageTable, load_dataset
from eet.datasets.listing import Columns, ImageList, ListedImages, list_images
from eet.device import Device, Precision
from eet.errors import InputError
from eet.gallery import GalleryModel, Manifest, PlannedPart, items_table, load_model, read_model_record
from eet.gallery.adaptation import ADAPTED_TO, adapted_student, check_adaptable, sample_of
from eet.gallery.encoder import TokenMass
from eet.gallery.encoding import (
    EncodeResult,
    EncoderOptions,
    PartDone,
    encode_gallery,
    error_report,
    gallery_state,
    parts_here,
)
from eet.gallery.job import Mode
from eet.hashing.quantisation import VectorForm
from eet.images import DeviceJpegDecoder
from eet.storage import split_options, without_secrets
from eet.vit import is_bundle, read_bundle_record, save_bundle
from pipelines.actors.encoding import encode_on_ray
from pipelines.job.cluster import WorkerNeed, connected, with_nodes
from pipelines.job.errors import JobFailed
from pipelines.job.location import LOCATION, with_absolute_locations
from pipelines.job.options import DataOptions, JobOptions
from pipelines.job.output import write_config
from pipelines.job.progress import EncodeProgress, duration


@dataclass(kw_only=True)
class EncodeConfig(JobOptions):
    """Encodes images into a gallery of hash codes. An interrupted job continues where it stopped when the same command is run again.

    Attributes:
        model: Bundle that `eet distill`, `eet train-teacher` or `eet train-base` wrote; a base model's code is the signs of its embedding.
        out: Folder of the gallery.
        adapt: Folder of a new model: --model with its joint codes fitted to these images, without labels, so that codes of labels that were
            never trained improve. The gallery is encoded with it, and so must be its queries (`eet search --model ADAPTED`). A model that
            is there already is used as it is.
        adapt_images: Images that are drawn for it, by --seed.
        images: What to encode, local or any URI: a folder of images (recursive), one image, a table of paths (.csv, .tsv, .parquet,
            .arrow, .jsonl), a list of paths (.txt), a Parquet or Arrow file with the images' bytes, a COCO or iNaturalist list (.json), a
            tar shard (webdataset; .tar, or .tar.gz, .tgz, .tar.bz2, .tar.xz and .tar.zst, which are slower), a glob or braces of these
            in quotes. Or give --data.*.
        columns: Names of a table's columns. Give path or image, not both; without either, the columns path and image are tried. label is
            also the key of the label in the KEY.json of a tar shard.
        images_root: Folder that paths of a table or list are relative to; default the folder of the file.
        split: With --data.*: train, val, test or all.
        tokens: Store the kept patch tokens, their positions and mass (for re-ranking).
        mass: Source of the tokens' mass: importance (from pruning) or rollout (of attention; slower; not for a base model).
        tokens_as: How tokens are stored: float16, or their directions in int8, int4, int2 or bits (1) a dimension.
        embedding: Store the final CLS vector, by which `eet search --rescore` and `eet rerank` order hits more finely.
        embedding_as: How the CLS vector is stored, as --tokens-as: 2 bytes a dimension, or 1, 1/2, 1/4 or 1/8.
        hash: Store the real-valued hash, whose signs are the code: queries with it order hits more finely (two bytes per bit).
        mode: resume continues an interrupted job; append adds images that the gallery lacks, by item_id; overwrite starts again.
        engine: ray runs on the cluster; local runs in this process, faster for a few thousand images.
        rows_per_part: Images in one Parquet file, the unit of work and of resuming.
        batch_size: Images in a batch; default 32 on a CPU, 256 on a GPU.
        threads: Threads of a worker that read and decode; default its CPUs.
        workers: Most encoding actors; default one per GPU, or one on a machine without GPU. An existing cluster is asked for more nodes
            while there is work, up to this number, or without it as far as its configuration allows.
        cpus_per_worker: CPUs of an encoding actor; default all of its node, or its GPU's share of them.
        gpus_per_worker: GPUs of an encoding actor: 0, 1 or a share of one; default 1 where the cluster has any when the job starts. A
            cluster without a node is asked for one first. Set it if the cluster has node groups with and without GPUs.
        precision: auto is bf16 on CUDA and fp32 on a CPU.
        jpegs_on: gpu decodes ordinary JPEGs on the GPU (nvJPEG), at full size. cpu decodes all by the threads, large ones at reduced scale,
            as is always done for query images. The codes of an image can differ by a bit or two between the two.
        max_pixels: An image with more pixels becomes a row with an error.
        max_error_ratio: Above this share of failed images the job fails at its end; the rows are kept.
        data: Labelled images.
    """

    model: str = field(metadata=LOCATION)
    out: str = field(metadata=LOCATION)
    adapt: str | None = field(default=None, metadata=LOCATION)
    adapt_images: int = ADAPTED_TO
    images: str | None = field(default=None, metadata=LOCATION)
    columns: Columns = field(default_factory=Columns)
    images_root: str | None = field(default=None, metadata=LOCATION)
    split: Literal["train", "val", "test", "all"] = "all"
    tokens: bool = False
    mass: TokenMass = "importance"
    tokens_as: VectorForm = "float16"
    embedding: bool = False
    embedding_as: VectorForm = "float16"
    hash: bool = False
    mode: Mode = "resume"
    engine: Literal["ray", "local"] = "ray"
    rows_per_part: int = 2048
    batch_size: int | None = None
    threads: int | None = None
    workers: int | None = None
    cpus_per_worker: int | None = None
    gpus_per_worker: float | None = None
    precision: Precision = "auto"
    jpegs_on: Literal["cpu", "gpu"] = "cpu"
    max_pixels: int = 200_000_000
    max_error_ratio: float = 0.1
    data: DataOptions = field(default_factory=DataOptions)

    def problems(self) -> list[str]:
        found = self.group_problems(unused=() if self.images is None else ("data",))
        if self.images is not None and self.data != DataOptions():
            found.append("--images and --data.* are both given: choose one")
        found += self.local_only("adapt")
        for name in ("adapt_images", "rows_per_part", "batch_size", "threads", "workers", "max_pixels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                found.append(f"--{name} {value}: use 1 or more")
        if self.mass == "rollout" and not self.tokens:
            found.append("--mass rollout needs tokens: give --tokens too")
        for form, column in (("tokens_as", "tokens"), ("embedding_as", "embedding")):
            if getattr(self, form) != "float16" and not getattr(self, column):
                found.append(f"--{form} {getattr(self, form)} stores none: give --{column} too")
        if not 0 <= self.max_error_ratio <= 1:
            found.append(f"--max_error_ratio {self.max_error_ratio}: use 0 to 1")
        return found + self.worker_need.problems()

    @property
    def worker_need(self) -> WorkerNeed:
        return WorkerNeed(self.cpus_per_worker, self.gpus_per_worker)


def run(config: EncodeConfig, *, recorded_out: str | None = None) -> EncodeResult:
    """Plans the gallery, encodes the missing parts, and writes the manifest last.

    Args:
        config: options of the job.
        recorded_out: output to record in config.yaml, if the folder will be moved there later.
    """
    config = with_absolute_locations(config)
    _refuse_images_in_out(config)
    images, options = images_of(config), encoder_options(config)
    if config.adapt is not None:
        if config.dry_run and not is_bundle(config.adapt):
            check_adaptable(load_model(config.model))
            print(f"dry run: {config.model} would be adapted to {config.adapt_images} of the images first, and written to {config.adapt}")
        else:
            adapt(config, images)
            config = replace(config, model=config.adapt)
    model = load_model(config.model)
    made_with = options.made_with(model, read_model_record(config.model), rows_per_part=config.rows_per_part)
    state = gallery_state(config.out, images, made_with, config.mode)
    if state.job is not None or state.manifest is None or config.mode == "append":
        _refuse_without_gpu(config)
    if config.dry_run:
        _print_estimate(config, model, images)
        return EncodeResult(config.out, state.manifest, 0.0)
    result = encode_gallery(
        config.out,
        images,
        state,
        lambda pending: _encode(config, model, pending, version=state.version),
        mode=config.mode,
        notify=lambda line: print(f"encode: {line}", flush=True),
        on_begin=lambda: write_config(config.out, replace(config, out=recorded_out or config.out)),
    )
    _print_result(config, result.manifest)
    return result


def adapt(config: EncodeConfig, images: ImageList) -> None:
    """Writes the adapted model to --adapt, unless one is there. InputError where --model cannot be adapted, or that one is of another."""
    assert config.adapt is not None
    record = read_bundle_record(config.model)
    if is_bundle(config.adapt):
        if read_bundle_record(config.adapt).training.get("adapted_from") != record.digest:
            raise InputError(f"--adapt {config.adapt} holds a model that was not adapted from --model {config.model}: give another folder")
        return
    student = check_adaptable(load_model(config.model))
    uris = sample_of(images, config.adapt_images, seed=config.seed)
    print(f"encode: fitting codes to {len(uris)} images ({images.description})", flush=True)
    adapted = adapted_student(student, uris, seed=config.seed, threads=config.threads, precision=config.precision)
    training = {**record.training, "adapted_from": record.digest, "adapted_to": images.description}
    save_bundle(
        adapted, config.adapt, label_names=record.label_names, target_codes=record.target_codes, label_counts=record.label_counts,
        training=training,
    )  # fmt: skip


def _encode(config: EncodeConfig, model: GalleryModel, pending: list[PlannedPart], *, version: int) -> Iterator[PartDone]:
    """Encodes parts. version: of the gallery's schema. JobFailed where Ray stops."""
    progress = EncodeProgress(sum(planned.num_rows for planned in pending))
    options = encoder_options(config)
    try:
        if config.engine == "local":
            yield from parts_here(model, options, config.out, pending, progress, version=version)
            return
        yield from encode_on_ray(
            model, options, config.out, pending, progress, version=version, address=config.ray_address, workers=config.workers,
            need=config.worker_need,
        )  # fmt: skip
    except RayError as error:
        cause = getattr(error, "cause", None) or error
        raise JobFailed(
            f"encoding stopped: {type(cause).__name__}: {cause}. Finished parts are kept; run the same command again to continue"
        ) from error
    finally:
        progress.close()


def images_of(config: EncodeConfig) -> ImageList:
    """The images of a config with absolute locations. InputError or NotFoundError where there are none."""
    if config.images is not None:
        return list_images(config.images, columns=config.columns, root=config.images_root)
    table = load_dataset(config.data.name, config.data.root, table=config.data.table).select(config.split)
    return _DatasetImages(table, f"dataset {config.data.name} at {config.data.root or config.data.table}, split {config.split}")


class _DatasetImages(ImageList):
    def __init__(self, table: ImageTable, description: str) -> None:
        super().__init__(description)
        self.table, self.label_names = table, table.label_names

    def __iter__(self) -> Iterator[ListedImages]:
        yield ListedImages(list(self.table.paths), [self.table.location(row) for row in range(len(self.table))], self.table.labels)


def _refuse_images_in_out(config: EncodeConfig) -> None:
    """InputError where the images are in the folder of the gallery: their files would be mixed up."""
    out = split_options(config.out)[0].rstrip("/")
    images = "" if config.images is None else split_options(config.images)[0]
    if images == out or images.startswith(f"{out}/"):
        raise InputError(f"--images {without_secrets(images)} lies in --out {without_secrets(out)}: give the gallery its own folder")


def _refuse_without_gpu(config: EncodeConfig) -> None:
    """InputError, before anything starts, where JPEGs are to be decoded on a GPU and the workers have none that can."""
    if config.jpegs_on == "cpu" or (config.dry_run and config.ray_address != "local"):
        return
    if config.engine == "local" or config.ray_address == "local":
        why_not = _why_not_on_gpu()
    else:
        with connected(config.ray_address) as resources:
            why_not = "the Ray cluster has no GPU"
            if with_nodes(resources, config.worker_need).gpus or config.gpus_per_worker:
                why_not = ray.get(ray.remote(num_gpus=1)(_why_not_on_gpu).remote())
    if why_not:
        raise InputError(f"--jpegs_on gpu: {why_not}; use --jpegs_on cpu")


def _why_not_on_gpu() -> str:
    """Why this process cannot decode JPEGs on its GPU; empty where it can."""
    if not torch.cuda.is_available():
        return "this machine has no GPU that torch sees"
    try:
        DeviceJpegDecoder(torch.device("cuda"))
    except RuntimeError as error:
        return str(error)
    return ""


def encoder_options(config: EncodeConfig) -> EncoderOptions:
    """The options of a worker's encoder."""
    return EncoderOptions(
        tokens=config.tokens,
        mass=config.mass,
        embedding=config.embedding,
        tokens_as=config.tokens_as,
        embedding_as=config.embedding_as,
        hash=config.hash,
        precision=config.precision,
        jpegs_on=config.jpegs_on,
        max_pixels=config.max_pixels,
        batch_size=config.batch_size,
        threads=config.threads,
    )


def _print_result(config: EncodeConfig, manifest: Manifest | None) -> None:
    """Prints the contents of the gallery. InputError where too many of its images failed."""
    assert manifest is not None
    bad, failed = manifest.num_rows - manifest.num_ok, error_report(manifest)
    print(f"{without_secrets(config.out)}: {manifest.num_ok} codes of {manifest.num_bits} bits" + (f"; {bad} {failed}" if bad else ""))
    if bad > config.max_error_ratio * manifest.num_rows:
        raise InputError(
            f"{bad} of {manifest.num_rows} {failed}, more than --max-error-ratio {config.max_error_ratio}; the gallery is kept; its rows "
            "hold the reasons"
        )


def _print_estimate(config: EncodeConfig, model: GalleryModel, images: ImageList) -> None:
    """Counts the images, encodes the first ones in this process, and prints the estimated time and size."""
    device = Device.of().type
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
    columns = ", ".join(encoded.schema.names)
    print(
        f"dry run: {num_images} images ({images.description})"
        + (f", {images.ignored} other files ignored" if images.ignored else "")
        + f"; model {config.model} on {device}, {model.num_bits} bits; about {per_row * num_images / 1e6:.1f} MB "
        f"({per_row:.0f} bytes a row: {columns}); {rate:.1f} images/s measured for one worker, so about "
        f"{duration(num_images / rate / workers)} with {workers}; nothing was started"
    )

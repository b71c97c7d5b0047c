"""`eet encode`: images to a gallery. Ray Data hands planned parts to actors that read, decode, hash and write each part whole."""

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import torch
from ray.exceptions import RayError

from eet.datasets import IMAGE_SUFFIXES, list_image_files, load_dataset
from eet.gallery import (
    OK,
    Manifest,
    PartEncoder,
    finished_parts,
    open_gallery,
    part_name,
    plan_parts,
    read_plan_part,
    resolve,
    student_schema,
    student_token_shape,
    write_manifest,
    write_part,
    write_plan,
)
from eet.vit import BundleRecord, Student, load_bundle, read_bundle_record
from pipelines.cli import JobFailed
from pipelines.cluster import ClusterResources, connected
from pipelines.galleries import is_gallery
from pipelines.options import DataOptions, JobOptions
from pipelines.output import absolute, exists, inside, read_text, remove, write_config, write_text
from pipelines.progress import duration

BEGUN_FILE = "begun.json"  # what a gallery under way is made with; the manifest takes its place


@dataclass(kw_only=True)
class EncodeConfig(JobOptions):
    """Encodes images into a gallery of hash codes. A job that was cut off goes on where it stopped, with the same command.

    Attributes:
        model: Bundle that `eet distill` or `eet train-teacher` wrote.
        out: Folder of the gallery.
        images: Folder of images (recursive), or one image. Or give --data.*.
        split: With --data.*: train, val, test or all.
        tokens: Store the kept patch tokens, their positions and mass (for re-ranking).
        embedding: Store the final CLS vector.
        engine: ray runs on the cluster; local in this process, quicker for a few thousand images.
        rows_per_part: Images in one Parquet file, the unit of work and of resuming.
        batch_size: Images the network takes at once; default 32 on a CPU, 256 on a GPU.
        threads: Threads of a worker that read and decode; default its CPUs.
        workers: Most encoding actors; default one a GPU, or one on a machine without.
        precision: auto is bf16 on CUDA and fp32 on a CPU.
        max_pixels: A larger picture becomes a row with a reason.
        max_error_ratio: Above this share of bad pictures the job fails at its end; the rows are kept.
        data: Labelled images.
    """

    model: str
    out: str
    images: str | None = None
    split: Literal["train", "val", "test", "all"] = "all"
    tokens: bool = False
    embedding: bool = False
    engine: Literal["ray", "local"] = "ray"
    rows_per_part: int = 2048
    batch_size: int | None = None
    threads: int | None = None
    workers: int | None = None
    precision: Literal["auto", "fp32", "bf16"] = "auto"
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
    """The gallery and how it went: rows/s over the parts encoded now (0 where none were)."""

    gallery: str
    manifest: Manifest
    rate: float


@dataclass(frozen=True)
class ImageList:
    """What is to be encoded. labels: (n,) or None. ignored: files of the folder that are no images."""

    item_ids: list[str]
    uris: list[str]
    labels: np.ndarray | None
    label_names: tuple[str, ...] | None
    ignored: int
    description: str


def images_of(config: EncodeConfig) -> ImageList:
    """The images that the config names. ValueError where there are none."""
    if config.images is None:
        table = load_dataset(config.data.name, config.data.root, table=config.data.table).select(config.split)
        uris = [str(absolute(location)) for location in map(table.location, range(len(table)))]
        described = f"dataset {config.data.name} at {config.data.root or config.data.table}, split {config.split}"
        return ImageList(list(table.paths), uris, table.labels, table.label_names, 0, described)
    if Path(config.images).is_file():
        return ImageList([Path(config.images).name], [os.path.abspath(config.images)], None, None, 0, config.images)
    paths, ignored = list_image_files(config.images)
    if not paths:
        raise ValueError(f"--images {config.images} holds no image ({ignored} other files): give a folder of {', '.join(IMAGE_SUFFIXES)}")
    root = str(absolute(config.images))
    return ImageList(paths, [inside(root, path) for path in paths], None, None, ignored, config.images)


def run(config: EncodeConfig, *, hashes: list[np.ndarray] | None = None) -> EncodeResult:
    """Plans the gallery, encodes the parts that are not there yet, and writes the manifest last.

    hashes: with engine 'local', takes the real-valued hash (rows that are ok, bits) float32 of each part encoded now, in order.
    """
    student, record = load_bundle(config.model), read_bundle_record(config.model)
    images = images_of(config)
    config = replace(config, out=str(absolute(config.out)))  # Ray's workers have another working directory
    out = config.out
    if is_gallery(out):
        raise ValueError(f"{out} is a finished gallery already; choose another --out, or remove it")
    print(f"encode: {len(images.uris)} images ({images.description})" + (f", {images.ignored} other files left" if images.ignored else ""))
    if config.dry_run:
        _print_estimate(config, student, images)
        return EncodeResult(config.out, _manifest(config, student, record, images, Counter({OK: 0}), 0), 0.0)
    _begin(config, student, record, images)
    write_config(out, config)
    num_parts = plan_parts(out)
    done = set(finished_parts(out))
    pending = [part for part in range(num_parts) if part not in done]
    if done:
        print(f"{len(done)} of {num_parts} parts are there already; {len(pending)} to encode")
    started = time.monotonic()
    left = sum(min(config.rows_per_part, len(images.uris) - part * config.rows_per_part) for part in pending)
    try:
        rows = sum(_encode_parts(config, student, pending, left, hashes))
    except RayError as error:
        cause = getattr(error, "cause", None) or error
        raise JobFailed(f"encoding stopped: {type(cause).__name__}: {cause}. Finished parts are kept; the same command goes on") from error
    rate = rows / (time.monotonic() - started) if rows else 0.0
    manifest = _finish(config, student, record, images, num_parts)
    bad = manifest.num_rows - manifest.num_ok
    reasons = ", ".join(f"{count} {status}" for status, count in manifest.errors.items())
    print(f"{out}: {manifest.num_ok} codes of {manifest.num_bits} bits" + (f"; {bad} images failed ({reasons})" if bad else ""))
    if bad > config.max_error_ratio * manifest.num_rows:
        raise ValueError(
            f"{bad} of {manifest.num_rows} images failed ({reasons}), more than "
            f"--max-error-ratio {config.max_error_ratio}; the gallery is kept, its rows say why"
        )
    return EncodeResult(out, manifest, rate)


def _begin(config: EncodeConfig, student: Student, record: BundleRecord, images: ImageList) -> None:
    """Writes the plan, or checks that the one that is there was made for the same model, columns and images."""
    out = config.out
    made_with: dict[str, Any] = {
        "model_digest": record.digest,
        "preprocessing_digest": record.preprocessing_digest,
        "columns": student_schema(student, tokens=config.tokens, embedding=config.embedding).names,
        "rows_per_part": config.rows_per_part,
        "precision": config.precision,
        "num_rows": len(images.uris),
        "images_digest": _digest(images),
    }
    begun = inside(out, BEGUN_FILE)
    if exists(begun):
        before = json.loads(read_text(begun))
        changed = [f"{key}: {before.get(key)} then, {value} now" for key, value in made_with.items() if before.get(key) != value]
        if changed:
            raise ValueError(
                f"{out} was begun differently ({'; '.join(changed)}): finish it with the same command, or choose another --out"
            )
        return
    if finished_parts(config.out):
        raise ValueError(
            f"{out} holds parts of a gallery, but not what they were made with ({BEGUN_FILE}): choose another --out, or empty it"
        )
    write_plan(config.out, images.item_ids, images.uris, images.labels, config.rows_per_part)
    write_text(begun, json.dumps(made_with, indent=1) + "\n")


def _digest(images: ImageList) -> str:
    """sha256 over ids, places and labels: two lists of images with one digest make the same plan."""
    digest = hashlib.sha256()
    for values in (images.item_ids, images.uris, images.label_names or ()):
        digest.update("\0".join(values).encode(errors="surrogateescape") + b"\1")
    digest.update(b"" if images.labels is None else images.labels.tobytes())
    return digest.hexdigest()


def _encode_parts(config: EncodeConfig, student: Student, pending: list[int], total: int, hashes: list[np.ndarray] | None) -> Iterator[int]:
    """Encodes and writes the pending parts; yields the rows of each as it is finished, in any order."""
    if not pending:
        return
    told = _Progress(total)
    if config.engine == "local":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        threads = config.threads or os.cpu_count() or 1
        encoder = _encoder(config, student, device, threads)
        for part in pending:
            rows, failed, hashes_nb = _encode_part(encoder, config.out, part)
            if hashes is not None:
                hashes.append(hashes_nb)
            told.add(rows, failed)
            yield rows
        return
    with connected(config.ray_address) as resources:
        pool = _pool(config, resources, len(pending))
        parts = ray.data.from_items([{"part": part} for part in pending], override_num_blocks=len(pending))
        encoded = parts.map_batches(
            _PartActor,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=pool["workers"]),
            num_cpus=pool["cpus"],
            num_gpus=1 if pool["gpu"] else 0,
            fn_constructor_kwargs={"config": config, "student": ray.put(student), "gpu": pool["gpu"], "threads": pool["threads"]},
        )
        for row in encoded.iter_rows():
            told.add(int(row["rows"]), int(row["failed"]))
            yield int(row["rows"])


def _pool(config: EncodeConfig, resources: ClusterResources, num_parts: int) -> dict[str, Any]:
    """How many actors, and what each takes. A CPU beside each is left to Ray Data where its node has more than one."""
    gpu = resources.gpus > 0
    workers = min(config.workers or resources.gpus or len(resources.nodes), num_parts)
    share = resources.cpus_per_worker(workers)
    return {"workers": workers, "cpus": max(1, share - 1), "gpu": gpu, "threads": config.threads or share}


def _encoder(config: EncodeConfig, student: Student, device: str, threads: int) -> PartEncoder:
    torch.set_num_threads(threads)
    return PartEncoder(
        student,
        device=device,
        batch_size=config.batch_size or (256 if device == "cuda" else 32),
        threads=threads,
        tokens=config.tokens,
        embedding=config.embedding,
        precision=config.precision,
        max_pixels=config.max_pixels,
    )


def _encode_part(encoder: PartEncoder, gallery: str, part: int) -> tuple[int, int, np.ndarray]:
    """(rows, failed rows, hashes of the good rows) of a part, which is on disk when this returns."""
    encoded = encoder.encode(read_plan_part(gallery, part))
    write_part(gallery, part, encoded.table)
    good = np.asarray(encoded.table["status"]) == OK
    return len(good), int((~good).sum()), encoded.hash[good]


class _PartActor:
    """A Ray Data actor: one model, one part after another."""

    def __init__(self, config: EncodeConfig, student: Any, gpu: bool, threads: int) -> None:
        self.config = config
        self.encoder = _encoder(config, ray.get(student), "cuda" if gpu else "cpu", threads)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        told = [_encode_part(self.encoder, self.config.out, int(part)) for part in batch["part"]]
        return {"rows": np.array([rows for rows, _, _ in told]), "failed": np.array([failed for _, failed, _ in told])}


def _finish(config: EncodeConfig, student: Student, record: BundleRecord, images: ImageList, num_parts: int) -> Manifest:
    counts: Counter[str] = Counter()
    filesystem, folder = resolve(config.out)
    provisional = _manifest(config, student, record, images, Counter({OK: 0}), num_parts)
    for part in range(num_parts):
        column = pq.read_table(inside(folder, part_name(part)), columns=["status"], filesystem=filesystem)["status"]
        counts.update({item["values"]: item["counts"] for item in pc.value_counts(column).to_pylist()})
    assert sum(counts.values()) == provisional.num_rows, (counts, provisional.num_rows)
    manifest = _manifest(config, student, record, images, counts, num_parts)
    write_manifest(config.out, manifest)
    remove(inside(config.out, BEGUN_FILE))
    return open_gallery(config.out).manifest


def _manifest(config: EncodeConfig, student: Student, record: BundleRecord, images: ImageList, counts: Counter, num_parts: int) -> Manifest:
    return Manifest(
        model_digest=record.digest,
        preprocessing_digest=record.preprocessing_digest,
        num_bits=student.num_bits,
        num_rows=len(images.uris),
        num_ok=counts[OK],
        num_parts=num_parts,
        rows_per_part=config.rows_per_part,
        token_shape=student_token_shape(student) if config.tokens else None,
        token_dtype="float16" if config.tokens else None,
        embedding_dim=student.trunk.embed_dim if config.embedding else None,
        label_names=images.label_names,
        errors={status: count for status, count in sorted(counts.items()) if status != OK},
        input=images.description,
    )


class _Progress:
    """Done of total, failures, rows/s and time left: a line at the first part, then one every half minute, and at the end."""

    EVERY_S = 30.0

    def __init__(self, total: int) -> None:
        self.total, self.done, self.failed = total, 0, 0
        self.started = time.monotonic()
        self.told = self.started - self.EVERY_S

    def add(self, rows: int, failed: int) -> None:
        self.done += rows
        self.failed += failed
        now = time.monotonic()
        if now - self.told >= self.EVERY_S or self.done >= self.total:
            self.told = now
            rate = self.done / (now - self.started)
            left = duration((self.total - self.done) / rate)
            print(f"encoded {self.done}/{self.total}  {self.failed} failed  {rate:.1f} images/s  {left} left", flush=True)


def _print_estimate(config: EncodeConfig, student: Student, images: ImageList) -> None:
    """Encodes the first images in this process and scales the time; counts the bytes that the columns will take."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = _encoder(config, student, device, config.threads or os.cpu_count() or 1)
    sample = min(len(images.uris), 2 * encoder.batch_size)
    rows = pa.table({"item_id": images.item_ids[:sample], "uri": images.uris[:sample], "label": pa.nulls(sample, pa.int32())})
    encoder.encode(rows)  # warms up
    started = time.monotonic()
    encoded = encoder.encode(rows).table
    rate = sample / (time.monotonic() - started)
    per_row = encoded.nbytes / sample
    workers = config.workers or 1
    print(
        f"dry run: model {config.model} on {device}, {student.num_bits} bits; about {per_row * len(images.uris) / 1e6:.1f} MB "
        f"({per_row:.0f} bytes a row); {rate:.1f} images/s measured for one worker, so about "
        f"{duration(len(images.uris) / rate / workers)} with {workers}; nothing was started"
    )

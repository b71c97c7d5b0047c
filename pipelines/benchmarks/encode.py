"""`eet benchmark encode`: the Ray job in its steady state, compared with plain loops over the same images, network and threads."""

import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import timm.data
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from eet.datasets.listing import Columns, list_images
from eet.errors import InputError
from eet.gallery import (
    DEFAULT_BATCH_SIZE,
    GalleryModel,
    PartEncoder,
    finished_parts,
    load_model,
    open_gallery,
    part_name,
    planned_parts,
    read_planned_part,
)
from eet.hashing import pack
from eet.vit import save_bundle
from pipelines.benchmarks.networks import schedule_of, student_of
from pipelines.benchmarks.record import Column, print_rows
from pipelines.benchmarks.setup import Benchmark, Setup, network_versions
from pipelines.configs.benchmark import ON_DEVICE, EncodeBenchmarkOptions
from pipelines.costs.interleaved import median_ratio
from pipelines.job.location import with_absolute_locations


@dataclass(frozen=True)
class EncodeTiming:
    """Results of one method.

    images_per_s: rate after the first part, median. ratio: to the part encoder's rate in the same round, median. startup_s: time to the end
    of the first part, minus the time of its rows at the steady rate. differing_bits: share of the codes' bits that differ from the part
    encoder's.
    """

    method: str
    rows: int
    images_per_s: float
    ratio: float
    startup_s: float
    differing_bits: float


COLUMNS = (
    Column("method", "method"),
    Column("rows", "rows", ",d"),
    Column("images/s", "images_per_s", ".1f"),
    Column("to the part encoder", "ratio", ".3f"),
    Column("start-up, s", "startup_s", ".1f"),
    Column("differing bits", "differing_bits", ".2%"),
)


@dataclass(frozen=True)
class EncodeRun:
    """One run of a method: rows of its first part, seconds from the start to the end of the first and of the last part, and the codes
    (rows, bytes) in the order of the ids.
    """

    first_rows: int
    first_end_s: float
    last_end_s: float
    codes: np.ndarray

    @property
    def steady_rate(self) -> float:
        return (len(self.codes) - self.first_rows) / (self.last_end_s - self.first_end_s)

    @property
    def startup_s(self) -> float:
        return self.first_end_s - self.first_rows / self.steady_rate


def measure(options: EncodeBenchmarkOptions, setup: Setup) -> list[EncodeTiming]:
    """Measures every method in turn, `rounds` times. RuntimeError where codes of the Ray job and the part encoder differ in a bit."""
    with tempfile.TemporaryDirectory(prefix="eet-benchmark-") as folder:
        if options.model is None:
            save_bundle(student_of(setup.backbone, schedule_of(setup.backbone, setup.keep_ratios)), folder)
        return _measure(options, setup, options.model or folder)


def _measure(options: EncodeBenchmarkOptions, setup: Setup, model: str) -> list[EncodeTiming]:
    threads, precision, device = setup.threads, setup.device.precision, setup.device.type
    batch_size = options.batch_size or DEFAULT_BATCH_SIZE[device]
    encoders = {
        method: PartEncoder(
            load_model(model), device=device, batch_size=batch_size, threads=threads, precision=precision, jpegs_on_device=on_device
        )
        for method, on_device in (("part encoder", False), (ON_DEVICE, True))[: 1 + options.jpegs_on_device]
    }
    runs: dict[str, list[EncodeRun]] = {method: [] for method in options.methods}
    with tempfile.TemporaryDirectory(prefix="eet-benchmark-") as folder:
        images = f"{folder}/images.parquet"
        write_repeated(images, image_uris(options), options.rows)
        for number in range(options.rounds):
            gallery = f"{folder}/gallery-{number}"
            runs["eet encode"].append(
                _with_ray(
                    model=model, images=images, columns=Columns(item_id="id"), out=gallery, precision=precision, workers=1, threads=threads,
                    batch_size=batch_size, rows_per_part=options.rows_per_part, address=setup.address, max_error_ratio=0.0,
                )
            )  # fmt: skip
            for method, encoder in encoders.items():
                runs[method].append(_with_part_encoder(encoder, gallery))
            uris = [uri for part in planned_parts(gallery) for uri in read_planned_part(gallery, part)["uri"].to_pylist()]
            runs["data loader"].append(_with_data_loader(encoders["part encoder"], uris, options.rows_per_part))
            if not np.array_equal(runs["eet encode"][-1].codes, runs["part encoder"][-1].codes):
                raise RuntimeError("the Ray job's codes are not those of the same encoder in this process")
    timings = [_timing(method, runs) for method in options.methods]
    print_rows(COLUMNS, timings, heading=True)
    return timings


def _timing(method: str, runs: dict[str, list[EncodeRun]]) -> EncodeTiming:
    rates = [run.steady_rate for run in runs[method]]
    bare = [run.steady_rate for run in runs["part encoder"]]
    codes, expected = runs[method][-1].codes, runs["part encoder"][-1].codes
    return EncodeTiming(
        method=method,
        rows=len(codes),
        images_per_s=statistics.median(rates),
        ratio=median_ratio(rates, bare),
        startup_s=statistics.median(run.startup_s for run in runs[method]),
        differing_bits=float(np.unpackbits(codes ^ expected).mean()),
    )


def image_uris(options: EncodeBenchmarkOptions) -> list[str]:
    """Locations of the images that are repeated, at most `rows`."""
    options = with_absolute_locations(options)
    assert options.images is not None
    listed = (uri for batch in list_images(options.images) for uri in batch.uris)
    uris = list(itertools.islice(listed, options.rows))
    if not all(os.path.isfile(uri) for uri in uris):
        raise InputError(f"--encode.images {options.images}: give image files on this machine: torch's loader reads no others")
    return uris


def write_repeated(table: str, uris: list[str], rows: int) -> None:
    """A table of `rows` images, repeated, with ids in that order."""
    if not uris:
        raise InputError("--encode.images lists no image")
    ids = [f"{row:09d}" for row in range(rows)]
    pq.write_table(pa.table({"id": ids, "path": list(itertools.islice(itertools.cycle(uris), rows))}), table)


def _with_ray(**options: Any) -> EncodeRun:
    """`eet encode` with these options. A part ends when its file is written."""
    from pipelines import encode  # imports Ray, which the other benchmarks do not need

    config = encode.EncodeConfig(engine="ray", **options)
    started = time.time()
    encode.run(config)
    ends = [Path(config.out, part_name(part)).stat().st_mtime - started for part in finished_parts(config.out)]
    return EncodeRun(config.rows_per_part, min(ends), max(ends), open_gallery(config.out).codes()[0])


def _with_part_encoder(encoder: PartEncoder, gallery: str) -> EncodeRun:
    """The rows of the gallery's plan, read and encoded part after part, without Ray and without writing."""
    hashes, ends, started = [], [], time.perf_counter()
    for part in planned_parts(gallery):
        hashes.append(encoder.encode(read_planned_part(gallery, part)).hash)
        ends.append(time.perf_counter() - started)
    return EncodeRun(len(hashes[0]), ends[0], ends[-1], pack(np.concatenate(hashes)))


class FileImages(Dataset):
    """Local images, loaded as in timm's documentation."""

    def __init__(self, paths: list[str], transform: Callable[[Image.Image], Tensor]) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> Tensor:
        with Image.open(self.paths[row]) as image:
            return self.transform(image.convert("RGB"))


def file_images(model: GalleryModel, paths: list[str]) -> FileImages:
    """With timm's evaluation transform for the input that `model` takes."""
    wanted = model.preprocessing
    transform = timm.data.create_transform(
        input_size=(3, *wanted.image_size), interpolation=wanted.interpolation, crop_pct=wanted.crop_share, mean=wanted.mean, std=wanted.std
    )
    return FileImages(paths, transform)


@torch.inference_mode()
def _with_data_loader(encoder: PartEncoder, uris: list[str], rows_per_part: int) -> EncodeRun:
    """torch's loader with as many processes as the encoder has threads, and the network in this one."""
    started = time.perf_counter()
    loader = DataLoader(
        file_images(encoder.model, uris),
        batch_size=encoder.batch_size,
        num_workers=encoder.threads,
        pin_memory=encoder.device.on_gpu,
        multiprocessing_context="forkserver",  # a fork would copy threads of Ray and torch
    )
    hashes: list[np.ndarray] = []
    rows = first_rows = 0
    first_end_s = 0.0
    for images in loader:
        with encoder.device.autocast():
            out = encoder.model(images.to(encoder.device.torch_device, non_blocking=True), tokens=False)
        hashes.append(out.hash.float().cpu().numpy())
        rows += len(images)
        if rows >= rows_per_part and not first_rows:
            first_rows, first_end_s = rows, time.perf_counter() - started
    return EncodeRun(first_rows, first_end_s, time.perf_counter() - started, pack(np.concatenate(hashes)))


def _planned(options: EncodeBenchmarkOptions, setup: Setup) -> str:
    return f"{len(options.methods)} methods, {options.rows} rows of {options.images}, {options.rounds} rounds"


BENCHMARK = Benchmark(COLUMNS, measure, _planned, network_versions)

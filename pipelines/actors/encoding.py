"""How planned parts are encoded: in this process, or by Ray Data actors, each part read, hashed and written whole by one."""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from eet.gallery import DEFAULT_BATCH_SIZE, OK, GalleryModel, PartEncoder, PlannedPart, part_name, read_planned_part, write_part
from eet.storage import exists, join_location, resolve
from pipelines.job.cluster import actor_pool, connected
from pipelines.job.environment import SLEEPING_THREADS
from pipelines.job.progress import BoardReader, PartDone, ProgressBoard, RowsDone, duration

TOLD_EVERY_S = 5.0
"""Seconds between two words of a worker on how far it is with a part."""

MOST_BLOCKS = 1024
"""Ray Data holds something for every block on the driver: a gallery of many parts has several to a block."""


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """How a worker encodes. Fields as in EncodeConfig; threads, batch_size: None for what fits the machine."""

    tokens: bool
    embedding: bool
    hash: bool
    precision: str
    jpegs_on: str
    max_pixels: int
    batch_size: int | None
    threads: int | None

    def encoder(self, model: GalleryModel, *, device: str, threads: int) -> PartEncoder:
        """threads: of this worker, where the options leave it open. RuntimeError where JPEGs are for a GPU that is not there."""
        if self.jpegs_on == "gpu" and device == "cpu":
            raise RuntimeError("JPEGs were to be decoded on a GPU, and this worker has none any more")
        threads = self.threads or threads
        torch.set_num_threads(threads)
        return PartEncoder(
            model,
            device=device,
            batch_size=self.batch_size or DEFAULT_BATCH_SIZE[device],
            threads=threads,
            tokens=self.tokens,
            embedding=self.embedding,
            has_hash=self.hash,
            precision=self.precision,
            max_pixels=self.max_pixels,
            jpegs_on_device=self.jpegs_on == "gpu",
        )


def encode_here(model: GalleryModel, options: EncoderOptions, gallery: str, pending: list[PlannedPart]) -> Iterator[PartDone]:
    """In this process, part after part."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder = options.encoder(model, device=device, threads=os.cpu_count() or 1)
    told = Progress(sum(planned.num_rows for planned in pending))
    for planned in pending:
        done = _encode(encoder, gallery, planned, told)
        told(done)
        yield done


def encode_on_ray(
    model: GalleryModel, options: EncoderOptions, gallery: str, pending: list[PlannedPart], *, address: str, workers: int | None
) -> Iterator[PartDone]:
    """On the cluster at `address`, by an autoscaling pool of `workers` actors at most; parts in any order, each once."""
    with connected(address) as resources:
        pool = actor_pool(resources, len(pending), workers)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        board = ProgressBoard.options(scheduling_strategy=here).remote()
        rows = [planned._asdict() for planned in pending]
        parts = ray.data.from_items(rows, override_num_blocks=min(len(rows), MOST_BLOCKS))
        encoded = parts.map_batches(
            PartActor,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=pool.workers, initial_size=pool.workers),
            num_cpus=pool.cpus,
            num_gpus=1 if pool.gpu else 0,
            runtime_env={"env_vars": SLEEPING_THREADS},  # of a cluster that was joined, workers do not have this process's environment
            fn_constructor_kwargs={
                "model": ray.put(model),
                "options": options,
                "gallery": gallery,
                "gpu": pool.gpu,
                "threads": pool.threads,
                "board": board,
            },
        )
        with BoardReader(board, Progress(sum(planned.num_rows for planned in pending))):
            for row in encoded.iter_rows():
                yield PartDone(int(row["part"]), json.loads(row["statuses"]), bool(row["encoded"]))


class PartActor:
    """A Ray Data actor: one model, one part after another."""

    def __init__(self, model: Any, options: EncoderOptions, gallery: str, gpu: bool, threads: int, board: Any) -> None:
        self.gallery, self.board = gallery, board
        self.encoder = options.encoder(ray.get(model), device="cuda" if gpu else "cpu", threads=threads)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        ((part, file, row_group, num_rows),) = zip(*(batch[name] for name in PlannedPart._fields), strict=True)
        planned = PlannedPart(int(part), str(file), int(row_group), int(num_rows))
        # A block that a lost worker had begun comes again as a whole.
        if exists(join_location(self.gallery, part_name(planned.part))):
            done = read_part_done(self.gallery, planned.part)
        else:
            done = _encode(self.encoder, self.gallery, planned, self.board.put.remote)
        self.board.put.remote(done)
        return {"part": [done.part], "statuses": [json.dumps(done.statuses)], "encoded": [done.encoded]}


def _encode(encoder: PartEncoder, gallery: str, planned: PlannedPart, told: Callable[[RowsDone], object]) -> PartDone:
    """Encodes a part, which is on disk when this returns. told: hears every few seconds how far it is."""
    last = time.monotonic()

    def rows_done(rows: int) -> None:
        nonlocal last
        if time.monotonic() - last >= TOLD_EVERY_S:
            last = time.monotonic()
            told(RowsDone(planned.part, rows))

    encoded = encoder.encode(read_planned_part(gallery, planned), rows_done)
    write_part(gallery, planned.part, encoded.table)
    return PartDone(planned.part, dict(Counter(encoded.table["status"].to_pylist())), True)


def read_part_done(gallery: str, part: int) -> PartDone:
    """What a part that is on disk holds."""
    filesystem, path = resolve(join_location(gallery, part_name(part)))
    with filesystem.open_input_file(path) as file:
        statuses = pq.ParquetFile(file).read(columns=["status"], use_threads=False)["status"]
    return PartDone(part, dict(Counter(statuses.to_pylist())), False)


class Progress:
    """Done of total, failures, rows/s and time left: a line at the first part, then one every half minute, and at the end.

    Rows of parts that are being encoded count as done, failures once their part is on disk. Rows/s are counted from the first word on, so
    that starting workers is not taken for encoding.
    """

    EVERY_S = 30.0

    def __init__(self, total: int) -> None:
        self.total, self.finished, self.failed = total, 0, 0
        self.seen: set[int] = set()
        self.begun: dict[int, int] = {}
        self.first: tuple[float, int] | None = None
        self.started = self.told = time.monotonic()

    def __call__(self, event: PartDone | RowsDone) -> None:
        if event.part in self.seen:  # done again after a worker was lost
            return
        if isinstance(event, RowsDone):
            self.begun[event.part] = event.rows
        else:
            self.seen.add(event.part)
            self.begun.pop(event.part, None)
            self.finished += event.rows
            self.failed += event.rows - event.statuses.get(OK, 0)
        now, done = time.monotonic(), self.finished + sum(self.begun.values())
        since, before = self.first or (self.started, 0)
        self.first = self.first or (now, done)
        first_part = isinstance(event, PartDone) and len(self.seen) == 1
        if first_part or now - self.told >= self.EVERY_S or self.finished >= self.total:
            self.told = now
            rate = max(done - before, 1) / max(1e-9, now - since)
            left = duration((self.total - done) / rate)
            print(f"encoded {done}/{self.total}  {self.failed} failed  {rate:.1f} images/s  {left} left", flush=True)

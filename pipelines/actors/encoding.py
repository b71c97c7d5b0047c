"""Encoding planned parts by Ray Data actors, each part read, hashed and written whole by one."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError

from eet.gallery import GalleryModel, PlannedPart
from eet.gallery.encoding import DEFAULT_BATCH_SIZE, EncoderOptions, OnProgress, PartDone, RowsDone, encode_part
from eet.gallery.job import remove_temporary_files
from eet.gallery.parts import PartFiles
from eet.options.threads import SLEEPING_THREADS
from pipelines.job.cluster import WORKER_MEMORY, WORKERS_END_S, actor_pool, connected, with_nodes
from pipelines.job.errors import JobFailed
from pipelines.job.progress_board import BoardReader, open_board
from pipelines.job.stderr_filter import ACTOR_POOL_WARNING, stderr_without
from pipelines.job.worker_need import WorkerNeed

MOST_BLOCKS = 1024
"""Ray Data holds something for every block on the driver: a gallery of many parts has several to a block."""


def encode_on_ray(
    model: GalleryModel,
    options: EncoderOptions,
    files: PartFiles,
    pending: list[PlannedPart],
    on_progress: OnProgress,
    *,
    address: str,
    workers: int | None,
    need: WorkerNeed,
) -> Iterator[PartDone]:
    """On the cluster at `address`, by an autoscaling pool of `workers` actors at most, each with what `need` says.

    Parts come in any order, each once. JobFailed where Ray stops.
    """
    with _without_unfinished_parts(files), _ray_errors_as_failures(), connected(address) as resources:
        resources = with_nodes(resources, need)
        pool = actor_pool(resources, len(pending), workers, need, memory=worker_memory(model, options))
        board = open_board()
        rows = [planned._asdict() for planned in pending]
        parts = ray.data.from_items(rows, override_num_blocks=min(len(rows), MOST_BLOCKS))
        encoded = parts.map_batches(
            PartActor,
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=pool.workers, initial_size=pool.initial),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
            memory=pool.memory or None,
            runtime_env={"env_vars": SLEEPING_THREADS},  # of a cluster that was joined, workers do not have this process's environment
            fn_constructor_kwargs={
                "model": ray.put(model),
                "options": options,
                "files": files,
                "gpu": pool.gpu,
                "threads": pool.threads,
                "board": board,
            },
        )
        with BoardReader(board, lambda event: on_progress(_progress_of(event))), stderr_without(ACTOR_POOL_WARNING):
            for row in encoded.iter_rows():
                yield PartDone(int(row["part"]), json.loads(row["statuses"]), bool(row["encoded"]))


@contextmanager
def _ray_errors_as_failures() -> Iterator[None]:
    try:
        yield
    except RayError as error:
        cause = getattr(error, "cause", None) or error
        raise JobFailed(
            f"encoding stopped: {type(cause).__name__}: {cause}. Finished parts are kept; run the same command again to continue"
        ) from error


@contextmanager
def _without_unfinished_parts(files: PartFiles) -> Iterator[None]:
    """Removes what workers were writing when the job was stopped."""
    try:
        yield
    except BaseException:
        remove_temporary_files(files.gallery, wait_s=WORKERS_END_S)
        raise


def why_not_on_gpu(address: str, need: WorkerNeed, check: Callable[[], str]) -> str:
    """Why workers on the cluster at `address` cannot use a GPU: the answer of `check` from one of them; empty where they can."""
    with connected(address) as resources:
        if not with_nodes(resources, need).gpus and not need.gpus:
            return "the Ray cluster has no GPU"
        return str(ray.get(ray.remote(num_gpus=1)(check).remote()))


def worker_memory(model: GalleryModel, options: EncoderOptions) -> int:
    """Bytes of memory that an actor needs: the network, once as it came and once as it runs, and four batches of float32 images (one being
    read, one being encoded, and what each is made from)."""
    weights = sum(weight.numel() * weight.element_size() for weight in model.state_dict().values())
    height, width = model.preprocessing.image_size
    batch = (options.batch_size or max(DEFAULT_BATCH_SIZE.values())) * 3 * height * width * 4
    return WORKER_MEMORY + 2 * weights + 4 * batch


def _progress_of(event: tuple[Any, ...]) -> PartDone | RowsDone:
    """What an actor put on the board: plain tuples, so that the board's process needs no more than Ray."""
    kind, *values = event
    return PartDone(*values) if kind == "part" else RowsDone(*values)


class PartActor:
    """A Ray Data actor: one model, one part after another."""

    def __init__(self, model: Any, options: EncoderOptions, files: PartFiles, gpu: bool, threads: int, board: Any) -> None:
        self.files, self.board = files, board
        self.encoder = options.encoder(ray.get(model), device="cuda" if gpu else "cpu", threads=threads)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        ((part, file, row_group, num_rows, digest),) = zip(*(batch[name] for name in PlannedPart._fields), strict=True)
        planned = PlannedPart(int(part), str(file), int(row_group), int(num_rows), str(digest))
        # After the loss of a worker its whole block is repeated, and some of its parts may already be written.
        statuses = self.files.statuses(planned.part)
        if statuses is not None:
            done = PartDone(planned.part, statuses, False)
        else:
            done = encode_part(self.encoder, self.files, planned, self._report)
        self._report(done)
        return {"part": [done.part], "statuses": [json.dumps(done.statuses)], "encoded": [done.encoded]}

    def _report(self, event: PartDone | RowsDone) -> None:
        self.board.put.remote(("part" if isinstance(event, PartDone) else "rows", *event))

"""Encoding planned parts by Ray actors, each part read, hashed and written whole by one."""

from collections.abc import Iterator
from typing import Any

import ray

from eet.gallery import GalleryModel, PlannedPart
from eet.gallery.encoding import DEFAULT_BATCH_SIZE, EncoderOptions, OnProgress, PartDone, RowsDone, encode_part, read_part_done
from eet.gallery.parts import part_location
from eet.storage import exists
from pipelines.actors.pool import run_on_actors
from pipelines.job.cluster import WORKER_MEMORY, WorkerNeed, actor_pool, connected, with_nodes
from pipelines.job.environment import SLEEPING_THREADS
from pipelines.job.progress import BoardReader, open_board


def encode_on_ray(
    model: GalleryModel,
    options: EncoderOptions,
    gallery: str,
    pending: list[PlannedPart],
    on_progress: OnProgress,
    *,
    version: int,
    address: str,
    workers: int | None,
    need: WorkerNeed,
) -> Iterator[PartDone]:
    """On the cluster at `address`, by an autoscaling pool of `workers` actors at most, each with what `need` says.

    Parts come in any order, each once.
    """
    with connected(address) as resources:
        resources = with_nodes(resources, need)
        pool = actor_pool(resources, len(pending), workers, need, memory=worker_memory(model, options))
        board = open_board()
        kind = ray.remote(PartActor).options(
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
            memory=pool.memory or None,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": SLEEPING_THREADS},  # of a cluster that was joined, workers do not have this process's environment
        )
        held = ray.put(model)
        with BoardReader(board, lambda event: on_progress(_progress_of(event))):
            yield from run_on_actors(
                lambda: kind.remote(held, options, gallery, version=version, gpu=pool.gpu, threads=pool.cpus, board=board), pending, pool
            )


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
    """One model, one part after another."""

    def __init__(
        self, model: GalleryModel, options: EncoderOptions, gallery: str, *, version: int, gpu: bool, threads: int, board: Any
    ) -> None:
        self.gallery, self.version, self.board = gallery, version, board
        self.encoder = options.encoder(model, device="cuda" if gpu else "cpu", threads=threads)

    def run(self, planned: PlannedPart) -> PartDone:
        # A worker that was lost may have written its part before.
        if exists(part_location(self.gallery, planned.part, self.version)):
            done = read_part_done(self.gallery, planned.part, self.version)
        else:
            done = encode_part(self.encoder, self.gallery, planned, self._report, version=self.version)
        self._report(done)
        return done

    def _report(self, event: PartDone | RowsDone) -> None:
        self.board.put.remote(("part" if isinstance(event, PartDone) else "rows", *event))

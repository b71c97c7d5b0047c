"""Where a job does its work: in this process, or in actors on Ray."""

from typing import Literal

from pipelines.job.address import is_connected
from pipelines.job.worker_need import WorkerNeed

Engine = Literal["auto", "ray", "local"]


def uses_ray(engine: Engine, *, address: str, work: int, most_here: int, workers: int | None, need: WorkerNeed) -> bool:
    """Whether to start Ray for this work. It takes some seconds, which a small job would spend on nothing else.

    auto is Ray where a cluster is named or already connected, workers are described, this machine has several GPUs, or there is much work.

    Args:
        engine: what the user asked for.
        address: of the Ray cluster; "local" where none is named.
        work: number of images or pairs.
        most_here: the most of them that auto does in this process.
        workers: number of actors that the user asked for.
        need: resources of an actor that the user asked for.
    """
    if engine != "auto":
        return engine == "ray"
    import torch

    described = workers is not None or need != WorkerNeed()
    return address != "local" or is_connected() or described or torch.cuda.device_count() > 1 or work > most_here

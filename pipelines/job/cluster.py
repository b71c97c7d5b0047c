"""Connecting to Ray, the resources of the cluster, and the share of a worker."""

import logging
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import ray

from eet.errors import InputError
from pipelines.job.address import check_address
from pipelines.job.stopping import postponed
from pipelines.job.worker_need import WorkerNeed

NODE_WAIT_S = 1800
"""Seconds that a job waits for the first node of a cluster without nodes. A cloud node takes minutes to start."""

WORKERS_END_S = 10.0
"""Most seconds for which workers go on after a job has stopped them."""

MiB = 2**20
WORKER_MEMORY = 1024 * MiB
"""Memory of a worker without its model and images: Python, Ray, torch and their buffers (1.4 GiB was measured for one that encodes with
a small model on a CPU, of which the images are a part)."""


@dataclass(frozen=True)
class Node:
    """Whole CPUs and GPUs of a living node, and the bytes of memory that Ray may reserve; 0 where unknown."""

    cpus: int
    gpus: int
    memory: int = 0


@dataclass(frozen=True)
class ClusterResources:
    """The nodes that accept work."""

    nodes: tuple[Node, ...]
    grows: bool = False
    """Whether an autoscaler may add nodes: true for an existing cluster, false for one started by this job."""

    @property
    def gpus(self) -> int:
        return sum(node.gpus for node in self.nodes)

    @property
    def cpus(self) -> int:
        return sum(node.cpus for node in self.nodes)

    def cpus_per_worker(self, workers: int, *, gpus_per_worker: float = 1) -> int:
        """The most whole CPUs that each of `workers` can have at once, every one on a single node (with its share of a GPU, where the
        cluster has any).

        Ray waits forever for a worker that fits no node, so it is an InputError if not all of them fit. On a cluster that grows, it is the
        number for one node, and Ray asks for more nodes.
        """
        gpus = gpus_per_worker if self.gpus else 0
        share = largest_share(self.nodes, workers, gpus=gpus)
        if share is None and self.grows:
            usable = (node for node in self.nodes if node.gpus or not gpus)
            share = max((node.cpus // (max(1, int(node.gpus / gpus)) if gpus else 1) for node in usable), default=0)
            print(f"note: {workers} workers do not fit the {len(self.nodes)} running nodes; waiting for the cluster to grow")
        if not share:
            if not self.nodes:
                raise InputError("the Ray cluster has no node that accepts work: start one, or use --address local")
            raise self.too_small(workers, f"use {self.gpus or self.cpus} or fewer")
        return share

    def too_small(self, workers: int, advice: str) -> InputError:
        """The error that `workers` workers do not fit."""
        has = f"{len(self.nodes)} nodes with {self.cpus} CPUs and {self.gpus} GPUs"
        return InputError(f"{workers} workers do not fit the cluster of {has}: {advice}")


def places(nodes: Sequence[Node], *, cpus: int, gpus: float) -> int:
    """Number of workers that the nodes hold at once, each with `cpus` and `gpus` (a share of one, or 0) on a single node."""
    return sum(min(node.cpus // cpus, int(node.gpus / gpus + 1e-9)) if gpus else node.cpus // cpus for node in nodes)


def largest_share(nodes: Sequence[Node], workers: int, *, gpus: float) -> int | None:
    """The largest number of CPUs per worker, 1 or more, with which `workers` fit on the nodes; None if they do not fit."""
    for share in range(max((node.cpus for node in nodes), default=0), 0, -1):
        if places(nodes, cpus=share, gpus=gpus) >= workers:
            return share
    return None


class ActorPool(NamedTuple):
    """Actors of a Ray Data job.

    Attributes:
        workers: most actors.
        initial: actors requested at the start.
        cpus: reserved by each actor.
        threads: used by each actor.
        gpus: reserved by each actor.
        memory: bytes reserved by each actor; 0 for none.
    """

    workers: int
    initial: int
    cpus: int
    threads: int
    gpus: float
    memory: int

    @property
    def gpu(self) -> bool:
        return self.gpus > 0


def actor_pool(resources: ClusterResources, num_tasks: int, requested: int | None, need: WorkerNeed, *, memory: int) -> ActorPool:
    """Chooses the actors of a job: `requested`, or one for each GPU, or one for each node of a cluster without GPUs; at most one per task.

    On a cluster that grows, if no number is requested, there is one actor for each task: actors without a node make the cluster grow, as
    far as its configuration allows; Ray does not expose that limit.

    Args:
        resources: of the cluster.
        num_tasks: number of tasks.
        requested: number of actors that the user requests, or None.
        need: resources of an actor that the user requests.
        memory: bytes that an actor needs.

    Raises:
        InputError: the actors do not fit the cluster.
    """
    gpus = (1.0 if resources.gpus else 0.0) if need.gpus is None else need.gpus
    here = int(resources.gpus / gpus + 1e-9) if gpus else len(resources.nodes)
    now = min(requested or here or 1, num_tasks)
    share = need.cpus or resources.cpus_per_worker(now, gpus_per_worker=gpus)
    open_ended = resources.grows and not requested
    fit = places(resources.nodes, cpus=share, gpus=gpus)
    if fit < now and not resources.grows:
        raise resources.too_small(now, f"{fit} of {share} CPUs and {gpus:g} GPUs do")
    # One CPU per actor is left for Ray Data; not if the user gave a number, or if an open-ended pool would put a second actor there.
    cpus = share if need.cpus or open_ended else max(1, share - 1)
    # If nodes are still to come, no memory is requested: many configurations declare none, and such nodes would never be started.
    memory = 0 if open_ended or fit < now else _affordable(resources.nodes, memory, cpus=cpus, gpus=gpus)
    return ActorPool(
        workers=num_tasks if open_ended else now,
        initial=max(1, min(now, fit)) if resources.grows else now,
        cpus=cpus,
        threads=share,
        gpus=gpus,
        memory=memory,
    )


def _affordable(nodes: Sequence[Node], memory: int, *, cpus: int, gpus: float) -> int:
    """`memory`, or less if a node could otherwise not hold as many workers as its CPUs and GPUs allow."""
    held = [(node.memory, places([node], cpus=cpus, gpus=gpus)) for node in nodes]
    return min([memory, *(total * 9 // 10 // workers for total, workers in held if total and workers)])


def shard_memory(nodes: Sequence[Node], memory: int, shards: int) -> int:
    """`memory` bytes for each shard, or less if half of the smallest node could not hold its part of the shards.

    Half, so that the shards of a lost node fit on the others. 0, which means no reservation, if no node is running.
    """
    known = [node.memory for node in nodes if node.memory]
    return min([memory, *(total // 2 // -(-shards // len(known)) for total in known)]) if known else 0


@contextmanager
def connected(address: str) -> Iterator[ClusterResources]:
    """A connection to the Ray cluster at `address`; 'local' starts one on this machine and stops it afterwards.

    An existing connection (tests, a trial of a sweep) is reused and left open.
    InputError if there is no cluster at the address.
    """
    started_here = not ray.is_initialized()
    check_address(address)  # first, so that there is nothing to stop where nothing answers
    try:
        if started_here:
            _connect(address)
        yield cluster_resources(grows=address != "local")
    finally:
        if started_here:
            with postponed():
                ray.shutdown()


def _connect(address: str) -> None:
    try:
        with postponed():
            if address == "local":
                ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            else:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            _protect_token()
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(f"no Ray cluster at --address {address}: {error}. Use 'local' for this machine, or HOST:PORT") from error


def _protect_token() -> None:
    """Takes other users' rights from the token that Ray makes at its first start: who can read it can run code as this user."""
    with suppress(OSError, RuntimeError):  # no token, or no home
        token = Path.home() / ".ray" / "auth_token"
        token.chmod(stat.S_IMODE(token.stat().st_mode) & stat.S_IRWXU)


def with_nodes(resources: ClusterResources, need: WorkerNeed) -> ClusterResources:
    """The cluster with at least one node, as the size of a worker requires. A node is requested if a growing cluster has none.

    InputError if none has started after half an hour. If the need is given, the function does not wait.
    """
    has_gpus = resources.gpus or not need.gpus
    if not resources.grows or (resources.nodes and has_gpus) or (need.cpus and need.gpus is not None):
        return resources
    wanted = "a node with a GPU" if need.gpus else "a node"
    print(f"note: the cluster has no {wanted[2:]} yet; requested one, waiting", flush=True)
    probe = ray.remote(num_cpus=1, num_gpus=need.gpus or 0, max_retries=-1)(_nothing).remote()
    if not ray.wait([probe], timeout=NODE_WAIT_S)[0]:
        ray.cancel(probe, force=True)
        raise InputError(f"the Ray cluster did not get {wanted} in {NODE_WAIT_S // 60} min: see `ray status` on its head")
    return cluster_resources(grows=True)


def _nothing() -> None:
    """A task that needs a CPU, and so a node."""


def cluster_resources(*, grows: bool) -> ClusterResources:
    """Resources of the connected cluster. A head without CPUs is not counted."""
    totals = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = (Node(int(total.get("CPU", 0)), int(total.get("GPU", 0)), int(total.get("memory", 0))) for total in totals)
    return ClusterResources(tuple(node for node in nodes if node.cpus), grows)

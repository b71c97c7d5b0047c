"""Connecting to Ray, what the cluster has, and what a worker's share of it is."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import ray

from eet.errors import InputError


@dataclass(frozen=True)
class Node:
    """Whole CPUs and GPUs of a living node."""

    cpus: int
    gpus: int


@dataclass(frozen=True)
class ClusterResources:
    """The nodes that take work."""

    nodes: tuple[Node, ...]
    grows: bool = False
    """Whether an autoscaler may add nodes like these: a cluster that was joined, not one started here."""

    @property
    def gpus(self) -> int:
        return sum(node.gpus for node in self.nodes)

    @property
    def cpus(self) -> int:
        return sum(node.cpus for node in self.nodes)

    def cpus_per_worker(self, workers: int, *, gpus_per_worker: float = 1) -> int:
        """The most whole CPUs that each of `workers` can have at once, every one on a single node (with its share of a GPU, where the
        cluster has any).

        Ray waits for ever for a worker that fits no node, so ValueError where not all of them fit; on a cluster that grows, as many as
        fit one of its nodes, and Ray asks for more nodes.
        """
        share = largest_share(self.nodes, workers, gpus=gpus_per_worker if self.gpus else 0)
        if share is None and self.grows:
            taken = (node for node in self.nodes if node.gpus or not self.gpus)
            share = max((node.cpus // max(1, int(node.gpus / gpus_per_worker)) for node in taken), default=0)
            print(f"note: {workers} workers do not fit the {len(self.nodes)} nodes there are; waiting for the cluster to grow")
        if not share:
            raise InputError(
                f"{workers} workers do not fit the cluster of {len(self.nodes)} nodes with {self.cpus} CPUs and {self.gpus} GPUs: "
                f"use {self.gpus or self.cpus} or fewer"
            )
        return share


def places(nodes: Sequence[Node], *, cpus: int, gpus: float) -> int:
    """How many workers of so many CPUs and GPUs (a share of one, or 0 for none) the nodes hold at once, every one on a single node."""
    return sum(min(node.cpus // cpus, int(node.gpus / gpus + 1e-9)) if gpus else node.cpus // cpus for node in nodes)


def largest_share(nodes: Sequence[Node], workers: int, *, gpus: float) -> int | None:
    """The greatest number of CPUs, 1 or more, with which `workers` fit on the nodes, each with so many GPUs; None for none."""
    for share in range(max((node.cpus for node in nodes), default=0), 0, -1):
        if places(nodes, cpus=share, gpus=gpus) >= workers:
            return share
    return None


class ActorPool(NamedTuple):
    """Most actors of a Ray Data job. cpus: reserved by each; threads: that each may use; gpu: whether each has one."""

    workers: int
    cpus: int
    threads: int
    gpu: bool


def actor_pool(resources: ClusterResources, num_tasks: int, asked: int | None) -> ActorPool:
    """One actor a GPU, or a node on a cluster without, or as many as asked; no more than tasks.

    A CPU beside each is left to Ray Data where its node has more than one.
    """
    gpu = resources.gpus > 0
    workers = min(asked or resources.gpus or len(resources.nodes), num_tasks)
    share = resources.cpus_per_worker(workers)
    return ActorPool(workers, max(1, share - 1), share, gpu)


@contextmanager
def connected(address: str) -> Iterator[ClusterResources]:
    """A connection to the Ray cluster at `address`; 'local' starts one on this machine and ends it after.

    A session that is connected already (tests, a sweep's trial) is used as it is and left open.
    ValueError where nothing answers at the address.
    """
    ours = not ray.is_initialized()
    if ours:
        try:
            if address == "local":
                ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            else:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise InputError(f"no Ray cluster at --address {address}: {error}. Use 'local' for this machine, or HOST:PORT") from error
    try:
        yield cluster_resources(grows=address != "local")
    finally:
        if ours:
            ray.shutdown()


def cluster_resources(*, grows: bool) -> ClusterResources:
    """Of the connected cluster; the head takes no part where it has no CPU."""
    totals = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = (Node(int(total.get("CPU", 0)), int(total.get("GPU", 0))) for total in totals)
    return ClusterResources(tuple(node for node in nodes if node.cpus), grows)

"""Connecting to Ray, and what the cluster has."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray


@dataclass(frozen=True)
class ClusterResources:
    """What the connected cluster offers, in whole CPUs and GPUs."""

    cpus: int
    gpus: int
    nodes: int


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
                ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
            else:
                ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ValueError(f"no Ray cluster at --address {address}: {error}. Use 'local' for this machine, or HOST:PORT") from error
    try:
        yield cluster_resources()
    finally:
        if ours:
            ray.shutdown()


def cluster_resources() -> ClusterResources:
    """Of the connected cluster."""
    total = ray.cluster_resources()
    return ClusterResources(int(total.get("CPU", 0)), int(total.get("GPU", 0)), sum(node["Alive"] for node in ray.nodes()))

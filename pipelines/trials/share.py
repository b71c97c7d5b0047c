"""How many trials of a sweep run at once, and how the cluster's CPUs are divided among them."""

from dataclasses import dataclass

from eet.errors import InputError
from pipelines.job.cluster import ClusterResources, largest_share, places


@dataclass(frozen=True)
class Share:
    """How many trials run at once, and the CPUs of each of a trial's workers."""

    concurrent: int
    cpus: int


def share_out(resources: ClusterResources, *, workers: int, cpus: int | None, gpus: float, trials: int, asked: int | None) -> Share:
    """Trials at once, so that every one that Tune starts has room for its workers: who finds none would wait for ever.

    workers: of a trial. cpus: of a worker; default an equal share. gpus: of a worker, a share of one or 0. asked: the user's number of
    trials at once. ValueError where fewer than asked (or none) fit, but on a cluster that grows Ray asks for more nodes.
    """
    fit = places(resources.nodes, cpus=cpus or 1, gpus=gpus) // workers
    if fit < (asked or 1) and resources.grows:
        print(f"note: the {len(resources.nodes)} nodes there are hold {fit} trials at once; waiting for the cluster to grow")
        fit = asked or 1
    if fit < (asked or 1):
        each = f"{workers} workers of {cpus or 1} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
        raise InputError(
            f"{asked or 1} trials at once, {each} each, do not fit the cluster of {len(resources.nodes)} nodes with {resources.cpus} CPUs "
            f"and {resources.gpus} GPUs: it holds {fit}"
        )
    concurrent = min(asked or fit, trials)
    return Share(concurrent, cpus or largest_share(resources.nodes, concurrent * workers, gpus=gpus) or 1)

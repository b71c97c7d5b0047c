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
    """Chooses the number of concurrent trials, so that every started trial can place its workers; otherwise it would wait forever.

    Args:
        resources: of the cluster.
        workers: workers of a trial.
        cpus: CPUs of a worker; default an equal share.
        gpus: GPUs of a worker, a share of one, or 0.
        trials: number of trials.
        asked: number of concurrent trials that the user requests, or None.

    Raises:
        InputError: fewer than asked (or none) fit. On a cluster that grows, Ray asks for more nodes instead.
    """
    fit = places(resources.nodes, cpus=cpus or 1, gpus=gpus) // workers
    if fit < (asked or 1) and resources.grows:
        print(f"note: the {len(resources.nodes)} running nodes hold {fit} trials at once; waiting for the cluster to grow")
        fit = asked or 1
    if fit < (asked or 1):
        each = f"{workers} workers of {cpus or 1} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
        raise InputError(
            f"{asked or 1} trials at once, {each} each, do not fit the cluster of {len(resources.nodes)} nodes with {resources.cpus} CPUs "
            f"and {resources.gpus} GPUs: it holds {fit}"
        )
    concurrent = min(asked or fit, trials)
    return Share(concurrent, cpus or largest_share(resources.nodes, concurrent * workers, gpus=gpus) or 1)

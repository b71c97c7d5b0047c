"""The interface of a benchmark, and the options that all share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from eet.device import Device
from pipelines.benchmarks.record import Column, Machine


@dataclass(frozen=True)
class Setup:
    """Where and how often a benchmark measures.

    Attributes:
        device: that is measured, and the precision of networks on it.
        threads: of the CPU.
        repeats: timed runs of each method.
        backbone: timm ViT, with random weights.
        keep_ratios: of the student, one for each stage.
        address: of the Ray cluster, if one is used; None for the default.
    """

    device: Device
    threads: int
    repeats: int
    backbone: str
    keep_ratios: tuple[float, ...]
    address: str | None = None


@dataclass(frozen=True)
class Benchmark:
    """One benchmark, as `eet benchmark NAME` runs it.

    Attributes:
        columns: of its table.
        measure: (options, setup) -> timings, one for each row.
        planned: (options, setup) -> description of what a run would measure, for a dry run.
        versions: setup -> versions of the compared programs, and the precision.
    """

    columns: Sequence[Column]
    measure: Callable[[Any, Setup], Sequence[Any]]
    planned: Callable[[Any, Setup], str]
    versions: Callable[[Setup], Machine]


def network_versions(setup: Setup) -> Machine:
    """Versions and precision for benchmarks of networks."""
    import timm

    return {"precision": setup.device.precision, "timm": timm.__version__}

"""The interface of a benchmark, and the options that all share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pipelines.benchmarks.record import Column, Machine


@dataclass(frozen=True)
class Setup:
    """Where and how often a benchmark measures.

    Attributes:
        device: the measured device.
        threads: CPU threads.
        repeats: timed runs of each method.
        precision: auto, fp32 or bf16; auto is bf16 on CUDA.
        backbone: timm ViT, with random weights.
        keep_ratios: of the student, one for each stage.
        address: of the Ray cluster, if one is used; None for the default.
    """

    device: torch.device
    threads: int
    repeats: int
    precision: str
    backbone: str
    keep_ratios: tuple[float, ...]
    address: str | None = None

    @property
    def bf16(self) -> bool:
        return self.precision == "bf16" or (self.precision == "auto" and self.device.type == "cuda")

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"


@dataclass(frozen=True)
class Benchmark:
    """One benchmark, as `eet benchmark NAME` runs it.

    Attributes:
        columns: of its table.
        measure: (options, setup) -> timings, one for each row.
        planned: (options, setup) -> description of what a run would measure, for a dry run.
        versions: setup -> versions of the compared programs, and the precision.
        problems: (options, setup) -> impossible combinations of options and setup.
    """

    columns: Sequence[Column]
    measure: Callable[[Any, Setup], Sequence[Any]]
    planned: Callable[[Any, Setup], str]
    versions: Callable[[Setup], Machine]
    problems: Callable[[Any, Setup], list[str]] = lambda options, setup: []


def network_versions(setup: Setup) -> Machine:
    """Versions and precision for benchmarks of networks."""
    import timm

    return {"precision": "bf16" if setup.bf16 else "fp32", "timm": timm.__version__}

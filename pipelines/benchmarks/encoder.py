"""`eet benchmark encoder`: latency of timm's ViT, EET's teacher and students, in one process, interleaved."""

import functools
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eet.errors import InputError
from eet.vit import Student
from pipelines.benchmarks.networks import UNPRUNED, parsed_schedule, schedule_of, student_of, timm_vit
from pipelines.benchmarks.record import Column, print_rows
from pipelines.benchmarks.setup import Benchmark, Setup, network_versions
from pipelines.configs.benchmark import EncoderBenchmarkOptions, Mode
from pipelines.costs.interleaved import interleaved_seconds, median_ratio
from pipelines.costs.networks import gmacs_per_image

PEER = "timm"


@dataclass(frozen=True)
class EncoderTiming:
    """One network in one mode at one batch size. ms: median of a batch. ratio: to timm's in its fastest mode, in the same round, median.
    spread: (p90 - p10) / median.
    """

    method: str
    mode: str
    batch_size: int
    gmacs_per_image: float
    ms: float
    images_per_s: float
    ratio: float
    spread: float


COLUMNS = (
    Column("method", "method"),
    Column("mode", "mode"),
    Column("batch", "batch_size", "d"),
    Column("GMACs/image", "gmacs_per_image", ".3f"),
    Column("ms/batch", "ms", ".2f"),
    Column("images/s", "images_per_s", ".1f"),
    Column("time / timm", "ratio", ".3f"),
    Column("spread", "spread", ".0%"),
)


def measure(options: EncoderBenchmarkOptions, setup: Setup) -> list[EncoderTiming]:
    """Measures every batch size in turn, with all networks and modes interleaved. InputError for the CPU time of work on a GPU."""
    backbone, device = setup.backbone, setup.device.torch_device
    if options.clock == "cpu" and device.type != "cpu":
        raise InputError(
            f"--encoder.clock cpu measures nothing of the work on {device.type}: give --device cpu too, or --encoder.clock wall"
        )
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    schedule = schedule_of(backbone, setup.keep_ratios)
    networks: dict[str, nn.Module] = {
        PEER: timm_vit(backbone),
        "teacher": student_of(backbone, UNPRUNED),
        "student": student_of(backbone, schedule),
        **{f"student {text}": student_of(backbone, parsed_schedule(text, backbone)) for text in options.schedules},
    }
    networks = {name: network.eval().to(device) for name, network in networks.items()}
    timings: list[EncoderTiming] = []
    with torch.inference_mode(), setup.device.autocast():
        student = networks["student"]
        assert isinstance(student, Student)
        size = student.preprocessing.image_size
        macs = {name: gmacs_per_image(_run_in("eager", network), size, device) for name, network in networks.items()}
        runs = {(name, mode): _run_in(mode, networks[name]) for name, mode in itertools.product(networks, options.modes)}
        for batch_size in options.batch_sizes:
            rows = _time(runs, macs, torch.randn(batch_size, 3, *size, device=device), setup.repeats, clock)
            print_rows(COLUMNS, rows, heading=not timings)
            timings += rows
    return timings


def _run_in(mode: Mode, network: nn.Module) -> Callable[[Tensor], Any]:
    """A function that hashes a batch with a network of EET, or classifies it with timm's."""
    call: Callable[..., Any] = network
    if mode != "eager":
        # Compiled for each batch size: code for any size would be slower.
        call = torch.compile(network, dynamic=False, mode="reduce-overhead" if mode == "graphed" else None)
    return functools.partial(call, tokens=False) if isinstance(network, Student) else call


def _time(
    runs: dict[tuple[str, Mode], Callable[[Tensor], Any]],
    macs: dict[str, float],
    images: Tensor,
    repeats: int,
    clock: Callable[[], float],
) -> list[EncoderTiming]:
    # Each network, mode and batch size is a program of its own, more than torch caches for one function by default; beyond that it would
    # silently run eagerly.
    with torch._dynamo.config.patch(recompile_limit=1000, accumulated_recompile_limit=1000):
        seconds = interleaved_seconds(
            {run: functools.partial(call, images) for run, call in runs.items()}, repeats=repeats, device=images.device, clock=clock
        )
    medians = {run: statistics.median(values) for run, values in seconds.items()}
    peer = min((run for run in runs if run[0] == PEER), key=medians.__getitem__)
    timings = []
    for run, values in seconds.items():
        ordered = sorted(values)
        spread = (ordered[int(0.9 * (len(ordered) - 1))] - ordered[int(0.1 * (len(ordered) - 1))]) / medians[run]
        ratio = median_ratio(values, seconds[peer])
        name, mode = run
        timings.append(EncoderTiming(name, mode, len(images), macs[name], medians[run] * 1e3, len(images) / medians[run], ratio, spread))
    return timings


def _planned(options: EncoderBenchmarkOptions, setup: Setup) -> str:
    cases = len(options.batch_sizes) * len(options.modes) * (3 + len(options.schedules))
    return f"{cases} cases, {setup.repeats} repeats"


BENCHMARK = Benchmark(COLUMNS, measure, _planned, network_versions)

"""`eet benchmark encoder`, `search`, `encode` and `matching`: beside their peers, on the same machine, methods interleaved, medians."""

import functools
import json
import os
import platform
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import timm
import torch
from torch import Tensor, nn

from eet.vit import PruningSchedule, Student, build_student, save_bundle, scaled_prune_after
from pipelines import benchmark_encode, benchmark_matching, benchmark_search
from pipelines.benchmark_encode import EncodeBenchmarkOptions, EncodeTiming
from pipelines.benchmark_matching import MatchingBenchmarkOptions, MatchingTiming
from pipelines.benchmark_search import SearchBenchmarkOptions, SearchTiming
from pipelines.interleaved import interleaved_seconds
from pipelines.network_cost import gmacs_per_image
from pipelines.options import JobOptions

_T = TypeVar("_T")


@dataclass(kw_only=True)
class BenchmarkConfig(JobOptions):
    """Measures. Random weights: time does not depend on them.

    Attributes:
        what: encoder: MACs and latency of timm's ViT (fused attention), our teacher, our student at --keep_ratios. search: exact
            Hamming search beside FAISS's flat index, by --search.*. encode: images/s of `eet encode` on Ray, of the same encoder without
            Ray and of a plain loop over torch's DataLoader, by --encode.*. matching: scores of pairs by optimal transport beside POT and
            torch, by --matching.*.
        device: auto takes CUDA where there is one.
        backbone: timm ViT.
        batch_sizes: Images at once.
        keep_ratios: The student's.
        repeats: Timed runs of each method, but of encode (--encode.rounds); the median is told.
        compile: Run every method, timm's too, through torch.compile.
        precision: auto is bf16 on CUDA and fp32 on a CPU.
        threads: CPU threads; default all.
        json: File for the figures.
        search: Of `eet benchmark search`.
        encode: Of `eet benchmark encode`.
        matching: Of `eet benchmark matching`.
    """

    what: Literal["encoder", "search", "encode", "matching"] = "encoder"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    backbone: str = "vit_small_patch16_224"
    batch_sizes: tuple[int, ...] = (1, 8, 32)
    keep_ratios: tuple[float, ...] = (0.5, 0.5, 0.25)
    repeats: int = 15
    compile: bool = False
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    threads: int | None = None
    json: str | None = None
    search: SearchBenchmarkOptions = field(default_factory=SearchBenchmarkOptions)
    encode: EncodeBenchmarkOptions = field(default_factory=EncodeBenchmarkOptions)
    matching: MatchingBenchmarkOptions = field(default_factory=MatchingBenchmarkOptions)

    def problems(self) -> list[str]:
        found = super().problems()
        for name in ("repeats", "threads"):
            if (value := getattr(self, name)) is not None and value < 1:
                found.append(f"--{name} {value}: use 1 or more")
        if min(self.batch_sizes, default=0) < 1:
            found.append(f"--batch_sizes {list(self.batch_sizes)}: give one or more, each at least 1")
        if self.device == "cuda" and not torch.cuda.is_available():
            found.append("--device cuda: torch finds no CUDA device here")
        if self.what == "encode" and self.encode.images is None:
            found.append("--encode.images is missing: give a folder or a table of images")
        if self.what == "encode" and self.device != "auto":
            found.append(f"--device {self.device}: `eet encode` takes CUDA where there is one; leave it out")
        return found


@dataclass(frozen=True)
class Timing:
    """One method at one batch size. ms: median of a batch. ratio: to timm's in the same run. spread: (p90 - p10) / median."""

    method: str
    batch_size: int
    gmacs_per_image: float
    ms: float
    images_per_s: float
    ratio: float
    spread: float


def run(config: BenchmarkConfig) -> list[Timing] | list[SearchTiming] | list[EncodeTiming] | list[MatchingTiming]:
    """Prints a table and, asked for, writes JSON with the machine and versions beside it."""
    return {"encoder": _encoder, "search": _search, "encode": _encode, "matching": _matching}[config.what](config)


def _search(config: BenchmarkConfig) -> list[SearchTiming]:
    import faiss

    cases = len(config.search.sizes) * len(config.search.bits) * len(config.search.draws)
    measure = functools.partial(benchmark_search.measure, config.search)
    return _on_threads(config, {"faiss": faiss.__version__}, cases, measure)


def _matching(config: BenchmarkConfig) -> list[MatchingTiming]:
    import ot

    cases = len(config.matching.tokens) * len(config.matching.mean_cosines)
    measure = functools.partial(benchmark_matching.measure, config.matching)
    return _on_threads(config, {"pot": ot.__version__, "torch": torch.__version__}, cases, measure)


def _on_threads(config: BenchmarkConfig, peers: dict[str, str], cases: int, measure: Callable[..., list[_T]]) -> list[_T]:
    """A benchmark of compiled loops: says on what, measures, writes."""
    import numba

    threads = config.threads or os.cpu_count() or 1
    machine: dict[str, str | int] = {
        "device": _cpu_name(),
        "threads": threads,
        "python": platform.python_version(),
        "numba": numba.__version__,
        **peers,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    if config.dry_run:
        print(f"dry run: {cases} cases, {config.repeats} repeats, on {machine['device']}; nothing was started")
        return []
    print("  ".join(f"{key} {value}" for key, value in machine.items()))
    timings = measure(threads=threads, repeats=config.repeats)
    _write_json(config, machine, timings)
    return timings


def _write_json(config: BenchmarkConfig, machine: dict[str, str | int], timings: Sequence[Any]) -> None:
    if config.json is not None:
        record = {"what": config.what, "machine": machine, "config": asdict(config), "timings": [asdict(timing) for timing in timings]}
        Path(config.json).write_text(json.dumps(record, indent=1) + "\n")


def _encode(config: BenchmarkConfig) -> list[EncodeTiming]:
    machine = _machine(_prepared_device(config), config)
    if config.dry_run:
        print(
            f"dry run: {len(config.encode.methods)} methods, {config.encode.rows} rows of {config.encode.images}, "
            f"{config.encode.rounds} rounds, on {machine['device']}; nothing was started"
        )
        return []
    print("  ".join(f"{key} {value}" for key, value in machine.items()))
    with tempfile.TemporaryDirectory(prefix="eet-benchmark-") as folder:
        if config.encode.model is None:
            save_bundle(_student(config), folder)
        timings = benchmark_encode.measure(
            config.encode,
            model=config.encode.model or folder,
            threads=torch.get_num_threads(),
            precision=config.precision,
            address=config.address,
        )
    benchmark_encode.print_table(timings)
    _write_json(config, machine, timings)
    return timings


def _prepared_device(config: BenchmarkConfig) -> torch.device:
    """The device that is measured; torch has the threads asked for."""
    torch.set_num_threads(config.threads or os.cpu_count() or 1)
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device)


def _bf16(device: torch.device, config: BenchmarkConfig) -> bool:
    return config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")


def _encoder(config: BenchmarkConfig) -> list[Timing]:
    device = _prepared_device(config)
    machine = _machine(device, config)
    if config.dry_run:
        print(
            f"dry run: 3 methods at batch sizes {list(config.batch_sizes)}, "
            f"{config.repeats} repeats, on {machine['device']}; nothing was started"
        )
        return []
    networks = _networks(config, device)
    timings: list[Timing] = []
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=_bf16(device, config)):
        size = _input_size(networks["student"])
        macs = {name: gmacs_per_image(_runner(network, name != "timm", False), size, device) for name, network in networks.items()}
        runs = {name: _runner(network, name != "timm", config.compile) for name, network in networks.items()}
        for batch_size in config.batch_sizes:
            timings += _time(runs, macs, batch_size, size, device, config.repeats)
    _print(timings, machine)
    _write_json(config, machine, timings)
    return timings


def _networks(config: BenchmarkConfig, device: torch.device) -> dict[str, nn.Module]:
    theirs = timm.create_model(config.backbone, pretrained=False, num_classes=200)
    teacher = build_student(config.backbone, num_classes=200, num_bits=64, schedule=PruningSchedule((), ()), weights="none")
    networks = {"timm": theirs, "teacher": teacher, "student": _student(config)}
    return {name: network.eval().to(device) for name, network in networks.items()}


def _student(config: BenchmarkConfig) -> Student:
    """Random weights."""
    depth = len(timm.create_model(config.backbone, pretrained=False).blocks)
    schedule = PruningSchedule(scaled_prune_after(depth, len(config.keep_ratios)), config.keep_ratios)
    return build_student(config.backbone, num_classes=200, num_bits=64, schedule=schedule, weights="none")


def _input_size(student: nn.Module) -> tuple[int, int]:
    height, width = student.preprocessing.image_size  # type: ignore[union-attr]
    return height, width


def _runner(network: nn.Module, ours: bool, compiled: bool) -> Callable[[Tensor], Any]:
    module = torch.compile(network) if compiled else network
    return (lambda images: module(images, tokens=False)) if ours else module


def _time(
    runs: dict[str, Callable[[Tensor], Any]],
    macs: dict[str, float],
    batch_size: int,
    size: tuple[int, int],
    device: torch.device,
    repeats: int,
) -> list[Timing]:
    images = torch.randn(batch_size, 3, *size, device=device)
    calls = {name: functools.partial(run, images) for name, run in runs.items()}
    seconds = interleaved_seconds(calls, repeats=repeats, device=device)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    timings = []
    for name, values in seconds.items():
        ordered = sorted(values)
        spread = (ordered[int(0.9 * (len(ordered) - 1))] - ordered[int(0.1 * (len(ordered) - 1))]) / medians[name]
        # The median of the ratios within each round, not the ratio of medians: a slow spell of the machine cancels.
        ratio = statistics.median(mine / theirs for mine, theirs in zip(values, seconds["timm"], strict=True))
        timings.append(Timing(name, batch_size, macs[name], medians[name] * 1e3, batch_size / medians[name], ratio, spread))
    return timings


def _machine(device: torch.device, config: BenchmarkConfig) -> dict[str, str | int]:
    name = torch.cuda.get_device_name() if device.type == "cuda" else _cpu_name()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "precision": "bf16" if _bf16(device, config) else "fp32",
        "compiled": str(config.compile),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor() or platform.machine())


def _print(timings: list[Timing], machine: dict[str, str | int]) -> None:
    from rich.console import Console
    from rich.table import Table

    print("  ".join(f"{key} {value}" for key, value in machine.items()))
    table = Table()
    for heading in ("method", "batch", "GMACs/image", "ms/batch", "images/s", "time / timm", "spread"):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for timing in timings:
        table.add_row(
            timing.method, str(timing.batch_size), f"{timing.gmacs_per_image:.3f}", f"{timing.ms:.1f}",
            f"{timing.images_per_s:.1f}", f"{timing.ratio:.3f}", f"{timing.spread:.0%}",
        )  # fmt: skip
    Console(width=100).print(table)

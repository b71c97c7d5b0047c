"""`eet benchmark encoder`, `train`, `search`, `encode` and `matching`: compared with their peers on the same machine, methods
interleaved, medians. `eet benchmark tables` shows the results that they wrote.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from eet.device import Device, Precision
from eet.errors import InputError
from pipelines.benchmarks import encode, encoder, matching, search, train
from pipelines.benchmarks.encode import EncodeBenchmarkOptions
from pipelines.benchmarks.encoder import EncoderBenchmarkOptions
from pipelines.benchmarks.matching import MatchingBenchmarkOptions
from pipelines.benchmarks.record import machine_line, machine_of, markdown_table, read_record, write_record
from pipelines.benchmarks.search import SearchBenchmarkOptions
from pipelines.benchmarks.setup import Benchmark, Setup
from pipelines.benchmarks.train import TrainBenchmarkOptions
from pipelines.job.location import LOCATION
from pipelines.job.options import JobOptions

BENCHMARKS: dict[str, Benchmark] = {
    "encoder": encoder.BENCHMARK,
    "train": train.BENCHMARK,
    "search": search.BENCHMARK,
    "encode": encode.BENCHMARK,
    "matching": matching.BENCHMARK,
}


@dataclass(kw_only=True)
class BenchmarkConfig(JobOptions):
    """Measures.

    Attributes:
        what: encoder: latency of timm's ViT (fused attention), EET's teacher, and EET's student at --keep_ratios. train: a training step
            of these, timm's ViT on labels alone. search: exact Hamming search, compared with FAISS's flat index. encode: images/s of
            `eet encode` on Ray, of the same encoder without Ray and of a plain loop over torch's DataLoader. matching: scores of pairs
            by optimal transport, compared with POT and torch. tables: the contents of their --json files as Markdown, with command and
            machine.
        device: auto takes CUDA where there is one.
        backbone: timm ViT, with random weights.
        keep_ratios: The student's.
        repeats: Timed runs of each method (for encode see --encode.rounds); the median is reported.
        precision: auto is bf16 on CUDA and fp32 on a CPU.
        threads: CPU threads; default all.
        json: File for the figures.
        results: For `eet benchmark tables`: the files.
        encoder: Options of `eet benchmark encoder`.
        train: Options of `eet benchmark train`.
        search: Options of `eet benchmark search`.
        encode: Options of `eet benchmark encode`.
        matching: Options of `eet benchmark matching`.
    """

    what: Literal["encoder", "train", "search", "encode", "matching", "tables"] = "encoder"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    backbone: str = "vit_small_patch16_224"
    keep_ratios: tuple[float, ...] = (0.5, 0.5, 0.25)
    repeats: int = 15
    precision: Precision = "auto"
    threads: int | None = None
    json: str | None = field(default=None, metadata=LOCATION)
    results: tuple[str, ...] = field(default=(), metadata=LOCATION)
    encoder: EncoderBenchmarkOptions = field(default_factory=EncoderBenchmarkOptions)
    train: TrainBenchmarkOptions = field(default_factory=TrainBenchmarkOptions)
    search: SearchBenchmarkOptions = field(default_factory=SearchBenchmarkOptions)
    encode: EncodeBenchmarkOptions = field(default_factory=EncodeBenchmarkOptions)
    matching: MatchingBenchmarkOptions = field(default_factory=MatchingBenchmarkOptions)

    def problems(self) -> list[str]:
        found = super().problems()
        for name in ("repeats", "threads"):
            if (value := getattr(self, name)) is not None and value < 1:
                found.append(f"--{name} {value}: use 1 or more")
        if self.device == "cuda" and not torch.cuda.is_available():
            found.append("--device cuda: torch finds no CUDA device here")
        if self.what == "encode" and self.device != "auto":
            found.append(f"--device {self.device}: `eet encode` takes CUDA where there is one; leave it out")
        if self.what == "tables" and not self.results:
            found.append("--results is missing: give files that benchmarks wrote (--json), such as '[a.json, b.json]'")
        if self.what in BENCHMARKS:
            found += BENCHMARKS[self.what].problems(getattr(self, self.what), self.setup)
        return found

    @property
    def setup(self) -> Setup:
        """The options that all benchmarks share."""
        return Setup(
            device=Device.of(self.device, self.precision),
            threads=self.threads or os.cpu_count() or 1,
            repeats=self.repeats,
            backbone=self.backbone,
            keep_ratios=self.keep_ratios,
            address=self.address,
        )


def run(config: BenchmarkConfig) -> Sequence[Any]:
    """Prints a table. With --json, also writes the figures with the machine, the versions and the command."""
    if config.what == "tables":
        print("\n".join(_table(path) for path in config.results), end="")
        return []
    benchmark, options, setup = BENCHMARKS[config.what], getattr(config, config.what), config.setup
    torch.set_num_threads(setup.threads)
    machine = machine_of(setup.device.torch_device, threads=setup.threads, **benchmark.versions(setup))
    if config.dry_run:
        print(f"dry run: {benchmark.planned(options, setup)}, on {machine['device']}; nothing was started")
        return []
    print(machine_line(machine), flush=True)
    timings = benchmark.measure(options, setup)
    if config.json is not None:
        # With the resolved device: on another machine auto may mean another one.
        written = config if config.what == "encode" else replace(config, device="cuda" if setup.device.on_gpu else "cpu")
        write_record(config.json, config.what, machine, written, timings)
    return timings


def _table(path: str) -> str:
    record = read_record(path)
    if record["what"] not in BENCHMARKS:
        raise InputError(f"{path} holds figures of {record['what']!r}; known are {', '.join(BENCHMARKS)}")
    return markdown_table(record, BENCHMARKS[record["what"]].columns)

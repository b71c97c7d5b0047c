"""`eet benchmark backbones`, `encoder`, `train`, `search`, `encode`, `matching` and `serve`: compared with their peers on the same machine,
methods interleaved, medians. `eet benchmark tables` shows the results that they wrote.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from eet.device import Device
from eet.errors import InputError
from pipelines.benchmarks import backbones, encode, encoder, matching, search, serve, train
from pipelines.benchmarks.record import machine_line, machine_of, markdown_table, read_record, write_record
from pipelines.benchmarks.setup import Benchmark, Setup
from pipelines.configs.benchmark import BenchmarkConfig

BENCHMARKS: dict[str, Benchmark] = {
    "backbones": backbones.BENCHMARK,
    "encoder": encoder.BENCHMARK,
    "train": train.BENCHMARK,
    "search": search.BENCHMARK,
    "encode": encode.BENCHMARK,
    "matching": matching.BENCHMARK,
    "serve": serve.BENCHMARK,
}


def run(config: BenchmarkConfig) -> Sequence[Any]:
    """Prints a table. With --json, also writes the figures with the machine, the versions and the command."""
    if config.what == "tables":
        print("\n".join(_table(path) for path in config.results), end="")
        return []
    benchmark, options, setup = BENCHMARKS[config.what], getattr(config, config.what), setup_of(config)
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


def setup_of(config: BenchmarkConfig) -> Setup:
    """The options that all benchmarks share."""
    return Setup(
        device=Device.of(config.device, config.precision),
        threads=config.threads or os.cpu_count() or 1,
        repeats=config.repeats,
        backbone=config.backbone,
        keep_ratios=config.keep_ratios,
        address=config.address,
    )


def _table(path: str) -> str:
    record = read_record(path)
    if record["what"] not in BENCHMARKS:
        raise InputError(f"{path} holds figures of {record['what']!r}; known are {', '.join(BENCHMARKS)}")
    return markdown_table(record, BENCHMARKS[record["what"]].columns)

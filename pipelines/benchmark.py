"""`eet benchmark encoder`, `train`, `search`, `encode` and `matching`: beside their peers, on the same machine, methods interleaved,
medians. `eet benchmark tables` shows what they wrote.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from eet.vit import save_bundle
from pipelines import benchmark_encode, benchmark_encoder, benchmark_matching, benchmark_search, benchmark_train
from pipelines.benchmark_encode import EncodeBenchmarkOptions
from pipelines.benchmark_encoder import EncoderBenchmarkOptions
from pipelines.benchmark_matching import MatchingBenchmarkOptions
from pipelines.benchmark_networks import parsed_schedule, schedule_of, student_of
from pipelines.benchmark_record import Column, Machine, machine_line, machine_of, markdown_table, read_record, write_record
from pipelines.benchmark_search import FAISS_MOST_ON_GPU, SearchBenchmarkOptions
from pipelines.benchmark_train import TrainBenchmarkOptions
from pipelines.options import JobOptions

COLUMNS: dict[str, tuple[Column, ...]] = {
    "encoder": benchmark_encoder.COLUMNS,
    "train": benchmark_train.COLUMNS,
    "search": benchmark_search.COLUMNS,
    "encode": benchmark_encode.COLUMNS,
    "matching": benchmark_matching.COLUMNS,
}


@dataclass(kw_only=True)
class BenchmarkConfig(JobOptions):
    """Measures.

    Attributes:
        what: encoder: latency of timm's ViT (fused attention), our teacher, our student at --keep_ratios. train: a step of their training,
            timm's under its labels alone. search: exact Hamming search beside FAISS's flat index. encode: images/s of `eet encode` on Ray,
            of the same encoder without Ray and of a plain loop over torch's DataLoader. matching: scores of pairs by optimal transport
            beside POT and torch. tables: what --json files of these hold, as Markdown, each under its command and machine.
        device: auto takes CUDA where there is one.
        backbone: timm ViT, with random weights.
        keep_ratios: The student's.
        repeats: Timed runs of each method, but of encode (--encode.rounds); the median is told.
        precision: auto is bf16 on CUDA and fp32 on a CPU.
        threads: CPU threads; default all.
        json: File for the figures.
        results: Of `eet benchmark tables`: the files.
        encoder: Of `eet benchmark encoder`.
        train: Of `eet benchmark train`.
        search: Of `eet benchmark search`.
        encode: Of `eet benchmark encode`.
        matching: Of `eet benchmark matching`.
    """

    what: Literal["encoder", "train", "search", "encode", "matching", "tables"] = "encoder"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    backbone: str = "vit_small_patch16_224"
    keep_ratios: tuple[float, ...] = (0.5, 0.5, 0.25)
    repeats: int = 15
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    threads: int | None = None
    json: str | None = None
    results: tuple[str, ...] = ()
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
        on_gpu = self.torch_device.type == "cuda"
        if self.what == "encoder" and "graphed" in self.encoder.modes and not on_gpu:
            found.append("--encoder.modes graphed: CUDA graphs need a CUDA device")
        if self.what == "encoder":
            for text in self.encoder.schedules:
                try:
                    parsed_schedule(text, self.backbone)
                except ValueError as error:
                    found.append(f"--encoder.schedules: {error}")
        if self.what == "search" and self.search.plot is not None and on_gpu and self.search.k > FAISS_MOST_ON_GPU:
            found.append(
                f"--search.plot: FAISS's GPU index finds no more than {FAISS_MOST_ON_GPU} items of a query, so there is nothing to draw"
            )
        if self.what == "encode" and self.encode.images is None:
            found.append("--encode.images is missing: give a folder or a table of images")
        if self.what == "encode" and self.device != "auto":
            found.append(f"--device {self.device}: `eet encode` takes CUDA where there is one; leave it out")
        if self.what == "tables" and not self.results:
            found.append("--results is missing: give files that benchmarks wrote (--json), such as '[a.json, b.json]'")
        return found

    @property
    def torch_device(self) -> torch.device:
        return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if self.device == "auto" else self.device)

    @property
    def num_threads(self) -> int:
        return self.threads or os.cpu_count() or 1

    @property
    def bf16(self) -> bool:
        return self.precision == "bf16" or (self.precision == "auto" and self.torch_device.type == "cuda")


def run(config: BenchmarkConfig) -> Sequence[Any]:
    """Prints a table and, asked for, writes JSON with the machine, the versions and the command beside it."""
    if config.what == "tables":
        print("\n".join(_table(path) for path in config.results), end="")
        return []
    torch.set_num_threads(config.num_threads)
    machine = machine_of(config.torch_device, threads=config.num_threads, **_particulars(config))
    if config.dry_run:
        print(f"dry run: {_planned(config)}, on {machine['device']}; nothing was started")
        return []
    print(machine_line(machine), flush=True)
    timings = _measure(config)
    if config.json is not None:
        # With the device by its name: on another machine auto may be another.
        told = config if config.what == "encode" else replace(config, device=config.torch_device.type)
        write_record(config.json, config.what, machine, told, timings)
    return timings


def _table(path: str) -> str:
    record = read_record(path)
    if record["what"] not in COLUMNS:
        raise ValueError(f"{path} holds figures of {record['what']!r}; known are {', '.join(COLUMNS)}")
    return markdown_table(record, COLUMNS[record["what"]])


def _particulars(config: BenchmarkConfig) -> Machine:
    """What else a reader must know: precision, and the versions of what is compared with."""
    if config.what == "search":
        import faiss
        import numba

        return {"numba": numba.__version__, "faiss": faiss.__version__}
    if config.what == "matching":
        import numba
        import ot

        return {"numba": numba.__version__, "pot": ot.__version__}
    import timm

    return {"precision": "bf16" if config.bf16 else "fp32", "timm": timm.__version__}


def _planned(config: BenchmarkConfig) -> str:
    """How much a run would measure."""
    if config.what == "search":
        cases = len(config.search.sizes) * len(config.search.bits) * len(config.search.draws)
    elif config.what == "matching":
        cases = len(config.matching.tokens) * len(config.matching.mean_cosines)
    elif config.what == "encode":
        methods = len(config.encode.methods)
        return f"{methods} methods, {config.encode.rows} rows of {config.encode.images}, {config.encode.rounds} rounds"
    elif config.what == "encoder":
        cases = len(config.encoder.batch_sizes) * len(config.encoder.modes) * (3 + len(config.encoder.schedules))
    else:
        cases = 4
    return f"{cases} cases, {config.repeats} repeats"


def _measure(config: BenchmarkConfig) -> Sequence[Any]:
    if config.what == "search":
        return benchmark_search.measure(config.search, device=config.torch_device, threads=config.num_threads, repeats=config.repeats)
    if config.what == "matching":
        return benchmark_matching.measure(config.matching, device=config.torch_device, threads=config.num_threads, repeats=config.repeats)
    if config.what == "encode":
        with tempfile.TemporaryDirectory(prefix="eet-benchmark-") as folder:
            if config.encode.model is None:
                save_bundle(student_of(config.backbone, schedule_of(config.backbone, config.keep_ratios)), folder)
            return benchmark_encode.measure(
                config.encode,
                model=config.encode.model or folder,
                threads=config.num_threads,
                precision=config.precision,
                address=config.address,
            )
    of_networks = {
        "backbone": config.backbone,
        "schedule": schedule_of(config.backbone, config.keep_ratios),
        "bf16": config.bf16,
        "device": config.torch_device,
        "repeats": config.repeats,
    }
    if config.what == "train":
        return benchmark_train.measure(config.train, **of_networks)
    return benchmark_encoder.measure(config.encoder, **of_networks)

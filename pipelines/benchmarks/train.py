"""`eet benchmark train`: images/s of a training step of EET, compared with timm's ViT on labels alone, interleaved."""

import statistics
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eet.device import Device
from eet.distillation import DistillationObjective, HashingObjective
from eet.training import FitSettings
from pipelines.benchmarks.networks import NUM_BITS, NUM_CLASSES, UNPRUNED, schedule_of, student_of, timm_vit
from pipelines.benchmarks.record import Column, print_rows
from pipelines.benchmarks.setup import Benchmark, Setup, network_versions
from pipelines.configs.benchmark import TrainBenchmarkOptions
from pipelines.costs.interleaved import interleaved_seconds, median_ratio

PEER, TEACHER, STAGED, JOINT = "timm, labels alone", "teacher", "student, trained teacher", "student and teacher"


@dataclass(frozen=True)
class TrainTiming:
    """Results of one objective.

    ms: median of a step (forward, backward, update). ratio: to timm's in the same round, median. peak_gb: highest GPU memory of torch in a
    step, weights of all objectives included; None on a CPU.
    """

    method: str
    batch_size: int
    ms: float
    images_per_s: float
    ratio: float
    peak_gb: float | None


COLUMNS = (
    Column("method", "method"),
    Column("batch", "batch_size", "d"),
    Column("ms/step", "ms", ".1f"),
    Column("images/s", "images_per_s", ".1f"),
    Column("time / timm", "ratio", ".3f"),
    Column("peak, GB", "peak_gb", ".2f"),
)


class Classification(nn.Module):
    """timm's network under cross-entropy."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        return F.cross_entropy(self.network(images_BCHW).float(), labels_B)


class _Total(nn.Module):
    """An objective of EET, reduced to its total loss."""

    def __init__(self, objective: nn.Module) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        return self.objective(images_BCHW, labels_B).total


def measure(options: TrainBenchmarkOptions, setup: Setup) -> list[TrainTiming]:
    """Measures steps of every objective in turn, with SGD as published."""
    backbone, device = setup.backbone, setup.device.torch_device
    schedule = schedule_of(backbone, setup.keep_ratios)
    generator = torch.Generator().manual_seed(0)
    codes_Cb = torch.randint(0, 2, (NUM_CLASSES, NUM_BITS), generator=generator).mul_(2).sub_(1)
    student = student_of(backbone, schedule)
    objectives: dict[str, nn.Module] = {
        PEER: Classification(timm_vit(backbone)),
        TEACHER: _Total(HashingObjective(student_of(backbone, UNPRUNED), codes_Cb)),
        STAGED: _Total(DistillationObjective(student_of(backbone, schedule), student_of(backbone, UNPRUNED), codes_Cb, joint=False)),
        JOINT: _Total(DistillationObjective(student, student_of(backbone, UNPRUNED), codes_Cb, joint=True)),
    }
    images = torch.randn(options.batch_size, 3, *student.preprocessing.image_size, generator=generator).to(device)
    labels = torch.randint(0, NUM_CLASSES, (options.batch_size,), generator=generator).to(device)
    micro = FitSettings(batch_size=options.batch_size).micro_batch(options.batch_size, device.type)
    steps = {
        name: Step(objective.train().to(device), images, labels, micro=micro, device=setup.device, compiled=options.compile)
        for name, objective in objectives.items()
    }
    seconds = interleaved_seconds({name: step.run for name, step in steps.items()}, repeats=setup.repeats, device=device)
    timings = []
    for name, values in seconds.items():
        median = statistics.median(values)
        ratio = median_ratio(values, seconds[PEER])
        peak = _peak_gb(steps[name], device)
        timings.append(TrainTiming(name, options.batch_size, median * 1e3, options.batch_size / median, ratio, peak))
    print_rows(COLUMNS, timings, heading=True)
    return timings


class Step:
    """A step of one objective over the same images."""

    def __init__(self, objective: nn.Module, images: Tensor, labels: Tensor, *, micro: int, device: Device, compiled: bool) -> None:
        self.optimizer = torch.optim.SGD([weight for weight in objective.parameters() if weight.requires_grad], lr=1e-4, momentum=0.9)
        self.forward = torch.compile(objective, dynamic=False) if compiled else objective
        self.batch_size = len(images)
        self.parts = list(zip(images.split(micro), labels.split(micro), strict=True))
        self.device = device

    def run(self) -> None:
        for images, labels in self.parts:
            with self.device.autocast():
                loss = self.forward(images, labels)
            (loss * (len(images) / self.batch_size)).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def _peak_gb(step: Step, device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats()
    step.run()
    return torch.cuda.max_memory_allocated() / 1e9


BENCHMARK = Benchmark(COLUMNS, measure, lambda options, setup: f"4 cases, {setup.repeats} repeats", network_versions)

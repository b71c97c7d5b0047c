"""The encoder benchmark measures each network in each mode."""

import dataclasses
import itertools

import pytest
import torch

from eet.device import Device
from eet.errors import InputError
from pipelines import benchmark
from pipelines.benchmarks.encoder import measure
from pipelines.configs.benchmark import EncoderBenchmarkOptions

pytestmark = pytest.mark.slow

NETWORK = {"backbone": "test_vit", "threads": 2}


def test_latency_is_measured_network_by_network_with_timm(tmp_path, capsys):
    options = EncoderBenchmarkOptions(batch_sizes=(1, 2), schedules=("2:0.1",))
    config = benchmark.BenchmarkConfig(encoder=options, repeats=2, json=str(tmp_path / "encoder.json"), device="cpu", **NETWORK)
    timings = benchmark.run(config)
    assert [timing.method for timing in timings] == ["timm", "teacher", "student", "student 2:0.1"] * 2
    assert [timing.batch_size for timing in timings] == [1] * 4 + [2] * 4
    assert all(timing.ratio == 1 for timing in timings if timing.method == "timm")
    assert all(timing.ms > 0 and timing.images_per_s == pytest.approx(timing.batch_size / timing.ms * 1e3) for timing in timings)
    timm_vit, teacher, student, pruned_early = (timing.gmacs_per_image for timing in timings[:4])
    assert timm_vit >= teacher > student > pruned_early > 0
    printed = capsys.readouterr().out
    assert printed.count("student 2:0.1") == 2 and "precision fp32" in printed
    assert benchmark.run(benchmark.BenchmarkConfig(what="tables", results=(config.json,))) == []
    shown = capsys.readouterr().out
    assert shown.startswith("`eet benchmark encoder --device cpu --backbone test_vit --repeats 2 --threads 2 ")
    assert shown.count("| student 2:0.1 | eager |") == 2 and f"| {student:.3f} |" in shown


def test_each_mode_runs_timm_too_and_the_fastest_of_timms_is_what_others_are_measured_by(monkeypatch):
    made: list[dict] = []
    monkeypatch.setattr(torch, "compile", lambda network, **options: made.append(options) or network)
    options = EncoderBenchmarkOptions(batch_sizes=(1,), modes=("eager", "compiled"))
    timings = benchmark.run(benchmark.BenchmarkConfig(encoder=options, repeats=3, device="cpu", **NETWORK))
    assert [(timing.method, timing.mode) for timing in timings] == [
        (method, mode) for method in ("timm", "teacher", "student") for mode in ("eager", "compiled")
    ]
    assert made == [{"dynamic": False, "mode": None}] * 3
    fastest = min((timing for timing in timings if timing.method == "timm"), key=lambda timing: timing.ms)
    assert fastest.ratio == 1


def test_the_cpu_time_of_the_process_is_measured_where_it_is_asked_for(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr("time.process_time", lambda: next(ticks) * 3.0)
    options = EncoderBenchmarkOptions(batch_sizes=(1,), clock="cpu")
    timings = benchmark.run(benchmark.BenchmarkConfig(encoder=options, repeats=2, device="cpu", **NETWORK))
    assert [timing.ms for timing in timings] == [3000] * 3
    setup = dataclasses.replace(benchmark.setup_of(benchmark.BenchmarkConfig(device="cpu", **NETWORK)), device=Device.of("cuda"))
    with pytest.raises(InputError, match="--encoder.clock cpu measures nothing of the work on cuda"):
        measure(options, setup)


@pytest.mark.gpu
def test_every_mode_runs_on_a_gpu():
    options = EncoderBenchmarkOptions(batch_sizes=(1, 3), modes=("eager", "compiled", "graphed"), schedules=("4:0.7,7:0.7,10:0.7",))
    timings = benchmark.run(benchmark.BenchmarkConfig(encoder=options, repeats=2, device="cuda", **NETWORK))
    assert len(timings) == 2 * 3 * 4 and all(timing.ms > 0 for timing in timings)

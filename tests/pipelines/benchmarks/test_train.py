"""The training benchmark measures a step of each objective."""

import copy

import pytest
import torch

import pipelines.benchmarks.train as train_benchmark
from eet.device import Device
from pipelines import benchmark
from pipelines.configs.benchmark import TrainBenchmarkOptions

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


NETWORK = {"backbone": "test_vit", "threads": 2}


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_a_training_step_is_measured_objective_by_objective(capsys, device):
    config = benchmark.BenchmarkConfig(what="train", train=TrainBenchmarkOptions(batch_size=3), repeats=1, device=device, **NETWORK)
    timings = benchmark.run(config)
    assert len({timing.method for timing in timings}) == len(timings) == 4 and timings[0].ratio == 1
    assert all(timing.images_per_s == pytest.approx(3 / timing.ms * 1e3) for timing in timings)
    assert all((timing.peak_gb is None) == (device == "cpu") for timing in timings)
    assert "student and teacher" in capsys.readouterr().out


def test_a_step_updates_what_the_whole_batch_says():
    """Taken in parts of 2, 2 and 1."""
    torch.manual_seed(0)
    whole = train_benchmark.Classification(torch.nn.Linear(4, 3))
    parts = copy.deepcopy(whole)
    images, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 1, 0])
    for objective, micro in ((whole, 5), (parts, 2)):
        train_benchmark.Step(objective, images, labels, micro=micro, device=Device.of("cpu"), compiled=False).run()
    torch.testing.assert_close(whole.network.weight, parts.network.weight)
    assert not torch.equal(whole.network.weight, torch.nn.Linear(4, 3).weight)

"""Schedules as the command line writes them, and options that cannot be."""

import pytest

from pipelines import benchmark
from pipelines.benchmarks.networks import parsed_schedule
from pipelines.configs.benchmark import EncoderBenchmarkOptions, TrainBenchmarkOptions

NETWORK = {"backbone": "deit_tiny_patch16_224", "threads": 2}


def test_impossible_options_of_networks_are_named():
    options = EncoderBenchmarkOptions(batch_sizes=(0,), modes=("graphed",), schedules=("4:2",))
    message = " ".join(benchmark.BenchmarkConfig(encoder=options, train=TrainBenchmarkOptions(batch_size=0), device="cpu").problems())
    assert "--encoder.batch_sizes [0]" in message and "--train.batch_size 0" in message and "CUDA graphs need a CUDA device" in message
    assert "--encoder.schedules: schedule '4:2'" in message
    for text in ("4:2", "4", "3:0.5,2:0.5", "13:0.5", "4:0.5/0", "4:0.5/x", ""):
        with pytest.raises(ValueError, match="write block:ratio for each stage, such as 4:0.7"):
            parsed_schedule(text, NETWORK["backbone"])
    assert parsed_schedule("4:0.5,8:0.5,10:0.25/8", NETWORK["backbone"]).kept_counts(196) == (95, 47, 15)
    assert "--encoder.modes []" in " ".join(EncoderBenchmarkOptions(modes=()).problems())

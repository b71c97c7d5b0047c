"""The matching benchmark measures what it says, and notices a score that is off."""

import json

import pytest

import pipelines.benchmarks.matching as matching_benchmark
from pipelines import benchmark
from pipelines.configs.benchmark import MatchingBenchmarkOptions

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


FEW = MatchingBenchmarkOptions(tokens=(5, 9), dims=(16, 24), mean_cosines=(0.0, 0.5), products=300)


@pytest.mark.parametrize("device", DEVICES)
def test_matching_is_measured_method_by_method_and_written(tmp_path, capsys, device):
    file = tmp_path / "matching.json"
    timings = benchmark.run(benchmark.BenchmarkConfig(what="matching", matching=FEW, repeats=2, threads=1, json=str(file), device=device))
    assert len({(timing.method, timing.tokens, timing.mean_cosine) for timing in timings}) == len(timings) == 6 * 2 * 2
    assert all(0 <= timing.error <= 1e-4 and timing.pairs_per_s > 0 and timing.cpu_ratio > 0 for timing in timings)
    assert all(timing.ratio == 1 for timing in timings if timing.method == "EET")
    record = json.loads(file.read_text())
    assert [case["ratio"] for case in record["timings"]] == [timing.ratio for timing in timings]
    printed = capsys.readouterr().out
    assert printed.count("ot.batch") == 4 and "pot" in printed


def test_a_score_that_is_off_ends_the_benchmark(monkeypatch):
    match = matching_benchmark.match_pairs
    monkeypatch.setattr(matching_benchmark, "match_pairs", lambda *sides, **options: match(*sides, **options) + 2e-4)
    with pytest.raises(RuntimeError, match="EET at 5 tokens of 16, mean cosine 0.0: a score is off"):
        benchmark.run(benchmark.BenchmarkConfig(what="matching", matching=FEW, repeats=1, threads=1))


def test_impossible_options_of_matching_are_named():
    options = MatchingBenchmarkOptions(tokens=(12,), mean_cosines=(1.0,), epsilon=0.001, products=0)
    message = " ".join(benchmark.BenchmarkConfig(what="matching", matching=options).problems())
    assert all(f"--matching.{name}" in message for name in ("tokens", "mean_cosines", "epsilon", "products"))

"""A benchmark measures what it says, and notices answers that differ. Its figures are nobody's test."""

import json

import numpy as np
import pytest

from eet.search import HammingIndex
from pipelines import benchmark, benchmark_matching
from pipelines.benchmark_matching import MatchingBenchmarkOptions
from pipelines.benchmark_search import SearchBenchmarkOptions

SMALL = SearchBenchmarkOptions(sizes=(500, 3000), bits=(16, 24), draws=("clustered", "uniform"), queries=5, k=7, flip_share=0.1)


def test_search_is_measured_case_by_case_and_written(tmp_path, capsys):
    file = tmp_path / "search.json"
    timings = benchmark.run(benchmark.BenchmarkConfig(what="search", search=SMALL, repeats=2, threads=1, json=str(file)))
    cases = {(timing.size, timing.bits, timing.draw): timing for timing in timings}
    assert len(cases) == len(timings) == 8
    assert all(timing.ours_ms > 0 and timing.faiss_ms > 0 and timing.ratio > 0 for timing in timings)
    assert cases[3000, 16, "clustered"].distinct < cases[3000, 16, "uniform"].distinct <= 3000
    record = json.loads(file.read_text())
    assert record["machine"]["threads"] == 1 and record["config"]["search"]["k"] == 7
    assert [case["ratio"] for case in record["timings"]] == [timing.ratio for timing in timings]
    told = capsys.readouterr().out
    assert told.count("clustered") == 4 and "faiss" in told


def test_an_answer_that_differs_from_faiss_ends_the_benchmark(monkeypatch):
    search = HammingIndex.search

    def wrong(self, packed_QB, k, **options):
        distances, rows = search(self, packed_QB, k, **options)
        return distances + (np.arange(k) == k - 1), rows

    monkeypatch.setattr(HammingIndex, "search", wrong)
    with pytest.raises(RuntimeError, match="differ from FAISS"):
        benchmark.run(benchmark.BenchmarkConfig(what="search", search=SMALL, repeats=1, threads=1))


def test_a_dry_run_measures_nothing(capsys):
    assert benchmark.run(benchmark.BenchmarkConfig(what="search", search=SMALL, dry_run=True)) == []
    assert "8 cases" in capsys.readouterr().out


def test_impossible_options_are_named():
    options = SearchBenchmarkOptions(bits=(12,), queries=0, flip_share=0.7)
    told = " ".join(benchmark.BenchmarkConfig(what="search", search=options).problems())
    assert "--search.bits [12]" in told and "--search.queries 0" in told and "--search.flip_share 0.7" in told
    assert "--search.sizes" in " ".join(SearchBenchmarkOptions(sizes=()).problems() + SearchBenchmarkOptions(sizes=(0,)).problems())


FEW = MatchingBenchmarkOptions(tokens=(5, 9), dims=(16, 24), mean_cosines=(0.0, 0.5), products=300)


def test_matching_is_measured_method_by_method_and_written(tmp_path, capsys):
    file = tmp_path / "matching.json"
    timings = benchmark.run(benchmark.BenchmarkConfig(what="matching", matching=FEW, repeats=2, threads=1, json=str(file)))
    assert len({(timing.method, timing.tokens, timing.mean_cosine) for timing in timings}) == len(timings) == 5 * 2 * 2
    assert all(0 <= timing.error <= 1e-4 and timing.pairs_per_s > 0 and timing.cpu_ratio > 0 for timing in timings)
    assert all(timing.ratio == 1 for timing in timings if timing.method == "ours")
    record = json.loads(file.read_text())
    assert [case["ratio"] for case in record["timings"]] == [timing.ratio for timing in timings]
    told = capsys.readouterr().out
    assert told.count("ot.batch") == 4 and "pot" in told


def test_a_score_that_is_off_ends_the_benchmark(monkeypatch):
    match = benchmark_matching.match_pairs
    monkeypatch.setattr(benchmark_matching, "match_pairs", lambda *sides, **options: match(*sides, **options) + 2e-4)
    with pytest.raises(RuntimeError, match="ours at 5 tokens of 16, mean cosine 0.0: a score is off"):
        benchmark.run(benchmark.BenchmarkConfig(what="matching", matching=FEW, repeats=1, threads=1))


def test_impossible_options_of_matching_are_named():
    options = MatchingBenchmarkOptions(tokens=(12,), mean_cosines=(1.0,), epsilon=0.001, products=0)
    told = " ".join(benchmark.BenchmarkConfig(what="matching", matching=options).problems())
    assert all(f"--matching.{name}" in told for name in ("tokens", "mean_cosines", "epsilon", "products"))

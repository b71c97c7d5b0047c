"""A benchmark measures what it says, and notices answers that differ. Its figures are nobody's test."""

import json

import numpy as np
import pytest

from eet.search import HammingIndex
from pipelines import benchmark
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

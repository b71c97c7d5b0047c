"""The search benchmark measures what it says, and notices answers that differ. Its figures are nobody's test."""

import dataclasses
import json

import numpy as np
import pytest

from eet.gallery import Manifest, part_table, write_manifest, write_part
from eet.options.defaults import MOST_ON_GPU
from eet.search import FaissIndex, HammingIndex
from pipelines import benchmark
from pipelines.configs.benchmark import SearchBenchmarkOptions

SMALL = SearchBenchmarkOptions(sizes=(500, 3000), bits=(16, 24), draws=("clustered", "uniform"), queries=5, k=7, flip_share=0.1)


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
def test_search_is_measured_case_by_case_and_written(tmp_path, capsys, device):
    file = tmp_path / "search.json"
    plotted = dataclasses.replace(SMALL, plot=str(tmp_path / "search.png"))
    timings = benchmark.run(benchmark.BenchmarkConfig(what="search", search=plotted, repeats=2, threads=1, json=str(file), device=device))
    assert (tmp_path / "search.png").read_bytes().startswith(b"\x89PNG")
    cases = {(timing.size, timing.bits, timing.draw): timing for timing in timings}
    assert len(cases) == len(timings) == 8
    assert all(min(timing.ours_ms, timing.backend_ms, timing.faiss_ms, timing.ratio) > 0 for timing in timings)
    assert cases[3000, 16, "clustered"].distinct < cases[3000, 16, "uniform"].distinct <= 3000
    record = json.loads(file.read_text())
    assert record["machine"]["threads"] == 1 and record["config"]["search"]["k"] == 7
    assert [case["ratio"] for case in record["timings"]] == [timing.ratio for timing in timings]
    printed = capsys.readouterr().out
    assert printed.count("clustered") == 4 and "faiss" in printed


@pytest.mark.gpu
def test_beyond_what_faiss_finds_on_a_gpu_eet_is_measured_alone(tmp_path):
    pytest.importorskip("faiss", reason="needs faiss-gpu")
    many = dataclasses.replace(SMALL, sizes=(5000,), k=MOST_ON_GPU + 1)
    for timing in benchmark.run(benchmark.BenchmarkConfig(what="search", search=many, repeats=1, device="cuda")):
        assert min(timing.ours_ms, timing.backend_ms) > 0 and timing.faiss_ms is timing.ratio is timing.faiss_build_s is None
    message = benchmark.BenchmarkConfig(what="search", search=dataclasses.replace(many, plot="a.png"), device="cuda").problems()
    assert "there is nothing to draw" in " ".join(message)


@pytest.mark.parametrize(("wrong_one", "message"), [(HammingIndex, "differ from FAISS"), (FaissIndex, "differ from the native")])
def test_an_answer_that_differs_from_faiss_ends_the_benchmark(monkeypatch, wrong_one, message):
    search = HammingIndex.search

    def wrong(self, packed_QB, k, **options):
        distances, rows = search(self, packed_QB, k, **options)
        return distances + (np.arange(k) == k - 1), rows

    monkeypatch.setattr(wrong_one, "search", wrong)
    with pytest.raises(RuntimeError, match=message):
        benchmark.run(benchmark.BenchmarkConfig(what="search", search=SMALL, repeats=1, threads=1, device="cpu"))


def test_approximate_indexes_are_rows_with_their_recall():
    pytest.importorskip("faiss", reason="FAISS is not installed")
    kinds = ("ivf", "faiss-ivf", "faiss-hnsw")
    case = dataclasses.replace(SMALL, sizes=(1000,), bits=(64,), draws=("clustered",), approximate=kinds, probes=(1, 1000))
    rows = benchmark.run(benchmark.BenchmarkConfig(what="search", search=case, repeats=1, threads=2, device="cpu"))
    assert [row.method for row in rows] == ["exact", *(f"{kind}, {probes} probes" for kind in kinds for probes in (1, 1000))]
    recalls = {row.method: row.recall for row in rows}
    assert recalls["exact"] == 1 and min(row.ours_ms for row in rows) > 0 and {row.backend_ms for row in rows[1:]} == {None}
    for kind in kinds:
        assert recalls[f"{kind}, 1 probes"] <= recalls[f"{kind}, 1000 probes"] and recalls[f"{kind}, 1000 probes"] > 0.99
    assert "--search.probes" in " ".join(dataclasses.replace(case, probes=(0,)).problems())


def test_impossible_options_are_named():
    options = SearchBenchmarkOptions(bits=(12,), queries=0, flip_share=0.7, plot="s3://a/b.png")
    message = " ".join(benchmark.BenchmarkConfig(what="search", search=options).problems())
    assert "--search.bits [12]" in message and "--search.queries 0" in message and "--search.flip_share 0.7" in message
    assert "--search.plot s3://a/b.png" in message
    assert "--search.sizes" in " ".join(SearchBenchmarkOptions(sizes=()).problems() + SearchBenchmarkOptions(sizes=(0,)).problems())


def gallery_of(path, codes_Nb, labels) -> str:
    rows = len(codes_Nb)
    manifest = Manifest(
        model_digest="m", preprocessing_digest="p", num_bits=16, num_rows=rows, num_ok=rows, num_parts=1, rows_per_part=rows
    )
    ids, codes = [str(row) for row in range(rows)], np.packbits(codes_Nb, axis=1)
    write_part(str(path), 0, part_table(ids, ids, labels, codes, ["ok"] * rows, [None] * rows, schema=manifest.schema))
    write_manifest(str(path), manifest)
    return str(path)


def test_the_clustered_draw_follows_a_gallery_of_the_same_bits(tmp_path, capsys):
    codes = np.random.default_rng(0).integers(0, 2, (5, 16))
    followed = dataclasses.replace(SMALL, gallery=gallery_of(tmp_path / "gallery", codes, range(5)), bits=(16,), draws=("clustered",))
    timings = benchmark.run(benchmark.BenchmarkConfig(what="search", search=followed, repeats=1, threads=1))
    assert [timing.distinct for timing in timings] == [5, 5] and "5 clusters" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"has 16 bits, not \[16, 24\]"):
        benchmark.run(benchmark.BenchmarkConfig(what="search", search=dataclasses.replace(followed, bits=(16, 24)), repeats=1))

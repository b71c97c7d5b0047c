"""A benchmark measures what it says, and notices answers that differ. Its figures are nobody's test."""

import dataclasses
import json

import numpy as np
import pytest

from eet.gallery import Manifest, open_gallery, part_table, write_manifest, write_part
from eet.search import HammingIndex
from pipelines import benchmark
from pipelines.benchmark_search import SearchBenchmarkOptions
from pipelines.code_draws import Clusters, draw_uniform

SMALL = SearchBenchmarkOptions(sizes=(500, 3000), bits=(16, 24), draws=("clustered", "uniform"), queries=5, k=7, flip_share=0.1)


def test_search_is_measured_case_by_case_and_written(tmp_path, capsys):
    file = tmp_path / "search.json"
    plotted = dataclasses.replace(SMALL, plot=str(tmp_path / "search.png"))
    timings = benchmark.run(benchmark.BenchmarkConfig(what="search", search=plotted, repeats=2, threads=1, json=str(file)))
    assert (tmp_path / "search.png").read_bytes().startswith(b"\x89PNG")
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
    options = SearchBenchmarkOptions(bits=(12,), queries=0, flip_share=0.7, plot="s3://a/b.png")
    told = " ".join(benchmark.BenchmarkConfig(what="search", search=options).problems())
    assert "--search.bits [12]" in told and "--search.queries 0" in told and "--search.flip_share 0.7" in told
    assert "--search.plot s3://a/b.png" in told
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


@pytest.mark.parametrize("labelled", [True, False])
def test_drawn_codes_have_a_gallerys_clusters_and_shares_of_ones(tmp_path, labelled):
    """Three items of one cluster to one of another; one bit is always on in the first, another in two of three."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [300, 100])
    codes = np.zeros((400, 16), np.uint8)
    codes[:300, 0], codes[:300:3, 1], codes[1:300:3, 1] = 1, 1, 1
    codes[300:, 8:] = 1
    clusters = Clusters.of_gallery(open_gallery(gallery_of(tmp_path / "gallery", codes, labels if labelled else None)))
    drawn = np.unpackbits(clusters.draw(rng, 40_000), axis=1)
    first = drawn[:, 0] == 1
    assert abs(first.mean() - 0.75) < 0.02 and abs(drawn[first, 1].mean() - 2 / 3) < 0.02
    assert not drawn[first, 2:].any() and drawn[~first, 8:].all()
    assert labelled is False or clusters.flip_share == pytest.approx(0.75 / 3 / 16)


def test_steps_of_a_draw_fill_everything(monkeypatch):
    monkeypatch.setattr("pipelines.code_draws._STEP", 7)
    rng = np.random.default_rng(0)
    drawn = Clusters.around_targets(rng, 64, 0.15).draw(rng, 40)
    assert drawn.shape == (40, 8) and len(np.unique(drawn, axis=0)) == 40
    assert draw_uniform(rng, 40, 24).shape == (40, 3)


def test_the_clustered_draw_follows_a_gallery_of_the_same_bits(tmp_path, capsys):
    codes = np.random.default_rng(0).integers(0, 2, (5, 16))
    followed = dataclasses.replace(SMALL, gallery=gallery_of(tmp_path / "gallery", codes, range(5)), bits=(16,), draws=("clustered",))
    timings = benchmark.run(benchmark.BenchmarkConfig(what="search", search=followed, repeats=1, threads=1))
    assert [timing.distinct for timing in timings] == [5, 5] and "5 clusters" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"has 16 bits, not \[16, 24\]"):
        benchmark.run(benchmark.BenchmarkConfig(what="search", search=dataclasses.replace(followed, bits=(16, 24)), repeats=1))

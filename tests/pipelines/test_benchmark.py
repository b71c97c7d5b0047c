"""A benchmark measures what it says, and notices answers that differ. Its figures are nobody's test."""

import copy
import dataclasses
import json
import shlex

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import pipelines.benchmarks.encode as encode_benchmark
import pipelines.benchmarks.matching as matching_benchmark
import pipelines.benchmarks.train as train_benchmark
from eet.datasets import synthetic
from eet.gallery import Manifest, open_gallery, part_table, write_manifest, write_part
from eet.images import DeviceJpegDecoder, read_image
from eet.search import HammingIndex
from eet.vit import load_bundle
from pipelines import benchmark, cli, encode
from pipelines.benchmarks.code_draws import Clusters, draw_uniform
from pipelines.benchmarks.encode import EncodeBenchmarkOptions
from pipelines.benchmarks.encoder import EncoderBenchmarkOptions
from pipelines.benchmarks.matching import MatchingBenchmarkOptions
from pipelines.benchmarks.networks import parsed_schedule
from pipelines.benchmarks.record import Column, command_of, markdown_table
from pipelines.benchmarks.search import SearchBenchmarkOptions
from pipelines.benchmarks.train import TrainBenchmarkOptions
from pipelines.cli import main

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
    assert all(timing.ours_ms > 0 and timing.faiss_ms > 0 and timing.ratio > 0 for timing in timings)
    assert cases[3000, 16, "clustered"].distinct < cases[3000, 16, "uniform"].distinct <= 3000
    record = json.loads(file.read_text())
    assert record["machine"]["threads"] == 1 and record["config"]["search"]["k"] == 7
    assert [case["ratio"] for case in record["timings"]] == [timing.ratio for timing in timings]
    told = capsys.readouterr().out
    assert told.count("clustered") == 4 and "faiss" in told


@pytest.mark.gpu
def test_beyond_what_faiss_finds_on_a_gpu_ours_is_measured_alone(tmp_path):
    pytest.importorskip("faiss", reason="needs faiss-gpu")
    many = dataclasses.replace(SMALL, sizes=(5000,), k=benchmark.FAISS_MOST_ON_GPU + 1)
    for timing in benchmark.run(benchmark.BenchmarkConfig(what="search", search=many, repeats=1, device="cuda")):
        assert timing.ours_ms > 0 and timing.faiss_ms is timing.ratio is timing.faiss_build_s is None
    told = benchmark.BenchmarkConfig(what="search", search=dataclasses.replace(many, plot="a.png"), device="cuda").problems()
    assert "there is nothing to draw" in " ".join(told)


def test_an_answer_that_differs_from_faiss_ends_the_benchmark(monkeypatch):
    search = HammingIndex.search

    def wrong(self, packed_QB, k, **options):
        distances, rows = search(self, packed_QB, k, **options)
        return distances + (np.arange(k) == k - 1), rows

    monkeypatch.setattr(HammingIndex, "search", wrong)
    with pytest.raises(RuntimeError, match="differ from FAISS"):
        benchmark.run(benchmark.BenchmarkConfig(what="search", search=SMALL, repeats=1, threads=1, device="cpu"))


def test_a_dry_run_measures_nothing(capsys):
    assert benchmark.run(benchmark.BenchmarkConfig(what="search", search=SMALL, dry_run=True)) == []
    assert "8 cases" in capsys.readouterr().out


def test_impossible_options_are_named():
    options = SearchBenchmarkOptions(bits=(12,), queries=0, flip_share=0.7, plot="s3://a/b.png")
    told = " ".join(benchmark.BenchmarkConfig(what="search", search=options).problems())
    assert "--search.bits [12]" in told and "--search.queries 0" in told and "--search.flip_share 0.7" in told
    assert "--search.plot s3://a/b.png" in told
    assert "--search.sizes" in " ".join(SearchBenchmarkOptions(sizes=()).problems() + SearchBenchmarkOptions(sizes=(0,)).problems())


FEW = MatchingBenchmarkOptions(tokens=(5, 9), dims=(16, 24), mean_cosines=(0.0, 0.5), products=300)


@pytest.mark.parametrize("device", DEVICES)
def test_matching_is_measured_method_by_method_and_written(tmp_path, capsys, device):
    file = tmp_path / "matching.json"
    timings = benchmark.run(benchmark.BenchmarkConfig(what="matching", matching=FEW, repeats=2, threads=1, json=str(file), device=device))
    assert len({(timing.method, timing.tokens, timing.mean_cosine) for timing in timings}) == len(timings) == 5 * 2 * 2
    assert all(0 <= timing.error <= 1e-4 and timing.pairs_per_s > 0 and timing.cpu_ratio > 0 for timing in timings)
    assert all(timing.ratio == 1 for timing in timings if timing.method == "ours")
    record = json.loads(file.read_text())
    assert [case["ratio"] for case in record["timings"]] == [timing.ratio for timing in timings]
    told = capsys.readouterr().out
    assert told.count("ot.batch") == 4 and "pot" in told


def test_a_score_that_is_off_ends_the_benchmark(monkeypatch):
    match = matching_benchmark.match_pairs
    monkeypatch.setattr(matching_benchmark, "match_pairs", lambda *sides, **options: match(*sides, **options) + 2e-4)
    with pytest.raises(RuntimeError, match="ours at 5 tokens of 16, mean cosine 0.0: a score is off"):
        benchmark.run(benchmark.BenchmarkConfig(what="matching", matching=FEW, repeats=1, threads=1))


def test_impossible_options_of_matching_are_named():
    options = MatchingBenchmarkOptions(tokens=(12,), mean_cosines=(1.0,), epsilon=0.001, products=0)
    told = " ".join(benchmark.BenchmarkConfig(what="matching", matching=options).problems())
    assert all(f"--matching.{name}" in told for name in ("tokens", "mean_cosines", "epsilon", "products"))


NETWORK = {"backbone": "deit_tiny_patch16_224", "threads": 2}


def test_latency_is_measured_network_by_network_beside_timm(tmp_path, capsys):
    options = EncoderBenchmarkOptions(batch_sizes=(1, 2), schedules=("2:0.1",))
    config = benchmark.BenchmarkConfig(encoder=options, repeats=2, json=str(tmp_path / "encoder.json"), device="cpu", **NETWORK)
    timings = benchmark.run(config)
    assert [timing.method for timing in timings] == ["timm", "teacher", "student", "student 2:0.1"] * 2
    assert [timing.batch_size for timing in timings] == [1] * 4 + [2] * 4
    assert all(timing.ratio == 1 for timing in timings if timing.method == "timm")
    assert all(timing.ms > 0 and timing.images_per_s == pytest.approx(timing.batch_size / timing.ms * 1e3) for timing in timings)
    theirs, teacher, student, pruned_early = (timing.gmacs_per_image for timing in timings[:4])
    assert theirs >= teacher > student > pruned_early > 0
    told = capsys.readouterr().out
    assert told.count("student 2:0.1") == 2 and "precision fp32" in told
    assert benchmark.run(benchmark.BenchmarkConfig(what="tables", results=(config.json,))) == []
    shown = capsys.readouterr().out
    assert shown.startswith("`eet benchmark encoder --device cpu --backbone deit_tiny_patch16_224 --repeats 2 --threads 2 ")
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


@pytest.mark.gpu
def test_every_mode_runs_on_a_gpu():
    options = EncoderBenchmarkOptions(batch_sizes=(1, 3), modes=("eager", "compiled", "graphed"), schedules=("4:0.7,7:0.7,10:0.7",))
    timings = benchmark.run(benchmark.BenchmarkConfig(encoder=options, repeats=2, device="cuda", **NETWORK))
    assert len(timings) == 2 * 3 * 4 and all(timing.ms > 0 for timing in timings)


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
    whole = train_benchmark._Classification(torch.nn.Linear(4, 3))
    parts = copy.deepcopy(whole)
    images, labels = torch.randn(5, 4), torch.tensor([0, 1, 2, 1, 0])
    for objective, micro in ((whole, 5), (parts, 2)):
        train_benchmark._Step(objective, images, labels, micro=micro, bf16=False, compiled=False).run()
    torch.testing.assert_close(whole.network.weight, parts.network.weight)
    assert not torch.equal(whole.network.weight, torch.nn.Linear(4, 3).weight)


def test_impossible_options_of_networks_are_named():
    options = EncoderBenchmarkOptions(batch_sizes=(0,), modes=("graphed",), schedules=("4:2",))
    told = " ".join(benchmark.BenchmarkConfig(encoder=options, train=TrainBenchmarkOptions(batch_size=0), device="cpu").problems())
    assert "--encoder.batch_sizes [0]" in told and "--train.batch_size 0" in told and "CUDA graphs need a CUDA device" in told
    assert "--encoder.schedules: schedule '4:2'" in told
    for text in ("4:2", "4", "3:0.5,2:0.5", "13:0.5", "4:0.5/0", "4:0.5/x", ""):
        with pytest.raises(ValueError, match="write block:ratio for each stage, such as 4:0.7"):
            parsed_schedule(text, NETWORK["backbone"])
    assert parsed_schedule("4:0.5,8:0.5,10:0.25/8", NETWORK["backbone"]).kept_counts(196) == (95, 47, 15)
    assert "--encoder.modes []" in " ".join(EncoderBenchmarkOptions(modes=()).problems())


def test_a_command_names_what_is_not_usual_and_can_be_run_again(tmp_path):
    config = benchmark.BenchmarkConfig(
        what="search", search=SearchBenchmarkOptions(bits=(16, 24), draws=("uniform",), gallery="a b"), threads=2, json="x.json"
    )
    command = command_of(config)
    assert command == "eet benchmark search --threads 2 --search.bits '[16, 24]' --search.draws '[\"uniform\"]' --search.gallery 'a b'"
    parser = cli._parser("benchmark", benchmark.BenchmarkConfig)
    again = cli.read_config(parser, benchmark.BenchmarkConfig, shlex.split(command)[2:])
    assert again == dataclasses.replace(config, json=None)


def test_what_was_not_measured_is_an_empty_place_in_a_table():
    record = {
        "command": "eet benchmark x",
        "machine": {"device": "card", "torch": "2"},
        "timings": [{"a": "b", "c": None}, {"a": "d", "c": 1.25}],
    }
    table = markdown_table(record, (Column("method", "a"), Column("ms", "c", ".1f")))
    assert table == "`eet benchmark x`\n\ncard, torch 2.\n\n| method | ms |\n|---|--:|\n| b |  |\n| d | 1.2 |\n"


def test_figures_that_are_none_are_refused(tmp_path, capsys):
    assert main(["benchmark", "tables"]) == 2 and "--results is missing" in capsys.readouterr().err
    (tmp_path / "a.json").write_text("{}")
    for file, told in ((tmp_path / "a.json", "does not hold the figures"), (tmp_path / "b.json", "cannot be read as the figures")):
        with pytest.raises(ValueError, match=told):
            benchmark.run(benchmark.BenchmarkConfig(what="tables", results=(str(file),)))


@pytest.fixture
def in_process(monkeypatch):
    """Neither Ray nor processes of the loader are started."""
    run = encode.run

    def without_ray(config):
        assert (config.engine, config.workers) == ("ray", 1)
        run(dataclasses.replace(config, engine="local"))

    monkeypatch.setattr(encode, "run", without_ray)
    monkeypatch.setattr(encode_benchmark, "DataLoader", lambda images, *, batch_size, **_: DataLoader(images, batch_size=batch_size))


def encode_config(tiny_birds, tiny_model, *, jpegs_on_device: bool = False, **changes) -> benchmark.BenchmarkConfig:
    options = EncodeBenchmarkOptions(
        images=str(tiny_birds), model=str(tiny_model), rows=60, rows_per_part=24, batch_size=8, rounds=2, jpegs_on_device=jpegs_on_device
    )
    return benchmark.BenchmarkConfig(what="encode", encode=options, threads=1, **changes)


def test_encoding_is_measured_three_ways_on_the_same_rows(in_process, tiny_birds, tiny_model, tmp_path, capsys):
    timings = benchmark.run(encode_config(tiny_birds, tiny_model, json=str(tmp_path / "encode.json")))
    assert [timing.method for timing in timings] == list(encode_benchmark.METHODS)
    assert all(timing.rows == 60 and timing.images_per_s > 0 for timing in timings)
    job, bare, loader = timings
    assert bare.ratio == 1 and job.differing_bits == bare.differing_bits == 0
    assert loader.differing_bits < 0.1, "the plain loop encodes other pictures, or in another order"
    told = capsys.readouterr().out
    record = json.loads((tmp_path / "encode.json").read_text())
    assert record["machine"]["threads"] == 1 and record["config"]["encode"]["rows"] == 60
    assert [case["images_per_s"] for case in record["timings"]] == [timing.images_per_s for timing in timings]
    assert all(method in told for method in (*encode_benchmark.METHODS, "images/s"))


def test_decoding_where_the_network_runs_is_a_fourth_way(in_process, tiny_birds, tiny_model, tmp_path, capsys, monkeypatch):
    pytest.importorskip("torchcodec", reason="TorchCodec is not installed (pip install -e '.[nvjpeg]')")
    jpegs = tmp_path / "jpegs"
    jpegs.mkdir()
    for path in list(tiny_birds.rglob("*.png"))[:6]:
        Image.open(path).resize((300, 300)).save(jpegs / f"{path.stem}.jpg")
    seen = []
    decode = DeviceJpegDecoder.decode
    monkeypatch.setattr(DeviceJpegDecoder, "decode", lambda self, files: seen.append(len(files)) or decode(self, files))
    timings = benchmark.run(encode_config(jpegs, tiny_model, jpegs_on_device=True))
    assert sum(seen) == 60 * 2, "each row, in each round"
    assert [timing.method for timing in timings] == [*encode_benchmark.METHODS, encode_benchmark.ON_DEVICE]
    assert timings[-1].rows == 60 and timings[-1].images_per_s > 0
    assert 0 <= timings[-1].differing_bits < 0.1
    assert encode_benchmark.ON_DEVICE in capsys.readouterr().out


def test_codes_of_the_job_that_differ_end_the_benchmark(in_process, tiny_birds, tiny_model, monkeypatch):
    pack = encode_benchmark.pack
    monkeypatch.setattr(encode_benchmark, "pack", lambda hashes: pack(hashes) ^ (np.arange(len(hashes)) == 7).astype(np.uint8)[:, None])
    with pytest.raises(RuntimeError, match="are not those of the same encoder"):
        benchmark.run(encode_config(tiny_birds, tiny_model))


def test_the_steady_rate_begins_behind_the_first_part():
    once = encode_benchmark._Run(first_rows=100, first_end_s=30.0, last_end_s=50.0, codes=np.zeros((500, 2), np.uint8))
    assert once.steady_rate == 400 / 20
    assert once.startup_s == 30 - 100 / 20


def test_images_are_repeated_under_ids_of_their_own(tmp_path):
    encode_benchmark.write_repeated(str(tmp_path / "table.parquet"), ["a.jpg", "b.jpg", "c.jpg"], 8)
    rows = pq.read_table(tmp_path / "table.parquet").to_pylist()
    assert [row["path"] for row in rows] == ["a.jpg", "b.jpg", "c.jpg"] * 2 + ["a.jpg", "b.jpg"]
    assert len({row["id"] for row in rows}) == 8 and [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    with pytest.raises(ValueError, match="no image"):
        encode_benchmark.write_repeated(str(tmp_path / "table.parquet"), [], 8)


def test_the_plain_loop_sees_what_the_encoder_sees(tiny_birds, tiny_model):
    student, table = load_bundle(tiny_model), synthetic.load(str(tiny_birds))
    for row, seen in zip(range(3), encode_benchmark.file_images(student, [table.location(row) for row in range(3)]), strict=False):
        assert (seen - student.preprocess(read_image(table.location(row)))).abs().mean() < 0.1


def test_impossible_encode_options_are_named(tmp_path):
    told = " ".join(benchmark.BenchmarkConfig(what="encode", device="cpu", encode=EncodeBenchmarkOptions(rows=9, rounds=0)).problems())
    assert "--encode.images is missing" in told and "--encode.rows 9" in told and "--encode.rounds 0" in told and "--device cpu" in told
    assert benchmark.BenchmarkConfig().problems() == []
    (tmp_path / "table.csv").write_text("path\n/no/such/picture.png\n")
    options = EncodeBenchmarkOptions(images=str(tmp_path / "table.csv"), rows=4, rows_per_part=2)
    with pytest.raises(ValueError, match="give image files on this machine"):
        encode_benchmark._uris(options)


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
    monkeypatch.setattr("pipelines.benchmarks.code_draws._STEP", 7)
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

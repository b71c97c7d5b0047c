"""The encode benchmark measures the job, its encoder and a plain loop on the same rows."""

import dataclasses
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torch.utils.data import DataLoader

import pipelines.benchmarks.encode as encode_benchmark
from eet.datasets import synthetic
from eet.images import DeviceJpegDecoder, read_image
from eet.vit import load_bundle
from pipelines import benchmark, encode
from pipelines.configs.benchmark import METHODS, ON_DEVICE, EncodeBenchmarkOptions

pytestmark = pytest.mark.slow


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
    assert [timing.method for timing in timings] == list(METHODS)
    assert all(timing.rows == 60 and timing.images_per_s > 0 for timing in timings)
    job, bare, loader = timings
    assert bare.ratio == 1 and job.differing_bits == bare.differing_bits == 0
    assert loader.differing_bits < 0.1, "the plain loop encodes other images, or in another order"
    printed = capsys.readouterr().out
    record = json.loads((tmp_path / "encode.json").read_text())
    assert record["machine"]["threads"] == 1 and record["config"]["encode"]["rows"] == 60
    assert [case["images_per_s"] for case in record["timings"]] == [timing.images_per_s for timing in timings]
    assert all(method in printed for method in (*METHODS, "images/s"))


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
    assert [timing.method for timing in timings] == [*METHODS, ON_DEVICE]
    assert timings[-1].rows == 60 and timings[-1].images_per_s > 0
    assert 0 <= timings[-1].differing_bits < 0.1
    assert ON_DEVICE in capsys.readouterr().out


def test_codes_of_the_job_that_differ_end_the_benchmark(in_process, tiny_birds, tiny_model, monkeypatch):
    pack = encode_benchmark.pack
    monkeypatch.setattr(encode_benchmark, "pack", lambda hashes: pack(hashes) ^ (np.arange(len(hashes)) == 7).astype(np.uint8)[:, None])
    with pytest.raises(RuntimeError, match="are not those of the same encoder"):
        benchmark.run(encode_config(tiny_birds, tiny_model))


def test_the_steady_rate_begins_after_the_first_part():
    once = encode_benchmark.EncodeRun(first_rows=100, first_end_s=30.0, last_end_s=50.0, codes=np.zeros((500, 2), np.uint8))
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
    message = " ".join(benchmark.BenchmarkConfig(what="encode", device="cpu", encode=EncodeBenchmarkOptions(rows=9, rounds=0)).problems())
    assert (
        "--encode.images is missing" in message
        and "--encode.rows 9" in message
        and "--encode.rounds 0" in message
        and "--device cpu" in message
    )
    assert benchmark.BenchmarkConfig().problems() == []
    (tmp_path / "table.csv").write_text("path\n/no/such/image.png\n")
    options = EncodeBenchmarkOptions(images=str(tmp_path / "table.csv"), rows=4, rows_per_part=2)
    with pytest.raises(ValueError, match="give image files on this machine"):
        encode_benchmark.image_uris(options)

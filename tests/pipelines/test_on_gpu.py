"""One pass through every job on a GPU, compared with the CPU's results for the same inputs."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from eet.gallery import Gallery, PartEncoder, fixed_binary_to_numpy, items_table, open_gallery, read_hits
from eet.retrieval.search import search_gallery
from eet.vit import load_bundle
from pipelines import distill, encode, rerank, search
from pipelines.costs.networks import latencies_ms
from pipelines.job.options import DataOptions, TrainOptions

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300), pytest.mark.slow]


@pytest.fixture(scope="module")
def jpegs(tiny_birds: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("jpegs")
    for path in sorted(tiny_birds.rglob("*.png")):
        Image.open(path).convert("RGB").resize((120, 90)).save(folder / f"{path.parent.name}-{path.stem}.jpg")
    (folder / "cut.jpg").write_bytes(next(folder.glob("*.jpg")).read_bytes()[:500])
    return folder


def gallery_of(model: Path, images: Path, out: Path, **changes) -> Gallery:
    options = {"tokens": True, "embedding": True, "rows_per_part": 16, "batch_size": 8, "max_error_ratio": 0.1}
    encode.run(encode.EncodeConfig(model=str(model), images=str(images), out=str(out), **options, **changes))
    return open_gallery(str(out))


def agreement(gallery: Gallery, other: Gallery) -> float:
    """Share of bits that are the same."""
    codes = [np.unpackbits(one.codes()[0], axis=1) for one in (gallery, other)]
    return float((codes[0] == codes[1]).mean())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@torch.inference_mode()
def test_the_network_says_on_a_gpu_what_it_says_on_a_cpu(tiny_model, jpegs, precision):
    files = sorted(str(path) for path in jpegs.glob("*.jpg"))
    rows = items_table(files, files)
    here = PartEncoder(load_bundle(tiny_model), batch_size=8, tokens=True, precision="fp32").encode(rows)
    there = PartEncoder(load_bundle(tiny_model), device="cuda", batch_size=8, tokens=True, precision=precision).encode(rows)
    assert there.table["status"].equals(here.table["status"])
    difference = np.abs(there.hash - here.hash) / here.hash.std()
    assert difference.max() < 1e-3 if precision == "fp32" else difference.mean() < 0.1
    masses = [fixed_binary_to_numpy(one.table["token_mass"].drop_null(), "<f2", (2,)) for one in (here, there)]
    np.testing.assert_allclose(masses[0], masses[1], atol=2e-3 if precision == "fp32" else 0.05)


def test_a_gallery_encoded_by_ray_on_a_gpu_is_the_one_that_this_process_makes(ray_session, tiny_model, jpegs, tmp_path):
    on_ray = gallery_of(tiny_model, jpegs, tmp_path / "ray", workers=1)
    here = gallery_of(tiny_model, jpegs, tmp_path / "here", engine="local")
    assert on_ray.table().equals(here.table()) and on_ray.manifest == here.manifest
    assert on_ray.manifest.errors == {"truncated": 1}
    nvjpeg = gallery_of(tiny_model, jpegs, tmp_path / "nvjpeg", workers=1, jpegs_on="gpu")
    assert nvjpeg.manifest.jpegs_on == "gpu" and nvjpeg.manifest.errors == here.manifest.errors
    assert 0.9 < agreement(nvjpeg, here) <= 1


def test_search_and_re_ranking_answer_as_on_a_cpu(ray_session, tiny_model, jpegs, tmp_path):
    gallery = gallery_of(tiny_model, jpegs, tmp_path / "gallery", engine="local")
    hits = str(tmp_path / "hits.parquet")
    search.run(search.SearchConfig(gallery=gallery.path, queries=gallery.path, k=10, out=hits))
    assert read_hits(hits).equals(search_gallery(gallery, gallery, k=10))
    config = rerank.RerankConfig(hits=hits, gallery=gallery.path, queries=gallery.path, out=str(tmp_path / "here.parquet"), engine="local")
    here = rerank.run(config)
    there = rerank.run(dataclasses.replace(config, out=str(tmp_path / "there.parquet"), engine="ray", workers=1))
    scores = [
        dict(
            zip(
                zip(*(table[name].to_pylist() for name in ("query_id", "item_id")), strict=True),
                table["score_struct"].to_pylist(),
                strict=True,
            )
        )
        for table in (here, there)
    ]
    assert scores[0].keys() == scores[1].keys() and len(scores[0]) == len(here) > 300
    assert max(abs(scores[0][pair] - scores[1][pair]) for pair in scores[0]) < 1e-4


def test_a_training_on_a_gpu_learns_and_its_model_is_whole(ray_session, tiny_birds, tiny_options, tmp_path):
    config = distill.DistillConfig(
        out=str(tmp_path / "model"), weights="none", data=DataOptions(name="synthetic", root=str(tiny_birds)), student=tiny_options,
        train=TrainOptions(epochs=3, batch_size=16, validation_share=0),
    )  # fmt: skip
    result = distill.run(config)
    losses = [record["teacher_classification"] for record in result.history]
    assert all(np.isfinite(losses)) and losses[-1] < losses[0]
    assert load_bundle(tmp_path / "model").num_bits == 16
    found = latencies_ms({"model": str(tmp_path / "model"), "again": str(tmp_path / "model")}, threads=1)
    assert found["model"] == found["again"] > 0

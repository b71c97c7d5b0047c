"""Nodes that vanish in the midst of a job: what it leaves is what it would have left."""

import subprocess
import sys
from typing import NamedTuple

import pytest

from eet.gallery import open_gallery, read_hits
from pipelines import encode, rerank

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]


class Left(NamedTuple):
    gallery: str
    hits: str
    reranked: str
    output: str


@pytest.fixture(scope="module")
def left(tiny_model, photos, tmp_path_factory) -> Left:
    """What a process left that lost a node while it encoded and another while it re-ranked."""
    out = tmp_path_factory.mktemp("lost")
    gallery, hits, reranked = (str(out / name) for name in ("gallery", "hits.parquet", "reranked.parquet"))
    command = [sys.executable, "-m", "cluster_job", tiny_model, photos, gallery, hits, reranked]
    job = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=550)
    assert job.returncode == 0, job.stdout + job.stderr
    return Left(gallery, hits, reranked, job.stdout)


def test_encoding_neither_loses_nor_repeats_a_row(left, tiny_model, photos, tmp_path):
    assert left.output.index("encode: lost a node at work") < left.output.index("encode: done")
    config = encode.EncodeConfig(
        model=str(tiny_model), images=str(photos), out=str(tmp_path / "whole"), tokens=True, rows_per_part=8, batch_size=8, threads=1,
        engine="local",
    )  # fmt: skip
    encode.run(config)
    assert open_gallery(left.gallery).table().equals(open_gallery(config.out).table())


def test_re_ranking_gives_the_hits_of_one_process(left, tmp_path):
    assert left.output.index("rerank: lost a node at work") < left.output.index("rerank: done")
    config = rerank.RerankConfig(hits=left.hits, gallery=left.gallery, out=str(tmp_path / "here.parquet"), top=1000, engine="local")
    assert read_hits(left.reranked).equals(rerank.run(config))

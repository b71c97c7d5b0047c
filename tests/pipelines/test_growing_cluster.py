"""A cluster that has no worker node when the job starts, and may get two."""

import subprocess
import sys

import pytest
from growing import growing_cluster

from eet.gallery import open_gallery
from pipelines import encode

pytestmark = [pytest.mark.timeout(400), pytest.mark.slow]


def test_encoding_makes_a_cluster_grow(tiny_model, photos, tmp_path):
    """From no node to the two that its configuration allows, without a flag; the gallery is that of one process."""
    config = encode.EncodeConfig(
        model=str(tiny_model),
        images=str(photos),
        out=str(tmp_path / "whole"),
        tokens=True,
        rows_per_part=4,
        batch_size=4,
        threads=1,
        engine="local",
    )
    encode.run(config)
    with growing_cluster(nodes=2, resources={"CPU": 2}) as cluster:
        command = [sys.executable, "-m", "growing_job", str(tiny_model), str(photos), str(tmp_path / "gallery"), cluster.address]
        job = subprocess.run(command, env=cluster.environment, capture_output=True, text=True, timeout=240)
    assert job.returncode == 0, job.stdout + job.stderr
    assert "note: the cluster has no node yet" in job.stdout
    assert "nodes: 2" in job.stdout
    assert open_gallery(str(tmp_path / "gallery")).table().equals(open_gallery(config.out).table())

"""Every job with an output that is a URI: everything goes there, or the job refuses it; no folder called `file:` appears."""

import json
from pathlib import Path

import pytest

from eet.errors import InputError
from eet.storage import exists, join_location, read_text
from pipelines.benchmark import BenchmarkConfig
from pipelines.benchmarks.record import read_record, write_record
from pipelines.cli import JOBS, main

LOCAL_ONLY = {"quickstart", "train-teacher", "distill", "train-base", "fit-base", "sweep", "sweep-matching", "index", "export"}


@pytest.mark.slow
@pytest.mark.parametrize("store", ["file", "memory"])
def test_outputs_go_to_the_uri(store, tiny_model, tiny_birds, tmp_path, monkeypatch, capsys):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    base = f"file://{tmp_path}/there" if store == "file" else f"memory://outputs{tmp_path}"
    names = ("gallery", "hits.parquet", "reranked.parquet", "report", "measures", "record.json")
    gallery, hits, reranked, report, measures, record = (f"{base}/{name}" for name in names)
    tracking = [] if store == "file" else ["--tracking-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    data = ["--data.name", "synthetic", "--data.root", str(tiny_birds), "--split", "test"]
    jobs = [
        ["encode", "--model", str(tiny_model), *data, "--out", gallery, "--tokens", "--engine", "local"],
        ["search", "--gallery", gallery, "--queries", str(tiny_birds / "images"), "--model", str(tiny_model), "--out", hits, "--k", "3"],
        ["search", "--gallery", gallery, "--queries", gallery, "--out", f"{base}/own.parquet", "--k", "3"],
        ["rerank", "--hits", f"{base}/own.parquet", "--gallery", gallery, "--out", reranked, "--engine", "local"],
        ["evaluate", "--gallery", gallery, "--out", measures, *tracking],
        ["report", "--hits", reranked, "--out", report, "--model", str(tiny_model), "--num-queries", "2"],
    ]
    for arguments in jobs:
        assert main(arguments) == 0, (arguments, capsys.readouterr().err)
    for folder, files in (
        (gallery, ["manifest.json"]),
        (measures, ["metrics.json", "pr_curve.png", "pr_curve.csv"]),
        (report, ["report.html"]),
    ):
        for name in [*files, "config.yaml"]:
            assert exists(join_location(folder, name)), (folder, name)
    assert exists(f"{base}/hits.config.yaml") and exists(f"{base}/hits.queries/manifest.json") and exists(f"{base}/reranked.config.yaml")
    assert json.loads(read_text(join_location(measures, "metrics.json")))["encoded"]["queries"] == 16
    write_record(record, "matching", {}, BenchmarkConfig(), [])
    assert read_record(record)["what"] == "matching"
    assert list(here.iterdir()) == []
    if store == "file":
        assert Path(tmp_path / "there" / "mlflow.db").is_file()


@pytest.mark.parametrize("job", sorted(LOCAL_ONLY - {"index", "export"}))
def test_python_refuses_a_uri_too(job, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    required = {"sweep": {"space": "bits"}, "sweep-matching": {"hits": "h.parquet", "gallery": "g"}}
    config = JOBS[job].config_class(out="s3://bucket/x", **required.get(job, {}))
    with pytest.raises(InputError, match="--out s3://bucket/x: give a local path, or a mounted one"):
        JOBS[job].load()(config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("job", sorted(LOCAL_ONLY))
def test_other_jobs_refuse_a_uri(job, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    required = {
        "index": ["--gallery", "g"],
        "export": ["--gallery", "g"],
        "sweep": ["--space", "bits"],
        "sweep-matching": ["--hits", "h.parquet", "--gallery", "g"],
    }
    for uri in (f"file://{tmp_path}/x", "s3://bucket/x"):
        assert main([job, *required.get(job, ["--data.root", "birds"]), "--out", uri]) == 2
        assert f"eet {job}: --out {uri}: give a local path, or a mounted one" in capsys.readouterr().err
    assert set(JOBS) - LOCAL_ONLY == {"encode", "search", "rerank", "evaluate", "report", "benchmark", "doctor", "serve", "warm-up"}
    assert list(tmp_path.iterdir()) == []

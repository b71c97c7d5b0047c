"""The locations in the configs of all jobs."""

import os
from pathlib import Path

import pytest
import yaml

from pipelines.cli import JOBS, main
from pipelines.job.output import flat_values, write_config
from pipelines.sweep import SweepConfig

LOCATIONS = {
    "quickstart": {"out", "weights", "data.root", "data.table"},
    "train-teacher": {"out", "weights", "data.root", "data.table"},
    "distill": {"out", "teacher", "weights", "data.root", "data.table"},
    "train-base": {"out", "weights", "data.root", "data.table"},
    "fit-base": {"out", "images", "images_root", "weights", "data.root", "data.table"},
    "sweep": {"out", "teacher", "weights", "data.root", "data.table"},
    "sweep-matching": {"out", "hits", "gallery", "queries"},
    "encode": {"out", "model", "images", "images_root", "data.root", "data.table"},
    "index": {"out", "gallery"},
    "export": {"out", "gallery"},
    "search": {"out", "gallery", "queries", "model", "index"},
    "rerank": {"out", "hits", "gallery", "queries"},
    "evaluate": {"out", "gallery", "queries", "hits", "model"},
    "report": {"out", "hits", "gallery", "queries", "model"},
    "serve": {"model", "gallery", "index", "token_file", "feedback", "image_roots"},
    "benchmark": {"json", "results", "encode.images", "encode.model", "search.gallery", "search.plot"},
    "warm-up": set(),
    "doctor": {"location"},
}


def filled(config_class: type, locations: set[str], location: str):
    """The config with each of these flags set to the same location."""
    own = {name: (location,) if name in ("results", "image_roots") else location for name in locations if "." not in name}
    if config_class is SweepConfig:
        own["space"] = "loss_weights"
    config = config_class(**own)
    for name in locations - set(own):
        group, _, member = name.partition(".")
        setattr(getattr(config, group), member, location)
    return config


def test_every_job_is_tested():
    assert set(LOCATIONS) == set(JOBS)


@pytest.mark.parametrize("job", JOBS)
def test_the_written_config_holds_absolute_locations(job, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config_class = JOBS[job].config_class
    for location, expected in (("a/../b/c", str(tmp_path / "b" / "c")), ("s3://a/../b", "s3://a/../b")):
        config = filled(config_class, LOCATIONS[job], location)
        write_config(str(tmp_path), config)
        values = flat_values(yaml.safe_load((tmp_path / "config.yaml").read_text()))
        found = {name: value[0] if isinstance(value, list) else value for name, value in values.items() if name in LOCATIONS[job]}
        assert found == dict.fromkeys(LOCATIONS[job], expected)
        unset = {name for name, value in values.items() if name not in LOCATIONS[job] and isinstance(value, str) and os.sep in value}
        assert not unset, "no other value looks like a path"


@pytest.mark.parametrize("word", ["timm", "none"])
def test_words_for_weights_are_not_locations(word, tmp_path):
    from pipelines.distill import DistillConfig

    write_config(str(tmp_path), DistillConfig(out="x", weights=word))
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["weights"] == word


def test_a_job_is_repeated_and_its_hits_reported_from_another_folder(tiny_model, photos, tmp_path, monkeypatch):
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    for folder in (here, elsewhere):
        folder.mkdir()
    monkeypatch.chdir(here)
    (here / "model").symlink_to(tiny_model)
    (here / "photos").mkdir()
    for photo in sorted(Path(photos).iterdir())[:4]:
        (here / "photos" / photo.name).symlink_to(photo.resolve())
    encode = ["encode", "--model", "model", "--images", "photos", "--out", "gallery", "--tokens", "--engine", "local"]
    assert main(encode) == 0
    assert main(["search", "--gallery", "gallery", "--queries", "gallery", "--model", "model", "--k", "2", "--out", "hits.parquet"]) == 0
    hits = (here / "hits.parquet").read_bytes()
    monkeypatch.chdir(elsewhere)
    assert main(["encode", "--config", str(here / "gallery" / "config.yaml")]) == 0
    (here / "hits.parquet").unlink()
    assert main(["search", "--config", str(here / "hits.config.yaml")]) == 0
    assert (here / "hits.parquet").read_bytes() == hits
    assert main(["report", "--hits", "../here/hits.parquet", "--out", "page"]) == 0
    assert "What the network kept" in (elsewhere / "page" / "report.html").read_text()
    assert {path.name for path in elsewhere.iterdir()} == {"page"}

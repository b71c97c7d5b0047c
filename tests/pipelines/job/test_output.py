"""The config next to an output, and the comparison of a resumed job with it."""

import dataclasses
import re

import pytest
import yaml

from eet.errors import InputError
from pipelines.cli import job_parser, read_config
from pipelines.configs.encode import EncodeConfig
from pipelines.configs.evaluate import EvaluateConfig
from pipelines.configs.train_base import TrainBaseConfig
from pipelines.distill import DistillConfig
from pipelines.job.options import DataOptions
from pipelines.job.output import check_own_folder, check_same_options, write_config


@pytest.fixture
def started_job(tmp_path, monkeypatch):
    """A config with relative locations, and its folder, where an earlier version wrote config.yaml with the locations as given."""
    monkeypatch.chdir(tmp_path)
    config = DistillConfig(out="run", teacher="models/teacher", weights="timm", data=DataOptions(name="table", table="lists/birds.csv"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(_plain(dataclasses.asdict(config))))
    return config, tmp_path


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def test_a_job_of_an_earlier_version_is_resumed_from_the_same_working_directory(started_job):
    config, folder = started_job
    assert yaml.safe_load((folder / "run" / "config.yaml").read_text())["data"]["table"] == "lists/birds.csv"
    check_same_options(config, ())
    absolute = dataclasses.replace(config, out=str(folder / "run"), teacher=str(folder / "models" / "teacher"))
    check_same_options(absolute, ())


def test_credentials_that_an_earlier_version_stored_are_not_printed(started_job):
    config, folder = started_job
    written = folder / "run" / "config.yaml"
    values = yaml.safe_load(written.read_text())
    uri = "s3://KEY:HUSHHUSH@bucket/teacher"
    for changed, message in (
        ({"teacher": uri}, "run/config.yaml: a location cannot be used: the s3:// URI holds credentials"),
        ({"student": {**values["student"], "backbone": uri}}, "student.backbone: (credentials, not shown) then, "),
    ):
        written.write_text(yaml.safe_dump({**values, **changed}))
        with pytest.raises(ValueError, match=re.escape(message)) as refusal:
            check_same_options(config, ())
        assert "HUSHHUSH" not in str(refusal.value)


def test_relative_locations_from_another_working_directory_are_other_options(started_job, monkeypatch):
    config, folder = started_job
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    moved = dataclasses.replace(config, out=str(folder / "run"), teacher=str(folder / "models" / "teacher"))
    with pytest.raises(ValueError, match=re.escape("teacher: ")):
        check_same_options(moved, ())


@pytest.mark.parametrize(("given", "read", "written"), [("112", 112, " 112\n"), ("[48,64]", (48, 64), "\n- 48\n- 64\n")])
def test_a_stored_image_size_of_one_number_or_two_is_read_back_as_it_was(given, read, written, tmp_path):
    def config(*arguments):
        return read_config(job_parser("train-base", TrainBaseConfig), TrainBaseConfig, [*arguments, "--out", str(tmp_path)])

    first = config("--data.root", str(tmp_path / "photos"), "--image-size", given)
    write_config(first.out, first)
    assert f"\nimage_size:{written}" in (tmp_path / "config.yaml").read_text()
    assert config("--config", str(tmp_path / "config.yaml")) == first and first.image_size == read
    check_same_options(first, free=())


def test_a_folder_with_the_config_of_another_job_is_refused(tmp_path):
    """Its options would be lost, for --resume too."""
    train = EncodeConfig(model="m", images="i", out=str(tmp_path))
    write_config(str(tmp_path), train)
    evaluation = EvaluateConfig(gallery="g", out=str(tmp_path))
    with pytest.raises(InputError, match="is of another job"):
        check_own_folder(evaluation)
    write_config(str(tmp_path), evaluation)
    check_own_folder(evaluation)

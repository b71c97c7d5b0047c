"""The command line: what a person types, what comes back, and with which exit code."""

import dataclasses
import errno
import importlib
import os
import socket
from pathlib import Path

import pytest
import ray

from eet.errors import InputError
from eet.storage import claimed
from pipelines import distill, encode, search
from pipelines.cli import JOBS, main
from pipelines.job.errors import JobFailed
from pipelines.job.location import with_absolute_locations
from pipelines.job.options import DataOptions, LossOptions, StudentOptions, TrainOptions
from pipelines.job.output import write_config

DISTILL = ["distill", "--out", "runs/x", "--data.root", "birds"]
CLUSTER_JOBS = [
    DISTILL,
    ["encode", "--model", "m", "--images", "i", "--out", "g"],
    ["search", "--gallery", "g", "--queries", "q", "--out", "h.parquet", "--shards", "2"],
    ["rerank", "--hits", "h.parquet", "--gallery", "g", "--out", "r.parquet"],
]


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    """Ray must not start: everything here is decided before."""

    def refuse(*_, **__):
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "init", refuse)


@pytest.fixture
def given(monkeypatch):
    """The configs that jobs were called with."""
    configs = []
    for module in (distill, encode, search):
        monkeypatch.setattr(module, "run", configs.append)
    return configs


def test_hyphen_and_underscore_are_the_same_and_equals_is_a_space(given):
    assert main([*DISTILL, "--tracking-uri", "sqlite:////a-b/c_d.db", "--train.batch-size=32", "--dry-run", "true"]) == 0
    assert main([*DISTILL, "--tracking_uri=sqlite:////a-b/c_d.db", "--train.batch_size", "32", "--dry_run=true"]) == 0
    assert given[0] == given[1]
    assert given[0].tracking_uri == "sqlite:////a-b/c_d.db" and given[0].train.batch_size == 32 and given[0].dry_run


def test_the_images_of_encode_may_stand_first(given):
    flags = ["--model", "m", "--out", "g"]
    assert main(["encode", "photos", *flags]) == main(["encode", *flags, "--images", "photos"]) == 0
    assert given[0] == given[1] and given[0].images == "photos"
    assert main(["encode", "photos", "more", "--model", "m", "--out", "g"]) == 2


def test_nested_flags_become_the_groups(given):
    flags = [
        "--student.keep-ratios", "[0.5,0.25]", "--student.prune_after", "[3,7]", "--student.backbone_options", "{patch_size: 8}",
        "--loss.beta", "0.2", "--train.optimizer", "adamw", "--data.name", "table", "--data.table", "t.csv", "--data.on_error", "skip",
    ]  # fmt: skip
    assert main([*DISTILL, *flags]) == 0
    (config,) = given
    expected = StudentOptions(keep_ratios=(0.5, 0.25), prune_after=(3, 7), backbone_options={"patch_size": 8})
    assert config.student == dataclasses.replace(expected, hash_input="joint", target_codes="separated")  # by the recipe
    assert isinstance(config.student.keep_ratios, tuple)
    assert config.loss == LossOptions(beta=0.2)
    assert config.train == TrainOptions(optimizer="adamw")
    assert config.data == DataOptions(name="table", root="birds", table="t.csv", on_error="skip")


def test_the_written_config_gives_the_same_config_back(given, tmp_path):
    flags = ["--student.keep_ratios", "[0.5]", "--student.prune_after", "[2]", "--train.learning_rate", "1e-3", "--seed", "7"]
    assert main([*DISTILL, *flags]) == 0
    write_config(str(tmp_path), given[0])
    assert main(["distill", "--config", str(tmp_path / "config.yaml")]) == 0
    assert given[1] == with_absolute_locations(given[0])


def test_a_flag_after_the_file_wins(given, tmp_path):
    (tmp_path / "job.yaml").write_text("out: a\ndata: {root: birds}\ntrain: {epochs: 5, batch_size: 8}\n")
    assert main(["distill", "--config", str(tmp_path / "job.yaml"), "--train.epochs", "6"]) == 0
    assert (given[0].out, given[0].train) == ("a", TrainOptions(epochs=6, batch_size=8))


@pytest.mark.parametrize(
    "flags",
    [["--no-such-flag", "1"], ["--student.bit", "8"], ["--train.epochs", "many"], ["--train.optimizer", "adam"], ["--weights"]],
)
def test_unknown_flags_and_values_of_another_kind_are_bad_arguments(given, capsys, flags):
    assert main([*DISTILL, *flags]) == 2
    printed = capsys.readouterr().err
    assert "Traceback" not in printed and printed.strip()
    assert not given


def test_an_unknown_key_of_a_file_is_a_bad_argument(given, tmp_path, capsys):
    (tmp_path / "job.yaml").write_text("out: a\ntrain: {epoch: 5}\n")
    assert main(["distill", "--config", str(tmp_path / "job.yaml")]) == 2
    assert "epoch" in capsys.readouterr().err and not given


def test_a_missing_flag_is_a_bad_argument(given, capsys):
    assert main(["distill", "--data.root", "birds"]) == 2
    assert "out" in capsys.readouterr().err and not given


def test_all_impossible_values_are_reported_at_once_and_the_job_is_not_run(given, capsys):
    assert main([*DISTILL, "--student.bits", "0", "--train.epochs", "-1", "--loss.sigma", "-1", "--data.name", "cubs"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and all(line.startswith("eet distill: --") for line in lines)
    for flag in ("--student.bits", "--train.epochs", "--loss.sigma", "--data.name"):
        assert sum(flag in line for line in lines) == 1
    assert not given


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--train.learning_rate", "1e400"], "--train.learning-rate inf: use a finite number"),
        (["--student.keep_ratios", "[0.5, .nan]"], "--student.keep-ratios (0.5, nan): use a finite number"),
        (["--seed", str(10**23)], f"--seed {10**23}: use 0 to {2**32 - 1}"),
    ],
)
def test_numbers_that_no_job_can_take_are_one_line(given, capsys, flags, problem):
    assert main([*DISTILL, *flags]) == 2
    assert capsys.readouterr().err == f"eet distill: {problem}\n" and not given


@pytest.mark.parametrize(
    "arguments",
    [
        ["distill", "--out", "{tmp}/o", "--data.root", "{tmp}/nowhere"],
        ["distill", "--out", "{tmp}/o", "--data.name", "cub", "--data.root", "{tmp}/nowhere"],
        ["distill", "--out", "{tmp}/o", "--data.name", "table", "--data.table", "{tmp}/nowhere.csv"],
        ["encode", "--model", "{tmp}/nowhere", "--images", "{tmp}", "--out", "{tmp}/g"],
        ["search", "--gallery", "{tmp}/nowhere", "--queries", "{tmp}", "--out", "{tmp}/h.parquet"],
        ["evaluate", "--gallery", "{tmp}/nowhere", "--out", "{tmp}/e"],
        ["report", "--hits", "{tmp}/nowhere.parquet", "--out", "{tmp}/r"],
    ],
)
def test_a_mistake_is_one_line_naming_the_place_without_a_traceback(tmp_path, capsys, arguments):
    arguments = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
    assert main(arguments) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(f"eet {arguments[0]}: ") and len(printed.splitlines()) == 1
    assert "nowhere" in printed and "Traceback" not in printed


@pytest.mark.parametrize(
    ("raised", "exit_code"),
    [(JobFailed("it broke"), 1), (InputError("it broke"), 1), (OSError(errno.EFBIG, "full"), 1), (KeyboardInterrupt(), 130)],
)
def test_failures_and_stops_have_exit_codes(monkeypatch, capsys, raised, exit_code):
    def fail(_):
        raise raised

    monkeypatch.setattr(distill, "run", fail)
    assert main(DISTILL) == exit_code
    printed = capsys.readouterr().err
    assert printed.startswith("eet distill: ") and "Traceback" not in printed


@pytest.fixture
def dead_port():
    """A port at which nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
@pytest.mark.parametrize("arguments", CLUSTER_JOBS, ids=lambda arguments: arguments[0])
def test_an_address_without_a_cluster_is_one_line_before_work_starts(capsys, monkeypatch, dead_port, arguments, form):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    address = form.format(dead_port)
    assert main([*arguments, "--address", address]) == 1
    printed = capsys.readouterr().err
    assert f"nothing answers at --address {address}" in printed and len(printed.splitlines()) == 1


@pytest.mark.parametrize(
    "job",
    [
        ["distill", "--data.root", "birds"],
        ["train-teacher", "--data.root", "birds"],
        ["train-base", "--data.root", "birds"],
        ["sweep", "--data.root", "birds", "--space", "loss_weights"],
        ["sweep-matching", "--hits", "h.parquet", "--gallery", "g"],
    ],
    ids=lambda job: job[0],
)
def test_an_output_that_another_job_writes_is_refused(tmp_path, capsys, job):
    out = tmp_path / "out"
    with claimed(str(out)):
        assert main([*job, "--out", str(out)]) == 1
    printed = capsys.readouterr().err
    assert f"{out} is being written by another job (process {os.getpid()} on " in printed and ", since " in printed
    assert len(printed.splitlines()) == 1 and "--take-over" not in printed


@pytest.mark.parametrize("raised", [KeyError("a bug"), ValueError("of a library"), FileNotFoundError(2, "of a library")])
def test_a_bug_shows_its_traceback(monkeypatch, capsys, raised):
    def fail(_):
        raise raised

    monkeypatch.setattr(distill, "run", fail)
    assert main(DISTILL) == 1
    printed = capsys.readouterr().err
    assert "Traceback" in printed and printed.splitlines()[-1].startswith("eet distill: this is a fault of EET, please report it")


def test_the_traceback_of_a_mistake_is_shown_on_request(monkeypatch, capsys):
    def fail(_):
        raise InputError("it broke")

    monkeypatch.setattr(distill, "run", fail)
    assert main([*DISTILL, "--traceback"]) == 1
    printed = capsys.readouterr().err
    assert "Traceback" in printed and printed.splitlines()[-1] == "eet distill: it broke"


def test_jobs_are_listed_and_an_unknown_one_names_them(capsys):
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert main(["distil"]) == 2
    printed = capsys.readouterr().err
    assert main([]) == 2
    for name in JOBS:
        assert f"  {name} " in listed and name in printed


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_the_module_of_a_job_has_its_config_and_what_runs_it(job):
    """`from pipelines.distill import DistillConfig, run`, though the config is defined where nothing heavy is loaded."""
    module = importlib.import_module(f"pipelines.{job.module}")
    assert getattr(module, job.config) is job.config_class and callable(module.run)


def test_help_teaches_a_group_and_its_default(capsys):
    assert main(["distill", "--help"]) == 0
    printed = capsys.readouterr().out
    assert "--student.keep-ratios" in printed and "Share of the patches still present" in printed and "90" in printed


def test_a_relative_config_lies_next_to_a_file_and_inside_a_folder(tmp_path: Path, given):
    from pipelines.job.output import read_written_config

    assert main([*DISTILL]) == 0
    write_config(str(tmp_path / "hits.parquet"), given[0])
    assert (tmp_path / "hits.config.yaml").is_file()
    written = read_written_config(str(tmp_path / "hits.parquet"))
    assert written is not None and written["data"]["root"] == str(Path("birds").absolute())
    assert read_written_config(str(tmp_path / "none")) is None

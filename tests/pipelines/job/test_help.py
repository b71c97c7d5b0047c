"""The help of jobs: what stands where, one group of it, and examples that work."""

import re
import shlex

import pytest

from pipelines.cli import JOBS, job_parser, main, read_config

SECTIONS = re.compile(r"^(\w[\w ]*):$", flags=re.MULTILINE)


def flags_in(text: str) -> list[str]:
    return re.findall(r"^  (?:-h, )?(--[a-z._-]+)", text, flags=re.MULTILINE)


def test_own_flags_come_first_common_ones_last_and_then_examples(capsys):
    assert main(["distill", "--help"]) == 0
    printed = capsys.readouterr().out
    expected = ["options", "Labelled images", "The network", "The objective", "The training", "common options", "examples"]
    assert SECTIONS.findall(printed) == expected
    assert printed.startswith("usage: eet distill --out OUT [flags]\n")
    own, *_, common, _ = SECTIONS.split(printed)[2::2]
    assert flags_in(own) == ["--out", "--teacher", "--weights", "--resume"]
    assert flags_in(common) == ["--help", "--config", "--print-config", "--address", "--tracking-uri", "--seed", "--dry-run"]


def test_options_that_a_job_does_not_read_are_not_shown_and_still_accepted(capsys):
    assert main(["report", "--help"]) == 0
    assert {"--seed", "--address", "--tracking-uri"}.isdisjoint(flags_in(capsys.readouterr().out))
    config_class = JOBS["report"].config_class
    assert read_config(job_parser("report", config_class), config_class, ["--hits", "h", "--out", "o", "--seed", "3"]).seed == 3


def test_one_group_is_shown_alone(capsys):
    assert main(["distill", "--help=loss"]) == 0
    assert flags_in(capsys.readouterr().out) == ["--loss", "--loss.beta", "--loss.sigma", "--loss.masked-patches"]
    assert main(["distill", "--help=common"]) == 0
    assert flags_in(capsys.readouterr().out)[-1] == "--dry-run"
    assert main(["distill", "--help=los"]) == 2
    assert "use one of data, student, loss, train, common; did you mean loss?" in capsys.readouterr().err


@pytest.mark.parametrize("job", JOBS)
def test_the_examples_of_a_job_are_commands_that_it_takes(job, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config_class = JOBS[job].config_class
    assert config_class.examples
    for example in config_class.examples:
        program, named, *arguments = shlex.split(example)
        assert (program, named) == ("eet", job)
        assert read_config(job_parser(job, config_class), config_class, arguments).problems() == []

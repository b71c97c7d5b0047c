"""The completion of commands, as bash itself completes them."""

import shutil
import subprocess

import pytest

from pipelines.cli import JOBS, main


@pytest.fixture
def completed(capsys):
    """What bash offers for the last of the words of a command."""
    bash = shutil.which("bash") or pytest.skip("bash is not installed")
    assert main(["--print-completion", "bash"]) == 0
    script = capsys.readouterr().out

    def complete(*words: str) -> list[str]:
        ask = f'COMP_WORDS=("$@"); COMP_CWORD={len(words) - 1}; _eet; printf "%s\\n" "${{COMPREPLY[@]}}"'
        done = subprocess.run([bash, "-c", f"{script}\n{ask}", "bash", *words], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and not done.stderr
        return done.stdout.split()

    return complete


def test_jobs_flags_and_values_are_completed(completed):
    assert completed("eet", "") == [*JOBS, "--help", "--version", "--print-completion"]
    assert completed("eet", "train-") == ["train-teacher", "train-base"]
    assert completed("eet", "search", "--resc") == ["--rescore", "--rescore-weight"]
    assert completed("eet", "search", "--format", "") == ["table", "paths", "none"]
    assert completed("eet", "distill", "--train.optimizer", "a") == ["adamw"]
    assert completed("eet", "distill", "--student.k") == ["--student.keep-ratios"]


def test_names_of_files_are_left_to_the_shell_and_options_that_are_not_read_are_left_out(completed):
    assert completed("eet", "search", "--out", "runs/h") == []
    assert completed("eet", "search", "--see") == [] and completed("eet", "distill", "--see") == ["--seed"]


def test_another_shell_is_refused(capsys):
    assert main(["--print-completion", "fish"]) == main(["--print-completion"]) == 2
    assert capsys.readouterr().err.count("use one of bash, zsh") == 2
    assert main(["--print-completion", "zsh"]) == 0 and "bashcompinit" in capsys.readouterr().out

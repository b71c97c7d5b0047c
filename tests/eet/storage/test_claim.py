"""A folder has one holder: a second job is refused while the first lives, and goes on where it is gone."""

import json
import os
import subprocess
import sys
import threading

import pytest

from eet.errors import InputError
from eet.storage import OWNER_FILE, TakenOverError, claimed, exists, join_location, read_text, write_text

HOLDS = """
import sys
from eet.storage import claimed
with claimed(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["local", "memory"])
def folder(request, tmp_path) -> str:
    return str(tmp_path / "gallery") if request.param == "local" else f"memory://test-claim{tmp_path}"


@pytest.fixture
def other(tmp_path):
    """A process that holds the folder tmp_path/gallery until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(tmp_path / "gallery")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_claim_leaves_nothing(folder):
    with claimed(folder) as claim:
        claim.check()
        assert exists(join_location(folder, OWNER_FILE))
    assert not exists(join_location(folder, OWNER_FILE))
    with pytest.raises(TakenOverError, match="nobody"):
        claim.check()


def test_a_claim_is_checked_from_any_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with claimed("gallery") as claim:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")  # as in a Ray worker
        claim.check()
    assert not (tmp_path / "gallery").exists()


def test_a_second_claim_in_this_process_is_refused(folder):
    with (
        claimed(folder, renewed_every_s=0.1),
        pytest.raises(InputError, match=rf"another job .process {os.getpid()} on .*, since 20.*--take-over"),
    ):
        # In memory the holder cannot be told from one on another machine: it is watched, and the renewal is its sign of life.
        with claimed(folder, watched_s=60):
            pass


def test_a_living_process_is_refused_without_waiting(tmp_path, other):
    with pytest.raises(InputError, match=f"process {other.pid} on"), claimed(str(tmp_path / "gallery"), watched_s=1e6):
        pass


def test_a_killed_holder_is_replaced_at_once(tmp_path, other):
    other.kill()
    other.wait()
    lines: list[str] = []
    with claimed(str(tmp_path / "gallery"), notify=lines.append, watched_s=1e6) as claim:
        claim.check()
    (line,) = lines
    assert f"process {other.pid} on" in line and "has ended: this job continues" in line


def test_a_holder_that_is_taken_over_notices_it(folder):
    with claimed(folder) as first:
        lines: list[str] = []
        with claimed(folder, take_over=True, notify=lines.append) as second:
            with pytest.raises(TakenOverError, match="another job"):
                first.check()
            second.check()
    assert len(lines) == 1 and lines[0].startswith("taking over")


def test_a_taken_over_holder_does_not_remove_the_claim_of_the_next(folder):
    ends, ended = threading.Event(), threading.Event()

    def first() -> None:
        with claimed(folder):
            ended.set()
            ends.wait()

    thread = threading.Thread(target=first)
    thread.start()
    ended.wait()
    with claimed(folder, take_over=True) as second:
        ends.set()
        thread.join()
        second.check()


def record(folder: str, **changed) -> None:
    values = {"token": "a", "host": "elsewhere", "machine": "elsewhere 1", "pid": 7, "since": "2026-01-01 00:00:00", "signs": 0}
    write_text(join_location(folder, OWNER_FILE), json.dumps({**values, **changed}))


def test_a_silent_holder_on_another_machine_is_gone(folder):
    record(folder)
    lines: list[str] = []
    with claimed(folder, notify=lines.append, watched_s=0.2) as claim:
        claim.check()
        assert json.loads(read_text(join_location(folder, OWNER_FILE)))["pid"] == os.getpid()
    assert "waiting" in lines[0] and "has ended" in lines[1]


def test_a_holder_on_another_machine_that_gives_a_sign_of_life_is_refused(folder):
    record(folder)

    def on_line(line: str) -> None:
        assert "waiting" in line
        threading.Timer(0.5, lambda: record(folder, signs=1)).start()

    with pytest.raises(InputError, match="process 7 on elsewhere"), claimed(folder, notify=on_line, watched_s=60):
        pass


def test_a_damaged_record_is_of_a_job_that_was_killed_while_it_began(folder):
    write_text(join_location(folder, OWNER_FILE), "")
    with claimed(folder) as claim:
        claim.check()

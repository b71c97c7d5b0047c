"""Encoding that is killed, in part or whole, ends with every row once."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from eet.gallery import open_gallery, planned_parts
from pipelines import cli, encode

pytestmark = pytest.mark.timeout(300)

PARTS = 24


def config_of(model: Path, photos: Path, out: Path, **changes) -> encode.EncodeConfig:
    options = {"rows_per_part": 8, "batch_size": 8, "threads": 1}
    return encode.EncodeConfig(model=str(model), images=str(photos), out=str(out), **{**options, **changes})


@pytest.fixture(scope="module")
def expected(tiny_model, photos, tmp_path_factory) -> pa.Table:
    """The gallery of a job that nothing happened to."""
    out = tmp_path_factory.mktemp("galleries") / "whole"
    encode.run(config_of(tiny_model, photos, out, engine="local"))
    return open_gallery(str(out)).table()


def finished(out: Path) -> list[Path]:
    return sorted(out.glob("part-*.parquet"))


@pytest.fixture
def when() -> Iterator[Callable[[Callable[[], bool], Callable[[], None]], None]]:
    """Runs an action in a thread as soon as a condition holds."""
    threads, stopped = [], threading.Event()

    def start(condition: Callable[[], bool], action: Callable[[], None]) -> None:
        def wait() -> None:
            while not stopped.is_set() and not condition():
                time.sleep(0.005)
            if not stopped.is_set():
                action()

        threads.append(threading.Thread(target=wait, daemon=True))
        threads[-1].start()

    yield start
    stopped.set()
    for thread in threads:
        thread.join()


def test_the_driver_is_killed_and_the_same_command_finishes(ray_session, tiny_model, photos, expected, tmp_path, capsys):
    """SIGKILL to a job on a Ray of its own; then the same command to the end, on this session."""
    out = tmp_path / "gallery"
    command = ["encode", "--model", str(tiny_model), "--images", str(photos), "--out", str(out)]
    command += ["--rows-per-part", "8", "--batch_size", "8", "--threads", "1", "--workers", "1"]
    driver = subprocess.Popen(
        [sys.executable, "-m", "pipelines", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        while len(finished(out)) < 3 and driver.poll() is None:
            time.sleep(0.002)
    finally:
        driver.kill()
        driver.wait()
    assert 3 <= len(finished(out)) < PARTS, "the kill came too late to show anything"
    with pytest.raises(ValueError, match="not a finished gallery"):
        open_gallery(str(out))
    kept = {path.name: path.stat().st_mtime_ns for path in finished(out)}
    assert cli.main(command) == 0
    assert f"of {PARTS} parts are there already" in capsys.readouterr().out
    assert open_gallery(str(out)).table().equals(expected)
    # One part per worker may be done again, by what outlived the driver for a moment; no other.
    assert len([name for name, written in kept.items() if (out / name).stat().st_mtime_ns != written]) <= 1


def workers_of_this_session() -> list:
    import psutil

    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if "_PartActor" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:  # ended meanwhile
            continue
    return found


def test_a_killed_actor_is_replaced_and_its_part_done_again(ray_session, tiny_model, photos, expected, tmp_path, when):
    out = tmp_path / "gallery"
    killed: list[int] = []

    def kill() -> None:
        for worker in workers_of_this_session()[:1]:
            os.kill(worker.pid, signal.SIGKILL)
            killed.append(worker.pid)

    when(lambda: len(finished(out)) >= 3 and bool(workers_of_this_session()), kill)
    encode.run(config_of(tiny_model, photos, out, workers=2))
    assert len(killed) == 1
    assert open_gallery(str(out)).table().equals(expected)


def test_a_part_that_is_there_is_not_encoded_again(ray_session, tiny_model, photos, expected, tmp_path, monkeypatch):
    """More parts than blocks: a block whose worker was lost comes again as a whole, and its finished parts are only counted."""
    from pipelines import encode_parts

    out = tmp_path / "gallery"
    monkeypatch.setattr(encode_parts, "MOST_BLOCKS", 3)
    encode.run(config_of(tiny_model, photos, out, workers=1))
    assert open_gallery(str(out)).table().equals(expected)
    written = {path.name: path.stat().st_mtime_ns for path in finished(out)}
    (out / "manifest.json").unlink()
    monkeypatch.setattr(encode, "finished_parts", lambda _: [])  # as a block that comes again does not ask
    (out / "plan.parquet").touch()
    student = encode.load_model(str(tiny_model))
    options = encode.encoder_options(config_of(tiny_model, photos, out))
    parts = planned_parts(str(out))
    done = list(encode_parts.encode_on_ray(student, options, str(out), parts, address="local", workers=1))
    assert sorted(part.part for part in done) == list(range(PARTS)) and not any(part.encoded for part in done)
    assert sum(part.rows for part in done) == len(expected)
    assert {path.name: path.stat().st_mtime_ns for path in finished(out)} == written

"""Encoding that is killed, in part or whole, ends with every row once."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pytest
from gate import Gate, wait_until

from eet.gallery import SCHEMA_VERSION, load_model, open_gallery, planned_parts
from eet.gallery.parts import PartFiles
from pipelines import cli, encode
from pipelines.actors import encoding
from pipelines.job.worker_need import WorkerNeed

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]

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
    return sorted(out.glob("parts/part-*.parquet"))


GATED_JOB = """
import sys
from pathlib import Path

from gate import Gate
from pipelines.actors import encoding
from pipelines.cli import main

folder, gallery, *command = sys.argv[1:]
encoding.PartActor = Gate(Path(folder)).closed(encoding.PartActor, lambda: len(list(Path(gallery).glob("parts/part-*.parquet"))) == 3)
main(command)
"""
"""`eet encode` that waits at a gate when three parts are written."""


def test_the_driver_is_killed_and_the_same_command_finishes(ray_session, tiny_model, photos, expected, tmp_path, capsys):
    """SIGKILL to a job on a Ray of its own; then the same command to the end, on this session."""
    out, gate = tmp_path / "gallery", Gate(tmp_path / "gate")
    command = ["encode", "--model", str(tiny_model), "--images", str(photos), "--out", str(out)]
    command += ["--rows-per-part", "8", "--batch_size", "8", "--threads", "1", "--workers", "1"]
    driver = subprocess.Popen(
        [sys.executable, "-c", GATED_JOB, str(gate.folder), str(out), *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until(lambda: bool(gate.arrivals()) or driver.poll() is not None)
    finally:
        driver.kill()
        driver.wait()
    assert len(finished(out)) == 3
    with pytest.raises(ValueError, match="not a finished gallery"):
        open_gallery(str(out))
    kept = {path: path.stat().st_mtime_ns for path in finished(out)}
    assert cli.main(command) == 0
    assert f"3 of {PARTS} parts are there already" in capsys.readouterr().out
    assert open_gallery(str(out)).table().equals(expected)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_killed_actor_is_replaced_and_its_part_done_again(ray_session, tiny_model, photos, expected, tmp_path, monkeypatch):
    out, gate = tmp_path / "gallery", Gate(tmp_path / "gate")
    monkeypatch.setattr(encoding, "PartActor", gate.closed(encoding.PartActor, lambda: len(finished(out)) >= 3))
    killed: list[int] = []

    def kill() -> None:
        wait_until(lambda: bool(gate.arrivals()))
        killed.append(gate.arrivals()[0].pid)
        os.kill(killed[0], signal.SIGKILL)
        gate.open()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    encode.run(config_of(tiny_model, photos, out, workers=2))
    killer.join()
    assert len(killed) == 1
    assert open_gallery(str(out)).table().equals(expected)


def test_a_part_that_is_there_is_not_encoded_again(ray_session, tiny_model, photos, expected, tmp_path, monkeypatch):
    """More parts than blocks: a block whose worker was lost comes again as a whole, and its finished parts are only counted."""
    out = tmp_path / "gallery"
    monkeypatch.setattr(encoding, "MOST_BLOCKS", 3)
    encode.run(config_of(tiny_model, photos, out, workers=1))
    assert open_gallery(str(out)).table().equals(expected)
    written = {path.name: path.stat().st_mtime_ns for path in finished(out)}
    files = PartFiles(str(out), SCHEMA_VERSION, open_gallery(str(out)).manifest.plans)
    (out / "manifest.json").unlink()
    (out / "plan.parquet").touch()
    student = load_model(str(tiny_model))
    options = encode.encoder_options(config_of(tiny_model, photos, out))
    parts = planned_parts(str(out))
    done = list(encoding.encode_on_ray(student, options, files, parts, lambda event: None, address="local", workers=1, need=WorkerNeed()))
    assert sorted(part.part for part in done) == list(range(PARTS)) and not any(part.encoded for part in done)
    assert sum(part.rows for part in done) == len(expected)
    assert {path.name: path.stat().st_mtime_ns for path in finished(out)} == written

"""Jobs that are stopped by signals: one line, the exit code, nothing left behind, and they go on where they were."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
import yaml
from gate import wait_until
from local_training import trained_here

from eet.storage import hidden_beside, is_hidden_name
from pipelines import distill, encode
from pipelines.job.options import DataOptions, TrainOptions
from pipelines.job.output import config_values

pytestmark = pytest.mark.slow


def stopped(arguments: list[str], number: signal.Signals, moment: Callable[[int], bool], tmp_path: Path) -> tuple[int, list[str]]:
    """Runs a job in another process, sends it a signal at a moment of its process id; the exit code and the lines of its stderr."""
    (tmp_path / "tmp").mkdir()
    folders = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path / "tmp"), "RAY_TMPDIR": "/tmp"}  # short: Ray's sockets lie in it
    environment = os.environ | folders
    command = [sys.executable, "-m", "pipelines", *arguments]
    with (tmp_path / "stdout").open("wb") as printed:
        process = subprocess.Popen(command, env=environment, stdout=printed, stderr=subprocess.PIPE, text=True, start_new_session=True)
    wait_until(lambda: moment(process.pid) or process.poll() is not None)
    # Ctrl-C reaches every process of a terminal, SIGTERM one.
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors.splitlines()


def left_in(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if is_hidden_name(path.name) or path.name == "owner.json"]


def test_while_it_is_imported(tmp_path):
    def imports_torch(pid: int) -> bool:
        return "libtorch" in Path(f"/proc/{pid}/maps").read_text()

    distill_nothing = ["distill", "--out", str(tmp_path / "out"), "--data.root", str(tmp_path)]
    assert stopped(distill_nothing, signal.SIGTERM, imports_torch, tmp_path) == (143, ["eet: stopped by SIGTERM"])


def test_encode_goes_on_with_the_same_command(tmp_path, tiny_model, photos, capsys):
    out = tmp_path / "gallery"
    config = encode.EncodeConfig(model=str(tiny_model), images=str(photos), out=str(out), rows_per_part=16, engine="local")
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(config_values(config)))
    code, errors = stopped(
        ["encode", "--config", str(tmp_path / "job.yaml")], signal.SIGINT, lambda _: any(out.rglob("part-*.parquet")), tmp_path
    )
    assert (code, errors) == (130, ["eet encode: stopped by SIGINT; continue with the same command"])
    assert left_in(tmp_path) == []
    encode.run(config)
    assert "parts are there already" in capsys.readouterr().out


def test_distill_continues_its_run_with_resume(tmp_path, ray_session, tiny_birds, tiny_options):
    config = distill.DistillConfig(
        out=str(tmp_path / "out"),
        weights="none",
        data=DataOptions(name="synthetic", root=str(tiny_birds)),
        student=tiny_options,
        train=TrainOptions(recipe="published", epochs=4, batch_size=16, cpus_per_worker=1, validation_share=0),
    )
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(config_values(config)))
    code, errors = stopped(
        ["distill", "--config", str(tmp_path / "job.yaml")],
        signal.SIGTERM,
        lambda _: "epoch 1/4" in (tmp_path / "stdout").read_text(),
        tmp_path,
    )
    assert (code, errors) == (143, ["eet distill: stopped by SIGTERM; continue with --resume"])
    assert left_in(tmp_path) == [] and list((tmp_path / "tmp").rglob("training.pt")) == []
    assert statuses(tmp_path) == ["KILLED"]
    assert stat.S_IMODE((tmp_path / ".ray" / "auth_token").stat().st_mode) == 0o600

    killed = Path(hidden_beside(str(tmp_path / "out" / "checkpoints" / "new")))  # what a process leaves that is killed while it writes
    killed.mkdir()
    (killed / "training.pt").touch()
    config.resume = True
    with trained_here():
        assert len(distill.run(config).history) == 4
    assert left_in(tmp_path) == []
    assert statuses(tmp_path) == ["FINISHED"]


def statuses(folder: Path) -> list[str]:
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    found = client.search_runs([client.get_experiment_by_name("eet").experiment_id])
    return [run.info.status for run in found]

"""What a bug report should contain, and checks that fail where something is broken."""

import tempfile

import pytest
import ray

from pipelines import doctor
from pipelines.cli import main

pytestmark = pytest.mark.slow  # compiles the Hamming search where no cache has it


@pytest.mark.timeout(300)
def test_a_working_machine_passes_every_check_and_nothing_is_left(ray_session, tmp_path, capsys):
    tracking = f"sqlite:///{tmp_path}/mlflow.db"
    found = doctor.run(doctor.DoctorConfig(location=str(tmp_path / "place"), tracking_uri=tracking))
    by_name = {check.name: check for check in found}
    assert {check.status for check in found} == {"info", "ok"}
    assert {"packages", "compiled code", "network", "location", "tracking", "ray"} <= by_name.keys()
    assert "torch " in by_name["packages"].detail and "4 CPUs" in by_name["ray"].detail
    assert list((tmp_path / "place").iterdir()) == []
    printed = capsys.readouterr().out
    assert all(check.detail in printed for check in found)


@pytest.mark.timeout(300)
def test_each_failure_is_a_line_with_its_reason_and_the_exit_code_is_1(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(doctor, "MIN_FREE_GB", 1e9)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # in this process it may be
    flags = ["--location", str(tmp_path / "file"), "--tracking-uri", f"sqlite:///{tmp_path}/file/mlflow.db", "--address", "127.0.0.1:1"]
    assert main(["doctor", *flags]) == 1
    captured = capsys.readouterr()
    failed = {line[7:24].strip() for line in captured.out.splitlines() if line.startswith("FAILED")}
    assert failed == {"temporary folder", "shared memory", "location", "tracking", "ray"}
    assert "less than 1e+09" in captured.out and "Traceback" not in captured.err
    assert "failed: temporary folder, shared memory, location, tracking, ray" in captured.err

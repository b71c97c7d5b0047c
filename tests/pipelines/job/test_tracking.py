"""MLflow that cannot be used, and that is lost while a job works."""

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import pytest

from eet.errors import InputError
from pipelines.job import tracking


def damaged(folder: Path) -> str:
    (folder / "mlflow.db").write_bytes(b"SQLite format 3\0" + b"?" * 5000)
    return f"sqlite:///{folder / 'mlflow.db'}"


def in_a_file(folder: Path) -> str:
    (folder / "file").touch()
    return f"sqlite:///{folder / 'file' / 'mlflow.db'}"


def a_folder(folder: Path) -> str:
    return f"sqlite:///{folder}"


def where_nothing_can_be_made(folder: Path) -> str:
    """Root may write there by its permissions, and no one can."""
    return "sqlite:////proc/mlflow.db"


@pytest.mark.parametrize("made", [damaged, in_a_file, a_folder, where_nothing_can_be_made])
def test_a_database_that_cannot_be_written_is_one_message(tmp_path, made):
    uri = made(tmp_path)
    with pytest.raises(InputError, match="MLflow cannot use sqlite:") as raised, tracking.tracked("a", uri, str(tmp_path / "out"), {}):
        pass
    assert len(str(raised.value).splitlines()) == 1


@pytest.fixture
def server():
    """A socket that is bound, and listens when a test makes it."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_a_server_that_is_not_there_is_one_message(tmp_path, server, scheme):
    with pytest.raises(InputError, match="MLflow cannot use .*refused") as raised:
        tracking.check_tracking(f"{scheme}://127.0.0.1:{server.getsockname()[1]}", str(tmp_path))
    assert len(str(raised.value).splitlines()) == 1


def test_a_uri_with_credentials_is_refused_before_it_is_tried(tmp_path):
    with pytest.raises(InputError, match="--tracking-uri cannot be used: .*MLFLOW_TRACKING_PASSWORD") as raised:
        tracking.check_tracking("http://user:secret@127.0.0.1:5000", str(tmp_path))
    assert "secret@" not in str(raised.value)


def test_a_server_that_says_nothing_is_one_message(tmp_path, server, monkeypatch):
    monkeypatch.setattr(tracking, "ANSWER_S", 0.2)
    server.listen()
    with pytest.raises(InputError, match="MLflow cannot use .*timed out"):
        tracking.check_tracking(f"http://127.0.0.1:{server.getsockname()[1]}", str(tmp_path))


def test_a_server_that_answers_anything_is_there(tmp_path, server):
    server.listen()

    def refuse():
        connection, _ = server.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"HTTP/1.0 401 Unauthorized\r\n\r\n")

    with ThreadPoolExecutor(1) as pool:
        pool.submit(refuse)
        tracking.check_tracking(f"http://127.0.0.1:{server.getsockname()[1]}", str(tmp_path))


def test_what_is_checked_leaves_nothing(tmp_path):
    tracking.check_tracking(None, str(tmp_path / "new" / "out"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_server_that_is_lost_is_one_warning(tmp_path, monkeypatch, capsys):
    calls = []

    def lost(self, *arguments, **options):
        calls.append(arguments)
        raise OSError("connection refused")

    with tracking.tracked("a", None, str(tmp_path / "out"), {"option": 1}) as run:
        monkeypatch.setattr(mlflow.MlflowClient, "log_metric", lost)
        run.log_metrics({"mAP": 0.5, "P@1": 0.5}, 0)
        run.log_metrics({"mAP": 0.6}, 1)
    (line,) = capsys.readouterr().err.splitlines()
    assert len(calls) == 1 and line.startswith("warning: MLflow at sqlite:") and "connection refused" in line

"""The job `eet serve`: what it refuses before it listens."""

import os
import socket

import pytest

import eet
from eet.errors import InputError
from pipelines.cli import main
from pipelines.configs.serve import is_loopback
from pipelines.serve import ServeConfig, run
from pipelines.serving.access import read_token


@pytest.fixture(scope="module")
def gallery(tiny_model, photos, tmp_path_factory) -> str:
    out = str(tmp_path_factory.mktemp("served") / "gallery")
    eet.encode(tiny_model, [str(photos / f"0-{row:02d}.png") for row in range(4)], out=out)
    return out


def test_a_dry_run_checks_and_loads_nothing(gallery, tiny_model, capsys):
    assert main(["serve", "--model", str(tiny_model), "--gallery", gallery, "--port", "0", "--dry-run"]) == 0
    assert "4 items" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, problem",
    [
        ({"host": "0.0.0.0"}, "--token-file"),
        ({"host": "gallery.example"}, "--token-file"),
        ({"rerank": -1}, "--rerank"),
        ({"port": 70_000}, "--port"),
        ({"waiting": 0}, "--waiting"),
        ({"max_pixels": 0}, "--max_pixels"),
        ({"feedback": "s3://bucket/x"}, "--feedback"),
    ],
)
def test_impossible_options_are_refused(options, problem):
    assert problem in " ".join(ServeConfig(model="m", gallery="g", **options).problems())


def test_addresses_of_this_machine_need_no_token():
    assert [is_loopback(host) for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "localhost.example", "")] == [False] * 5


def test_a_token_file_is_for_its_owner_alone(tmp_path):
    file = tmp_path / "token"
    for text, mode, problem in (
        ("a-token-of-many-letters\n", 0o640, "chmod 600"),
        ("short\n", 0o600, "16 or more"),
        ("two words of many letters", 0o600, "16 or more"),
        ("\u00e4" * 20, 0o600, "16 or more"),
    ):
        file.write_text(text)
        file.chmod(mode)
        with pytest.raises(InputError, match=problem):
            read_token(str(file))
    with pytest.raises(InputError, match="cannot be read"):
        read_token(str(tmp_path / "nothing"))
    file.write_text("a-token-of-many-letters\n")
    file.chmod(0o600)
    assert read_token(str(file)) == "a-token-of-many-letters"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can own a file of root")
def test_a_token_that_kubernetes_mounts_is_read(tmp_path, monkeypatch):
    """A file of root that the group of the pod may read."""
    file = tmp_path / "token"
    file.write_text("a-token-of-many-letters\n")
    file.chmod(0o440)
    with pytest.raises(InputError, match="chmod 600"):
        read_token(str(file))  # root reads its own files: the group needs no right
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert read_token(str(file)) == "a-token-of-many-letters"
    for mode in (0o444, 0o460):
        file.chmod(mode)
        with pytest.raises(InputError, match=f"mode {mode:04o}"):
            read_token(str(file))


def test_a_taken_port_and_another_model_are_refused(gallery, tiny_model, tiny_base):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="choose another --port"):
            run(ServeConfig(model=str(tiny_model), gallery=gallery, port=taken.getsockname()[1]))
    with pytest.raises(InputError, match="encode both with one model"):
        run(ServeConfig(model=str(tiny_base), gallery=gallery, port=0))
    with pytest.raises(InputError, match="is no index"):
        run(ServeConfig(model=str(tiny_model), gallery=gallery, port=0, index=os.path.dirname(gallery)))

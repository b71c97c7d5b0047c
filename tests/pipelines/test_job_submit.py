"""`ray job submit` to a head of its own on loopback, as the README says it: token authentication, the checkout as working directory."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

from eet.gallery import open_gallery
from pipelines import encode
from pipelines.job.options import DataOptions

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

CHECKOUT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).parent / "ray")


class Head(NamedTuple):
    address: str
    port: str
    environment: dict[str, str]


def free_ports(number: int) -> list[str]:
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [str(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """A head in a process group of its own, ended by its id."""
    folder = Path(tempfile.mkdtemp(prefix="r"))  # a short path: Ray's sockets lie below it
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "PYTHONPATH")}
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
    port, dashboard, agent = free_ports(3)
    command = [RAY, "start", "--head", "--block", "--num-cpus=2", "--object-store-memory=200000000", "--disable-usage-stats"]
    command += [f"--port={port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    command += ["--include-dashboard=true", f"--temp-dir={folder / 'ray'}"]
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{dashboard}"
    try:
        while not answers(address):
            assert process.poll() is None, (folder / "head.log").read_text()
            time.sleep(0.2)
        yield Head(address, port, environment)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def answers(address: str) -> bool:
    try:
        urllib.request.urlopen(f"{address}/api/version", timeout=5).close()
    except urllib.error.HTTPError:
        return True  # it asks for the token
    except OSError:
        return False
    return True


def submit(head: Head, *job: str) -> subprocess.CompletedProcess[str]:
    """`ray job submit --working-dir .` from the checkout; again while the head has no agent for jobs yet, or closes the connection.

    A busy head may take a job and close the connection before it answers; then the job is followed by its name.
    """
    name = f"test-{secrets.token_hex(4)}"
    address = ["--address", head.address]
    command = [RAY, "job", "submit", *address, "--submission-id", name, "--working-dir", ".", "--", sys.executable, "-m", "pipelines", *job]
    while True:
        done = said_by(head, command)
        if "already exists" in done.stderr:
            logs = said_by(head, [RAY, "job", "logs", *address, "--follow", name])
            failed = "succeeded" not in said_by(head, [RAY, "job", "status", *address, name]).stdout
            return subprocess.CompletedProcess(command, int(failed), logs.stdout, logs.stderr)
        if "No available agent to submit job" not in done.stderr and "Connection aborted" not in done.stderr:
            return done


def said_by(head: Head, command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=CHECKOUT, env=head.environment, capture_output=True, text=True, timeout=200)


def test_who_has_no_token_is_refused(head, tmp_path):
    """A job, and a program that joins the cluster, with another token or none."""
    wrong = tmp_path / "token"
    wrong.touch(mode=0o600)
    wrong.write_text(secrets.token_hex(32))
    without = {name: value for name, value in head.environment.items() if not name.startswith("RAY_AUTH")}
    join = f"import ray; ray.init(address='127.0.0.1:{head.port}', logging_level='ERROR'); print(ray.nodes())"
    for environment in ({**head.environment, "RAY_AUTH_TOKEN_PATH": str(wrong)}, {**without, "RAY_AUTH_MODE": "disabled"}):
        command = [RAY, "job", "submit", "--address", head.address, "--", "touch", str(tmp_path / "ran")]
        done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=100)
        assert done.returncode and ("401" in done.stderr or "403" in done.stderr or "uthenticat" in done.stdout + done.stderr), done.stderr
        done = subprocess.run([sys.executable, "-c", join], env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode and "NodeID" not in done.stdout, done.stdout + done.stderr
    assert not (tmp_path / "ran").exists()


def test_jobs_are_submitted_from_the_checkout(head, tiny_model, tiny_birds, tmp_path):
    """One that ends well and one that cannot: the gallery is that of an ordinary run, the failure has its message and exit code."""
    good = ["encode", "--model", str(tiny_model), "--data.name", "synthetic", "--data.root", str(tiny_birds), "--split", "test"]
    good += ["--out", str(tmp_path / "gallery"), "--rows-per-part", "8", "--batch_size", "8", "--threads", "1"]
    bad = ["encode", "--model", str(tiny_model), "--images", str(tmp_path / "none"), "--out", str(tmp_path / "other")]
    with ThreadPoolExecutor(2) as pool:
        done, failed = pool.map(lambda job: submit(head, *job), (good, bad))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "16 codes of 16 bits" in done.stdout
    here = encode.EncodeConfig(
        model=str(tiny_model), out=str(tmp_path / "here"), split="test", engine="local", rows_per_part=8, batch_size=8, threads=1,
        data=DataOptions(name="synthetic", root=str(tiny_birds)),
    )  # fmt: skip
    encode.run(here)
    assert open_gallery(str(tmp_path / "gallery")).table().equals(open_gallery(str(tmp_path / "here")).table())
    assert failed.returncode == 1
    assert str(tmp_path / "none") in failed.stdout + failed.stderr and "Traceback" not in failed.stdout

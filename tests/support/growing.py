"""A Ray cluster that grows, on this machine: a head without CPUs and Ray's autoscaler with its fake provider, whose nodes are raylets."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

RAY = str(Path(sys.executable).parent / "ray")
START_S = 90


class Growing(NamedTuple):
    """Where a cluster is, and the environment of a process that joins it."""

    address: str
    environment: dict[str, str]


@contextmanager
def growing_cluster(*, nodes: int, resources: dict[str, float]) -> Iterator[Growing]:
    """A cluster of no worker node yet, which may become `nodes` of such `resources`. Ends every process of it."""
    folder = Path(tempfile.mkdtemp(prefix="grow-", dir="/tmp"))  # short: Ray's sockets lie in it
    address = f"127.0.0.1:{_free_port()}"
    config = folder / "autoscaling.yaml"
    config.write_text(json.dumps(_autoscaling(address, nodes, resources)))
    joins = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    environment = {**joins, "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1", "RAY_raylet_start_wait_time_s": "120"}
    host, port = address.split(":")
    command = [
        RAY, "start", "--head", "--block", f"--node-ip-address={host}", f"--port={port}", "--num-cpus=0", "--num-gpus=0",
        f"--autoscaling-config={config}", f"--temp-dir={folder}", "--include-dashboard=false", "--disable-usage-stats",
        f"--object-store-memory={100 * 2**20}",
    ]  # fmt: skip
    with (folder / "head.log").open("w") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_for(host, int(port), head)
        yield Growing(address, joins)
    finally:
        _end(head)
        shutil.rmtree(folder, ignore_errors=True)


def _autoscaling(address: str, nodes: int, resources: dict[str, float]) -> dict[str, Any]:
    """What `ray up` would hand to the head: all keys, since nothing fills in defaults here."""
    return {
        "cluster_name": "growing",
        "max_workers": nodes,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 10,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": address,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "worker": {
                "resources": {**resources, "object_store_memory": 100 * 2**20},
                "node_config": {},
                "min_workers": 0,
                "max_workers": nodes,
            },
        },
        **{key: {} for key in ("auth", "docker", "file_mounts")},
        **{key: [] for key in ("initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands")},
        **{key: [] for key in ("head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files")},
        **{key: [] for key in ("rsync_exclude", "rsync_filter")},
        "file_mounts_sync_continuously": False,
    }


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _wait_for(host: str, port: int, head: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        if head.poll() is not None:
            raise RuntimeError(f"the head ended with code {head.returncode}")
        with socket.socket() as one:
            if one.connect_ex((host, port)) == 0:
                return
        time.sleep(0.2)
    raise TimeoutError("the head did not start")


def _end(head: subprocess.Popen[bytes]) -> None:
    """The head's processes, and those of the nodes that it started: all are of its session."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(ProcessLookupError):
            if os.getsid(int(process.name)) == head.pid:
                os.kill(int(process.name), signal.SIGKILL)
    head.wait(timeout=30)

"""cluster.yaml: Ray's own check, and a lint of what Ray lets pass though it costs money or breaks on the first `ray up`."""

import copy
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.utils import canonicalize_name
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[1]
PINNED = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(\[[a-z,]+\])?==(?P<version>[A-Za-z0-9.+!]+)$")
TOKEN = "~/.ray/auth_token"
NIGHTLY = re.compile(r"nightly|\.dev\d|ray-wheels|--pre\b")


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster.yaml").read_text())


def constraint_versions() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def prepared(cluster: dict[str, Any]) -> dict[str, Any]:
    return prepare_config(copy.deepcopy(cluster))


def commands(cluster: dict[str, Any]) -> Iterator[str]:
    """Every shell command that some node would run, Ray's defaults for those left out included."""
    with_defaults = prepared(cluster)
    for level in (with_defaults, *with_defaults["available_node_types"].values()):
        for key, value in level.items():
            if key.endswith("_commands"):
                yield from value


def lint(cluster: dict[str, Any]) -> list[str]:
    """What Ray accepts and we do not, one line each."""
    faults = []
    groups = dict(cluster["available_node_types"])
    head = groups.pop(cluster.get("head_node_type"), None)
    if head is None:
        return ["head_node_type: missing, or no node type"]
    if head.get("resources", {}).get("CPU") != 0 or head["resources"].get("GPU"):
        faults.append("head: takes work")
    starts = [command for command in cluster.get("head_start_ray_commands", []) if "ray start --head" in command]
    if len(starts) != 1 or "--autoscaling-config=~/ray_bootstrap_config.yaml" not in starts[0]:
        faults.append("head_start_ray_commands: no --autoscaling-config, so the cluster never grows")

    gpu_groups = {name: group for name, group in groups.items() if group["resources"].get("GPU")}
    if gpu_groups and len(gpu_groups) < len(groups):
        faults.append("groups: nodes without a GPU get no work if there are nodes with one")
    if not gpu_groups:
        faults.append("groups: none has a GPU")
    for name, group in gpu_groups.items():
        if group["node_config"].get("InstanceMarketOptions", {}).get("MarketType") != "spot":
            faults.append(f"{name}: not spot")
    for name, group in {"head": head, **groups}.items():
        if "ImageId" not in group["node_config"]:
            faults.append(f"{name}: no ImageId; Ray's default is an Ubuntu 18.04 with a Python too old")

    if not cluster.get("idle_timeout_minutes"):
        faults.append("idle_timeout_minutes: not set")
    sizes = [group.get("max_workers") for group in groups.values()]
    if None in sizes or cluster.get("max_workers") != sum(sizes):
        faults.append("max_workers: not the sum of the groups'")

    if cluster["file_mounts"].get(TOKEN) != TOKEN or f"chmod 600 {TOKEN}" not in cluster.get("setup_commands", ()):
        faults.append(f"file_mounts: every node needs your token, {TOKEN}, and nobody else may read it")
    started = [*cluster.get("head_start_ray_commands", ()), *cluster.get("worker_start_ray_commands", ())]
    if any("ray start" in command and "RAY_AUTH_MODE=token" not in command for command in started):
        faults.append("start commands: no token is asked for, so whoever reaches the cluster can run code")
    if any("ray start" in command and "--head" in command and "--dashboard-host=127.0.0.1" not in command for command in started):
        faults.append("head_start_ray_commands: the dashboard listens to other machines")

    for remote, local in cluster["file_mounts"].items():
        if remote == TOKEN:  # the only one from outside of the checkout
            continue
        if not (ROOT / local).exists() or (ROOT / local).resolve() == ROOT or not remote.startswith("~/eet/"):
            faults.append(f"file_mounts: {local} to {remote}")
    return faults + list(lint_commands(cluster))


def lint_commands(cluster: dict[str, Any]) -> Iterator[str]:
    versions = constraint_versions()
    if not cluster.get("setup_commands"):
        yield "setup_commands: none, and Ray's default is a nightly"
    ray_is_pinned = False
    for command in commands(cluster):
        if NIGHTLY.search(command):
            yield f"nightly: {command}"
        for part in re.split(r"&&|\|\||;", command):
            words = shlex.split(part.strip("() "), comments=True)
            if words[1:2] != ["install"] or not words[0].endswith("pip"):
                continue
            if "-c" not in words or words[words.index("-c") + 1] != "~/eet/constraints.txt":
                yield f"no constraints: {command}"
            values_of_options = {words[i + 1] for i, word in enumerate(words[:-1]) if word in ("-c", "-e")}
            for word in words[2:]:
                if word.startswith("-") or word in values_of_options:
                    continue
                pin = PINNED.match(word)
                if pin is None:
                    yield f"no exact version of {word}: {command}"
                elif versions.get(canonicalize_name(pin["name"]), pin["version"]) != pin["version"]:
                    yield f"another version than constraints.txt: {word}"
                ray_is_pinned |= pin is not None and pin["name"] == "ray" and command in cluster["setup_commands"]
    if not ray_is_pinned:
        yield "setup_commands: ray not pinned on every node"


def test_ray_accepts_it(cluster):
    validate_config(prepared(cluster))


def test_nothing_to_lint(cluster):
    assert lint(cluster) == []


def test_every_constraint_is_one_exact_version():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(lines) > 100
    assert [line for line in lines if not PINNED.match(line)] == []
    assert len(constraint_versions()) == len(lines)


def edit(*keys: str, to: Any) -> Callable[[dict[str, Any]], None]:
    """An edit that sets (or with to=None deletes) the value at `keys`."""

    def apply(cluster: dict[str, Any]) -> None:
        level = cluster
        for key in keys[:-1]:
            level = level[key]
        if to is None:
            del level[keys[-1]]
        else:
            level[keys[-1]] = to

    return apply


def in_commands(key: str, old: str, new: str) -> Callable[[dict[str, Any]], None]:
    def apply(cluster: dict[str, Any]) -> None:
        changed = [command.replace(old, new) for command in cluster[key]]
        assert changed != cluster[key], f"{old!r} is not in {key}: the case tests nothing"
        cluster[key] = changed

    return apply


NODE_TYPES = "available_node_types"


@pytest.mark.parametrize(
    ("break_it", "complaint"),
    [
        pytest.param(edit("head_node_type", to=None), "head_node_type", id="no-head"),
        pytest.param(edit("head_node_type", to="boss"), "head_node_type", id="undefined-head"),
        pytest.param(edit(NODE_TYPES, "head", "resources", to={}), "head: takes work", id="head-cpus-found"),
        pytest.param(edit(NODE_TYPES, "head", "resources", to={"CPU": 4}), "head: takes work", id="head-with-cpus"),
        pytest.param(edit(NODE_TYPES, "head", "resources", to={"CPU": 0, "GPU": 1}), "head: takes work", id="head-with-gpu"),
        pytest.param(in_commands("head_start_ray_commands", "--autoscaling-config", "--x"), "--autoscaling-config", id="fixed-size"),
        pytest.param(edit("head_start_ray_commands", to=None), "--autoscaling-config", id="default-start"),
        pytest.param(edit(NODE_TYPES, "gpu_encode", "node_config", "InstanceMarketOptions", to=None), "not spot", id="on-demand"),
        pytest.param(edit(NODE_TYPES, "gpu_encode", "resources", to={"CPU": 16}), "groups: none", id="no-gpu-group"),
        pytest.param(edit(NODE_TYPES, "cpu_decode", to={"resources": {"CPU": 16}, "node_config": {}}), "groups: nodes", id="idle-group"),
        pytest.param(edit(NODE_TYPES, "gpu_encode", "node_config", "ImageId", to=None), "gpu_encode: no ImageId", id="default-image"),
        pytest.param(edit("idle_timeout_minutes", to=None), "idle_timeout_minutes", id="no-idle-timeout"),
        pytest.param(edit("max_workers", to=3), "max_workers", id="groups-cannot-grow"),
        pytest.param(edit(NODE_TYPES, "gpu_encode", "max_workers", to=None), "max_workers", id="group-without-limit"),
        pytest.param(edit("file_mounts", "~/eet/eet", to="no-such-folder"), "no-such-folder", id="missing-mount"),
        pytest.param(edit("file_mounts", "~/eet/all", to="."), "file_mounts: . ", id="mounts-everything"),
        pytest.param(edit("file_mounts", TOKEN, to=None), "needs your token", id="no-token"),
        pytest.param(in_commands("setup_commands", "chmod 600", "chmod 644"), "needs your token", id="token-that-others-can-read"),
        pytest.param(in_commands("head_start_ray_commands", "RAY_AUTH_MODE=token", ""), "no token is asked for", id="open-head"),
        pytest.param(in_commands("worker_start_ray_commands", "RAY_AUTH_MODE=token", ""), "no token is asked for", id="open-worker"),
        pytest.param(in_commands("head_start_ray_commands", "127.0.0.1", "0.0.0.0"), "dashboard listens", id="open-dashboard"),
        pytest.param(edit("setup_commands", to=None), "nightly", id="default-setup"),
        pytest.param(edit("setup_commands", to=["true"]), "ray not pinned", id="ray-not-installed"),
        pytest.param(in_commands("setup_commands", "tune]==2.60.0", "tune]"), "no exact version of ray", id="ray-any-version"),
        pytest.param(in_commands("setup_commands", "==2.60.0", "==2.59.0"), "another version", id="other-ray-than-tested"),
        pytest.param(in_commands("setup_commands", "-c ~/eet/constraints.txt", ""), "no constraints", id="unconstrained"),
        pytest.param(edit("head_setup_commands", to=None), "no exact version of boto3", id="default-boto3"),
        pytest.param(
            edit(NODE_TYPES, "gpu_encode", "worker_setup_commands", to=["pip install -c ~/eet/constraints.txt --pre torch==2.15.0"]),
            "nightly",
            id="nightly-on-one-group",
        ),
    ],
)
def test_lint_finds(cluster, break_it, complaint):
    broken = copy.deepcopy(cluster)
    break_it(broken)
    new_faults = set(lint(broken)) - set(lint(cluster))
    assert any(complaint in fault for fault in new_faults), new_faults


@pytest.mark.parametrize(
    "break_it",
    [
        pytest.param(edit("max_worker", to=3), id="unknown-key"),
        pytest.param(edit(NODE_TYPES, "gpu_encode", "resources", to={"CPU": "16"}), id="text-for-number"),
        pytest.param(edit(NODE_TYPES, "gpu_encode", "min_workers", to=100), id="more-than-max"),
    ],
)
def test_ray_refuses(cluster, break_it):
    """That Ray's check is really run: a private API, which a new Ray may hollow out."""
    broken = copy.deepcopy(cluster)
    break_it(broken)
    with pytest.raises(Exception):  # noqa: B017 - jsonschema's and Ray's own, by case
        validate_config(prepared(broken))

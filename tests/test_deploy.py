"""deploy/: the image, the Kubernetes and Slurm forms. Every form asks for a token, and none opens the dashboard to strangers."""

import copy
import importlib
import os
import re
import shlex
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipelines.cli import job_parser, read_config
from pipelines.encode import EncodeConfig

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
CONTAINERFILE = (DEPLOY / "Containerfile").read_text()
SBATCH = DEPLOY / "slurm" / "eet.sbatch"
RAY = "2.60.0"


def one_document(name: str) -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "kuberay" / name).read_text())


CLUSTER, JOB, SERVICE, POLICY = (
    one_document(name) for name in ("raycluster.yaml", "rayjob_encode.yaml", "rayservice.yaml", "network-policy.yaml")
)


def pods() -> Iterator[dict[str, Any]]:
    """The pod templates of heads, workers and submitter."""
    for spec in (CLUSTER["spec"], SERVICE["spec"]["rayClusterConfig"]):
        yield spec["headGroupSpec"]["template"]
        yield from (group["template"] for group in spec["workerGroupSpecs"])
    yield JOB["spec"]["submitterPodTemplate"]


def test_every_form_asks_for_a_token():
    assert SERVICE["spec"]["rayClusterConfig"]["authOptions"] == CLUSTER["spec"]["authOptions"]
    assert CLUSTER["spec"]["authOptions"] == {"mode": "token", "secretName": "eet-ray-token"}
    assert re.search(r"^export .*\bRAY_AUTH_MODE=token\b", SBATCH.read_text(), re.MULTILINE)
    steps = [line for line in CONTAINERFILE.splitlines() if re.match("[A-Z]", line)]
    made = [place for place, line in enumerate(steps) if "RAY_AUTH_MODE=token" in line]
    assert len(made) == 1 and not any(line.startswith("RUN") for line in steps[made[0] :]), (
        "a token that is made while building is in the image"
    )


def test_no_form_opens_the_dashboard():
    head = CLUSTER["spec"]["headGroupSpec"]
    assert head["serviceType"] == "ClusterIP" and head["enableIngress"] is False and "dashboard-host" not in head["rayStartParams"]
    assert "--dashboard-host=127.0.0.1" in SBATCH.read_text()
    (rule,) = POLICY["spec"]["ingress"]
    label = POLICY["spec"]["podSelector"]["matchLabels"]
    assert {"podSelector": {"matchLabels": label}} in rule["from"] and POLICY["spec"]["policyTypes"] == ["Ingress"]
    for pod in pods():
        assert label.items() <= pod["metadata"]["labels"].items(), "the policy does not protect this pod, or does not admit it"


def test_the_job_has_the_cluster_of_the_cluster():
    assert JOB["spec"]["rayClusterSpec"] == CLUSTER["spec"]
    assert CLUSTER["spec"]["rayVersion"] == RAY and f"ray=={RAY}\n" in (ROOT / "constraints.txt").read_text()


@pytest.mark.slow
def test_the_job_has_flags_that_encode_takes():
    eet, job, *arguments = shlex.split(JOB["spec"]["entrypoint"])
    config = read_config(job_parser(job, EncodeConfig), EncodeConfig, arguments)
    assert (eet, job, config.problems()) == ("eet", "encode", [])
    assert config.address is None, "Ray names the cluster to the job"


def test_the_page_has_the_cluster_of_the_cluster_and_a_token_of_its_own():
    spec = copy.deepcopy(SERVICE["spec"]["rayClusterConfig"])
    (worker,) = (group["template"]["spec"] for group in spec["workerGroupSpecs"])
    secret, mount = worker["volumes"].pop(), worker["containers"][0]["volumeMounts"].pop()
    assert spec == CLUSTER["spec"]
    assert secret["name"] == mount["name"] and secret["secret"] == {"secretName": "eet-page-token", "defaultMode": 0o400}
    assert application_args()["token_file"] == f"{mount['mountPath']}/token"


def application_args() -> dict[str, Any]:
    (application,) = yaml.safe_load(SERVICE["spec"]["serveConfigV2"])["applications"]
    return application["args"]


def test_the_page_has_options_that_ray_serve_and_eet_serve_take():
    schema = pytest.importorskip("ray.serve.schema", reason="needs ray[serve]: pip install 'eet[serve]'", exc_type=ImportError)
    config = schema.ServeDeploySchema.model_validate(yaml.safe_load(SERVICE["spec"]["serveConfigV2"]))
    (served,) = config.applications
    module, _, name = served.import_path.partition(":")
    page = getattr(importlib.import_module(module), name)(served.args)
    (encoder,) = (given for given in page._bound_deployment.init_args if hasattr(given, "_bound_deployment"))
    asked = encoder._bound_deployment.ray_actor_options
    (group,) = SERVICE["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert asked["num_gpus"] == 1 <= int(limits["nvidia.com/gpu"]) and asked["num_cpus"] <= int(limits["cpu"])
    assert config.http_options.port == 8000 and config.logging_config.enable_access_log is False
    assert "serve" in re.search(r"'\.\[([a-z,]+)\]'", CONTAINERFILE).group(1).split(","), "the image lacks Ray Serve"


def test_the_head_has_no_work_and_the_workers_follow_it():
    spec = CLUSTER["spec"]
    assert spec["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"} and spec["enableInTreeAutoscaling"] is True
    (group,) = spec["workerGroupSpecs"]  # a second one, without GPUs, would get no work
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    (worker,) = group["template"]["spec"]["containers"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "1"
    for pod in pods():
        (container,) = pod["spec"]["containers"]
        for kind, amount in container["resources"]["requests"].items():
            assert kind in container["resources"]["limits"], (container["name"], kind, amount)
        assert container["image"] == "REGISTRY/eet:TAG"


def test_no_pod_runs_as_root():
    assert re.search(r"^USER 1000:1000$", CONTAINERFILE, re.MULTILINE)
    for pod in pods():
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True and pod["spec"]["securityContext"]["runAsUser"] == 1000
        assert pod["spec"]["containers"][0]["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_the_image_installs_the_pinned_versions_of_all_that_it_needs():
    installs = re.findall(r"pip install [^&\n;]*", CONTAINERFILE)
    assert len(installs) == 3
    assert all("-c constraints.txt" in line or "--no-deps" in line for line in installs)
    sent = {line[1:] for line in (ROOT / ".containerignore").read_text().splitlines() if line.startswith("!")}
    copied = {word for line in re.findall(r"^COPY (?!--from)(.*)$", CONTAINERFILE, re.MULTILINE) for word in line.split()[:-1]}
    assert copied == sent and all((ROOT / name).exists() for name in copied)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("manifest", "crd"),
    [(CLUSTER, "ray.io_rayclusters.yaml"), (JOB, "ray.io_rayjobs.yaml"), (SERVICE, "ray.io_rayservices.yaml")],
    ids=["cluster", "job", "service"],
)
def test_kuberay_accepts_it(shared, manifest, crd):
    """By KubeRay's own definitions, of its helm-chart/kuberay-operator/crds. Unknown fields are refused, as kubectl does."""
    path = shared / "kuberay" / crd
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    definition = yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)
    (version,) = (version for version in definition["spec"]["versions"] if version["name"] == "v1")
    checker = jsonschema.Draft202012Validator(closed(version["schema"]["openAPIV3Schema"]))
    assert [error.message for error in checker.iter_errors(manifest)] == []
    assert not checker.is_valid({**manifest, "spec": {**manifest["spec"], "authOptionz": {}}})


def closed(schema: Any) -> Any:
    """The schema with unknown fields refused."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: closed(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        found["additionalProperties"] = False
    return found


def free_port_job() -> str:
    """A job number whose port in the script is free."""
    for number in range(os.getpid() % 5000, 10000):
        with socket.socket() as held:
            if held.connect_ex(("127.0.0.1", 20000 + number)) != 0:
                return str(number)
    raise OSError("no free port")


def allocation(folder: Path, home: Path) -> dict[str, str]:
    """The environment of a Slurm job with this machine as its one node: srun runs the command here, scontrol knows the name."""
    stubs = folder / "bin"
    stubs.mkdir()
    for name, text in {
        "srun": 'printf "%s\\n" "$@" > "$STUB_LOG"; while [[ "$1" == --* ]]; do shift; done; exec "$@"',
        "scontrol": '[ "$*" = "show hostnames node[1-1]" ] && echo 127.0.0.1',
        "eet": 'exec "$STUB_PYTHON" "$STUB_JOB" "$@"',
    }.items():
        (stubs / name).write_text(f"#!/bin/bash\n{text}\n")
        (stubs / name).chmod(0o755)
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "PATH": f"{stubs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(home),
        "STUB_LOG": str(folder / "srun.txt"),
        "STUB_PYTHON": sys.executable,
        "STUB_JOB": str(folder / "job.py"),
        "SLURM_JOB_ID": free_port_job(),
        "SLURM_JOB_NODELIST": "node[1-1]",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_CPUS_PER_TASK": "2",
        "SLURM_SUBMIT_DIR": str(folder),
    }


JOB_SCRIPT = """
import os, subprocess, sys, ray
ray.init(os.environ["RAY_ADDRESS"], log_to_driver=False)
print("job:", sys.argv[1:], ray.cluster_resources()["CPU"], flush=True)
for whose, token in (("own", {}), ("foreign", {"RAY_AUTH_TOKEN": "f" * 64})):
    check = ["ray", "health-check", "--address", os.environ["RAY_ADDRESS"]]
    failed = subprocess.run(check, env={**os.environ, **token}, capture_output=True).returncode
    print(whose, "token:", "refused" if failed else "admitted", flush=True)
sys.exit(7 if "fail" in sys.argv else 0)
"""


def isolated() -> list[str]:
    """A command that gives a program processes of its own: symmetric-run ends with `ray stop`, which ends every Ray of the machine."""
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("this user may not make a process namespace, and symmetric-run would stop every Ray of the machine")
    return command


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_slurm_script_runs_a_job_on_its_own_cluster(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    environment = allocation(tmp_path, home)
    (tmp_path / "job.py").write_text(JOB_SCRIPT)

    def submitted(*arguments: str, own_processes: bool = True) -> subprocess.CompletedProcess[str]:
        start = isolated() if own_processes else []
        return subprocess.run(
            [*start, "bash", str(SBATCH), *arguments], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=200
        )

    refused = submitted("encode", own_processes=False)
    assert refused.returncode == 1 and "no token; make one" in refused.stderr and not (tmp_path / "srun.txt").exists()

    subprocess.run(["ray", "get-auth-token", "--generate"], env=environment, check=True, capture_output=True)
    done = submitted("encode", "--images", "two words", "fail")
    assert "job: ['encode', '--images', 'two words', 'fail'] 2.0" in done.stdout, done.stderr
    assert "own token: admitted" in done.stdout and "foreign token: refused" in done.stdout
    assert done.returncode == 7, "the exit code is that of the job"
    assert stat.S_IMODE((home / ".ray" / "auth_token").stat().st_mode) & 0o077 == 0
    assert {"--nodes=1", "--ntasks=1", "--cpus-per-task=2", "symmetric-run"} <= set((tmp_path / "srun.txt").read_text().splitlines())

    (tmp_path / "bin" / "ray").write_text('#!/bin/bash\necho "Failed to start Ray" >&2\n')  # and exit code 0, as symmetric-run does
    (tmp_path / "bin" / "ray").chmod(0o755)
    broken = submitted("encode", own_processes=False)
    assert broken.returncode == 1 and "eet: Ray did not start on 127.0.0.1" in broken.stderr
    assert not list(tmp_path.glob(".eet-*"))

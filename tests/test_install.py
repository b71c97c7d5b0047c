"""The two lines that install EET without torch's GPU libraries, as docs/troubleshooting.md shows them. Nothing is installed here."""

import base64
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
FIRST, SECOND = re.search(r"^(pip install .*--index-url .*)\n(pip install .*)\n", PAGE, re.MULTILINE).groups()  # type: ignore[union-attr]
CPU_WHEELS = re.search(r"--index-url (\S+)", FIRST).group(1)  # type: ignore[union-attr]
GPU_LIBRARIES = re.compile(r"nvidia-|cuda|triton")


def pinned(name: str) -> str:
    return re.search(rf"^{name}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE).group(1)  # type: ignore[union-attr]


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The Python of a new, empty environment."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "environment"], check=True)
    return tmp_path / "environment" / "bin" / "python"


def pip(python: Path, *arguments: object) -> None:
    """Runs `pip install` for an environment, without the settings of this machine."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")} | {"PIP_CONFIG_FILE": os.devnull}
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", *arguments]
    result = subprocess.run([*map(str, command)], cwd=ROOT, env=own, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, result.stderr[-3000:]


def resolved(python: Path, *arguments: object) -> dict[str, str]:
    """name -> version of what pip would install."""
    report = python.parent / "report.json"
    pip(python, "--dry-run", "--report", report, *arguments)
    found = (item["metadata"] for item in json.loads(report.read_text())["install"])
    return {re.sub(r"[-_.]+", "-", one["name"]).lower(): one["version"] for one in found}


def write_wheel(folder: Path, name: str, version: str, *requires: str) -> None:
    """A wheel with metadata alone."""
    info = f"{name}-{version}.dist-info"
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {one}" for one in requires)]
    files = {
        f"{info}/METADATA": "\n".join(metadata),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = (
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},{len(text)}"
        for path, text in files.items()
    )
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in [*files.items(), (f"{info}/RECORD", "\n".join([*digests, f"{info}/RECORD,,"]) + "\n")]:
            wheel.writestr(path, text)


def test_the_image_takes_the_same_wheels():
    assert f"ARG CPU_WHEELS={CPU_WHEELS}\n" in (ROOT / "deploy" / "Containerfile").read_text()
    assert shlex.split(FIRST)[-2:] == ["torch", "torchvision"] and "-c constraints.txt" in FIRST and "-c constraints.txt" in SECOND


@pytest.mark.slow
def test_the_second_line_keeps_what_the_first_installed(python, tmp_path):
    """By pip itself, with wheels of the same names and versions that hold nothing: the constraints admit the wheels for CPUs, and the
    requirements of EET do not replace them by the larger ones of PyPI."""
    cpu, pypi = tmp_path / "cpu", tmp_path / "pypi"
    for name in ("torch", "torchvision"):
        write_wheel(cpu, name, f"{pinned(name)}+cpu")
        write_wheel(pypi, name, pinned(name), "nvidia-cublas")
    write_wheel(pypi, "nvidia_cublas", pinned("nvidia-cublas"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    of_eet = [requirement for requirement in project["dependencies"] if re.match(r"torch(vision)?\b", requirement)]
    constrained = ["-c", "constraints.txt", "--no-index", "--find-links"]

    assert set(resolved(python, *constrained, pypi, *of_eet)) == {"torch", "torchvision", "nvidia-cublas"}  # without the first line
    pip(python, *constrained, cpu, "torch", "torchvision")
    assert resolved(python, *constrained, pypi, *of_eet) == {}
    (installed,) = python.parent.parent.glob("lib/*/site-packages/torch-*.dist-info")
    assert installed.name == f"torch-{pinned('torch')}+cpu.dist-info"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_first_line_takes_the_pinned_versions_without_gpu_libraries(python):
    try:
        urllib.request.urlopen(f"{CPU_WHEELS}/torch/", timeout=20).close()
    except (urllib.error.URLError, TimeoutError) as error:
        pytest.skip(f"{CPU_WHEELS} cannot be reached: {error}")
    found = resolved(python, *shlex.split(FIRST)[2:])
    assert [found[name].partition("+")[0] for name in ("torch", "torchvision")] == [pinned("torch"), pinned("torchvision")]
    assert [name for name in found if GPU_LIBRARIES.search(name)] == []

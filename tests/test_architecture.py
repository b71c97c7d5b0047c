"""The rules that hold the folders apart: who may import whom, style, types, what `import eet` needs, what the command line lists."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.cli import JOBS

ROOT = Path(__file__).resolve().parents[1]

# What eet may load when it is imported; everything else is imported inside the function that uses it.
NOT_AT_IMPORT = [
    "ray", "mlflow", "jsonargparse", "rich", "faiss", "numba", "matplotlib", "scipy", "ot", "pytorch_metric_learning", "yaml", "pandas",
]  # fmt: skip

IMPORT_EVERYTHING = """
import importlib, json, pkgutil, sys
import torch, torchvision, timm, numpy, pyarrow.parquet, pyarrow.fs, PIL.Image, safetensors.torch
before = set(sys.modules)
import eet
names = ["eet"] + [module.name for module in pkgutil.walk_packages(eet.__path__, "eet.")]
for name in names:
    importlib.import_module(name)
print(json.dumps({"modules": names, "loaded": sorted(set(sys.modules) - before), "before": sorted(before)}))
"""


def run(*arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """`python *arguments` at the root of the checkout, wherever eet is installed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "120"}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)


def said(result: subprocess.CompletedProcess[str]) -> str:
    return f"exit code {result.returncode}\n{result.stdout[-6000:]}\n{result.stderr[-3000:]}"


def test_imports_run_one_way():
    result = run("-c", "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache', '--no-logo'])")
    assert result.returncode == 0, said(result)
    kept, broken = map(int, re.search(r"(\d+) kept, (\d+) broken", result.stdout).groups())
    assert (kept, broken) == (len(contracts()), 0), said(result)


def contracts() -> list[str]:
    return re.findall(r"^\[\[tool\.importlinter\.contracts\]\]", (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)


def test_ruff():
    result = run("-m", "ruff", "check", "--no-cache", "--output-format=concise", ".")
    assert result.returncode == 0, said(result)


def test_mypy():
    result = run("-m", "mypy")
    assert result.returncode == 0, said(result)
    assert re.search(r"no issues found in \d\d+ source files", result.stdout), said(result)


@pytest.fixture(scope="module")
def imported() -> dict[str, list[str]]:
    import json

    result = run("-c", IMPORT_EVERYTHING)
    assert result.returncode == 0, said(result)
    return json.loads(result.stdout.splitlines()[-1])


def test_import_eet_reaches_every_module(imported):
    files = {path for path in (ROOT / "eet").rglob("*.py") if path.name != "__init__.py"}
    packages = {path.parent for path in (ROOT / "eet").rglob("__init__.py")}
    assert len(imported["modules"]) == len(files) + len(packages)


def test_import_eet_needs_the_few_only(imported):
    """Loaded over what torch, torchvision, timm, numpy, pyarrow, pillow and safetensors load themselves."""
    found = {name.partition(".")[0] for name in imported["loaded"]}
    assert sorted(found & set(NOT_AT_IMPORT)) == []
    third_party = found - set(sys.stdlib_module_names) - {name.partition(".")[0] for name in imported["before"]} - {"eet"}
    assert sorted(third_party) == [], "eet imports more than it should at its module level"


def test_the_command_line_lists_its_jobs():
    result = run("-m", "pipelines", "--help")
    assert result.returncode == 0, said(result)
    _, _, listing = result.stdout.partition("jobs:\n")
    assert re.findall(r"^  ([a-z-]+)  ", listing, flags=re.MULTILINE) == list(JOBS)


def test_an_unknown_job_is_a_bad_argument():
    result = run("-m", "pipelines", "destill")
    assert result.returncode == 2
    assert "destill" in result.stderr and "distill" in result.stderr, said(result)


@pytest.mark.parametrize("job", JOBS)
def test_every_job_explains_itself(job):
    result = run("-m", "pipelines", job, "--help")
    assert result.returncode == 0, said(result)
    assert f"usage: eet {job}" in result.stdout and "--out" in result.stdout, said(result)

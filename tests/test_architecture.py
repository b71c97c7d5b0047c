"""The rules that hold the folders apart: who may import whom, style, spelling, types, the mirror of tests, what the command line lists."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import JOBS

ROOT = Path(__file__).resolve().parents[1]

# What the modules of eet may import at their top; everything else is imported inside the function that uses it.
AT_THE_TOP = {"torch", "torchvision", "timm", "numpy", "pyarrow", "PIL", "safetensors", "eet"} | set(sys.stdlib_module_names)

# Compiled loops: numba finds what it compiled for an earlier process only where functions stand at the top of their module. So these
# import numba (and llvmlite, its compiler's) at module level, and other modules import them inside the function that uses them.
COMPILED = {"eet.compiled_loops", "eet.hashing.popcount", "eet.metrics.match_scan", "eet.search.bit_planes", "eet.search.scan"}
COMPILED |= {"eet.matching.compiled_maxsim", "eet.matching.compiled_sinkhorn"}
COMPILED |= {  # the vector operations that the matching kernel is compiled from
    f"eet.matching.simd.{name}"
    for name in ("arithmetic", "exponential", "lanes", "memory", "product_block", "reduction", "transposition", "vector")
}

# Tests mirror the packages: tests/A/B/test_x.py tests A/B/x.py or A/B/x/. These test more than one module, each for a reason.
OF_NO_ONE_MODULE = {
    "eet/datasets/listing/test_listing.py": "every form of input lists the same images",
    "eet/gallery/test_readers.py": "a gallery read by pyarrow, pandas, polars and DuckDB",
    "eet/datasets/test_benchmarks.py": "one table of cases for the readers of all public datasets",
    "eet/matching/simd/test_emitters.py": "every vector operation against its scalar form",
    "pipelines/test_encode_killed.py": "encoding while its processes are killed",
    "pipelines/test_growing_cluster.py": "encoding on a cluster that grows from no node",
    "pipelines/test_job_submit.py": "jobs submitted to a cluster, as README.md says",
    "pipelines/test_lost_nodes.py": "encoding and re-ranking while nodes are lost",
    "pipelines/test_object_store.py": "encoding and search from S3 to S3",
    "pipelines/test_on_gpu.py": "every job on a GPU",
    "pipelines/test_real_weights.py": "training and encoding with ImageNet weights and real images",
    "pipelines/serving/test_page.py": "the search page in a browser",
    "tune_spaces/test_spaces.py": "every search space draws what its job accepts",
}

IMPORT_EVERYTHING = f"""
import importlib, json, pkgutil, sys
import torch, torchvision, timm, numpy, pyarrow.parquet, pyarrow.fs, PIL.Image, safetensors.torch
before = set(sys.modules)
import eet
names = ["eet"] + [module.name for module in pkgutil.walk_packages(eet.__path__, "eet.")]
for name in set(names) - {COMPILED}:
    importlib.import_module(name)
print(json.dumps(dict(modules=names, loaded=sorted(set(sys.modules) - before), before=sorted(before))))
"""

# What takes long to load: help and the refusal of arguments do without.
HEAVY = {"torch", "torchvision", "timm", "ray", "numba", "mlflow", "matplotlib", "faiss", "numpy", "pyarrow"}

HELP_AND_REFUSALS_OF_EVERY_JOB = f"""
import contextlib, importlib, io, json, pkgutil, sys, traceback
from pipelines.cli import JOBS, main
heavy = lambda: sorted({HEAVY} & set(sys.modules))
def outcome_of(*arguments):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            exit_code = main(list(arguments))
        except BaseException as error:
            exit_code = "".join(traceback.format_exception_only(error))
    return dict(exit_code=exit_code, printed=printed.getvalue(), heavy=heavy())
import eet.options, pipelines.configs
for package in (eet.options, pipelines.configs):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
configs = heavy()
helps = dict((job, outcome_of(job, "--help")) for job in JOBS)
unknown = dict((job, outcome_of(job, "--no-such-flag")) for job in JOBS)
refused = [outcome_of(*arguments) for arguments in json.loads(sys.argv[1])]
print(json.dumps(dict(configs=configs, helps=helps, unknown=unknown, refused=refused)))
"""

# Values that only the check of a job's config refuses. It may load pyarrow and numpy, which compare locations.
REFUSED = [
    ["distill", "--out", "o", "--data.root", "r", "--data.name", "cubs", "--student.keep-ratios", "[2.0]"],
    ["train-base", "--out", "o", "--data.root", "r", "--loss.name", "none", "--loss.marginal", "none"],
    ["sweep", "--out", "o", "--data.root", "r", "--space", "bits", "--trials", "0"],
    ["sweep", "--out", "o", "--data.root", "r", "--space", "bit"],
    ["sweep-matching", "--hits", "h.parquet", "--gallery", "g", "--out", "o", "--metres", "-1"],
    ["encode", "--model", "m", "--images", "i", "--out", "g", "--rows-per-part", "0"],
    ["index", "--gallery", "g", "--out", "o", "--kind", "none"],
    ["export", "--gallery", "g", "--out", "o", "--to", "none"],
    ["search", "--gallery", "g", "--queries", "q", "--out", "h.parquet", "--k", "0"],
    ["rerank", "--hits", "h.parquet", "--gallery", "g", "--out", "r.parquet", "--marginal", "none", "--solver", "none"],
    ["evaluate", "--gallery", "g", "--out", "o", "--protocol", "published"],
    ["report", "--hits", "h.parquet", "--out", "o", "--top", "0"],
    ["serve", "--model", "m", "--gallery", "g", "--port", "99999"],
    ["benchmark", "encoder", "--device", "cpu", "--encoder.schedules", "[x]"],
]


def run(*arguments: str, timeout: float = 500) -> subprocess.CompletedProcess[str]:
    """`python *arguments` at the root of the checkout, wherever eet is installed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1", "COLUMNS": "120"}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout)


def said(result: subprocess.CompletedProcess[str]) -> str:
    return f"exit code {result.returncode}\n{result.stdout[-6000:]}\n{result.stderr[-3000:]}"


@pytest.mark.slow
def test_imports_run_one_way():
    result = run("-c", "from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache', '--no-logo'])")
    assert result.returncode == 0, said(result)
    kept, broken = map(int, re.search(r"(\d+) kept, (\d+) broken", result.stdout).groups())
    assert (kept, broken) == (len(contracts()), 0), said(result)


def contracts() -> list[str]:
    return re.findall(r"^\[\[tool\.importlinter\.contracts\]\]", (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)


def test_tests_mirror_the_packages():
    tests = ROOT / "tests"
    files = [path.relative_to(tests) for package in ("eet", "pipelines", "tune_spaces") for path in (tests / package).rglob("test_*.py")]
    tested = {path.as_posix(): path.with_name(path.stem.removeprefix("test_")) for path in files}
    without = {
        test for test, module in tested.items() if not (ROOT / f"{module}.py").is_file() and not (ROOT / module / "__init__.py").is_file()
    }
    assert sorted(without) == sorted(OF_NO_ONE_MODULE)


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: path.relative_to(ROOT / "tests").as_posix())
def test_tests_use_public_names_of_the_packages(path):
    tree = ast.parse(path.read_text())
    used = [
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] in {"eet", "pipelines", "tune_spaces"}
        for alias in node.names
    ]
    patches = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("patch.setattr")]
    used += [str(part.value).rpartition(".")[2] for node in patches for part in node.args[:2] if isinstance(part, ast.Constant)]
    assert [name for name in used if name.startswith("_") and not name.startswith("__")] == []


def test_ruff():
    result = run("-m", "ruff", "check", "--no-cache", "--output-format=concise", ".")
    assert result.returncode == 0, said(result)


def test_ruff_format():
    result = run("-m", "ruff", "format", "--check", "--no-cache", ".")
    assert result.returncode == 0, said(result)


def test_codespell():
    result = run("-m", "codespell_lib")
    assert result.returncode == 0, said(result)


@pytest.mark.slow
@pytest.mark.timeout(900)  # a minute on an idle core
def test_mypy():
    result = run("-m", "mypy", timeout=850)
    assert result.returncode == 0, said(result)
    assert re.search(r"no issues found in \d\d+ source files", result.stdout), said(result)


@pytest.fixture(scope="module")
def imported() -> dict[str, list[str]]:
    result = run("-c", IMPORT_EVERYTHING)
    assert result.returncode == 0, said(result)
    return json.loads(result.stdout.splitlines()[-1])


def test_import_eet_reaches_every_module(imported):
    files = {path for path in (ROOT / "eet").rglob("*.py") if path.name != "__init__.py"}
    packages = {path.parent for path in (ROOT / "eet").rglob("__init__.py")}
    assert len(imported["modules"]) == len(files) + len(packages)


def test_import_eet_loads_the_few_only(imported):
    """Nothing over what torch, torchvision, timm, numpy, pyarrow, pillow and safetensors load themselves."""
    before = {name.partition(".")[0] for name in imported["before"]}
    found = {name.partition(".")[0] for name in imported["loaded"]}
    assert sorted(found - before - AT_THE_TOP) == []
    assert set(imported["modules"]) >= COMPILED and not COMPILED & set(imported["loaded"])


@pytest.mark.parametrize("path", sorted((ROOT / "eet").rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_import_eet_asks_for_the_few_only(path):
    """The same by reading: torch and timm load triton and yaml, so that the test above would not see eet do it."""
    compiled = ".".join(path.relative_to(ROOT).with_suffix("").parts) in COMPILED
    allowed = AT_THE_TOP | ({"numba", "llvmlite"} if compiled else set())
    assert sorted(set(imported_at_the_top(ast.parse(path.read_text()))) - allowed) == []


def imported_at_the_top(node: ast.AST) -> Iterator[str]:
    """The packages that importing a module imports: those in functions and under TYPE_CHECKING are left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: a relative import"
            yield str(child.module).partition(".")[0]
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        elif not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from imported_at_the_top(child)


@pytest.mark.slow
def test_the_command_line_lists_its_jobs():
    result = run("-m", "pipelines", "--help")
    assert result.returncode == 0, said(result)
    _, _, listing = result.stdout.partition("jobs:\n")
    assert re.findall(r"^  ([a-z-]+)  ", listing, flags=re.MULTILINE) == list(JOBS)


@pytest.mark.slow
def test_an_unknown_job_is_a_bad_argument():
    result = run("-m", "pipelines", "destill")
    assert result.returncode == 2
    assert "destill" in result.stderr and "distill" in result.stderr, said(result)


@pytest.fixture(scope="module")
def answers() -> dict[str, Any]:
    """What the command line answers without running a job, and what it has loaded by then; all in one process."""
    result = run("-c", HELP_AND_REFUSALS_OF_EVERY_JOB, json.dumps(REFUSED))
    assert result.returncode == 0, said(result)
    return json.loads(result.stdout.splitlines()[-1])


def test_every_job_explains_itself(answers):
    """Each in turn, so that the message names all that fail."""
    helps = answers["helps"]
    faults = {
        job: outcome
        for job, outcome in helps.items()
        if outcome["exit_code"] != 0 or f"usage: eet {job}" not in outcome["printed"] or "--config" not in outcome["printed"]
    }
    assert list(helps) == list(JOBS)
    assert faults == {}


def test_configs_help_and_unknown_flags_load_nothing_heavy(answers):
    assert answers["configs"] == []
    assert {job: outcome["heavy"] for job, outcome in answers["helps"].items()} == dict.fromkeys(JOBS, [])
    assert {job: (outcome["exit_code"], outcome["heavy"]) for job, outcome in answers["unknown"].items()} == dict.fromkeys(JOBS, (2, []))


def test_refused_values_do_not_wait_for_torch_or_ray(answers):
    found = [
        (arguments[0], outcome["exit_code"], set(outcome["heavy"]) - {"numpy", "pyarrow"})
        for arguments, outcome in zip(REFUSED, answers["refused"], strict=True)
    ]
    assert found == [(arguments[0], 2, set()) for arguments in REFUSED]


@pytest.mark.slow
def test_benchmarks_load_neither_ray_nor_mlflow():
    """So that what runs on one machine can be measured on one that has neither."""
    result = run(
        "-c", "import sys, pipelines.benchmark; print({'ray', 'mlflow', 'faiss', 'ot'} & {name.partition('.')[0] for name in sys.modules})"
    )
    assert result.stdout.strip() == "set()", said(result)

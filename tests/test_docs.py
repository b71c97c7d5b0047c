"""The site builds without a warning and loads nothing from elsewhere; the commands and the Python of README.md and the pages work.

Commands are given to the parser of their job. Python is run, with a small model and a few drawn images, or only compiled: see RUN.
"""

import ast
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import NamedTuple

import pytest

from pipelines.cli import JOBS, job_parser, read_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("README.md"), *(ROOT / "docs").rglob("*.md")])

# Each of these adds something to EET. Their Python is run, and their commands are checked, in a copy of EET that has all six of them.
EXTENDING = [f"docs/extending/{name}.md" for name in ("dataset", "backbone", "marginal", "loss", "search_index", "metric")]
IN_THE_COPY = "EET_DOCS_COPY" in os.environ

# The Python of these pages is run, block after block. The other pages' is compiled: it needs data that is not here, or takes minutes.
RUN = {"README.md", "docs/index.md", *(f"docs/guides/{name}.md" for name in ("galleries", "python", "reranking", "sweeps"))}
NOT_INSTALLED = {"usearch", "lancedb"}  # libraries that no extra of EET installs: their blocks are compiled where they are missing


class Block(NamedTuple):
    page: str
    line: int
    language: str
    title: str
    code: str


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page."""
    text = (ROOT / page).read_text()
    found = re.finditer(r"^```(\w+)(?: title=\"([^\"]*)\")?\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [Block(page, text[: match.start()].count("\n") + 2, match[1], match[2] or "", match[3]) for match in found]


# Every command of a block of shell code, as bash itself reads it: its words. Nothing is started, as no program is found.
SPY = r"""
PATH=/nowhere
command_not_found_handle() { local words; printf -v words '%s\x1f' "$@"; printf '%s\x1e' "$words" >&9; }  # once: a pipe runs two at once
cd() { :; }
"""


def commands(block: Block, folder: Path) -> list[list[str]]:
    seen = folder / "commands"
    seen.unlink(missing_ok=True)
    bash = [shutil.which("bash") or "bash", "-c", f"exec 9>>{seen}\n{SPY}\n{block.code}"]
    spied = subprocess.run(bash, cwd=folder, capture_output=True, text=True, timeout=30)
    assert spied.returncode == 0 and not spied.stderr, f"{block.page}:{block.line}: {spied.stderr}"
    return [command.split("\x1f")[:-1] for command in seen.read_text().split("\x1e")[:-1]]


def job_of(words: list[str]) -> list[str] | None:
    """JOB and its arguments of `eet JOB ...`, `... python -m pipelines JOB ...` or `sbatch ... JOB ...`; None for another command."""
    if words[:1] == ["eet"]:
        return words[1:]
    if words[:1] == ["sbatch"]:
        return words[words.index("deploy/slurm/eet.sbatch") + 1 :]
    for place in range(len(words) - 3):
        if words[place : place + 3] == ["python", "-m", "pipelines"]:
            return words[place + 3 :]
    return None


def config_class(job: str) -> type:
    return JOBS[job].config_class


def problems_of(job: str, arguments: list[str], folder: Path) -> list[str]:
    """What is wrong with a command. A file of --config is written first: it holds the flags that the job requires."""
    kind = config_class(job)
    given = [value for flag, value in zip(arguments, arguments[1:], strict=False) if flag == "--config"]
    for name in given:
        required = [entry.name for entry in fields(kind) if entry.default is MISSING and entry.default_factory is MISSING]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("".join(f"{name}: some.parquet\n" for name in required))
    config = read_config(job_parser(job, kind), kind, arguments)
    return [] if given else config.problems()


@pytest.mark.slow  # imports every job
def test_every_command_has_flags_that_its_job_takes(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    faults, checked = [], 0
    for page in [page for page in PAGES if IN_THE_COPY or page not in EXTENDING]:
        (tmp_path / "my_spaces.py").write_text("".join(block.code for block in blocks(page) if block.title == "my_spaces.py"))
        for block in [block for block in blocks(page) if block.language == "bash"]:
            for words in commands(block, tmp_path):
                where = f"{page}:{block.line}: {' '.join(words)}"
                sys.modules.pop("my_spaces", None)
                if words[:2] == ["python", "-c"]:
                    compile(words[2], where, "exec")
                if words[:1] == ["pytest"]:
                    faults += [f"{where}: no {word}" for word in words[1:] if "/" in word and not (ROOT / word).exists()]
                if (command := job_of(words)) is None:
                    continue
                checked += 1
                try:
                    faults += [f"{where}: {fault}" for fault in problems_of(command[0], command[1:], tmp_path)]
                except (SystemExit, KeyError):
                    faults.append(f"{where}: {capfd.readouterr().err[-300:]}")
    assert not faults, "\n".join(faults)
    assert checked > (5 if IN_THE_COPY else 40)


@pytest.mark.slow
def test_every_flag_in_a_sentence_is_one_of_its_job():
    """`eet JOB --flag ...` in a sentence or a table need not be a whole command."""
    flags = {job: {flag.replace("_", "-") for flag in job_parser(job, config_class(job))._option_string_actions} for job in JOBS}
    faults = []
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
        if command := re.search(r"^ {4,}(?:PYTHONPATH=\S* )?eet .*", text, flags=re.MULTILINE):
            faults.append(f"{page}: {command[0].strip()}: put it between fences, so that it is tested")
        for code in re.findall(r"`eet ([^`]+)`", text):
            job, *words = code.split()
            if job == "JOB" or job.startswith("-"):
                continue
            given = {word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--") and not word.endswith(".*")}
            if job not in flags or given - flags[job]:
                faults.append(f"{page}: eet {code}")
    assert not faults, "\n".join(faults)


def test_python_that_is_not_run_compiles():
    for page in sorted(set(PAGES) - RUN - set(EXTENDING)):
        for block in blocks(page):
            if block.language == "python":
                compile(block.code, f"{page}:{block.line}", "exec")


@pytest.fixture
def place(tiny_model, photos, tmp_path, monkeypatch) -> Path:
    """A folder with what the pages name: runs/model, photos/ and query.jpg."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "model").symlink_to(tiny_model)
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(sorted(photos.iterdir())[:12]):
        (tmp_path / "photos" / f"{'abcdefghijkl'[number]}.jpg").symlink_to(image.resolve())
    (tmp_path / "query.jpg").symlink_to((tmp_path / "photos" / "a.jpg").resolve())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(RUN))
def test_python_and_sql_run(page, place):
    if page == "docs/guides/galleries.md":
        import eet

        duckdb = pytest.importorskip("duckdb", reason="duckdb is not installed")
        pytest.importorskip("polars", reason="polars is not installed")
        images = sorted(map(str, (place / "photos").iterdir()))
        gallery = eet.encode("runs/model", images, labels=[0, 1] * 6, label_names=["a", "b"], out="runs/gallery")
        eet.search(gallery, gallery, k=3).save("runs/hits.parquet")
    names: dict[str, object] = {}
    ran = 0
    for block in blocks(page):
        if block.language == "sql":
            duckdb.sql(block.code).fetchall()
        if block.language != "python":
            continue
        code = compile(block.code, f"{page}:{block.line}", "exec")
        missing = {name for name in imported(block.code) & NOT_INSTALLED if importlib.util.find_spec(name) is None}
        if not missing:
            exec(code, names)
            ran += 1
    assert ran
    for space in [value for name, value in names.items() if callable(value) and getattr(value, "__module__", None) is None]:
        assert space()  # a search space of the page


def imported(code: str) -> set[str]:
    """The packages that a block imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_something_of_each_kind_is_added_by_one_file_one_line_and_one_test(tmp_path):
    for package in ("eet", "pipelines", "tune_spaces"):
        shutil.copytree(ROOT / package, tmp_path / package)
    for file in ("tests/test_docs.py", *EXTENDING):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    tests = [add(page, tmp_path) for page in EXTENDING]
    commands_of_the_pages = "tests/test_docs.py::test_every_command_has_flags_that_its_job_takes"
    pytest_options = ["-q", "-p", "no:cacheprovider", "--import-mode=importlib", "--rootdir=."]
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "EET_DOCS_COPY": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "pytest", *pytest_options, *tests, commands_of_the_pages]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500)
    assert result.returncode == 0, f"{result.stdout[-6000:]}\n{result.stderr[-2000:]}"


def add(page: str, copy: Path) -> str:
    """Writes the new file and the test of a page into a copy of EET, and the lines into its dictionary; returns the path of the test."""
    new, dictionary, test = [block for block in blocks(page) if block.language == "python"]
    for block in (new, test):
        assert not (ROOT / block.title).exists(), f"{page}: {block.title} is there already"
        (copy / block.title).parent.mkdir(parents=True, exist_ok=True)
        (copy / block.title).write_text(block.code)
    shown = re.fullmatch(r"((?:from .*\n)+)\n([A-Z]+) = \{\n    \.\.\.\n(    .*\n)\}\n", dictionary.code)
    assert shown, f"{page}: show the import, NAME = {{, ... and one line"
    imports, name, line = shown.groups()
    text = (copy / dictionary.title).read_text()
    text, opened = re.subn(rf"^{name}: .* = \{{\n?", lambda found: f"{found[0].rstrip()}\n{line}", text, flags=re.MULTILINE)
    text, imported_there = re.subn(r"^from eet\.", lambda found: imports + found[0], text, count=1, flags=re.MULTILINE)
    assert (opened, imported_there) == (1, 1), f"{page}: {dictionary.title} has no {name}"
    (copy / dictionary.title).write_text(text)
    return test.title


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    if missing := [name for name in ("mkdocs", "material", "mkdocstrings_handlers") if importlib.util.find_spec(name) is None]:
        pytest.skip(f"{', '.join(missing)} of the extra docs is not installed")
    offline = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    environment = os.environ | offline | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    assert built.returncode == 0, built.stderr[-4000:]
    pages = {path.relative_to(tmp_path / "site").as_posix(): path.read_text() for path in (tmp_path / "site").rglob("*.html")}
    loads = r"<(?:script|img|iframe)[^>]*\ssrc=[\"']?(?:https?:)?//[^\"'> ]+|<link[^>]*\shref=[\"']?(?:https?:)?//[^\"'> ]+"
    assert {name: found for name, text in pages.items() if (found := re.findall(loads, text))} == {}
    assert "--rows-per-part" in pages["reference/cli.html"] and "eet.search.HammingIndex" in pages["reference/python/search.html"]

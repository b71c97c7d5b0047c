"""Jobs that are killed, or find the disk full, at any of their file events: the same command goes on to the result of an untouched run.

A sample of the events is tried. `make faults` tries all of them, which takes the better part of an hour.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from eet.vit import load_bundle, save_bundle
from pipelines import cli

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

SUPPORT = Path(__file__).parents[1] / "support"
POINTS = 0 if os.environ.get("EET_ALL_FAULTS") else 2
"""Points of each job that are tried; 0 for all."""
ENCODE = ["--engine", "local", "--rows-per-part", "3", "--batch-size", "4", "--threads", "1", "--tokens"]


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler and Linux, to preload a library that counts file events")
    built = tmp_path_factory.mktemp("faults") / "faults.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(built), str(SUPPORT / "faults.c"), "-ldl", "-lpthread"], check=True)
    return built


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model, photos) -> Path:
    """A folder with two models and two folders of images, beside which the jobs work."""
    root = tmp_path_factory.mktemp("jobs")
    shutil.copytree(tiny_model, root / "model")
    other = load_bundle(tiny_model)
    other.head_hash.weight.data *= -1
    save_bundle(other, root / "other")
    images = sorted(photos.rglob("*.png"))
    for name, number in (("few", 5), ("next", 7), ("more", 8), ("queries", 3)):
        (root / name).mkdir()
        for path in images[:number]:
            shutil.copy(path, root / name / path.name)
    return root


class Jobs:
    """Command lines in the folder `work`, and the state in which each begins."""

    def __init__(self, place: Path) -> None:
        self.place, self.work = place, place / "work"

    def encode(self, images: str, *options: str, model: str = "model") -> list[str]:
        where = ["--model", str(self.place / model), "--images", str(self.place / images), "--out", str(self.work / "gallery")]
        return ["encode", *where, *ENCODE, *options]

    def index(self) -> list[str]:
        return ["index", "--gallery", str(self.work / "gallery"), "--out", str(self.work / "index")]

    def search(self, queries: str = "queries") -> list[str]:
        where = ["--gallery", str(self.work / "gallery"), "--queries", str(self.place / queries), "--model", str(self.place / "model")]
        return ["search", *where, "--k", "3", "--out", str(self.work / "hits.parquet")]

    def rerank(self) -> list[str]:
        where = ["--gallery", str(self.work / "gallery"), "--hits", str(self.work / "hits.parquet")]
        return ["rerank", *where, "--top", "2", "--engine", "local", "--out", str(self.work / "better.parquet")]

    def evaluate(self) -> list[str]:
        tracking = f"sqlite:///{self.place}/mlflow.db"
        return ["evaluate", "--gallery", str(self.work / "labelled"), "--tracking-uri", tracking, "--out", str(self.work / "measures")]

    def labelled(self, birds: Path) -> list[str]:
        data = ["--data.name", "synthetic", "--data.root", str(birds), "--split", "test"]
        return ["encode", "--model", str(self.place / "model"), *data, "--out", str(self.work / "labelled"), "--engine", "local"]

    def distill(self, birds: Path) -> list[str]:
        data = ["--data.name", "synthetic", "--data.root", str(birds), "--weights", "none"]
        network = ["--student.image_size", "48", "--student.bits", "16", "--student.backbone", "vit_tiny_patch16_224"]
        size = ["--student.backbone_options", "{patch_size: 8, embed_dim: 32, depth: 4, num_heads: 2}"]
        train = ["--train.recipe", "published", "--train.epochs", "2", "--train.batch_size", "16", "--train.cpus_per_worker", "1"]
        tracking = ["--tracking-uri", f"sqlite:///{self.place}/mlflow.db"]
        return ["distill", *data, *network, *size, *train, *tracking, "--resume", "--out", str(self.work / "trained")]

    def report(self) -> list[str]:
        return ["report", "--hits", str(self.work / "hits.parquet"), "--num-queries", "2", "--out", str(self.work / "page")]


class Case(NamedTuple):
    """What is run before, the command, and as tests/support/fault_runner.py explains them: swapped, compared."""

    before: list[list[str]]
    argv: list[str]
    swapped: list[str]
    compared: Sequence[str] = ()


def cases(jobs: Jobs, birds: Path) -> dict[str, Case]:
    few, more = jobs.encode("few"), jobs.encode("more", "--mode", "append")
    weights = ["trained/model.safetensors", "trained/teacher/model.safetensors", "trained/test.json"]
    return {
        "encode": Case([], few, []),
        "encode --mode append": Case([few], more, []),
        "encode --mode overwrite": Case([jobs.encode("more", model="other")], jobs.encode("few", "--mode", "overwrite"), []),
        "index": Case([few], jobs.index(), ["index"]),
        "index, extended": Case([few, jobs.index(), more], jobs.index(), ["index"]),
        "index, with a new segment": Case([few, jobs.index(), jobs.encode("next", "--mode", "append")], jobs.index(), ["index"]),
        "search": Case([few], jobs.search(), ["hits.parquet", "hits.queries"]),
        "search again": Case([few, jobs.search("few")], jobs.search(), ["hits.parquet", "hits.queries"]),
        "rerank": Case([few, jobs.search()], jobs.rerank(), ["better.parquet"]),
        "evaluate": Case([jobs.labelled(birds)], jobs.evaluate(), ["measures/metrics.json"]),
        "report": Case([few, jobs.search()], jobs.report(), ["page/report.html"]),
        # Every run of it starts Ray.
        "distill": Case([], jobs.distill(birds), [], weights),
    }


NAMES = [name for name in cases(Jobs(Path()), Path()) if name != "distill" or not POINTS]


@pytest.fixture(scope="module")
def template(place, tiny_birds) -> Callable[[str], str]:
    """Makes the state in which a job begins, at the path at which it will run, and moves it away."""

    def make(name: str) -> str:
        target = place / "templates" / name.replace(" ", "-")
        if not target.exists():
            work = place / "work"
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            for command in cases(Jobs(place), tiny_birds)[name].before:
                assert cli.main(command) in (0, None)
            target.parent.mkdir(exist_ok=True)
            work.rename(target)
        return str(target)

    return make


@pytest.fixture(scope="module")
def runner(library, place) -> Iterator[subprocess.Popen]:
    """tests/support/fault_runner.py, waiting for jobs."""
    environment = {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SUPPORT / "fault_runner.py"), str(library), str(place / "work")]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.stdin.close()


@pytest.mark.parametrize("fault", ["kill", "full"])
@pytest.mark.parametrize("name", NAMES)
def test_the_same_command_goes_on(runner, place, template, tiny_birds, name, fault):
    case = cases(Jobs(place), tiny_birds)[name]
    what = {key: value for key, value in case._asdict().items() if key != "before"}
    job = {"name": name, "template": template(name), "fault": fault, "points": POINTS, **what}
    print(json.dumps(job), file=runner.stdin, flush=True)
    result = json.loads(runner.stdout.readline())
    print(f"{name}, {fault}: {result['points']} of {result['events']} events, {result['stopped']} stopped, {len(result['bad'])} wrong")
    assert not result["bad"], "\n".join(f"event {point}: {what}" for point, what in result["bad"])
    assert result["stopped"]

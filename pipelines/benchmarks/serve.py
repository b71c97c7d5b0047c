"""`eet benchmark serve`: latency of searches by image over HTTP, from `eet serve` as a process of its own, with a drawn gallery."""

import http.client
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

import eet
from eet.datasets import synthetic
from eet.errors import InputError
from eet.gallery import write_manifest, write_part
from eet.vit import save_bundle
from pipelines.benchmarks.code_draws import Clusters
from pipelines.benchmarks.networks import NUM_BITS, schedule_of, student_of
from pipelines.benchmarks.record import Column, print_rows
from pipelines.benchmarks.setup import Benchmark, Setup, network_versions
from pipelines.configs.benchmark import ServeBenchmarkOptions

ROWS_PER_PART = 2048
IMAGES = 32
"""Drawn images, each of which many items have the tokens of."""
FLIP_SHARE = 0.15
START_S = 600
ANSWER_S = 60
HITS = 24
"""Of a search, as the page asks for."""


@dataclass(frozen=True)
class ServeTiming:
    """Results of one case. ms: of a search, from sending the image to having the hits. refused: answered with 503. failed: any other
    answer than the hits."""

    items: int
    rerank: int
    clients: int
    requests: int
    refused: int
    failed: int
    median_ms: float
    p95_ms: float
    per_s: float


COLUMNS = (
    Column("items", "items", ",d"),
    Column("re-ranked", "rerank", "d"),
    Column("at once", "clients", "d"),
    Column("searches", "requests", ",d"),
    Column("refused", "refused", "d"),
    Column("failed", "failed", "d"),
    Column("p50, ms", "median_ms", ".0f"),
    Column("p95, ms", "p95_ms", ".0f"),
    Column("searches/s", "per_s", ".1f"),
)


def measure(options: ServeBenchmarkOptions, setup: Setup) -> list[ServeTiming]:
    """Measures every case. InputError where the folder holds something else."""
    timings: list[ServeTiming] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary if options.folder is None else options.folder)
        images = drawn_gallery(folder, options, setup)
        with served(folder) as port:
            for rerank in options.rerank:
                for clients in options.clients:
                    timing = timing_of(options, images, port, rerank, clients)
                    print_rows(COLUMNS, [timing], heading=not timings)
                    timings.append(timing)
    return timings


def drawn_gallery(folder: Path, options: ServeBenchmarkOptions, setup: Setup) -> list[bytes]:
    """Writes FOLDER/model and FOLDER/gallery, unless they are there. Returns the contents of image files to search for."""
    data, gallery, rng = folder / "images", str(folder / "gallery"), np.random.default_rng(0)
    if not (folder / "model").is_dir():
        torch.manual_seed(0)
        save_bundle(student_of(setup.backbone, schedule_of(setup.backbone, setup.keep_ratios)), folder / "model")
        synthetic.write(str(data), num_labels=2, images_per_label=1, test_per_label=IMAGES // 2, image_size=224)
    paths = sorted(data.rglob("*.png"))
    if not (folder / "gallery").is_dir():
        small = eet.encode(folder / "model", paths, tokens=True, tokens_as=options.tokens_as, progress=False)
        rows, clusters = small.table(), Clusters.around_targets(rng, NUM_BITS, FLIP_SHARE)
        starts = range(0, options.items, ROWS_PER_PART)
        for part, start in enumerate(starts):
            number = min(ROWS_PER_PART, options.items - start)
            table = rows.take(pa.array(rng.integers(0, len(rows), number)))
            drawn = {
                "item_id": pa.array([f"{start + row:09d}" for row in range(number)]),
                "code": pa.FixedSizeBinaryArray.from_buffers(
                    rows.schema.field("code").type, number, [None, pa.py_buffer(clusters.draw(rng, number))]
                ),
            }
            for name, column in drawn.items():
                place = table.schema.get_field_index(name)
                table = table.set_column(place, table.schema.field(place), column)
            write_part(gallery, part, table)
        manifest = replace(
            small.manifest,
            plans=(),
            num_rows=options.items,
            num_ok=options.items,
            num_parts=len(starts),
            rows_per_part=ROWS_PER_PART,
        )
        write_manifest(gallery, manifest)
    if (held := eet.open_gallery(gallery).manifest).num_rows != options.items or held.token_dtype != options.tokens_as:
        raise InputError(f"--serve.folder {folder} holds {held.num_rows} items with tokens as {held.token_dtype}: choose another folder")
    return [path.read_bytes() for path in paths]


@contextmanager
def served(folder: Path) -> Iterator[int]:
    """Starts `eet serve` in a process of its own; yields its port once it takes requests."""
    command = [sys.executable, "-m", "pipelines", "serve", "--model", str(folder / "model"), "--gallery", str(folder / "gallery")]
    with subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True) as process:
        late = threading.Timer(START_S, process.kill)
        late.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("http://"):
                    late.cancel()
                    yield int(line.split("/")[2].rpartition(":")[2])
                    return
            raise RuntimeError(f"eet serve did not start within {START_S} s, or failed")
        finally:
            late.cancel()
            process.terminate()


def timing_of(options: ServeBenchmarkOptions, images: list[bytes], port: int, rerank: int, clients: int) -> ServeTiming:
    """Asks a server at a port of this machine, with so many clients at once."""
    _search(port, images[0], rerank)  # the first may compile
    lock, taken = threading.Lock(), iter(range(options.requests))
    seconds: list[float] = []
    statuses: list[int] = []

    def ask() -> None:
        chance = random.Random(threading.get_ident())
        while True:
            with lock:
                if next(taken, None) is None:
                    return
            started = time.perf_counter()
            status = _search(port, chance.choice(images), rerank)
            took = time.perf_counter() - started
            with lock:
                statuses.append(status)
                if status == http.HTTPStatus.OK:
                    seconds.append(took)

    started = time.perf_counter()
    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lasted = time.perf_counter() - started
    median, p95 = np.percentile(seconds, [50, 95]) * 1e3 if seconds else (np.nan, np.nan)
    refused = statuses.count(http.HTTPStatus.SERVICE_UNAVAILABLE)
    return ServeTiming(
        items=options.items,
        rerank=rerank,
        clients=clients,
        requests=len(statuses),
        refused=refused,
        failed=len(statuses) - refused - len(seconds),
        median_ms=float(median),
        p95_ms=float(p95),
        per_s=len(seconds) / lasted,
    )


def _search(port: int, image: bytes, rerank: int) -> int:
    """Sends an image and asks for its hits. The status of the answer; 0 where there is none, or it lacks hits."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    try:
        status, query = _answer(connection, "POST", "/api/query", image)
        if status == http.HTTPStatus.OK:
            status, found = _answer(connection, "GET", f"/api/search?query={query['query']}&k={HITS}&rerank={rerank}")
            return status if status != http.HTTPStatus.OK or len(found["hits"]) == HITS else 0
        return status
    except (OSError, ValueError, KeyError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def _answer(connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
    connection.request(method, path, body)
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def _planned(options: ServeBenchmarkOptions, setup: Setup) -> str:
    return f"{len(options.rerank) * len(options.clients)} cases of {options.requests} searches in {options.items:,} items"


BENCHMARK = Benchmark(COLUMNS, measure, _planned, network_versions)

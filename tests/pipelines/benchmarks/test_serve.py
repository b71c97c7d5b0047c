"""The benchmark of `eet serve` counts the answers of a real server, and keeps its gallery."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

import eet
from eet.errors import InputError
from pipelines import benchmark
from pipelines.benchmarks.serve import timing_of
from pipelines.configs.benchmark import ServeBenchmarkOptions

OPTIONS = {"items": 2100, "requests": 6, "clients": (2,), "rerank": (0, 10)}


def config_of(folder: Path, **changes) -> benchmark.BenchmarkConfig:
    options = ServeBenchmarkOptions(**{**OPTIONS, "folder": str(folder), **changes})
    return benchmark.BenchmarkConfig(what="serve", serve=options, backbone="test_vit", device="cpu", threads=2)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_searches_of_a_real_server_are_measured(tmp_path, capsys):
    timings = benchmark.run(config_of(tmp_path))
    assert [(timing.rerank, timing.clients, timing.requests, timing.refused, timing.failed) for timing in timings] == [
        (0, 2, 6, 0, 0),
        (10, 2, 6, 0, 0),
    ]
    assert all(0 < timing.median_ms <= timing.p95_ms and timing.per_s > 0 for timing in timings)
    assert "searches/s" in capsys.readouterr().out
    gallery = eet.open_gallery(tmp_path / "gallery")
    codes, item_ids = gallery.codes()
    assert len(set(item_ids.to_pylist())) == len(codes) == 2100
    with pytest.raises(InputError, match="holds 2100 items.*choose another folder"):
        benchmark.run(config_of(tmp_path, items=2101))


class Answers(BaseHTTPRequestHandler):
    """Answers queries with 503, with an error, or with too few hits, in turn."""

    turn = 0

    def log_message(self, *args) -> None:
        pass

    def answer(self, status: int, body: bytes = b"{}") -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        type(self).turn += 1
        self.answer((200, 503, 500)[self.turn % 3], b'{"query": "one"}')

    def do_GET(self) -> None:
        self.answer(200, b'{"hits": []}')


def test_refusals_and_failures_are_counted_apart():
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        options = ServeBenchmarkOptions(items=10, requests=6)
        timing = timing_of(options, [b"image"], server.server_address[1], 0, 1)
        server.shutdown()
    assert (timing.requests, timing.refused, timing.failed, timing.per_s) == (6, 2, 4, 0)


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"items": 0}, "--serve.items 0: use 1 or more"),
        ({"clients": ()}, "give one or more, all at least 1"),
        ({"rerank": (-1,)}, "none below 0"),
        ({"folder": "s3://b/x"}, "give a local folder"),
    ],
)
def test_impossible_cases_are_refused(changes, problem):
    assert any(problem in found for found in ServeBenchmarkOptions(**changes).problems())

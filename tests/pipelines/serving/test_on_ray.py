"""The page on Ray Serve: what it refuses, its batches, its application in Serve's local testing mode, and a real Serve with shards."""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple
from urllib.parse import quote

import pytest

import eet
from eet.datasets import synthetic
from eet.errors import InputError
from eet.gallery import open_gallery
from eet.serving import Box, ImageSearch, QueryEncoder
from pipelines.configs.serve import ServeConfig
from pipelines.job.cluster import ClusterResources, Node

serve = pytest.importorskip("ray.serve", reason="needs ray[serve]: pip install 'eet[serve]'", exc_type=ImportError)

from fastapi import FastAPI  # noqa: E402
from fastapi.testclient import TestClient  # noqa: E402
from ray.exceptions import ActorDiedError  # noqa: E402
from ray.serve.exceptions import BackPressureError  # noqa: E402

from pipelines.serving import on_ray  # noqa: E402

TOKEN = "a-token-of-many-letters"
NO_RESOURCES = ClusterResources((), grows=True)


@pytest.fixture(scope="module")
def gallery(tiny_model, tiny_birds, tmp_path_factory) -> str:
    """48 items in 7 parts, with tokens."""
    birds = synthetic.load(str(tiny_birds))
    paths = [birds.location(row) for row in range(len(birds))]
    out = str(tmp_path_factory.mktemp("served") / "gallery")
    eet.encode(tiny_model, paths, labels=birds.labels.tolist(), label_names=birds.label_names, tokens=True, rows_per_part=7, out=out)
    return out


@pytest.fixture(scope="module")
def token_file(tmp_path_factory) -> str:
    file = tmp_path_factory.mktemp("token") / "token"
    file.touch(mode=0o600)
    file.write_text(TOKEN)
    return str(file)


@pytest.fixture
def args(tiny_model, gallery, token_file, tiny_birds) -> dict:
    return {"model": str(tiny_model), "gallery": gallery, "token_file": token_file, "image_roots": [str(tiny_birds)], "rerank": "5"}


def image_of(gallery: str, row: int) -> bytes:
    return Path(open_gallery(gallery).codes()[1][row].as_py()).read_bytes()


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"token_file": None}, "each request needs a token"),
        ({"galery": "g"}, "galery: no such option; did you mean gallery"),
        ({"port": 80}, "where Ray Serve listens"),
        ({"seed": 1}, "seed: no such option"),
        ({"workers": "many"}, "workers: .*valid integer"),
        ({"workers": 0}, "--workers 0: use 1 or more"),
        ({"gpus_per_worker": 2}, "--gpus_per_worker 2"),
        ({"shards": 2, "index": "runs/index"}, "--index and --shards"),
        ({"feedback": "s3://bucket/x"}, "--feedback"),
        ({"model": None}, "model: "),
    ],
)
def test_impossible_options_of_the_application_are_refused(args, changes, problem):
    with pytest.raises(InputError, match=problem):
        on_ray.application({**args, **changes})


def test_options_may_be_text_as_serve_run_passes_them(args):
    config = on_ray.checked({**args, "workers": "3", "gpus_per_worker": "0.5", "image_roots": ["photos"]})
    assert (config.workers, config.gpus_per_worker, config.rerank, config.engine) == (3, 0.5, 5, "ray")
    assert config.image_roots == (str(Path("photos").absolute()),), "replicas have another working directory"


def test_options_of_ray_need_the_engine_ray():
    for name, value in {"workers": 2, "cpus_per_worker": 1, "gpus_per_worker": 0, "batch_size": 1, "shards": 2}.items():
        assert f"--{name} is for --engine ray" in " ".join(ServeConfig(model="m", gallery="g", **{name: value}).problems())
        assert ServeConfig(model="m", gallery="g", engine="ray", **{name: value}).problems() == []


def test_encoders_that_fit_no_node_are_refused_and_gpus_are_used_where_each_can_have_one(args):
    config = on_ray.checked({**args, "workers": 2})
    with pytest.raises(InputError, match="2 workers do not fit the cluster of 1 nodes with 1 CPUs"):
        on_ray.bound(config, ClusterResources((Node(1, 0),)))
    for gpus, expected in ((0, 0), (1, 0), (2, 1)):
        page = on_ray.bound(config, ClusterResources((Node(4, gpus),)))
        encoder = page._bound_deployment.init_args[1]._bound_deployment
        assert encoder.ray_actor_options["num_gpus"] == expected and encoder.init_kwargs["gpu"] is bool(expected)
        assert encoder.init_kwargs["batch_size"] == (8 if expected else 1) and encoder.num_replicas == 2
        assert page._bound_deployment.num_replicas == 1


class Local(NamedTuple):
    """The whole application in this process. together: the number of images in each batch so far."""

    app: FastAPI
    together: list[int]


@pytest.fixture(scope="module")
def local(tiny_model, gallery, token_file, tiny_birds) -> Iterator[Local]:
    """In Serve's local testing mode; encoders wait until four images are there, or two seconds are over."""
    built, together = [], []
    build, encode_all = on_ray.build_app, QueryEncoder.encode_all

    def built_app(*given, **options):  # type: ignore[no-untyped-def]
        built.append(build(*given, **options))
        return built[-1]

    def counted(encoder, images):  # type: ignore[no-untyped-def]
        together.append(len(images))
        return encode_all(encoder, images)

    args = {"model": str(tiny_model), "gallery": gallery, "token_file": token_file, "image_roots": [str(tiny_birds)], "rerank": 5}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_ray, "build_app", built_app)
        patch.setattr(on_ray, "BATCH_WAIT_S", 2.0)
        patch.setattr(QueryEncoder, "encode_all", counted)
        # A batch queue of Ray 2.60 asks its replica for this number, and in local testing mode there is no replica.
        replica = SimpleNamespace(_deployment_config=SimpleNamespace(max_ongoing_requests=8))
        patch.setattr(serve, "get_replica_context", lambda: replica)
        serve.run(on_ray.application({**args, "batch_size": 4}), name="local", _local_testing_mode=True)
        yield Local(built[0], together)


@pytest.mark.slow
def test_queries_of_many_users_are_encoded_in_batches_that_change_no_query(local, tiny_model, gallery):
    client = TestClient(local.app, base_url="http://gallery.example", headers={"authorization": f"Bearer {TOKEN}"})
    given = [(image_of(gallery, row), "") for row in range(6)] + [(b"no image", ""), (image_of(gallery, 0), "?box=0,0,0.5,0.5")]
    before = len(local.together)
    with ThreadPoolExecutor(8) as users:
        answers = list(users.map(lambda one: client.post(f"/api/query{one[1]}", content=one[0]), given))
    assert local.together[before:] == [4, 4]
    here = ImageSearch(eet.load_model(tiny_model), open_gallery(gallery))
    alone = QueryEncoder(eet.load_model(tiny_model), open_gallery(gallery), batch_size=4)
    for (data, box), answer in zip(given, answers, strict=True):
        if data == b"no image":
            assert answer.status_code == 400 and "not-an-image" in answer.json()["detail"]
            continue
        query = alone.encode(data, Box(0, 0, 0.5, 0.5) if box else None)
        assert answer.json()["query"] == query.query_id
        found = client.get(f"/api/search?query={query.query_id}&k=9&rerank=5").json()
        expected = here.search(query, k=9, rerank=5)
        assert found["hits"] == [asdict(hit) for hit in expected.hits] and found["before"] == [asdict(hit) for hit in expected.before]
        assert client.get(f"/api/queries/{query.query_id}/image").content == query.shown


@pytest.mark.slow
def test_the_application_asks_for_the_token_and_shows_images(local, gallery):
    assert TestClient(local.app).get("/api/gallery").status_code == 401
    client = TestClient(local.app, headers={"authorization": f"Bearer {TOKEN}"})
    assert client.get("/api/gallery").json()["items"] == 48
    assert client.get(f"/api/items/{quote(image_id(gallery, 3), safe='')}/image?size=32").status_code == 200
    assert client.get("/readyz").text == "ok\n"


class Encoders:
    """Stands for the handle of the encoders: the first answer is right, all further ones are a failure."""

    def __init__(self, encoder: QueryEncoder, failure: BaseException) -> None:
        self._encoder, self._failure, self._asked = encoder, failure, 0
        self.encode = SimpleNamespace(remote=self._answer)

    async def _answer(self, data: bytes, box: Box | None):  # type: ignore[no-untyped-def]
        self._asked += 1
        if self._asked > 1:
            raise self._failure
        return self._encoder.encode(data, box)


@pytest.mark.parametrize(
    "failure, detail",
    [
        (BackPressureError(num_queued_requests=9, max_queued_requests=9), "too many requests wait"),
        (TimeoutError(), "no encoder answered"),
        (ActorDiedError(), "the encoder was lost"),
    ],
    ids=["queue", "time", "lost"],
)
def test_encoders_that_cannot_answer_are_a_503(args, tiny_model, gallery, failure, detail):
    encoders = Encoders(QueryEncoder(eet.load_model(tiny_model), open_gallery(gallery)), failure)
    app = asyncio.run(on_ray.Page(on_ray.checked(args), encoders).__serve_build_asgi_app__())
    client = TestClient(app, headers={"authorization": f"Bearer {TOKEN}"})
    answer = client.post("/api/query", content=image_of(gallery, 0))
    assert answer.status_code == 503 and detail in answer.json()["detail"] and "retry-after" in answer.headers


@pytest.fixture(scope="module")
def served(tiny_model, tiny_birds, gallery) -> Iterator[str]:
    """The address of `eet serve --engine ray` with a Ray of its own, which SIGTERM ends."""
    command = [sys.executable, "-m", "pipelines", "serve", "--model", str(tiny_model), "--gallery", gallery, "--port", "0"]
    command += ["--engine", "ray", "--address", "local", "--shards", "3", "--rerank", "5", "--image-roots", f'["{tiny_birds}"]']
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3], start_new_session=True
    )
    late = threading.Timer(400, process.kill)
    late.start()
    assert process.stdout is not None and process.stderr is not None
    line = process.stdout.readline()
    assert line.startswith("http://127.0.0.1:") and "48 items" in line, line + process.stderr.read()
    late.cancel()
    try:
        yield line.split()[0]
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(90)
        process.kill()
    printed, complained = process.communicate()
    assert process.returncode == 143 and printed == "" and complained.endswith("eet serve: stopped by SIGTERM\n"), complained


def asked(url: str, data: bytes | None = None) -> tuple[int, dict]:
    try:
        with urllib.request.urlopen(url, data, timeout=120) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_real_serve_with_shards_answers_as_one_process(served, tiny_model, tiny_birds, gallery):
    here = ImageSearch(eet.load_model(tiny_model), open_gallery(gallery), roots=[str(tiny_birds)])
    described = asked(f"{served}api/gallery")[1]
    assert (described["items"], described["labels"], described["rerank"]) == (48, here.labels, 5)

    one_thread = threading.Lock()  # as ImageSearch is for one
    questions = (
        ({"k": 7, "rerank": 5}, "k=7"),
        ({"k": 48}, "k=48&rerank=0"),
        ({"k": 6, "label": here.labels[1], "prefix": str(tiny_birds)}, f"k=6&rerank=0&label={here.labels[1]}&prefix={tiny_birds}"),
        ({"k": 48, "max_distance": 4}, "k=48&rerank=0&max_distance=4"),
    )

    def searched(row: int) -> None:
        data = image_of(gallery, row)
        status, given = asked(f"{served}api/query", data)
        assert status == 200
        for number, (options, text) in enumerate(questions):
            status, found = asked(f"{served}api/search?query={given['query']}&{text}")
            with one_thread:
                expected = here.search(here.encode(data), **options)
            assert status == 200, (number, found)
            assert [(hit["item_id"], hit["distance"]) for hit in found["hits"]] == [(hit.item_id, hit.distance) for hit in expected.hits]
            assert len(found["before"]) == len(expected.before)

    with ThreadPoolExecutor(8) as users:
        list(users.map(searched, range(24)))

    item = open_gallery(gallery).codes()[1][5].as_py()
    assert asked(f"{served}api/explain?item={quote(item)}&hit={quote(image_id(gallery, 6))}")[0] == 200
    assert asked(f"{served}api/query", b"no image")[0] == 400
    assert asked(f"{served}api/search?item=nobody")[0] == 404
    request = urllib.request.Request(f"{served}api/gallery", headers={"host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="421"):
        urllib.request.urlopen(request, timeout=60)


def image_id(gallery: str, row: int) -> str:
    return open_gallery(gallery).codes()[1][row].as_py()

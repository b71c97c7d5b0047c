"""The JSON API: what it answers, what it refuses, and who may ask."""

import asyncio
import base64
import csv
import hashlib
import io
import json
import threading
from pathlib import Path
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from PIL import Image

import eet
from eet.datasets import synthetic, table_file
from eet.datasets.listing import Columns
from eet.serving import Feedback, ImageSearch
from pipelines.job.errors import JobFailed
from pipelines.serving.access import Token
from pipelines.serving.app import MAX_UPLOAD_BYTES, build_app
from pipelines.serving.work_queue import OverloadedError, WorkQueue

HOSTILE = ["../../etc/passwd", "<img src=x onerror=alert(1)>.png", "a?b#c%&d;e.png", "deep/er/é ü.png", "'\"\\\n.png", "image"]
MARKUP = '</script><b onmouseover="alert(1)">wren'
TOKEN = "a-token-of-many-letters"


@pytest.fixture(scope="module")
def search(tiny_model, tiny_birds, tmp_path_factory) -> ImageSearch:
    """Images under hostile ids, with labels that are markup."""
    birds = synthetic.load(str(tiny_birds))
    table = tmp_path_factory.mktemp("table") / "images.csv"
    with open(table, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "item_id", "label"])
        for row in range(24):
            writer.writerow(
                [birds.location(row), HOSTILE[row] if row < len(HOSTILE) else f"{row}.png", MARKUP if birds.labels[row] == 0 else "robin"]
            )
    gallery = eet.encode(tiny_model, table, columns=Columns(item_id="item_id"), tokens=True)
    return ImageSearch(eet.load_model(tiny_model), gallery, roots=[str(tiny_birds)], max_pixels=1_000_000)


@pytest.fixture
def client(search, tmp_path) -> TestClient:
    app = build_app(search, feedback=Feedback(tmp_path / "feedback"), rerank=5, max_upload_bytes=500_000)
    return TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=True)


def photo(search: ImageSearch, item_id: str = HOSTILE[0]) -> bytes:
    return Path(search.location(item_id)).read_bytes()


def test_an_image_finds_itself_first_and_is_explained(client, search):
    assert client.get("/api/gallery").json() | {"labels": 0} == {
        "items": 24, "bits": 16, "labels": 0, "has_tokens": True, "rerank": 5, "max_upload_bytes": 500_000, "url_queries": False,
    }  # fmt: skip
    given = client.post("/api/query", content=photo(search)).json()
    assert given["milliseconds"]["encode"] > 0
    found = client.get("/api/search", params={"query": given["query"], "k": 5, "rerank": 0}).json()
    assert found["hits"][0] | {"score": 0} == {
        "rank": 1, "item_id": HOSTILE[0], "name": found["hits"][0]["label"], "label": found["hits"][0]["label"], "distance": 0, "score": 0,
        "score_global": None, "score_struct": None, "metres": None,
    }  # fmt: skip
    assert len(found["hits"]) == 5 and found["before"] == []
    reranked = client.get("/api/search", params={"query": given["query"], "k": 5}).json()
    assert reranked["before"] == found["hits"] and reranked["hits"][0]["score_struct"] is not None
    assert set(reranked["milliseconds"]) == {"search", "rerank"}
    why = client.get("/api/explain", params={"query": given["query"], "hit": HOSTILE[0]}).json()
    assert why["grid"] == [6, 6] and why["lines"][0]["query"] in why["query"]["kept"]
    shown = client.get(f"/api/queries/{given['query']}/image")
    assert Image.open(io.BytesIO(shown.content)).size == (48, 48)
    assert client.post("/api/query", params={"box": "0,0,0.5,0.5"}, content=photo(search)).json()["query"] != given["query"]


def test_hits_of_an_item_have_metres_and_those_of_an_image_have_none(placed, tiny_model):
    gallery = eet.open_gallery(placed / "database")
    search = ImageSearch(eet.load_model(tiny_model), gallery)
    north = {row["item_id"]: row["northing"] for row in gallery.table(["item_id", "northing"]).to_pylist()}
    item, *_ = north
    found = search.search(search.item(item), k=5).hits
    assert [hit.metres for hit in found] == [abs(north[hit.item_id] - north[item]) for hit in found] and len(found) == 5
    image = search.encode(Path(search.location(item)).read_bytes())
    assert [hit.metres for hit in search.search(image, k=2).hits] == [None, None]


@pytest.mark.parametrize("item_id", HOSTILE)
def test_hostile_ids_are_ids(client, search, item_id):
    answer = client.get(f"/api/items/{quote(item_id, safe='')}/image", params={"size": 32})
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(answer.content)).size == (32, 32)
    hits = client.get("/api/search", params={"item": item_id, "k": 24}).json()["hits"]
    assert len(hits) == 23 and item_id not in [hit["item_id"] for hit in hits]
    assert client.get("/api/explain", params={"item": item_id, "hit": "7.png"}).status_code == 200


def test_ids_that_are_paths_open_nothing(client):
    for path in ("/etc/passwd", "../../etc/shadow", "file:///etc/passwd", "http://127.0.0.1/x", "..", "%00"):
        answer = client.get(f"/api/items/{quote(path, safe='')}/image")
        assert answer.status_code == 404 and "root:" not in answer.text
    for path in ("/../pyproject.toml", "/static/../app.py", "/page.html", "/docs"):
        assert client.get(path).status_code == 404


def test_filters(client):
    labels = client.get("/api/gallery").json()["labels"]
    assert labels == sorted([MARKUP, "robin"])
    hits = client.get("/api/search", params={"item": "7.png", "label": MARKUP, "k": 24}).json()["hits"]
    assert hits and {hit["label"] for hit in hits} == {MARKUP}
    assert client.get("/api/search", params={"item": "7.png", "prefix": "../"}).json()["hits"][0]["item_id"] == HOSTILE[0]
    near = client.get("/api/search", params={"item": "7.png", "max_distance": 2, "k": 24}).json()["hits"]
    assert all(hit["distance"] <= 2 for hit in near)


@pytest.mark.parametrize(
    "path, status",
    [
        ("/api/search", 400),
        ("/api/search?item=7.png&query=x", 400),
        ("/api/search?item=nobody", 404),
        ("/api/search?query=gone", 404),
        ("/api/search?item=7.png&k=0", 400),
        ("/api/search?item=7.png&k=many", 422),
        ("/api/search?item=7.png&label=nobody", 400),
        ("/api/search?item=7.png&max_distance=-1", 400),
        ("/api/search?item=7.png&rerank=5000", 400),
        (f"/api/search?item={'x' * 5000}", 422),
        ("/api/explain?item=7.png&hit=nobody", 404),
        ("/api/explain?item=7.png&hit=8.png&lines=1000", 400),
        ("/api/items/7.png/image?size=100000", 422),
        ("/api/queries/../image", 404),
    ],
)
def test_bad_questions_are_answered_with_a_reason(client, path, status):
    answer = client.get(path)
    assert answer.status_code == status and "detail" in answer.json()


def test_what_is_no_image_is_refused(client):
    bomb = io.BytesIO()
    Image.new("1", (6000, 6000)).save(bomb, "PNG")
    assert len(bomb.getvalue()) < 10_000  # 36 million pixels, where 1 million are allowed
    for data, reason in ((b"", "empty"), (b"<svg/>", "not-an-image"), (bomb.getvalue(), "too-large")):
        answer = client.post("/api/query", content=data)
        assert answer.status_code == 400 and reason in answer.json()["detail"]
    assert client.post("/api/query", params={"box": "1,1,0,0"}, content=b"x").status_code == 400


def test_too_large_bodies_are_refused_by_their_header_and_as_they_arrive(client):
    assert client.post("/api/query", content=b"x" * 500_001).status_code == 413
    assert client.post("/api/query", content=(b"x" * 100_000 for _ in range(6))).status_code == 413
    assert client.post("/api/feedback", content=b"x" * 70_000).status_code == 413


def test_feedback_becomes_a_table_that_a_training_reads(client, search, tmp_path):
    query = client.post("/api/query", content=photo(search, "9.png")).json()["query"]
    assert client.post("/api/feedback", json={"query": query, "hit": "9.png", "right": True}).json() == {
        "judgements": 1, "labelled_images": 2, "left_out": 0,
    }  # fmt: skip
    client.post("/api/feedback", json={"item": HOSTILE[4], "hit": "9.png", "right": False})
    answer = client.get("/labels.csv")
    assert answer.headers["content-type"].startswith("text/csv") and "attachment" in answer.headers["content-disposition"]
    (tmp_path / "labels.csv").write_text(answer.text)
    table = table_file.load(None, str(tmp_path / "labels.csv"))
    assert set(table.paths) == {search.location("9.png"), str(tmp_path / "feedback" / "images" / f"{query}.jpg")}
    assert set(table.label_names) == {search.label("9.png")} and Image.open(table.paths[0]).size == (48, 48)
    assert client.post("/api/feedback", json={"query": query, "hit": "9.png", "right": None}).json()["judgements"] == 1
    for body in ({}, {"hit": "9.png", "right": "perhaps", "item": "7.png"}, {"hit": "9.png", "right": True}):
        assert client.post("/api/feedback", json=body).status_code == 400
    assert client.post("/api/feedback", content=b'{"item": "\\ud800", "hit": "9.png", "right": true}').status_code in (400, 404)
    assert client.post("/api/feedback", json={"item": "7.png", "hit": "nobody", "right": True}).status_code == 404


def test_the_page_is_whole_and_runs_only_its_own_scripts(client):
    answer = client.get("/")
    policy = answer.headers["content-security-policy"]
    assert (
        "default-src 'none'" in policy and "unsafe" not in policy and policy.count("sha256-") == 4
    )  # a script, and the styles of three pages
    for outside in ("http://", "https://", "//cdn", "innerHTML", "outerHTML", "insertAdjacentHTML", "eval("):
        assert outside not in answer.text.replace("http://www.w3.org/2000/svg", "")
    assert answer.headers["x-content-type-options"] == "nosniff" and answer.headers["referrer-policy"] == "no-referrer"


def test_probes_and_metrics(client):
    client.get("/api/search?item=7.png")
    client.get("/nowhere")
    assert client.get("/healthz").text == client.get("/readyz").text == "ok\n"
    text = client.get("/metrics").text
    assert 'eet_requests_total{path="/api/search",status="200"} 1.0' in text
    assert 'eet_requests_total{path="other",status="404"} 1.0' in text
    assert 'eet_stage_seconds_count{stage="rerank"} 1.0' in text and "eet_items 24.0" in text
    paths = client.get("/api/openapi.json").json()["paths"]
    assert {"/api/query", "/api/search", "/api/explain", "/api/feedback", "/labels.csv"} <= set(paths)


def test_another_name_and_other_sites_are_refused_without_a_token(client):
    assert client.get("/api/gallery", headers={"host": "evil.example:8000"}).status_code == 421  # DNS rebinding
    assert client.get("/api/gallery", headers={"host": "[::1"}).status_code == 421
    assert client.get("/api/gallery", headers={"host": "localhost:8000"}).status_code == 200
    body = {"item": "7.png", "hit": "8.png", "right": True}
    assert client.post("/api/feedback", json=body, headers={"origin": "http://evil.example"}).status_code == 403
    assert client.post("/api/feedback", json=body, headers={"origin": "null"}).status_code == 403
    assert client.post("/api/feedback", json=body, headers={"origin": "http://127.0.0.1:8000"}).status_code == 200
    assert client.get("/api/items/7.png/image", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert client.get("/", headers={"sec-fetch-site": "cross-site"}).status_code == 200  # a link


def test_a_token_is_needed_by_header_or_cookie(search):
    client = TestClient(build_app(search, token=TOKEN), base_url="http://gallery.example", follow_redirects=False)
    for path in ("/api/gallery", "/labels.csv", "/metrics", "/api/items/7.png/image", "/api/openapi.json"):
        assert client.get(path).status_code == 401
    for header in ("Bearer ", "Bearer wrong", f"Basic {TOKEN}", "Bearer é", TOKEN):
        assert client.get("/api/gallery", headers={"authorization": header.encode("latin-1")}).status_code == 401
    assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
    assert client.get("/api/gallery", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    page = client.get("/")
    assert page.status_code == 401 and 'name="token"' in page.text and "<script>" not in page.text
    assert client.post("/login", data={"token": "wrong"}).status_code == 401 and not client.cookies
    assert client.get("/api/gallery", headers={"cookie": "eet_session=wrong; \x01"}).status_code == 401
    entered = client.post("/login", data={"token": TOKEN})
    assert entered.status_code == 303 and entered.headers["location"] == "/"
    cookie = entered.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and TOKEN not in cookie and Token(TOKEN).cookie in cookie
    assert client.get("/").status_code == client.get("/api/gallery").status_code == 200


def test_overload_is_refused_at_once_and_passes(search, monkeypatch):
    going, running, found = threading.Event(), threading.Event(), search.search

    def slow(*given, **options):  # type: ignore[no-untyped-def]
        running.set()
        going.wait(30)
        return found(*given, **options)

    monkeypatch.setattr(search, "search", slow)
    app = build_app(search, waiting=1)
    statuses = []
    with TestClient(app, base_url="http://127.0.0.1") as client:
        threads = [threading.Thread(target=lambda: statuses.append(client.get("/api/search?item=7.png").status_code)) for _ in range(2)]
        for thread in threads:
            thread.start()
        running.wait(30)
        for _ in range(1000):
            if (refused := client.get("/readyz")).status_code == 503:
                break
        assert refused.status_code == 503
        answer = client.get("/api/search?item=7.png")
        assert answer.status_code == 503 and answer.headers["retry-after"] == "1"
        assert client.post("/api/query", content=b"").status_code == 503
        assert client.get("/api/items/7.png/image").status_code == 200  # images have their own threads
        going.set()
        for thread in threads:
            thread.join(30)
        assert statuses == [200, 200] and client.get("/readyz").status_code == 200


def test_a_lost_shard_is_a_503_that_names_it(search, monkeypatch):
    def lost(*_, **__):  # type: ignore[no-untyped-def]
        raise JobFailed("the shard of parts 0, 3 was lost")

    monkeypatch.setattr(search, "search", lost)
    answer = TestClient(build_app(search), base_url="http://127.0.0.1").get("/api/search?item=7.png")
    assert answer.status_code == 503 and "parts 0, 3" in answer.json()["detail"] and answer.headers["retry-after"] == "10"


def test_a_call_that_takes_too_long_is_given_up():
    going = threading.Event()

    async def give_up() -> None:
        queue = WorkQueue(1, 0, longest_s=0.05)
        with pytest.raises(OverloadedError, match=r"0\.05 seconds"):
            await queue.run(going.wait, 30)
        assert queue.is_full  # its thread still runs
        going.set()
        for _ in range(200):
            if not queue.is_full:
                break
            await asyncio.sleep(0.01)
        assert await queue.run(json.loads, "1") == 1
        queue.close()

    asyncio.run(give_up())


def test_a_query_names_an_image_at_a_web_address_only_where_that_is_allowed(client, search, monkeypatch):
    asked = []
    monkeypatch.setattr("pipelines.serving.app.read_remote_image", lambda url, max_bytes: asked.append((url, max_bytes)) or photo(search))
    address = {"url": "http://birds.example/wren.png"}
    refused = client.post("/api/query", params=address)
    assert refused.status_code == 400 and "--url-queries" in refused.json()["detail"] and asked == []
    allowed = TestClient(build_app(search, url_queries=True), base_url="http://127.0.0.1:8000")
    assert (client.get("/api/gallery").json()["url_queries"], allowed.get("/api/gallery").json()["url_queries"]) == (False, True)
    query = allowed.post("/api/query", params=address).json()["query"]
    assert asked == [(address["url"], MAX_UPLOAD_BYTES)]
    assert allowed.get("/api/search", params={"query": query, "k": 1}).json()["hits"][0]["item_id"] == HOSTILE[0]
    assert allowed.post("/api/query", params=address, content=b"both").status_code == 400 and len(asked) == 1


def test_the_page_of_the_api_has_every_request_and_loads_nothing(client):
    answer = client.get("/api")
    assert answer.status_code == 200 and "<!-- requests -->" not in answer.text
    for path, methods in client.get("/api/openapi.json").json()["paths"].items():
        for method in methods:
            assert f"<code>{method.upper()} {path}</code>" in answer.text
    assert "left,top,right,bottom, as shares" in answer.text and "src=" not in answer.text and "<script" not in answer.text
    style = answer.text.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in answer.headers["content-security-policy"]

"""The application: the page, the JSON API and the probes, over one `ImageSearch`."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import cache
from importlib.resources import files
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse
from pydantic import BaseModel, Field, ValidationError
from starlette.convertors import Convertor, register_url_convertor
from starlette.types import Scope

from eet import __version__
from eet.errors import EetError, InputError, NotFoundError
from eet.figures.report import STYLE
from eet.serving import Box, Explanation, Feedback, ImageSearch, Judgement
from eet.serving import Query as EncodedQuery
from pipelines.job.errors import JobFailed
from pipelines.serving.access import COOKIE, LOGIN, Access, Token, content_policy
from pipelines.serving.api_page import requests_html
from pipelines.serving.metrics import Metrics
from pipelines.serving.remote_image import read_remote_image
from pipelines.serving.work_queue import OverloadedError, WorkQueue

CONNECTIONS = 256
"""Connections at once; a further one is answered with 503."""
MAX_UPLOAD_BYTES = 20 * 2**20
"""Largest image file of a query."""
SMALL_BODY_BYTES = 64 * 2**10
"""Largest body of any other request."""
BODY_SECONDS = 30.0
"""Time in which a body must arrive."""
QUERIES_KEPT = 256
"""Encoded queries in memory, the last used ones."""
IMAGE_THREADS, IMAGES_WAITING = 2, 200
DOWNLOADS = 4
"""Images at web addresses that are read at once; as many wait."""
IMAGE_SIDES = (16, 2048)
"""Least and greatest `size` of an image."""
MOST_LABELS_LISTED = 5000

Encode = Callable[[bytes, Box | None], Awaitable[EncodedQuery]]
"""Encodes the bytes of an image file, or a part of the image."""

Text = Annotated[str | None, Query(max_length=4096)]


class ItemConvertor(Convertor[str]):
    """An item_id in a path: any text, also with slashes and line breaks."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("item", ItemConvertor())


class TooLargeError(Exception):
    """A body is larger than allowed."""


class FeedbackBody(BaseModel):
    """A judgement: of a query (an image that was posted, or an item of the gallery) and one of its hits. right: null takes it back."""

    query: str | None = Field(None, max_length=4096)
    item: str | None = Field(None, max_length=4096)
    hit: str = Field(max_length=4096)
    right: bool | None


class _Queries:
    """The encoded images of the last queries, by id."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, EncodedQuery] = OrderedDict()

    def add(self, query: EncodedQuery) -> None:
        self._kept[query.query_id] = query
        self._kept.move_to_end(query.query_id)
        if len(self._kept) > QUERIES_KEPT:
            self._kept.popitem(last=False)

    def get(self, query_id: str) -> EncodedQuery:
        if query_id not in self._kept:
            raise NotFoundError("this query is no longer kept: give the image again")
        self._kept.move_to_end(query_id)
        return self._kept[query_id]


def build_app(
    search: ImageSearch,
    *,
    feedback: Feedback | None = None,
    token: str | None = None,
    hosts: tuple[str, ...] = (),
    rerank: int = 0,
    waiting: int = 32,
    max_upload_bytes: int = MAX_UPLOAD_BYTES,
    encode: Encode | None = None,
    url_queries: bool = False,
) -> FastAPI:
    """The application.

    Args:
        search: answers the queries.
        feedback: takes the judgements; default in memory.
        token: each request needs it; None to admit requests of this machine only.
        hosts: further names of this machine, where there is no token.
        rerank: number of re-ranked hits where a search does not say; 0 where the gallery has no tokens.
        waiting: searches that may wait; further ones are answered with 503.
        max_upload_bytes: limit of an image file.
        encode: encodes images elsewhere, many at once; default by `search`, in turn with the searches. It raises OverloadedError where it
            can take no more.
        url_queries: whether a query may name an image at a public web address.
    """
    judged = Feedback() if feedback is None else feedback
    queries = _Queries()
    searches = WorkQueue(1, waiting)  # a network and compiled loops use all cores, one query after another
    images = WorkQueue(IMAGE_THREADS, IMAGES_WAITING)
    downloads = WorkQueue(DOWNLOADS, DOWNLOADS)
    metrics = Metrics(lambda: searches.pending, search.num_items)
    usual_rerank = rerank if search.has_tokens else 0
    admitted = None if token is None else Token(token)
    page = page_html()

    async def encode_here(data: bytes, box: Box | None) -> EncodedQuery:
        return await searches.run(search.encode, data, box)

    encoded = encode_here if encode is None else encode
    labels = search.labels[: MOST_LABELS_LISTED + 1]

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        searches.close()
        images.close()
        downloads.close()

    # FastAPI's own pages of the API load scripts from elsewhere.
    app = FastAPI(title="EET", version=__version__, docs_url=None, redoc_url=None, openapi_url="/api/openapi.json", lifespan=lifespan)

    def on_answer(scope: Scope, status: int) -> None:
        metrics.answered(getattr(scope.get("route"), "path", "other"), status)

    app.add_middleware(
        Access,
        token=admitted,
        hosts=hosts,
        policy=content_policy(page + login_html() + api_html()),
        login_page=login_html(),
        on_answer=on_answer,
    )

    @app.exception_handler(EetError)
    async def refused(_: Request, error: EetError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 404 if isinstance(error, NotFoundError) else 400)

    @app.exception_handler(JobFailed)
    async def lost(_: Request, error: JobFailed) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 503, {"retry-after": "10"})

    @app.exception_handler(TooLargeError)
    async def too_large(_: Request, error: TooLargeError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 413, {"connection": "close"})

    @app.exception_handler(OverloadedError)
    async def overloaded(_: Request, error: OverloadedError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 503, {"retry-after": "1"})

    async def asked(query: str | None, item: str | None) -> EncodedQuery:
        if (query is None) == (item is None):
            raise InputError("give either query, from POST /api/query, or item, an item_id")
        return queries.get(query) if query is not None else await images.run(search.item, item)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def show_page() -> HTMLResponse:
        return HTMLResponse(page)

    @app.post(LOGIN, include_in_schema=False)
    async def login(request: Request) -> Response:
        given = parse_qs((await body_of(request, SMALL_BODY_BYTES)).decode("utf-8", "replace")).get("token", [""])[0].strip()
        if admitted is None:
            return RedirectResponse("/", 303)
        if not admitted.is_right(given):
            return HTMLResponse(login_html(wrong=True), 401)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, admitted.cookie, httponly=True, samesite="strict", secure=request.url.scheme == "https")
        return answer

    @app.get("/api/gallery")
    async def describe() -> dict[str, Any]:
        """What can be searched: items, bits of a code, labels, and the usual number of re-ranked hits."""
        return {
            "items": search.num_items,
            "bits": search.gallery.manifest.num_bits,
            "labels": labels[:MOST_LABELS_LISTED],
            "has_tokens": search.has_tokens,
            "rerank": usual_rerank,
            "max_upload_bytes": max_upload_bytes,
            "url_queries": url_queries,
        }

    @app.get("/api", response_class=HTMLResponse, include_in_schema=False)
    async def show_api() -> HTMLResponse:
        return HTMLResponse(api_html().replace("<!-- requests -->", requests_html(app.openapi())))

    @app.post("/api/query", openapi_extra={"requestBody": {"required": True, "content": {"image/*": {}}}})
    async def take_query(
        request: Request,
        box: Annotated[str | None, Query(max_length=200, description="left,top,right,bottom, as shares")] = None,
        url: Annotated[str | None, Query(max_length=4096, description="web address of the image; only with --url-queries")] = None,
    ) -> dict[str, Any]:
        """Takes the bytes of an image file, or a web address in its place, and returns the id of the query."""
        part = None if box is None else Box.parse(box)
        if searches.is_full:  # before 20 MB are read
            raise OverloadedError("too many requests wait: try again in a moment")
        data = await body_of(request, max_upload_bytes)
        if url is not None:
            if not url_queries:
                raise InputError("this server reads no images from web addresses (--url-queries allows it): give the bytes of the file")
            if data:
                raise InputError("the request has both url and a body: give one of them")
            data = await downloads.run(read_remote_image, url, max_bytes=max_upload_bytes)
        started = time.perf_counter()
        query = await encoded(data, part)
        milliseconds = {"encode": round(1000 * (time.perf_counter() - started), 2)}
        metrics.took(milliseconds)
        queries.add(query)
        return {"query": query.query_id, "milliseconds": milliseconds}

    @app.get("/api/search")
    async def find(
        query: Text = None,
        item: Text = None,
        k: int = 24,
        label: Text = None,
        prefix: Annotated[str, Query(max_length=4096)] = "",
        max_distance: int | None = None,
        rerank: int | None = None,
    ) -> dict[str, Any]:
        """The hits of a query or of an item. `before` has the hits before re-ranking."""
        answer = await searches.run(
            search.search,
            await asked(query, item),
            k=k,
            label=label or None,
            prefix=prefix,
            max_distance=max_distance,
            rerank=usual_rerank if rerank is None else rerank,
        )
        metrics.took(answer.milliseconds)
        return {
            "hits": [asdict(hit) for hit in answer.hits],
            "before": [asdict(hit) for hit in answer.before],
            "milliseconds": answer.milliseconds,
        }

    @app.get("/api/explain")
    async def explain(hit: Annotated[str, Query(max_length=4096)], query: Text = None, item: Text = None, lines: int = 5) -> dict[str, Any]:
        """Why an item is a hit: the patches that the network kept of both images, and those that were matched most strongly."""
        found = await searches.run(search.explain, await asked(query, item), hit, count=lines)
        return _as_json(found)

    @app.get("/api/items/{item_id:item}/image", response_class=Response)
    async def item_image(item_id: str, size: Annotated[int, Query(ge=IMAGE_SIDES[0], le=IMAGE_SIDES[1])] = 320) -> Response:
        """The image of an item as a JPEG, its longer side at most `size` pixels."""
        return _jpeg(await images.run(search.image, item_id, size))

    @app.get("/api/queries/{query_id}/image", response_class=Response)
    async def query_image(query_id: Annotated[str, Path(max_length=64)]) -> Response:
        """The image of a query, or the part of it that was searched for, as a JPEG."""
        return _jpeg(queries.get(query_id).shown)

    @app.post("/api/feedback", openapi_extra=_json_body(FeedbackBody))
    async def take_feedback(request: Request) -> dict[str, int]:
        """Takes a judgement. Returns the number of judgements, of labelled images, and of images left out as contradictory."""
        try:
            body = FeedbackBody.model_validate_json(await body_of(request, SMALL_BODY_BYTES))
        except ValidationError as error:
            raise InputError(f"the judgement cannot be read: {error.errors()[0]['msg']}") from error
        return await images.run(_judge, search, judged, await asked(body.query, body.item), body)

    @app.get("/labels.csv", response_class=PlainTextResponse)
    async def labels_csv() -> Response:
        """The images that right hits label: columns path, label, split, as `eet distill --data.name table` reads."""
        text = await images.run(judged.to_csv)
        return Response(text, media_type="text/csv; charset=utf-8", headers={"content-disposition": 'attachment; filename="labels.csv"'})

    @app.get("/healthz", response_class=PlainTextResponse)
    async def healthy() -> str:
        """Whether the process answers."""
        return "ok\n"

    @app.get("/readyz", response_class=PlainTextResponse)
    async def ready() -> PlainTextResponse:
        """Whether a search would be taken; 503 while too many wait."""
        return PlainTextResponse("busy\n", 503) if searches.is_full else PlainTextResponse("ok\n")

    @app.get("/metrics", response_class=PlainTextResponse)
    async def show_metrics() -> Response:
        """Counts and times, for Prometheus."""
        return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return app


async def body_of(request: Request, most: int) -> bytes:
    """The body of a request. TooLargeError above `most` bytes, by its header or as it arrives; OverloadedError where it takes too long."""
    problem = f"the body is too large: at most {most} bytes are taken"
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > most:
        raise TooLargeError(problem)
    taken = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for piece in request.stream():
                taken += piece
                if len(taken) > most:
                    raise TooLargeError(problem)
    except TimeoutError as error:
        raise OverloadedError(f"the body did not arrive within {BODY_SECONDS:g} seconds") from error
    return bytes(taken)


@cache
def page_html() -> str:
    """The page, with the style of `eet report`."""
    return _template("page.html")


@cache
def login_html(*, wrong: bool = False) -> str:
    """The page that asks for the token."""
    return _template("login.html").replace("<!-- wrong -->", '<p role="alert">This is not the token.</p>' if wrong else "")


@cache
def api_html() -> str:
    """The page of the API, without its requests."""
    return _template("api.html")


def _template(name: str) -> str:
    return files("pipelines.serving").joinpath(name).read_text(encoding="utf-8").replace("/* report */", STYLE)


def _judge(search: ImageSearch, feedback: Feedback, query: EncodedQuery, body: FeedbackBody) -> dict[str, int]:
    sides = [
        _side(search, body.hit),
        _side(search, query.query_id) if query.is_item else (feedback.keep(query.query_id, query.shown), None),
    ]
    (item, item_label), (asked, query_label) = sides
    feedback.add(Judgement(query=asked, item=item, right=body.right, query_label=query_label, item_label=item_label))
    labelled = feedback.labelled_images()
    return {"judgements": len(feedback), "labelled_images": len(labelled.label_of), "left_out": labelled.left_out}


def _side(search: ImageSearch, item_id: str) -> tuple[str, str | None]:
    return search.location(item_id), search.label(item_id)


def _as_json(found: Explanation) -> dict[str, Any]:
    return {
        "grid": found.grid,
        "input_size": found.input_size,
        "query": found.query._asdict(),
        "item": found.item._asdict(),
        "lines": [line._asdict() for line in found.lines],
    }


def _jpeg(data: bytes) -> Response:
    return Response(data, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600"})


def _json_body(body: type[BaseModel]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": body.model_json_schema()}}}}

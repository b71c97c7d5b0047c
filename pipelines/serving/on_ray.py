"""The search page on Ray Serve: replicas that encode queries, and one that holds the page, the API, the index and re-ranking.

`application` is what `serve run` and KubeRay import. `eet serve --engine ray` runs the same, and ends it.
"""

import asyncio
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

import ray
import torch
from fastapi import FastAPI
from pydantic import TypeAdapter, ValidationError
from ray import serve
from ray.exceptions import RayActorError
from ray.serve import Application
from ray.serve.config import HTTPOptions
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from eet.device import Device
from eet.errors import InputError
from eet.gallery import Gallery, load_model, open_gallery, read_manifest
from eet.options.threads import SLEEPING_THREADS
from eet.retrieval.gallery_index import GalleryIndex
from eet.serving import Box, Feedback, ImageSearch, Query, QueryEncoder
from eet.serving.image_search import GREY_IMAGE
from pipelines.actors.shards import ShardedIndex
from pipelines.configs.serve import ServeConfig
from pipelines.job.cluster import ClusterResources, cluster_resources, places
from pipelines.job.errors import JobFailed
from pipelines.job.location import location_problems, with_absolute_locations
from pipelines.job.stopping import postponed
from pipelines.serving.access import read_token
from pipelines.serving.app import CONNECTIONS, build_app
from pipelines.serving.work_queue import LONGEST_S, OverloadedError

APPLICATION, ENCODER, PAGE = "eet", "encoder", "page"
"""Names in Ray Serve: of the application and of its two deployments."""
BATCH_SIZE = {"cpu": 1, "cuda": 8}
"""Queries that the network takes at once, by the kind of device."""
BATCH_WAIT_S = 0.005
"""Seconds for which a query waits for others to fill its batch."""
ENCODER_SHARE = 0.9
"""Of each CPU of an encoder, what it reserves. The rest is for the page and the shards, which work for moments: with one CPU, all run."""
PAGE_CPUS = 0.01
GRACE_S = 3.0
"""Seconds for which a replica that is stopped finishes its requests."""
NOT_LOGGED = LoggingConfig(enable_access_log=False)
"""Addresses of searches are nobody's business."""
OF_THE_SERVER = ("host", "port", "engine", "address", "tracking_uri", "seed", "dry_run")
"""Options of `eet serve` that `application` does not take: Ray Serve has its own, or they mean nothing there."""


# Ray's decorators are typed for functions without self.
in_batches: Any = serve.batch


class Encoder:
    """Holds the network, and encodes queries of many users in batches. See `eet.serving.QueryEncoder` for the options."""

    def __init__(self, model: str, gallery: str, *, gpu: bool, threads: int, batch_size: int, max_pixels: int) -> None:
        self._encoder = QueryEncoder(
            load_model(model),
            Gallery(gallery, read_manifest(gallery)),
            max_pixels=max_pixels,
            device=Device.of("cuda" if gpu else "cpu"),
            batch_size=batch_size,
        )
        self._thread = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads,))
        self.encode.set_max_batch_size(batch_size)
        self.encode.set_batch_wait_timeout_s(BATCH_WAIT_S if batch_size > 1 else 0.0)

    @in_batches
    async def encode(self, images: list[bytes], boxes: list[Box | None]) -> list[Query | InputError]:
        """The query of each image file, or why it cannot be one. A caller gives one image and one box, and gets one of these."""
        given = list(zip(images, boxes, strict=True))
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._encoder.encode_all, given)


class Page:
    """Answers all requests: the application of `build_app`. The images of queries are encoded by the encoders."""

    def __init__(self, config: ServeConfig, encoder: DeploymentHandle) -> None:
        self._config, self._encoder = config, encoder

    async def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Ray Serve once, for the application of the replica."""
        config = self._config
        search = await asyncio.to_thread(_opened_search, config)
        await asyncio.to_thread(search.warm_up, await self._encode(GREY_IMAGE, None))
        if (refusal := search.first_refusal()) is not None:
            print(f"note: {refusal}: to show such images, name their folders in image_roots")
        return build_app(
            search,
            feedback=Feedback(config.feedback),
            token=None if config.token_file is None else read_token(config.token_file),
            hosts=(config.host,),
            rerank=config.rerank,
            waiting=config.waiting,
            encode=self._encode,
            url_queries=config.url_queries,
        )

    async def _encode(self, data: bytes, box: Box | None) -> Query:
        try:
            async with asyncio.timeout(LONGEST_S):
                found = await self._encoder.encode.remote(data, box)
        except BackPressureError as error:
            raise OverloadedError("too many requests wait: try again in a moment") from error
        except TimeoutError as error:
            raise OverloadedError(f"no encoder answered within {LONGEST_S:g} seconds: try again later") from error
        except RayActorError as error:
            raise OverloadedError("the encoder was lost: try again in a moment") from error
        if isinstance(found, InputError):
            raise found
        return found


def application(args: dict[str, Any]) -> Application:
    """The page for `serve run` and for `import_path` in a file of Ray Serve.

    Args:
        args: options of `eet serve` by name, such as model, gallery and token_file; also as text, as `serve run` passes them. All paths
            must be valid on every node.

    Raises:
        InputError: an option is unknown, missing or impossible.
    """
    return bound(checked(args))


def checked(args: dict[str, Any]) -> ServeConfig:
    """The config of `application`. InputError, naming all problems."""
    allowed = [entry.name for entry in fields(ServeConfig) if entry.name not in OF_THE_SERVER]
    problems = []
    for name in args:
        if name in ("host", "port"):
            problems.append(f"{name}: where Ray Serve listens is an option of its own; see http_options in deploy/kuberay/rayservice.yaml")
        elif name not in allowed:
            nearest = get_close_matches(name, allowed, 1)
            problems.append(f"{name}: no such option; " + (f"did you mean {nearest[0]}?" if nearest else f"use {', '.join(allowed)}"))
    try:
        config = TypeAdapter(ServeConfig).validate_python({**args, "engine": "ray"})
    except ValidationError as error:
        problems += [f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors()]
    else:
        config = with_absolute_locations(config)
        problems += location_problems(config) or config.problems()
        if config.token_file is None:
            problems.append("token_file is missing: other machines may reach Ray Serve, so each request needs a token")
    if problems:
        raise InputError("; ".join(problems))
    return config


def bound(config: ServeConfig, resources: ClusterResources | None = None) -> Application:
    """The application of a config.

    Args:
        config: without problems.
        resources: of the cluster; default those of the connected one, where there is one. They say whether encoders have GPUs by default.
    """
    if resources is None:
        resources = cluster_resources(grows=True) if ray.is_initialized() else ClusterResources((), grows=True)
    workers, cpus = config.workers or 1, config.cpus_per_worker or 1
    gpus = (1.0 if resources.gpus >= workers else 0.0) if config.gpus_per_worker is None else config.gpus_per_worker
    if not resources.grows and places(resources.nodes, cpus=cpus, gpus=gpus) < workers:
        raise resources.too_small(workers, "use fewer --workers, or a smaller --cpus-per-worker or --gpus-per-worker")
    batch_size = config.batch_size or BATCH_SIZE["cuda" if gpus else "cpu"]
    usual: dict[str, Any] = {"logging_config": NOT_LOGGED, "graceful_shutdown_timeout_s": GRACE_S}
    encoders: Any = serve.deployment(
        Encoder,
        name=ENCODER,
        num_replicas=workers,
        max_ongoing_requests=2 * batch_size,
        max_queued_requests=config.waiting,
        ray_actor_options={"num_cpus": ENCODER_SHARE * cpus, "num_gpus": gpus, "runtime_env": {"env_vars": SLEEPING_THREADS}},
        **usual,
    )
    page: Any = serve.deployment(
        serve.ingress()(Page),
        name=PAGE,
        num_replicas=1,  # it keeps the last queries and the judgements
        max_ongoing_requests=CONNECTIONS,
        max_queued_requests=CONNECTIONS,
        ray_actor_options={"num_cpus": PAGE_CPUS},
        **usual,
    )
    options = {"gpu": gpus > 0, "threads": cpus, "batch_size": batch_size, "max_pixels": config.max_pixels}
    return page.bind(config, encoders.bind(config.model, config.gallery, **options))


@contextmanager
def running(config: ServeConfig, resources: ClusterResources, *, port: int) -> Iterator[None]:
    """Runs the page at config.host and a port on every node that holds a part of it, until the block ends.

    Raises:
        InputError: Ray Serve runs on the cluster already, or the encoders do not fit it.
        JobFailed: a replica cannot be started.
    """
    if serve.status().proxies:
        raise InputError(
            "Ray Serve runs on this cluster already, where its own options say: add the page to it with "
            "`serve run pipelines.serving.on_ray:application model=... gallery=... token_file=...`"
        )
    page = bound(config, resources)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        serve.start(http_options=HTTPOptions(host=config.host, port=port), proxy_location="EveryNode", logging_config=NOT_LOGGED)
        try:
            serve.run(page, name=APPLICATION, route_prefix="/")
        except RuntimeError as error:
            raise JobFailed(f"the page could not be started on Ray Serve: {error}") from error
        yield
    finally:
        with postponed():
            serve.delete(APPLICATION)
            if resources.grows:  # the end of a cluster that this job started ends the rest
                serve.shutdown()


def _opened_search(config: ServeConfig) -> ImageSearch:
    gallery = open_gallery(config.gallery)
    index = None if config.index is None else GalleryIndex.load(config.index)
    # Without end: a page runs for months, in which many a node is lost.
    sharded = (
        ShardedIndex(gallery, config.shards, cluster_resources(grows=True), backend=config.backend, rebuilds=-1)
        if config.shards > 1
        else None
    )
    return ImageSearch(
        load_model(config.model),
        gallery,
        index if sharded is None else sharded,
        roots=config.image_roots,
        backend=config.backend,
        max_pixels=config.max_pixels,
        device=Device.of("cpu"),
    )

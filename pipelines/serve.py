"""`eet serve`: a search page and a JSON API over a gallery, in this process or on Ray Serve."""

import contextlib
import socket
import threading
from collections.abc import Iterator

from eet.errors import InputError
from eet.gallery import check_made_by, load_model, open_gallery, read_model_record
from eet.retrieval.gallery_index import GalleryIndex
from eet.serving import Feedback, ImageSearch
from pipelines.configs.serve import ServeConfig
from pipelines.index import check_covers
from pipelines.job.address import check_address
from pipelines.job.location import with_absolute_locations


def run(config: ServeConfig) -> None:
    """Serves until a signal ends it."""
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn

        if config.engine == "ray":
            from ray import serve  # noqa: F401
    except ImportError as error:
        raise InputError(f"eet serve needs {error.name}: pip install 'eet[serve]'") from error
    from pipelines.serving.access import read_token
    from pipelines.serving.app import CONNECTIONS, build_app

    config = with_absolute_locations(config)
    token = None if config.token_file is None else read_token(config.token_file)
    gallery = open_gallery(config.gallery)
    check_made_by(gallery, read_model_record(config.model), f"--model {config.model}")
    if config.index is not None:
        check_covers(config.index, gallery)
    if config.engine == "ray":
        check_address(config.ray_address)
    with listening(config.host, config.port) as (listener, url):
        if config.dry_run:
            print(f"dry run: {gallery.manifest.num_ok} items of {config.gallery} at {url}; nothing was started")
            return
        if config.engine == "ray":
            port = listener.getsockname()[1]
            listener.close()  # Ray Serve binds it itself
            _run_on_ray(config, port, f"{url} searches {gallery.manifest.num_ok:,} items of {config.gallery}; Ctrl-C ends it")
            return
        search = ImageSearch(
            load_model(config.model),
            gallery,
            None if config.index is None else GalleryIndex.load(config.index),
            roots=config.image_roots,
            backend=config.backend,
            max_pixels=config.max_pixels,
        )
        search.warm_up()
        if (refusal := search.first_refusal()) is not None:
            print(f"note: {refusal}: to show such images, name their folders in --image-roots")
        app = build_app(
            search,
            feedback=Feedback(config.feedback),
            token=token,
            hosts=(config.host,),
            rerank=config.rerank,
            waiting=config.waiting,
            url_queries=config.url_queries,
        )
        listener.listen(CONNECTIONS)  # the next line says that one can connect
        print(f"{url} searches {search.num_items:,} items of {config.gallery}; Ctrl-C ends it", flush=True)
        # Requests are not logged: addresses of searches are nobody's business.
        options = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=3
        )  # fmt: skip
        uvicorn.Server(options).run(sockets=[listener])


def _run_on_ray(config: ServeConfig, port: int, ready: str) -> None:
    """Serves on a Ray cluster until a signal ends it. ready: printed once one can connect."""
    from pipelines.job.cluster import connected
    from pipelines.serving.on_ray import running

    with connected(config.ray_address) as resources, running(config, resources, port=port):
        print(ready, flush=True)
        threading.Event().wait()


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[tuple[socket.socket, str]]:
    """Yields a socket that is bound, before anything is loaded, and its URL. InputError where the port is taken, or the host is unknown."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError as error:
        raise InputError(f"--host {host} cannot be listened on: {error}") from error
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            raise InputError(f"--host {host} --port {port} cannot be listened on ({error.strerror}): choose another --port") from error
        named = f"[{host}]" if family == socket.AF_INET6 else host
        yield listener, f"http://{named}:{listener.getsockname()[1]}/"

"""Options of `eet serve`."""

import ipaddress
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from eet.options.choices import Backend
from eet.options.defaults import MAX_PIXELS, MOST_HITS
from pipelines.job.location import LOCATION
from pipelines.job.options import JobOptions
from pipelines.job.worker_need import WorkerNeed


@dataclass(kw_only=True)
class ServeConfig(JobOptions):
    """Opens a search page: give an image, and see its nearest items, why they match, and judge them. Ctrl-C ends it.

    Attributes:
        model: Bundle that encoded the gallery.
        gallery: Gallery that `eet encode` wrote; with --tokens, hits are re-ranked and explained.
        index: Index of the gallery that `eet index` wrote, so that it starts at once.
        backend: native, faiss, or auto (faiss on a GPU, else native). The hits are the same.
        rerank: Number of hits that are re-ordered by matching image regions; 0 for none. The page can change it.
        host: Address to listen on. One that other machines can reach needs --token-file.
        port: Port to listen on; 0 for a free one.
        token_file: File of mode 0600 with a token of 16 or more characters, which every request must give; the page asks for it once.
        feedback: Folder for the judgements of hits, and for the query images that were judged; default in memory.
        image_roots: Folders whose images the page may show, after links are resolved; default the inputs that the gallery's manifest names.
        max_pixels: A query with more pixels is refused.
        waiting: Number of searches that may wait. The server answers further ones with 503.
        url_queries: Let a query name an image at a public http:// or https:// address, which the server then reads.
        engine: local runs in this process. ray runs on Ray Serve: query images are encoded by --workers, in batches, and the gallery may
            be divided among --shards.
        workers: With --engine ray: number of replicas that encode query images; default 1.
        cpus_per_worker: With --engine ray: CPUs of an encoding replica; default 1.
        gpus_per_worker: With --engine ray: GPUs of an encoding replica: 0, 1 or a share of one; default 1 where each can have one.
        batch_size: With --engine ray: query images that a replica encodes at once; default 1 on a CPU, 8 on a GPU.
        shards: With --engine ray: number of Ray actors among which the parts of the gallery are divided, if its codes are too many for one
            machine; 1 searches in the process that holds the page.
    """

    examples: ClassVar[tuple[str, ...]] = (
        "eet serve --model runs/model --gallery runs/gallery",
        "eet serve --model runs/model --gallery runs/gallery --engine ray --workers 2",
    )
    unused: ClassVar[tuple[str, ...]] = ("tracking_uri", "seed")

    model: str = field(metadata=LOCATION)
    gallery: str = field(metadata=LOCATION)
    index: str | None = field(default=None, metadata=LOCATION)
    backend: Backend = "auto"
    rerank: int = 100
    host: str = "127.0.0.1"
    port: int = 8000
    token_file: str | None = field(default=None, metadata=LOCATION)
    feedback: str | None = field(default=None, metadata=LOCATION)
    image_roots: tuple[str, ...] = field(default=(), metadata=LOCATION)
    max_pixels: int = MAX_PIXELS
    waiting: int = 32
    url_queries: bool = False
    engine: Literal["local", "ray"] = "local"
    workers: int | None = None
    cpus_per_worker: int | None = None
    gpus_per_worker: float | None = None
    batch_size: int | None = None
    shards: int = 1

    def problems(self) -> list[str]:
        found = super().problems() + self.local_only("index", "token_file", "feedback")
        if not 0 <= self.rerank <= MOST_HITS:
            found.append(f"--rerank {self.rerank}: use 0 to {MOST_HITS}")
        if not 0 <= self.port <= 65_535:
            found.append(f"--port {self.port}: use 0 to 65535")
        found += [
            f"--{name} {value}: use 1 or more"
            for name in ("max_pixels", "waiting", "workers", "batch_size", "shards")
            if (value := getattr(self, name)) is not None and value < 1
        ]
        found += WorkerNeed(self.cpus_per_worker, self.gpus_per_worker).problems()
        if self.engine == "local":
            given = {name: getattr(self, name) for name in ("workers", "cpus_per_worker", "gpus_per_worker", "batch_size")}
            used = [name for name, value in given.items() if value is not None] + ["shards"] * (self.shards != 1)
            found += [f"--{name} is for --engine ray: add it, or leave --{name} out" for name in used]
        if self.index is not None and self.shards > 1:
            found.append("--index and --shards are both given: an index is searched in one process; choose one")
        if self.token_file is None and not is_loopback(self.host):
            found.append(f"--host {self.host} can be reached from other machines: give --token-file, or use 127.0.0.1")
        return found


def is_loopback(host: str) -> bool:
    """Whether an address or name is of this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

"""Options of `eet serve`."""

import ipaddress
from dataclasses import dataclass, field
from typing import ClassVar

from eet.options.choices import Backend
from eet.options.defaults import MAX_PIXELS, MOST_HITS
from pipelines.job.location import LOCATION
from pipelines.job.options import JobOptions


@dataclass(kw_only=True)
class ServeConfig(JobOptions):
    """Opens a search page: give an image, and see its nearest items, why they match, and judge them. Ctrl-C ends it.

    Attributes:
        model: Bundle that encoded the gallery.
        gallery: Gallery that `eet encode` wrote; with --tokens, hits are re-ranked and explained.
        index: Index of the gallery that `eet index` wrote, so that it starts at once.
        backend: native, faiss, or auto (faiss on a GPU, else native). The hits are the same.
        rerank: Number of hits that are re-ordered by matching image regions; 0 for none. The page can change it.
        host: Address to listen on. Other addresses than those of this machine alone need --token-file.
        port: Port to listen on; 0 for a free one.
        token_file: File of mode 0600 with a token of 16 or more characters, which every request must give; the page asks for it once.
        feedback: Folder for the judgements of hits, and for the query images that were judged; default in memory.
        image_roots: Folders whose images the page may show, links followed; default the inputs that the gallery's manifest names.
        max_pixels: A query with more pixels is refused.
        waiting: Number of searches that may wait. The server answers further ones with 503.
    """

    examples: ClassVar[tuple[str, ...]] = ("eet serve --model runs/model --gallery runs/gallery",)
    unused: ClassVar[tuple[str, ...]] = ("address", "tracking_uri", "seed")

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

    def problems(self) -> list[str]:
        found = super().problems() + self.local_only("index", "token_file", "feedback")
        if not 0 <= self.rerank <= MOST_HITS:
            found.append(f"--rerank {self.rerank}: use 0 to {MOST_HITS}")
        if not 0 <= self.port <= 65_535:
            found.append(f"--port {self.port}: use 0 to 65535")
        found += [f"--{name} {value}: use 1 or more" for name in ("max_pixels", "waiting") if (value := getattr(self, name)) < 1]
        if self.token_file is None and not is_loopback(self.host):
            found.append(f"--host {self.host} can be reached from other machines: give --token-file, or use 127.0.0.1")
        return found


def is_loopback(host: str) -> bool:
    """Whether an address or name is of this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

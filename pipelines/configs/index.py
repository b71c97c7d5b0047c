"""Options of `eet index`."""

from dataclasses import dataclass, field
from typing import ClassVar

from eet.options.defaults import MOST_LINKS
from eet.options.registered import registered
from pipelines.job.location import LOCATION
from pipelines.job.options import JobOptions


@dataclass(kw_only=True)
class IndexConfig(JobOptions):
    """Prepares a gallery for fast searches. An existing index is extended by the parts that were added to the gallery since.

    Attributes:
        gallery: Gallery that `eet encode` wrote.
        out: Folder of the index, on this machine.
        kind: exact finds the same hits as a scan of all codes. ivf divides the codes into lists, and a search scans only the nearest ones:
            many times faster from a million codes on, for the clustered codes of trained models. faiss-ivf is the same of FAISS, and
            faiss-hnsw its graph. These three can miss hits; each search measures how many. Default: the kind of the existing index, else
            exact.
        lists: Number of lists of a new ivf or faiss-ivf index; default 4 times the square root of the number of distinct codes, at most
            65,536. An extended index keeps its lists.
        links: Links of a code in a new faiss-hnsw index; default 32. More find more hits, and take more memory and time.
    """

    examples: ClassVar[tuple[str, ...]] = (
        "eet index --gallery runs/gallery --out runs/index",
        "eet index --gallery runs/gallery --kind ivf --out runs/lists",
    )
    unused: ClassVar[tuple[str, ...]] = ("address", "tracking_uri", "seed")

    gallery: str = field(metadata=LOCATION)
    out: str = field(metadata=LOCATION)
    kind: str | None = None
    lists: int | None = None
    links: int | None = None

    def problems(self) -> list[str]:
        found = super().problems() + self.local_only("out")
        if self.kind is not None and self.kind not in (allowed := registered("eet.search.indexes", "INDEXES")):
            found.append(f"--kind {self.kind}: allowed are {', '.join(allowed)}")
        if self.lists is not None and self.lists < 1:
            found.append(f"--lists {self.lists}: use 1 or more")
        if self.links is not None and not 2 <= self.links <= MOST_LINKS:
            found.append(f"--links {self.links}: use 2 to {MOST_LINKS}")
        if self.lists is not None and self.kind not in ("ivf", "faiss-ivf"):
            found.append("--lists needs --kind ivf or faiss-ivf")
        if self.links is not None and self.kind != "faiss-hnsw":
            found.append("--links needs --kind faiss-hnsw")
        return found

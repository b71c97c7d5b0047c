"""Options of `eet search`."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from eet.options.choices import Backend
from eet.options.defaults import number_of_hits
from pipelines.job.location import LOCATION
from pipelines.job.options import JobOptions, hits_file_problems


@dataclass(kw_only=True)
class SearchConfig(JobOptions):
    """Ranks a gallery's items by Hamming distance to each query (the nearest --k, or all within --radius bits), or by embedding.

    Attributes:
        gallery: Gallery that `eet encode` wrote.
        queries: A folder of images, one image, or a gallery of the same model. It may be --gallery itself; then no item is its own hit.
        model: Bundle that encodes query images; not needed if the queries are a gallery.
        k: Largest number of hits of each query. Default 100; with --radius all hits within the radius.
        radius: Largest distance of a hit, in bits. A query may then have few hits or none.
        backend: Search engine: native, or faiss (FAISS's flat binary index). The hits are the same. auto is faiss on a GPU, else native.
        by: code (Hamming distance), or embedding (cosine of the stored final CLS vectors, exactly; both galleries need --embedding).
        index: Folder that `eet index` wrote for the gallery, so that the search starts at once. The recall of an approximate
            index is measured, printed and stored in the hits file (Parquet metadata, eet.recall).
        probes: Lists of an ivf or faiss-ivf index that a query searches, default 16; with all of them the search is exact. Of a faiss-hnsw
            index the candidates that a query keeps, default 64. A larger number finds more hits and takes longer.
        recall_queries: Number of queries that are also searched exactly, to measure the recall of an approximate search.
        rescore: Re-order this many hits of each query by its real-valued hash with the bits of each item, which needs no more than the
            codes, and by the stored final CLS vectors if the gallery was encoded with --embedding, in any form (--embedding-as int4 takes
            half a byte a dimension).
        rescore_weight: Weight of the cosine of the CLS vectors; codes have weight 1. Default 1 if the gallery has them, else 0.
        shards: Ray actors among which the parts of the gallery are divided, if it is too large for one machine; 1 searches in this
            process.
        out: Parquet file of hits. Query images are encoded into a small gallery next to it, NAME.queries.
        format: What is printed: table (rank, distance, label and location of each hit; of many queries the first ones), paths (the
            locations of all hits, one on each line; everything else is written to standard error), or none (how many there are).
    """

    examples: ClassVar[tuple[str, ...]] = (
        "eet search --model runs/model --gallery runs/gallery --queries query.jpg --k 20 --out runs/hits.parquet",
        "eet search --gallery runs/gallery --queries runs/queries --index runs/index --out runs/hits.parquet",
    )
    unused: ClassVar[tuple[str, ...]] = ("tracking_uri", "seed")

    gallery: str = field(metadata=LOCATION)
    queries: str = field(metadata=LOCATION)
    out: str = field(metadata=LOCATION)
    model: str | None = field(default=None, metadata=LOCATION)
    k: int | None = None
    radius: int | None = None
    backend: Backend = "auto"
    by: Literal["code", "embedding"] = "code"
    index: str | None = field(default=None, metadata=LOCATION)
    probes: int | None = None
    recall_queries: int = 64
    rescore: int = 0
    rescore_weight: float | None = None
    shards: int = 1
    format: Literal["table", "paths", "none"] = "table"

    def problems(self) -> list[str]:
        found = super().problems()
        k = number_of_hits(self.k, self.radius)
        if k is not None and k < 1:
            found.append(f"--k {k}: ask for 1 hit or more")
        if self.radius is not None and self.radius < 0:
            found.append(f"--radius {self.radius}: use 0 bits or more")
        if self.probes is not None and self.probes < 1:
            found.append(f"--probes {self.probes}: use 1 or more")
        if self.probes is not None and self.index is None:
            found.append("--probes needs an --index of kind ivf, faiss-ivf or faiss-hnsw")
        if self.recall_queries < 1:
            found.append(f"--recall_queries {self.recall_queries}: use 1 or more")
        if self.rescore < 0 or (k is not None and self.rescore > k):
            found.append(f"--rescore {self.rescore}: use 0 (none) " + ("or more" if k is None else f"to --k {k}"))
        if self.rescore_weight is not None and not 0 <= self.rescore_weight < float("inf"):
            found.append(f"--rescore_weight {self.rescore_weight}: use 0 or more")
        if self.shards < 1:
            found.append(f"--shards {self.shards}: use 1 or more")
        if self.index is not None and self.shards > 1:
            found.append("--index and --shards are both given: an index is searched in one process; choose one")
        if self.by == "embedding":
            given = {
                "index": self.index is not None,
                "shards": self.shards > 1,
                "rescore": self.rescore > 0,
                "radius": self.radius is not None,
            }
            found += [f"--{name} is for a search by code: leave it out with --by embedding" for name, used in given.items() if used]
        return found + hits_file_problems(self.out)

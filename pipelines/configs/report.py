"""Options of `eet report`."""

from dataclasses import dataclass, field
from typing import ClassVar

from pipelines.job.location import LOCATION
from pipelines.job.options import JobOptions, metres_problems


@dataclass(kw_only=True)
class ReportConfig(JobOptions):
    """Shows queries and their first hits, framed by whether they are right, the patches that the network kept, and how similar patches
    become from block to block. Of places it shows a map and recall over the radius. For re-ranked hits, it shows the order before and
    after, and the matched regions.

    Attributes:
        hits: Hits that `eet search` or `eet rerank` wrote.
        out: Folder for report.html.
        gallery: The gallery searched; default the one in the hits' config.
        queries: The gallery of the queries; default the one in the hits' config.
        model: Bundle, for the kept tokens; default the one in the hits' config, if any.
        num_queries: Number of queries to show, spread over the hits.
        top: Hits shown for each query.
        metres: A hit is right within this distance of the query. Default: if it has the query's label; where labels are missing and both
            sides have positions, within 25 metres.
        image_roots: Folders whose images the page may show, after links are resolved; default the inputs that each gallery's manifest
            names. Other images are not shown; the page says so.
    """

    examples: ClassVar[tuple[str, ...]] = ("eet report --hits runs/hits.parquet --out runs/report",)
    unused: ClassVar[tuple[str, ...]] = ("address", "tracking_uri", "seed")

    hits: str = field(metadata=LOCATION)
    out: str = field(metadata=LOCATION)
    gallery: str | None = field(default=None, metadata=LOCATION)
    queries: str | None = field(default=None, metadata=LOCATION)
    model: str | None = field(default=None, metadata=LOCATION)
    num_queries: int = 20
    top: int = 5
    metres: float | None = None
    image_roots: tuple[str, ...] = field(default=(), metadata=LOCATION)

    def problems(self) -> list[str]:
        few = [f"--{name} {value}: use 1 or more" for name in ("num_queries", "top") if (value := getattr(self, name)) < 1]
        return super().problems() + few + metres_problems(self.metres)

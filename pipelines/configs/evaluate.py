"""Options of `eet evaluate`."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from eet.errors import InputError
from eet.options.choices import Denominator, LabelChoice, Ties
from pipelines.job.location import LOCATION
from pipelines.job.options import JobOptions, metres_problems


@dataclass(kw_only=True)
class EvaluateConfig(JobOptions):
    """Measures retrieval under one protocol or both.

    encoded: queries and gallery both encoded by the network. published: queries against the training images' target codes, which the
    bundle keeps; it needs --model and labelled queries.

    Attributes:
        out: Folder for metrics.json, pr_curve.png and pr_curve.csv.
        gallery: Labelled gallery; without --queries its items are the queries, and no item is its own hit.
        queries: Labelled gallery of queries.
        hits: Hits of --queries in --gallery. Then only these hits are measured, and mAP is mAP@k.
        model: Bundle, for the published protocol and for --labels.
        protocol: encoded ranks the items of the gallery for each query. published ranks the target codes of the training images, which
            the bundle keeps; it needs --model and labelled queries.
        ks: Ranks for precision.
        recall_ks: Ranks for recall: 1 if any of the first k is a match. Default 1, 2, 4, 8, or 1, 5, 10, 20 by distance.
        metres: Matches are the items within this distance of the query, in its zone. Default: the items of its label; where labels are
            missing and both sides have positions, those within 25 metres.
        by: Also measure the queries of each condition alone (such as day or night). The dataset of places names the conditions.
        all_queries: Also compute recall over all queries, where a query without a match counts as 0 (recall@1_all and so on).
        count_query: Count the query itself in R for R-precision and MAP@R, as published tables do (off by one).
        ties: Every measure is the mean over random order inside ties. stable adds, for comparison, each with ties in the order of item_id
            (of hits: of ranks), as mAP_stable and so on.
        denominator: Number by which the mAP@k of hits is divided: all matches in the gallery (as TREC does), those reachable in k hits, or
            those found.
        labels: Measure the queries of all labels, of the labels that --model saw in training, or of those that it did not. The
            gallery stays whole.
    """

    examples: ClassVar[tuple[str, ...]] = (
        "eet evaluate --model runs/model --gallery runs/gallery --out runs/evaluation",
        "eet evaluate --gallery runs/gallery --queries runs/queries --hits runs/hits.parquet --out runs/evaluation",
    )
    unused: ClassVar[tuple[str, ...]] = ("address", "seed")

    out: str = field(metadata=LOCATION)
    gallery: str = field(metadata=LOCATION)
    queries: str | None = field(default=None, metadata=LOCATION)
    hits: str | None = field(default=None, metadata=LOCATION)
    model: str | None = field(default=None, metadata=LOCATION)
    protocol: Literal["published", "encoded", "both"] = "both"
    ks: tuple[int, ...] = (1, 10)
    recall_ks: tuple[int, ...] | None = None
    metres: float | None = None
    by: Literal["condition"] | None = None
    all_queries: bool = False
    count_query: bool = False
    ties: Ties = "expected"
    denominator: Denominator = "all"
    labels: LabelChoice = "all"

    def problems(self) -> list[str]:
        found = super().problems()
        if self.protocol == "published" and self.model is None:
            found.append("--protocol published needs --model: its bundle keeps the target codes")
        if self.hits is not None and self.protocol == "published":
            found.append("--hits are of an encoded gallery: use --protocol encoded or both")
        if self.labels != "all" and self.model is None:
            found.append(f"--labels {self.labels} needs --model: its bundle names the labels that were trained")
        if self.labels == "unseen" and self.protocol == "published":
            found.append("--labels unseen cannot use --protocol published, whose gallery is the trained labels: use encoded")
        if self.denominator != "all" and self.hits is None:
            found.append(f"--denominator {self.denominator} needs --hits: without hits the whole gallery is ranked")
        if min((*self.ks, *(self.recall_ks or ())), default=1) < 1:
            found.append(f"--ks {list(self.ks)}, --recall_ks {list(self.recall_ks or ())}: ranks begin at 1")
        found += metres_problems(self.metres)
        if self.metres is not None and self.protocol == "published":
            found.append("--metres cannot use --protocol published, whose gallery is codes of labels: use --protocol encoded")
        if self.metres is not None and self.labels != "all":
            found.append(f"--labels {self.labels} chooses queries by label, and --metres matches them by distance: choose one")
        if self.tracking_uri is None:
            from pipelines.job.tracking import default_tracking_uri

            try:
                default_tracking_uri(self.out)
            except InputError as error:
                found.append(str(error))
        return found

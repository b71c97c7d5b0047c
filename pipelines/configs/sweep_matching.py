"""Options of `eet sweep-matching`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from eet.options.choices import GlobalSimilarity
from pipelines.configs.rerank import RerankConfig
from pipelines.configs.space import with_parameters
from pipelines.configs.sweep_options import SweepOptions
from pipelines.job.location import LOCATION, with_absolute_locations
from pipelines.job.options import metres_problems


@dataclass(kw_only=True)
class SweepMatchingConfig(SweepOptions):
    """Re-ranks given hits for each point of a search space, as `eet rerank` does, and chooses the best. Nothing is trained.

    Trials are compared by MAP@R on half of the queries; the chosen one is measured once on the other half.

    Attributes:
        out: Folder for the table of trials, figures, best.yaml, and the trials' own folders.
        hits: Parquet file that `eet search` wrote for labelled queries, with at least as many hits as matches in the gallery.
        gallery: The labelled gallery that was searched, encoded with --tokens.
        queries: Gallery of the queries, with tokens; default the one that `eet search` wrote with the hits.
        top: Hits of a query that are re-ranked.
        metres: Matches are the items within this distance of the query. Default: the items of its label; where labels are missing and
            both sides have positions, those within 25 metres.
        global_similarity: hamming, asymmetric or embedding, as in `eet rerank`; default asymmetric if the queries have hashes.
        space: matching, or the dotted path of your own function (module.function, on PYTHONPATH) that returns a Ray Tune dictionary
            over the flags of `eet rerank`.
        space_options: Arguments of the space, for example '{form: grid}'.
        trials: Total number of trials of a random space; a grid has its own number.
        search: random (draws, and grids), or optuna (extra 'optuna'), which draws the next trial from the results of earlier ones.
        concurrent: Trials at once; default as many as the cluster has CPUs.
        resume: Continue an interrupted sweep in --out: failed trials run again, finished ones do not.
    """

    examples: ClassVar[tuple[str, ...]] = ("eet sweep-matching --hits runs/hits.parquet --gallery runs/gallery --out runs/matching",)

    spaces: ClassVar[Mapping[str, str]] = {"matching": "tune_spaces.matching.matching"}

    hits: str = field(metadata=LOCATION)
    gallery: str = field(metadata=LOCATION)
    queries: str | None = field(default=None, metadata=LOCATION)
    space: str = "matching"
    top: int = 100
    metres: float | None = None
    global_similarity: GlobalSimilarity | None = None

    def problems(self) -> list[str]:
        found = super().problems()
        if self.top < 1:
            found.append(f"--top {self.top}: re-rank 1 hit or more")
        return found + metres_problems(self.metres) or self.space_problems()

    def trial_problems(self, parameters: Mapping[str, Any]) -> list[str]:
        shared = self.base.problems()
        return [problem for problem in with_parameters(self.base, parameters).problems() if problem not in shared]

    @property
    def base(self) -> RerankConfig:
        """The re-ranking of a trial, before its parameters are set."""
        return with_absolute_locations(
            RerankConfig(
                hits=self.hits,
                gallery=self.gallery,
                queries=self.queries,
                out=str(self.trials_dir.parent / "best.parquet"),
                top=self.top,
                global_similarity=self.global_similarity,
                engine="local",
                seed=self.seed,
                address=self.address,
                tracking_uri=self.tracking_uri,
            )
        )

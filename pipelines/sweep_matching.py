"""`eet sweep-matching`: many re-rankings of given hits over a search space on Ray Tune: quality against time."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from eet.retrieval.pairs import GlobalSimilarity
from pipelines.job.location import LOCATION, with_absolute_locations
from pipelines.rerank import RerankConfig
from pipelines.trials.rerankings import Rerankings, read_halves
from pipelines.trials.trial import with_parameters
from pipelines.trials.tuning import SweepOptions, SweepResult, run_sweep


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
        global_similarity: hamming, asymmetric or embedding, as in `eet rerank`; default asymmetric if the queries have hashes.
        space: matching, or the dotted path of your own function (module.function, on PYTHONPATH) that returns a Ray Tune dictionary
            over the flags of `eet rerank`.
        space_options: Arguments of the space, for example '{form: grid}'.
        trials: Total number of trials of a random space; a grid has its own number.
        search: random (draws, and grids), or optuna (extra 'optuna'), which draws the next trial from the results of earlier ones.
        concurrent: Trials at once; default as many as the cluster has CPUs.
        resume: Continue an interrupted sweep in --out: failed trials run again, finished ones do not.
    """

    spaces: ClassVar[Mapping[str, str]] = {"matching": "tune_spaces.matching.matching"}

    hits: str = field(metadata=LOCATION)
    gallery: str = field(metadata=LOCATION)
    queries: str | None = field(default=None, metadata=LOCATION)
    space: str = "matching"
    top: int = 100
    global_similarity: GlobalSimilarity | None = None

    def problems(self) -> list[str]:
        found = super().problems()
        if self.top < 1:
            found.append(f"--top {self.top}: re-rank 1 hit or more")
        return found

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


def run(config: SweepMatchingConfig) -> SweepResult:
    """Runs the trials that are not finished yet, and writes tables, figures and best.yaml into config.out."""
    return run_sweep(config, lambda tracking_uri: rerankings_of(config, tracking_uri))


def rerankings_of(config: SweepMatchingConfig, tracking_uri: str | None = None) -> Rerankings:
    """The trials of a sweep, with the hits that they share. InputError where trials cannot be compared by them."""
    halves, before = read_halves(config.base, seed=config.seed)
    return Rerankings(
        base=dataclasses.replace(config.base, tracking_uri=tracking_uri),
        trials_dir=config.trials_dir,
        halves=halves,
        before=before,
        concurrent=config.concurrent,
    )

"""`eet sweep-matching`: many re-rankings of given hits over a search space on Ray Tune: how they are ranked best, and what that costs."""

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
    """Re-ranks given hits for each point of a search space, as `eet rerank` would, and names the best way. Nothing is trained.

    Trials are judged by MAP@R on half of the queries; the chosen one is measured once on the other half.

    Attributes:
        out: Folder for the table of trials, figures, best.yaml, and the trials' own folders.
        hits: Parquet file that `eet search` wrote, of labelled queries, with as many hits each as the gallery has matches, or more.
        gallery: The labelled gallery that was searched, encoded with --tokens.
        queries: Gallery of the queries, with tokens; default the one that `eet search` put beside the hits.
        top: Hits of a query that are re-ranked.
        global_similarity: hamming, asymmetric or embedding, as of `eet rerank`; default asymmetric where the queries have hashes.
        space: matching, or the dotted path of a function of your own (module.function, on PYTHONPATH) that gives a Ray Tune dictionary
            over the flags of `eet rerank`.
        space_options: What the space is given, for example '{form: grid}'.
        trials: How many, where the space is random; a grid has its own number.
        search: random draws (and grids), or optuna (extra 'optuna'), which draws the next trial by what the others reached.
        concurrent: Trials at once; default as many as the cluster has CPUs.
        resume: Go on with a sweep in --out that was cut off: failed trials again, finished ones never.
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
        """The re-ranking that a trial is, before its parameters."""
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
    """The trials of a sweep, with the hits that they share. ValueError where trials could not be judged by them."""
    halves, before = read_halves(config.base, seed=config.seed)
    return Rerankings(
        base=dataclasses.replace(config.base, tracking_uri=tracking_uri),
        trials_dir=config.trials_dir,
        halves=halves,
        before=before,
        concurrent=config.concurrent,
    )

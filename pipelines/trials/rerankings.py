"""A sweep whose trials are re-rankings of given hits by `eet rerank`, and their cost."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import ray
from ray import tune

from eet.errors import InputError
from eet.gallery import read_hits
from eet.retrieval.metres import radius_of
from eet.storage import Claim, write_text
from pipelines.configs.space import with_parameters
from pipelines.costs.matching import ms_per_query
from pipelines.job.cluster import ClusterResources, largest_share
from pipelines.job.measures_table import print_measures
from pipelines.job.progress import duration
from pipelines.job.tracking import TrackedRun
from pipelines.rerank import RerankConfig, open_galleries, options_of
from pipelines.trials.halves import HitsInHalves, in_halves
from pipelines.trials.kind import TrialKind
from pipelines.trials.reranking import MEASURES, RerankingTrial, order_measures, reranked_measures, run_trial
from pipelines.trials.share import Share, share_out
from pipelines.trials.trial import Trial, add_measured

METRICS_FILE = "metrics.json"


def read_halves(base: RerankConfig, *, seed: int, metres: float | None = None) -> tuple[HitsInHalves, dict[str, dict[str, float]]]:
    """The hits of queries that have a label or a position in two halves, and the measures of each half before any re-ranking.

    metres: as for `order_measures`. InputError where trials cannot be compared by them.
    """
    hits = read_hits(base.hits)
    gallery, queries = open_galleries(base)
    options_of(base, gallery, queries)  # refuses galleries that lack a column that re-ranking needs
    by_label = radius_of(gallery, queries, metres) is None
    hits = hits.sort_by([("query_id", "ascending"), ("rank", "ascending")])
    if by_label:
        hits = hits.filter(pc.is_valid(hits["query_label"]))
    if not len(hits):
        raise InputError(f"{base.hits} has no query labels, by which trials are compared: search with a labelled gallery of queries")
    halves = in_halves(hits, seed)
    before = {}
    for half, table in halves._asdict().items():
        found = order_measures(table, gallery, queries, metres=metres) if len(table) else {}
        if not found.get("queries"):
            raise InputError(
                f"{base.hits}: of half of the queries none has a match in {gallery.path}; trials are compared on one half and the chosen "
                "one on the other: give more queries, "
                + ("and encode both galleries with --data.* of the same labels" if by_label else "or a larger radius (--metres)")
            )
        if "MAP@R" not in found:
            raise InputError(
                f"{base.hits}: trials are compared by MAP@R, which needs as many hits of a query as {gallery.path} has matches: search "
                "with a larger --k"
            )
        before[half] = found
    return halves, before


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rerankings(TrialKind):
    """Re-rankings of given hits, compared by MAP@R on half of the queries; the chosen one is measured on the other half.

    base: the re-ranking of a trial, before its parameters are set. trials_dir: folder of the trials. before: measures of the given hits, by
    half. metres: as for `order_measures`.
    """

    trial = RerankingTrial
    done, unseen, advice = "tried", "the other half of the queries", "re-rank all hits with it: eet rerank"
    processes_last = True
    costs = ("ms_per_query",)

    base: RerankConfig
    trials_dir: Path
    halves: HitsInHalves
    before: Mapping[str, dict[str, float]]
    concurrent: int | None
    metres: float | None = None

    def share(self, resources: ClusterResources, *, trials: int) -> Share:
        return share_out(resources, workers=1, cpus=None, gpus=0, trials=trials, asked=self.concurrent)

    def each(self, share: Share, space: Mapping[str, Any]) -> str:
        return f"{self._queries} queries on {share.cpus} CPUs"

    @property
    def _queries(self) -> int:
        return len(pc.unique(self.halves.judged["query_id"]))

    def estimate(self, first: Mapping[str, Any], space: Mapping[str, Any], resources: ClusterResources, *, trials: int) -> list[str]:
        """Estimates by timing a few queries."""
        share = self.share(resources, trials=trials)
        (ms,) = ms_per_query(self.halves.judged, {"first": with_parameters(self.base, first)}, threads=share.cpus).values()
        each = ms * self._queries / 1e3
        return [
            f"dry run: {trials} trials, {share.concurrent} at once",
            f"  each: {self.each(share, space)}",
            f"  {ms:.2f} ms a query measured on this machine with {share.cpus} threads (alone); about {duration(each)} of matching a "
            f"trial, {duration(each * -(-trials // share.concurrent))} for all, besides reading and the start of processes; "
            "nothing was started",
        ]

    def trainable(self, share: Share, run: TrackedRun, claim: Claim) -> Any:
        given = {
            "base": self.base,
            "trials_dir": str(self.trials_dir),
            "hits": self.halves.judged,
            "threads": share.cpus,
            "parent_run": run.run_id,
            "metres": self.metres,
            "claim": claim,
        }
        return tune.with_resources(tune.with_parameters(run_trial, **given), {"cpu": share.cpus})

    @property
    def progress(self) -> Callable[[Mapping[str, float]], str]:
        return _progress

    def with_measured_costs(self, trials: list[Trial], resources: ClusterResources) -> list[Trial]:
        """Times the finished trials, interleaved; trials that differ only in the weight once. Skipped if all were timed before."""
        finished = [trial for trial in trials if trial.status == "finished"]
        if all("ms_per_query" in trial.costs for trial in finished):
            return trials
        print(f"timing {len(finished)} re-rankings; nothing else of the sweep runs now")
        configs = {trial.name: with_parameters(self.base, trial.parameters) for trial in finished}
        found = _alone(resources, ms_per_query, self.halves.judged, configs)
        return add_measured(trials, "ms_per_query", found)

    def best_config(self, chosen: Trial, out: Path) -> RerankConfig:
        return dataclasses.replace(with_parameters(self.base, chosen.parameters), out=str(out / "best.parquet"), engine="auto")

    def test(self, chosen: Trial, resources: ClusterResources) -> dict[str, dict[str, float]]:
        """Measures of the given and of the chosen order on the unseen half of the queries."""
        file = self.trials_dir.parent / METRICS_FILE
        known = json.loads(file.read_text()) if file.exists() else {}
        if known.get("trial") != chosen.name:
            reranked = {
                "judged": {**chosen.best, "queries": self.before["judged"]["queries"]},
                "held_out": _alone(
                    resources,
                    reranked_measures,
                    self.halves.held_out,
                    with_parameters(self.base, chosen.parameters),
                    metres=self.metres,
                ),
            }
            known = {"trial": chosen.name}
            known |= {half: {"before": self.before[half], "reranked": reranked[half]} for half in reranked}
            write_text(str(file), json.dumps(known, indent=1) + "\n")
        print("the queries in two halves: trials are compared on one, the chosen one is measured on the other")
        print_measures({f"{half.replace('_', ' ')}, {order}": known[half][order] for half in HitsInHalves._fields for order in known[half]})
        return known["held_out"]


def _alone(resources: ClusterResources, measure: Callable[..., dict[str, float]], *given: Any, **options: Any) -> dict[str, float]:
    """Runs `measure` with all CPUs of a node."""
    threads = largest_share(resources.nodes, 1, gpus=0)
    return ray.get(ray.remote(measure).options(num_cpus=threads).remote(*given, threads=threads, **options))


def _progress(record: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {record[name]:.4f}" for name in MEASURES)

"""A sweep whose trials are re-rankings: given hits in the order that `eet rerank` gives them by each one's parameters, and its cost."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc
import ray
from ray import tune

from eet.gallery import read_hits
from eet.storage import absolute, write_text
from pipelines.cluster import ClusterResources, largest_share
from pipelines.evaluate import print_measures
from pipelines.matching_cost import ms_per_query
from pipelines.progress import duration
from pipelines.query_halves import HitsInHalves, in_halves
from pipelines.rerank import RerankConfig, open_galleries
from pipelines.rerank_parts import GlobalSimilarity
from pipelines.tracking import TrackedRun
from pipelines.trial_kind import TrialKind
from pipelines.trial_reranking import RerankingTrial, order_measures, reranked_measures, run_trial
from pipelines.trial_share import Share, share_out
from pipelines.trials import Trial, add_measured, with_parameters

if TYPE_CHECKING:
    from pipelines.sweep import SweepConfig

METRICS_FILE = "metrics.json"


@dataclasses.dataclass(kw_only=True)
class GivenHitsOptions:
    """Hits that trials re-rank.

    Attributes:
        hits: Parquet file that `eet search` wrote, of labelled queries, with as many hits each as the gallery has matches, or more.
        gallery: The labelled gallery that was searched, encoded with --tokens.
        queries: Gallery of the queries, with tokens; default the one that `eet search` put beside the hits.
        top: Hits of a query that are re-ranked.
        global_similarity: hamming, asymmetric or embedding, as of `eet rerank`; default asymmetric with --match.model, else hamming.
        model: Student that encoded both galleries, for asymmetric.
    """

    hits: str | None = None
    gallery: str | None = None
    queries: str | None = None
    top: int = 100
    global_similarity: GlobalSimilarity | None = None
    model: str | None = None

    def problems(self) -> list[str]:
        found = [f"--match.{name} is missing: trials re-rank given hits" for name in ("hits", "gallery") if getattr(self, name) is None]
        if self.top < 1:
            found.append(f"--match.top {self.top}: re-rank 1 hit or more")
        if self.global_similarity == "asymmetric" and self.model is None:
            found.append("--match.global_similarity asymmetric needs --match.model: it makes a hash of a query's embedding")
        return found


class Rerankings(TrialKind):
    """Orders of given hits, judged by MAP@R on half of the queries; the chosen one is measured on the other half. trials: their folder."""

    trial = RerankingTrial
    done, unseen, advice = "tried", "the other half of the queries", "re-rank all hits with it: eet rerank"
    processes_last = True
    costs = ("ms_per_query",)

    def __init__(self, config: "SweepConfig", trials: Path) -> None:
        self._config, self._trials = config, trials
        self._out = trials.parent
        self._halves: HitsInHalves
        self._before: dict[str, dict[str, float]]

    @cached_property
    def base(self) -> RerankConfig:
        """The re-ranking that a trial is, before its parameters."""
        match = self._config.match
        return RerankConfig(
            hits=str(absolute(match.hits)),
            gallery=str(absolute(match.gallery)),
            queries=absolute(match.queries),
            out=str(self._out / "best.parquet"),
            top=match.top,
            global_similarity=match.global_similarity,
            model=absolute(match.model),
            engine="local",
            seed=self._config.seed,
            address=self._config.address,
            tracking_uri=self._config.tracking_uri,
        )

    def problems(self) -> list[str]:
        return []

    def trial_problems(self, parameters: Mapping[str, Any]) -> list[str]:
        ours = self.base.problems()
        return [problem for problem in with_parameters(self.base, parameters).problems() if problem not in ours]

    def read(self) -> None:
        """The hits of labelled queries, in two halves, and what their order is worth."""
        hits = read_hits(self.base.hits)
        gallery, queries = open_galleries(self.base)
        hits = hits.filter(pc.is_valid(hits["query_label"])).sort_by([("query_id", "ascending"), ("rank", "ascending")])
        if not len(hits):
            raise ValueError(f"{self.base.hits} has no query labels, by which trials are judged: search with a labelled gallery of queries")
        self._halves = in_halves(hits, self._config.seed)
        self._before = {}
        for half, table in self._halves._asdict().items():
            found = order_measures(table, gallery, queries) if len(table) else {}
            if not found.get("queries"):
                raise ValueError(
                    f"{self.base.hits}: of half of the queries none has a match in {gallery.path}; trials are judged on one half and the "
                    "chosen one on the other: give more queries, and encode both galleries with --data.* of the same labels"
                )
            if "MAP@R" not in found:
                raise ValueError(
                    f"{self.base.hits}: trials are judged by MAP@R, which needs as many hits of a query as {gallery.path} has matches: "
                    "search with a larger --k"
                )
            self._before[half] = found

    def share(self, resources: ClusterResources, *, trials: int) -> Share:
        return share_out(resources, workers=1, cpus=None, gpus=0, trials=trials, asked=self._config.concurrent)

    def each(self, share: Share, space: Mapping[str, Any]) -> str:
        return f"{self._queries} queries on {share.cpus} CPUs"

    @property
    def _queries(self) -> int:
        return len(pc.unique(self._halves.judged["query_id"]))

    def estimate(self, first: Mapping[str, Any], space: Mapping[str, Any], resources: ClusterResources, *, trials: int) -> list[str]:
        """By the time of a few queries."""
        share = self.share(resources, trials=trials)
        (ms,) = ms_per_query(self._halves.judged, {"first": with_parameters(self.base, first)}, threads=share.cpus).values()
        each = ms * self._queries / 1e3
        return [
            f"dry run: {trials} trials, {share.concurrent} at once",
            f"  each: {self.each(share, space)}",
            f"  {ms:.2f} ms a query measured on this machine with {share.cpus} threads (alone); about {duration(each)} of matching a "
            f"trial, {duration(each * -(-trials // share.concurrent))} for all, besides reading and the start of processes; "
            "nothing was started",
        ]

    def trainable(self, share: Share, run: TrackedRun) -> Any:
        given = {"base": self.base, "root": str(self._trials), "hits": self._halves.judged, "threads": share.cpus, "parent_run": run.run_id}
        return tune.with_resources(tune.with_parameters(run_trial, **given), {"cpu": share.cpus})

    @property
    def progress(self) -> Callable[[Mapping[str, float]], str]:
        return _progress

    def with_measured_costs(self, trials: list[Trial], resources: ClusterResources) -> list[Trial]:
        """Times the finished trials, those that differ in the weight alone once, interleaved; none where all were timed together before."""
        finished = [trial for trial in trials if trial.status == "finished"]
        if all("ms_per_query" in trial.costs for trial in finished):
            return trials
        print(f"timing {len(finished)} re-rankings; nothing else of the sweep runs now")
        configs = {trial.name: with_parameters(self.base, trial.parameters) for trial in finished}
        found = _alone(resources, ms_per_query, self._halves.judged, configs)
        return add_measured(trials, "ms_per_query", found)

    def best_config(self, chosen: Trial, out: Path) -> RerankConfig:
        return dataclasses.replace(with_parameters(self.base, chosen.parameters), out=str(out / "best.parquet"), engine="ray")

    def test(self, chosen: Trial, resources: ClusterResources) -> dict[str, dict[str, float]]:
        """The order of before and the chosen one on the half of the queries that no trial has seen."""
        file = self._out / METRICS_FILE
        known = json.loads(file.read_text()) if file.exists() else {}
        if known.get("trial") != chosen.name:
            reranked = {
                "judged": {**chosen.best, "queries": self._before["judged"]["queries"]},
                "held_out": _alone(resources, reranked_measures, self._halves.held_out, with_parameters(self.base, chosen.parameters)),
            }
            known = {"trial": chosen.name}
            known |= {half: {"before": self._before[half], "reranked": reranked[half]} for half in reranked}
            write_text(str(file), json.dumps(known, indent=1) + "\n")
        print("the queries in two halves: trials are judged on one, the chosen one is measured on the other")
        print_measures({f"{half.replace('_', ' ')}, {order}": known[half][order] for half in HitsInHalves._fields for order in known[half]})
        return known["held_out"]


def _alone(resources: ClusterResources, measure: Callable[..., dict[str, float]], *given: Any) -> dict[str, float]:
    """What `measure` finds with all CPUs of a node."""
    threads = largest_share(resources.nodes, 1, gpus=0)
    return ray.get(ray.remote(measure).options(num_cpus=threads).remote(*given, threads=threads))


def _progress(record: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in record.items())

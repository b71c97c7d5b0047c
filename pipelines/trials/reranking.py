"""One trial that is a re-ranking, as Ray Tune runs it: given hits, re-ranked as by `eet rerank` and measured as by `eet evaluate`."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from ray import tune

from eet.gallery import Gallery
from eet.retrieval.measures import hits_measures
from eet.retrieval.metres import radius_of
from eet.retrieval.pairs import scoring_here
from eet.retrieval.rerank import reranked_hits
from eet.storage import Claim, same_location
from pipelines.configs.space import trial_name, with_parameters
from pipelines.job.output import config_values
from pipelines.job.tracking import tracked
from pipelines.rerank import RerankConfig, open_galleries, options_of
from pipelines.trials.process import TITLE, failure_recorded, parameters_of
from pipelines.trials.trial import Trial, begin_trial, end_trial, read_trial

MEASURES = ("MAP@R", "P@1", "R-precision", "mAP@k")


class RerankingTrial(Trial):
    """A re-ranking, compared by MAP@R of the new order. It has one record; its cost is measured when all trials have ended."""

    quality = quality_name = short_name = "MAP@R"
    cost_names = {"ms_per_query": "ms a query"}
    tie_cost = "ms_per_query"
    recorded = MEASURES

    def measures(self) -> dict[str, Any]:
        """Measures on the queries that compare trials; k: hits of a query."""
        return {name: self.best.get(name) for name in MEASURES}

    @classmethod
    def shown(cls, record: Mapping[str, float]) -> dict[str, str]:
        return {name: f"{record[name]:.4f}" if record else "" for name in MEASURES}


def order_measures(hits: pa.Table, gallery: Gallery, queries: Gallery, *, metres: float | None = None) -> dict[str, float]:
    """MEASURES of hits in their order with the bounds of their intervals, as `eet evaluate --hits` has them, and 'queries', the number
    with a match in the gallery. metres: within which an item is a match, as for `eet.retrieval.metres.radius_of`.

    MAP@R and R-precision are missing where a query has more matches than hits; only 'queries' is present where none has a match. InputError
    where the queries have neither labels nor positions.
    """
    radius = radius_of(gallery, queries, metres)
    # Of labels all is in the hits. Of positions the queries' own gallery is read, of which the hits may be a half.
    placed: dict[str, Any] = {} if radius is None else {"metres": radius, "queries": queries, "only": hits["query_id"].unique().to_pylist()}
    found = hits_measures(hits, gallery, own=same_location(gallery.path, queries.path), ks=(1,), recall_ks=(), **placed).values
    return {re.sub(r"^mAP@\d+", "mAP@k", name): value for name, value in found.items() if name != "queries_without_relevant"}


def reranked_measures(hits: pa.Table, config: RerankConfig, *, threads: int, metres: float | None = None) -> dict[str, float]:
    """`order_measures` of hits after re-ranking them in this process with `threads` threads."""
    torch.set_num_threads(threads)
    gallery, queries = open_galleries(config)
    options = options_of(config, gallery, queries, threads=threads)
    opened = scoring_here(gallery, options)
    reranked = reranked_hits(hits, gallery, queries, options, top=config.top, weight=config.weight, opened=opened)
    return order_measures(reranked, gallery, queries, metres=metres)


def run_trial(
    drawn: dict[str, Any],
    *,
    base: RerankConfig,
    trials_dir: str,
    hits: pa.Table,
    threads: int,
    parent_run: str,
    claim: Claim,
    metres: float | None = None,
) -> None:
    """Re-ranks hits in this process, and writes the measures of the new order into the trial's folder.

    Args:
        drawn: dictionary from Tune.
        base: the re-ranking whose flags the parameters replace.
        trials_dir: folder of the trials.
        hits: hits of the queries that compare trials.
        threads: CPU threads.
        parent_run: MLflow run of the sweep.
        metres: as for `order_measures`.
        claim: on the folder of the sweep.
    """
    parameters = parameters_of(drawn)
    folder = Path(trials_dir) / trial_name(parameters)
    done = read_trial(folder, of=RerankingTrial)
    if done.status == "finished":  # a searcher drew it again
        tune.report(done.best)
        return
    with failure_recorded(folder, claim):
        begin_trial(folder, parameters, {})
        config = dataclasses.replace(with_parameters(base, parameters), out=str(folder))
        with tracked(f"{TITLE} {folder.name}", config.tracking_uri, config.out, config_values(config), parent=parent_run) as run:
            found = reranked_measures(hits, config, threads=threads, metres=metres)
            record = {name: value for name, value in found.items() if name != "queries"}
            run.log_metrics(record, 0)
    claim.check()
    end_trial(folder, "finished", "", [record])
    tune.report(record)

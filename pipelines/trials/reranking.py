"""One trial that is a re-ranking, as Ray Tune runs it: given hits in the order of `eet rerank`, measured as `eet evaluate` does."""

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
from eet.retrieval.pairs import scoring_here
from eet.retrieval.rerank import reranked_hits
from eet.storage import same_location
from pipelines.job.output import config_values
from pipelines.job.tracking import tracked
from pipelines.rerank import RerankConfig, open_galleries, options_of
from pipelines.trials.process import TITLE, failure_told, parameters_of
from pipelines.trials.trial import Trial, begin_trial, end_trial, read_trial, trial_name, with_parameters

MEASURES = ("MAP@R", "P@1", "R-precision", "mAP@k")


class RerankingTrial(Trial):
    """A re-ranking, judged by MAP@R of the new order; it has one record, and its cost is measured when no trial runs any more."""

    quality = quality_name = short_name = "MAP@R"
    cost_names = {"ms_per_query": "ms a query"}
    tie_cost = "ms_per_query"
    recorded = MEASURES

    def measures(self) -> dict[str, Any]:
        """Of the queries that trials are judged on; k: the hits of a query."""
        return {name: self.best.get(name) for name in MEASURES}

    @classmethod
    def shown(cls, record: Mapping[str, float]) -> dict[str, str]:
        return {name: f"{record[name]:.4f}" if record else "" for name in MEASURES}


def order_measures(hits: pa.Table, gallery: Gallery, queries: Gallery) -> dict[str, float]:
    """MEASURES of hits in their order with the bounds of their intervals, as `eet evaluate --hits` has them, and 'queries', the number
    with a match in the gallery.

    Without MAP@R and R-precision where a query has more matches than hits; with 'queries' alone where none has a match. ValueError where
    the queries have no labels.
    """
    found = hits_measures(hits, gallery, own=same_location(gallery.path, queries.path), ks=(1,), recall_ks=()).values
    return {re.sub(r"^mAP@\d+", "mAP@k", name): value for name, value in found.items()}


def reranked_measures(hits: pa.Table, config: RerankConfig, *, threads: int) -> dict[str, float]:
    """`order_measures` of hits that are re-ranked in this process, with so many threads."""
    torch.set_num_threads(threads)
    gallery, queries = open_galleries(config)
    options = options_of(config, gallery, queries, threads=threads)
    opened = scoring_here(gallery, options)
    reranked = reranked_hits(hits, gallery, queries, options, top=config.top, weight=config.weight, opened=opened)
    return order_measures(reranked, gallery, queries)


def run_trial(drawn: dict[str, Any], *, base: RerankConfig, root: str, hits: pa.Table, threads: int, parent_run: str) -> None:
    """Re-ranks hits in this process, and writes what was measured of the new order into the trial's own folder below `root`.

    base: the re-ranking whose flags the parameters replace. hits: of the queries that trials are judged on. parent_run: the sweep's MLflow
    run.
    """
    parameters = parameters_of(drawn)
    folder = Path(root) / trial_name(parameters)
    done = read_trial(folder, of=RerankingTrial)
    if done.status == "finished":  # and a searcher drew it again
        tune.report(done.best)
        return
    begin_trial(folder, parameters, {})
    with failure_told(folder):
        config = dataclasses.replace(with_parameters(base, parameters), out=str(folder))
        with tracked(f"{TITLE} {folder.name}", config.tracking_uri, config.out, config_values(config), parent=parent_run) as run:
            found = reranked_measures(hits, config, threads=threads)
            record = {name: value for name, value in found.items() if name != "queries"}
            run.log_metrics(record, 0)
    end_trial(folder, "finished", "", [record])
    tune.report(record)

"""`eet rerank`: re-orders the first hits of every query by matching image regions."""

from contextlib import AbstractContextManager

import pyarrow as pa
import pyarrow.compute as pc

from eet.gallery import (
    Gallery,
    check_encoded_for,
    open_gallery,
    queries_gallery,
    read_hits,
    read_queries_digest,
    read_recall,
    write_hits,
)
from eet.retrieval.pairs import MatchOptions, Scorer, scoring_here
from eet.retrieval.rerank import match_options, reranked_hits
from eet.storage import exists
from pipelines.configs.rerank import RerankConfig
from pipelines.job.address import check_address
from pipelines.job.engine import uses_ray
from pipelines.job.location import with_absolute_locations
from pipelines.job.output import config_values, write_config

MOST_HERE = 1_000_000
"""Pairs up to which --engine auto does not start Ray."""


def run(config: RerankConfig) -> pa.Table:
    """Writes the re-ranked hits (RERANKED_SCHEMA) and returns them."""
    config = with_absolute_locations(config)
    if config.engine != "local":
        check_address(config.ray_address)
    hits = read_hits(config.hits)
    gallery, queries = open_galleries(config)
    options = options_of(config, gallery, queries)
    pairs = int((hits["rank"].to_numpy() <= config.top).sum())
    if config.dry_run:
        print(
            f"dry run: {pairs} pairs of {len(pc.unique(hits['query_id']))} queries, {config.marginal} marginals, "
            f"{config.solver}; nothing was started"
        )
        return pa.table({})
    opened = _scoring(config, gallery, options, pairs)
    reranked = reranked_hits(hits, gallery, queries, options, top=config.top, weight=config.weight, opened=opened)
    write_config(config.out, config)
    recall, queries_digest = read_recall(config.hits), read_queries_digest(config.hits)
    write_hits(config.out, reranked, recall=recall, queries_digest=queries_digest, options=config_values(config))
    without = pairs - (len(reranked) - reranked["score_global"].null_count)
    what = "tokens" if config.weight else "embedding"
    note = f"; {without} hits without {what} kept their rank" if without else ""
    print(f"{config.out}: {pairs} of {len(hits)} hits re-ranked{note}")
    return reranked


def options_of(config: RerankConfig, gallery: Gallery, queries: Gallery, *, threads: int | None = None) -> MatchOptions:
    """The options of scoring for these galleries. InputError where they lack a column that it needs."""
    return match_options(
        gallery,
        queries,
        marginal=config.marginal,
        epsilon=config.epsilon,
        transported=config.transported,
        solver=config.solver,
        global_similarity=config.global_similarity,
        embedding_weight=config.embedding_weight,
        tokens=config.weight > 0,
        threads=threads,
    )


def _scoring(config: RerankConfig, gallery: Gallery, options: MatchOptions, pairs: int) -> AbstractContextManager[Scorer]:
    address, workers, need = config.ray_address, config.workers, config.worker_need
    if uses_ray(config.engine, address=address, work=pairs, most_here=MOST_HERE, workers=workers, need=need):
        from pipelines.actors.scoring import scoring_on_ray  # imports Ray

        return scoring_on_ray(gallery, options, address=address, workers=workers, need=need)
    return scoring_here(gallery, options)


def _queries_of(config: RerankConfig) -> str:
    """The gallery of the queries: the given one, or the one that a search of images wrote with its hits, or the searched gallery."""
    if config.queries is not None:
        return config.queries
    with_hits = queries_gallery(config.hits)
    return with_hits if exists(with_hits) else config.gallery


def open_galleries(config: RerankConfig) -> tuple[Gallery, Gallery]:
    """The searched gallery and that of the queries. InputError where the queries are not those of the hits."""
    queries = open_gallery(_queries_of(config))
    check_encoded_for(config.hits, queries)
    return open_gallery(config.gallery), queries

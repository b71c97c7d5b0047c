"""The cost of re-ranking: milliseconds per query."""

import statistics
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import torch

from eet.gallery import Gallery, Manifest, spread_queries
from eet.retrieval.pairs import MatchOptions, PartPairs, Queries, ScoredPairs, rows_of, score_rows
from eet.retrieval.rerank import score_hits
from pipelines.costs.interleaved import interleaved_seconds
from pipelines.rerank import RerankConfig, open_galleries, options_of

SAMPLE_PAIRS, REPEATS = 800, 7


def ms_per_query(hits: pa.Table, configs: Mapping[str, RerankConfig], *, threads: int) -> dict[str, float]:
    """Milliseconds per query of each re-ranking, {name: config} -> {name: median}, on the CPU with `threads` threads, without reading.

    It times the scoring of about 800 pairs in memory: the first hits of queries spread evenly over `hits`. Re-rankings that differ only in
    the weight, which does not affect scoring, are timed once; the others in turn, so that changes of the machine's speed affect all of
    them. configs: one or more, for the same galleries.
    """
    torch.set_num_threads(threads)
    gallery, queries = open_galleries(next(iter(configs.values())))
    sample = _sample(hits, SAMPLE_PAIRS // max(config.top for config in configs.values()))
    held: dict[tuple[bool, int], list[_HeldPairs]] = {}
    kinds: dict[str, tuple[MatchOptions, int]] = {}
    calls: dict[tuple[MatchOptions, int], Callable[[], None]] = {}
    for name, config in configs.items():
        options = options_of(config, gallery, queries, threads=threads)
        kinds[name] = kind = (options, config.top)
        if kind in calls:
            continue
        read = (options.embeddings, config.top)
        if read not in held:
            held[read] = _held_pairs(sample, gallery, queries, options, top=config.top)
        calls[kind] = partial(_score, held[read], gallery.manifest, options)
    seconds = interleaved_seconds(calls, repeats=REPEATS)
    num_queries = len(pc.unique(sample["query_id"]))
    return {name: statistics.median(seconds[kind]) * 1e3 / num_queries for name, kind in kinds.items()}


def _sample(hits: pa.Table, num_queries: int) -> pa.Table:
    """The hits of `num_queries` queries, at least one."""
    ids = spread_queries(hits, max(1, num_queries))
    return hits.filter(pc.is_in(hits["query_id"], value_set=pa.array(ids, pa.string())))


class _HeldPairs(NamedTuple):
    """Pairs with all data needed to score them."""

    rows: pa.Table
    pairs: PartPairs
    queries: Queries


def _held_pairs(hits: pa.Table, gallery: Gallery, queries: Gallery, options: MatchOptions, *, top: int) -> list[_HeldPairs]:
    held = []

    def scorer(block: Queries, parts: list[PartPairs]) -> Iterator[ScoredPairs]:
        for pairs in parts:
            held.append(_HeldPairs(rows_of(gallery, pairs, options), pairs, block))
            yield score_rows(held[-1].rows, gallery.manifest, pairs, block, options)

    score_hits(hits, hits["rank"].to_numpy() <= top, gallery, queries, scorer, options)
    return held


def _score(held: list[_HeldPairs], manifest: Manifest, options: MatchOptions) -> None:
    for rows, pairs, queries in held:
        score_rows(rows, manifest, pairs, queries, options)

"""`eet rerank`: the first hits of every query in a new order, by matching image regions."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from eet.gallery import RERANKED_SCHEMA, Gallery, fixed_binary_to_numpy, open_gallery, read_hits, read_recall, write_hits
from eet.matching import MARGINALS, SOLVERS
from eet.storage import absolute, exists
from eet.vit import load_bundle, read_bundle_record
from pipelines.cli import JobFailed
from pipelines.galleries import check_made_by, check_same_model, queries_gallery
from pipelines.options import JobOptions
from pipelines.output import is_table, write_config
from pipelines.rerank_parts import (
    GlobalSimilarity,
    MatchOptions,
    PartPairs,
    Queries,
    Scorer,
    needed_columns,
    scoring_here,
    scoring_on_ray,
    token_set,
)

QUERY_BYTES_AT_ONCE = 256 * 2**20
"""Tokens of the queries that travel together."""


@dataclass(kw_only=True)
class RerankConfig(JobOptions):
    """Re-orders hits by global similarity + weight * structural similarity, the value of moving the query's tokens onto the item's.

    Attributes:
        hits: Parquet file that `eet search` wrote.
        gallery: The gallery that was searched, encoded with --tokens.
        queries: Gallery of the queries, with tokens; default the one that `eet search` put beside the hits.
        out: Parquet file of the re-ranked hits.
        top: Hits of a query that are re-ranked; those behind keep their order.
        marginal: What each token has to send or receive: importance (the mass that the encoder gave it), uniform, or one of the published
            work, which weigh a token by how it agrees with the other picture as a whole (its embedding; the mean of its tokens where
            a gallery has none).
        transported: Share of the mass that is moved, above 0 to 1.
        epsilon: Strength of the entropy, in units of 1 - cosine.
        weight: Of the structural similarity beside the global one.
        solver: sinkhorn (entropic, ours), pot (entropic, POT's batch) or exact (POT's linear program).
        global_similarity: hamming (of the codes), asymmetric (of the query's real-valued hash with the item's bits; needs --model and the
            queries' embeddings) or embedding (cosine of the stored final CLS vectors; needs the gallery's too). Default asymmetric with
            --model, which ranks better and takes no byte of the gallery, else hamming.
        model: Student that encoded both, for asymmetric.
        engine: ray runs on the cluster; local in this process.
        workers: Most scoring actors; default one a GPU, or one on a machine without.
    """

    hits: str
    gallery: str
    out: str
    queries: str | None = None
    top: int = 100
    marginal: str = "importance"
    transported: float = 1.0
    epsilon: float = 0.05
    weight: float = 1.0
    solver: str = "sinkhorn"
    global_similarity: GlobalSimilarity | None = None
    model: str | None = None
    engine: Literal["ray", "local"] = "ray"
    workers: int | None = None

    def problems(self) -> list[str]:
        found = super().problems()
        if self.top < 1:
            found.append(f"--top {self.top}: re-rank 1 hit or more")
        if self.workers is not None and self.workers < 1:
            found.append(f"--workers {self.workers}: use 1 or more")
        if self.marginal not in MARGINALS:
            found.append(f"--marginal {self.marginal}: allowed are {', '.join(MARGINALS)}")
        if self.solver not in SOLVERS:
            found.append(f"--solver {self.solver}: allowed are {', '.join(SOLVERS)}")
        if not 0 < self.transported <= 1:
            found.append(f"--transported {self.transported}: use above 0 to 1")
        if not 1e-4 <= self.epsilon < float("inf"):
            found.append(f"--epsilon {self.epsilon}: use 0.0001 or more")
        if not 0 <= self.weight < float("inf"):
            found.append(f"--weight {self.weight}: use 0 or more")
        if self.global_similarity == "asymmetric" and self.model is None:
            found.append("--global_similarity asymmetric needs --model: it has the heads that make a hash of an embedding")
        if not is_table(self.out):
            found.append(f"--out {self.out}: hits are one Parquet file, so its name ends in .parquet")
        return found

    @property
    def global_measure(self) -> GlobalSimilarity:
        """The global similarity, chosen or by default."""
        return self.global_similarity or ("hamming" if self.model is None else "asymmetric")

    def match_options(self, gallery: Gallery, queries: Gallery) -> MatchOptions:
        centres = MARGINALS[self.marginal].reads == "correlation"
        return MatchOptions(
            marginal=self.marginal,
            epsilon=self.epsilon,
            transported=self.transported,
            solver=self.solver,
            global_similarity=self.global_measure,
            embeddings=self.global_measure == "embedding" or (centres and _have_embeddings(gallery, queries)),
        )


def _have_embeddings(*galleries: Gallery) -> bool:
    return all(gallery.manifest.embedding_dim is not None for gallery in galleries)


def run(config: RerankConfig) -> pa.Table:
    """Writes the re-ranked hits (RERANKED_SCHEMA) and returns them."""
    # Ray's workers have another working directory, and who reads the config beside the hits too.
    config = replace(config, gallery=str(absolute(config.gallery)), hits=str(absolute(config.hits)))
    hits = read_hits(config.hits)
    gallery, queries = open_galleries(config)
    pairs = int((hits["rank"].to_numpy() <= config.top).sum())
    if config.dry_run:
        print(
            f"dry run: {pairs} pairs of {len(pc.unique(hits['query_id']))} queries, {config.marginal} marginals, "
            f"{config.solver}; nothing was started"
        )
        return pa.table({})
    reranked = reranked_hits(hits, gallery, queries, config)
    write_config(config.out, config)
    write_hits(config.out, reranked, recall=read_recall(config.hits))
    without = pairs - (len(reranked) - reranked["score_struct"].null_count)
    told = f"; {without} hits without tokens kept their place" if without else ""
    print(f"{config.out}: {pairs} of {len(hits)} hits re-ranked{told}")
    return reranked


def open_galleries(config: RerankConfig) -> tuple[Gallery, Gallery]:
    """The searched gallery and that of the queries. ValueError where they are not of one model, or lack what the options need."""
    gallery, queries = open_gallery(config.gallery), open_gallery(_queries_of(config))
    check_same_model(gallery, queries)
    _check_columns(config, gallery, queries)
    return gallery, queries


def reranked_hits(hits: pa.Table, gallery: Gallery, queries: Gallery, config: RerankConfig, *, threads: int | None = None) -> pa.Table:
    """Hits in their new order (RERANKED_SCHEMA), whatever order of rows they come in. threads: with the engine local; default all."""
    hits = hits.sort_by([("query_id", "ascending"), ("rank", "ascending")])
    head_H = hits["rank"].to_numpy() <= config.top
    options = replace(config.match_options(gallery, queries), threads=threads)
    opened = scoring_here(gallery, options)
    if config.engine == "ray":
        opened = scoring_on_ray(gallery, options, address=config.ray_address, workers=config.workers)
    with opened as scorer:
        global_H, struct_H = score_hits(hits, head_H, gallery, queries, scorer, config, options)
    return reordered(hits, head_H, global_H, struct_H, weight=config.weight)


def _queries_of(config: RerankConfig) -> str:
    """The gallery of the queries: as given, or what a search of images put beside its hits, or the searched gallery itself."""
    if config.queries is not None:
        return config.queries
    beside = queries_gallery(config.hits)
    return beside if exists(beside) else config.gallery


def _check_columns(config: RerankConfig, gallery: Gallery, queries: Gallery) -> None:
    """ValueError where a gallery lacks what the options need."""
    for side in (gallery, queries):
        if side.manifest.token_shape is None:
            raise ValueError(f"{side.path} has no tokens to match: encode it with --tokens")
    wanted: dict[str, tuple[Gallery, ...]] = {"embedding": (gallery, queries), "asymmetric": (queries,), "hamming": ()}
    for side in wanted[config.global_measure]:
        if not _have_embeddings(side):
            raise ValueError(
                f"{side.path} has no embeddings, which --global_similarity {config.global_measure} needs: encode it with --embedding"
            )
    if config.global_measure == "asymmetric":
        assert config.model is not None
        check_made_by(queries, read_bundle_record(config.model), f"--model {config.model}")


def score_hits(
    hits: pa.Table, head_H: np.ndarray, gallery: Gallery, queries: Gallery, scorer: Scorer, config: RerankConfig, options: MatchOptions
) -> tuple[np.ndarray, np.ndarray]:
    """Global and structural similarity of each hit (H,), float32; NaN where `head_H` is false or the item has no tokens.

    Queries go in blocks whose tokens fit memory; of each, the pairs go to the part that holds their item. JobFailed where an item is in
    no part.
    """
    global_H, struct_H = (np.full(len(hits), np.nan, np.float32) for _ in range(2))
    found_H = ~head_H
    assert queries.manifest.token_shape is not None
    at_once = max(1, QUERY_BYTES_AT_ONCE // (2 * int(np.prod(queries.manifest.token_shape))))
    query_ids = hits["query_id"].combine_chunks()
    for ids in _blocks(query_ids.filter(pa.array(head_H)).unique(), at_once):
        block = read_queries(queries, ids, config, options)
        query_H = pc.index_in(query_ids, value_set=ids)
        pair_P = np.flatnonzero(head_H & query_H.is_valid().to_numpy(zero_copy_only=False))
        query_P = query_H.take(pa.array(pair_P)).to_numpy().astype(np.int64)
        item_ids = hits["item_id"].combine_chunks().take(pa.array(pair_P))
        pairs = [
            PartPairs(part, pair_P[places], query_P[places], item_ids.take(pa.array(places)))
            for part, places in gallery.parts_holding(item_ids).items()
        ]
        for scored in scorer(block, pairs):
            global_H[scored.pair_P], struct_H[scored.pair_P], found_H[scored.pair_P] = scored.global_P, scored.struct_P, True
    if not found_H.all():
        missing = hits["item_id"].filter(pa.array(~found_H)).unique()
        raise JobFailed(
            f"{len(missing)} items of the hits, such as {missing[0].as_py()!r}, are not in {gallery.path}: are they hits of that gallery?"
        )
    return global_H, struct_H


def _blocks(ids: pa.Array, size: int) -> Iterator[pa.Array]:
    for start in range(0, len(ids), size):
        yield ids.slice(start, size)


def read_queries(queries: Gallery, ids: pa.Array, config: RerankConfig, options: MatchOptions) -> Queries:
    """The queries of these ids, in their order. ValueError where one is not in the gallery or could not be encoded."""
    manifest = queries.manifest
    hashed = config.global_measure == "asymmetric"
    rows = queries.rows(ids, needed_columns(embeddings=hashed or options.embeddings))
    if rows["tokens"].null_count:
        bad = rows["item_id"].filter(rows["tokens"].is_null())
        raise ValueError(f"{len(bad)} queries, such as {bad[0].as_py()!r}, have no tokens in {queries.path}")
    tokens = token_set(rows, manifest)
    hash_Qb = None
    if hashed:
        assert config.model is not None and tokens.center_ND is not None
        hash_Qb = _hashes(config.model, tokens.center_ND)
    codes = fixed_binary_to_numpy(rows["code"], np.uint8, (-(-manifest.num_bits // 8),))
    return Queries(tokens if options.embeddings else tokens._replace(center_ND=None), codes, hash_Qb, tokens.center_ND)


def _hashes(model: str, embedding_QD: np.ndarray) -> np.ndarray:
    """Real-valued hashes (Q, bits) float32 that the model's heads make of stored final CLS vectors."""
    import torch

    with torch.inference_mode():
        return load_bundle(model).heads(torch.from_numpy(embedding_QD.astype(np.float32)))[1].numpy()


def reordered(hits: pa.Table, head_H: np.ndarray, global_H: np.ndarray, struct_H: np.ndarray, *, weight: float) -> pa.Table:
    """Hits, sorted by query and rank, in their new order (RERANKED_SCHEMA).

    Hits with similarities change places among each other, by global + weight * struct, ties in the old order; all others keep their
    place. The score of one that kept its place continues its neighbours', so that score falls with the rank.
    """
    ids = hits["query_id"].combine_chunks()
    query_H = ids.dictionary_encode().indices.to_numpy().astype(np.int64)
    moved = np.flatnonzero(head_H & ~np.isnan(struct_H))
    total_H = global_H + np.float32(weight) * struct_H
    order = np.arange(len(hits))
    # Rows ascend by query, so those of each query are put into the places that they had between them.
    order[moved] = moved[np.lexsort((moved, -total_H[moved], query_H[moved]))]
    score_H = _continued(total_H[order], hits["score"].to_numpy(), query_H)
    table = hits.take(pa.array(order))
    columns = {name: table[name] for name in hits.column_names}
    columns["rank"] = hits["rank"]
    columns["score"] = pa.array(score_H, pa.float32())
    for name, values in (("score_global", global_H[order]), ("score_struct", struct_H[order])):
        columns[name] = pa.array(values, pa.float32(), mask=np.isnan(values))
    return pa.table(columns).select(RERANKED_SCHEMA.names).cast(RERANKED_SCHEMA)


def _continued(score_H: np.ndarray, before_H: np.ndarray, query_H: np.ndarray) -> np.ndarray:
    """Scores with NaN filled: what the next score above in the query's list is, less what the old ones lay apart, but no less than the
    next below; with none above, as the next below; with none at all, the old one.
    """
    places = np.arange(len(score_H))
    known = ~np.isnan(score_H)
    above = np.maximum.accumulate(np.where(known, places, -1))
    below = np.minimum.accumulate(np.where(known, places, len(places))[::-1])[::-1]
    has_above = known[above] & (above >= 0) & (query_H[above] == query_H)
    has_below = below < len(places)
    has_below[has_below] = query_H[below[has_below]] == query_H[has_below]
    next_below = np.where(has_below, score_H[np.minimum(below, len(places) - 1)], -np.inf)
    continued = np.maximum(score_H[above] - np.maximum(before_H[above] - before_H, 0), next_below)
    alone = np.where(has_below, next_below, before_H)
    return np.where(known, score_H, np.where(has_above, continued, alone))

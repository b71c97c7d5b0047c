"""`eet rerank`: re-orders the first hits of every query by matching image regions."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from eet.gallery import Gallery, open_gallery, queries_gallery, read_hits, read_recall, write_hits
from eet.matching import MARGINALS, SOLVERS
from eet.retrieval.pairs import GlobalSimilarity, MatchOptions, Scorer, scoring_here
from eet.retrieval.rerank import match_options, reranked_hits
from eet.storage import exists
from pipelines.actors.scoring import scoring_on_ray
from pipelines.job.cluster import WorkerNeed
from pipelines.job.location import LOCATION, with_absolute_locations
from pipelines.job.options import JobOptions
from pipelines.job.output import is_table, write_config


@dataclass(kw_only=True)
class RerankConfig(JobOptions):
    """Re-orders hits by global similarity + embedding_weight * cosine of the embeddings + weight * structural similarity.

    The structural similarity is the value of the optimal transport of the query's tokens to the item's tokens, or their MaxSim.

    Attributes:
        hits: Parquet file that `eet search` wrote.
        gallery: The gallery that was searched, encoded with --tokens, or with --embedding if no tokens are matched (--weight 0).
        queries: Gallery of the queries, with tokens; default the one that `eet search` wrote with the hits.
        out: Parquet file of the re-ranked hits.
        top: Hits of a query that are re-ranked; later ones keep their order.
        marginal: How much mass each token sends or receives: importance (the stored mass), uniform, or one of the published marginals,
            which weight a token by its similarity to the other image as a whole (the embedding, or the mean of the tokens if a gallery
            has no embeddings).
        transported: Share of the mass to move, above 0 to 1; --solver maxsim does not read it.
        epsilon: Strength of the entropy, in units of 1 - cosine; --solver exact and maxsim do not read it.
        weight: Weight of the structural similarity; the global one has weight 1. 0: match no tokens.
        embedding_weight: Weight of the cosine of the stored final CLS vectors, which is added to the similarity of codes; 0: not read.
        solver: sinkhorn (entropic, EET's own), pot (entropic, POT's batch), exact (POT's linear program), or maxsim (no transport: each
            token of the query with its most similar token of the item, the mean of their cosines weighted by the query's marginal).
        global_similarity: hamming (of the codes), asymmetric (of the query's real-valued hash with the item's bits) or embedding (cosine of
            the stored final CLS vectors of both galleries). Default asymmetric if the queries have hashes (queries encoded by
            `eet search`, or a gallery with --hash), which ranks better and needs no space in the searched gallery; else hamming.
        engine: ray runs on the cluster; local runs in this process.
        workers: Most scoring actors; default one per GPU, or one on a machine without GPU. An existing cluster is asked for more nodes
            while there is work, up to this number, or without it as far as its configuration allows.
        cpus_per_worker: CPUs of a scoring actor; default all of its node, or its GPU's share of them.
        gpus_per_worker: GPUs of a scoring actor: 0, 1 or a share of one; default 1 where the cluster has any when the job starts.
    """

    hits: str = field(metadata=LOCATION)
    gallery: str = field(metadata=LOCATION)
    out: str = field(metadata=LOCATION)
    queries: str | None = field(default=None, metadata=LOCATION)
    top: int = 100
    marginal: str = "importance"
    transported: float = 1.0
    epsilon: float = 0.05
    weight: float = 1.0
    embedding_weight: float = 0.0
    solver: str = "sinkhorn"
    global_similarity: GlobalSimilarity | None = None
    engine: Literal["ray", "local"] = "ray"
    workers: int | None = None
    cpus_per_worker: int | None = None
    gpus_per_worker: float | None = None

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
        for name in ("weight", "embedding_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                found.append(f"--{name} {getattr(self, name)}: use 0 or more")
        if self.global_similarity == "embedding" and self.embedding_weight:
            found.append("--embedding_weight adds to a similarity of codes, and --global_similarity embedding has none: choose one")
        if not is_table(self.out):
            found.append(f"--out {self.out}: hits are one Parquet file, so its name ends in .parquet")
        return found + self.worker_need.problems()

    @property
    def worker_need(self) -> WorkerNeed:
        return WorkerNeed(self.cpus_per_worker, self.gpus_per_worker)


def run(config: RerankConfig) -> pa.Table:
    """Writes the re-ranked hits (RERANKED_SCHEMA) and returns them."""
    config = with_absolute_locations(config)
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
    opened = _scoring(config, gallery, options)
    reranked = reranked_hits(hits, gallery, queries, options, top=config.top, weight=config.weight, opened=opened)
    write_config(config.out, config)
    write_hits(config.out, reranked, recall=read_recall(config.hits))
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


def _scoring(config: RerankConfig, gallery: Gallery, options: MatchOptions) -> AbstractContextManager[Scorer]:
    if config.engine == "ray":
        return scoring_on_ray(gallery, options, address=config.ray_address, workers=config.workers, need=config.worker_need)
    return scoring_here(gallery, options)


def _queries_of(config: RerankConfig) -> str:
    """The gallery of the queries: the given one, or the one that a search of images wrote with its hits, or the searched gallery."""
    if config.queries is not None:
        return config.queries
    with_hits = queries_gallery(config.hits)
    return with_hits if exists(with_hits) else config.gallery


def open_galleries(config: RerankConfig) -> tuple[Gallery, Gallery]:
    """The searched gallery and that of the queries."""
    return open_gallery(config.gallery), open_gallery(_queries_of(config))

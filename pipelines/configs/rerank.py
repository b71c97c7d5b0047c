"""Options of `eet rerank`."""

from dataclasses import dataclass, field
from typing import ClassVar

from eet.options.choices import GlobalSimilarity
from eet.options.registered import registered
from pipelines.job.engine import Engine
from pipelines.job.location import LOCATION
from pipelines.job.options import JobOptions, hits_file_problems
from pipelines.job.worker_need import WorkerNeed


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
        engine: ray runs on the cluster; local runs in this process; auto is local for up to a million pairs, unless a cluster, workers or
            several GPUs are given.
        workers: Largest number of scoring actors; default one per GPU, or one on a machine without GPU. On a cluster the job requests more
            nodes while there is work: up to this number of actors, by default up to the maximum of the cluster's configuration.
        cpus_per_worker: CPUs of a scoring actor; default all of its node, or its GPU's share of them.
        gpus_per_worker: GPUs of a scoring actor: 0, 1 or a share of one; default 1 where the cluster has any when the job starts.
    """

    examples: ClassVar[tuple[str, ...]] = ("eet rerank --hits runs/hits.parquet --gallery runs/gallery --top 50 --out runs/better.parquet",)
    unused: ClassVar[tuple[str, ...]] = ("tracking_uri", "seed")

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
    engine: Engine = "auto"
    workers: int | None = None
    cpus_per_worker: int | None = None
    gpus_per_worker: float | None = None

    def problems(self) -> list[str]:
        found = super().problems()
        if self.top < 1:
            found.append(f"--top {self.top}: re-rank 1 hit or more")
        if self.workers is not None and self.workers < 1:
            found.append(f"--workers {self.workers}: use 1 or more")
        for name, allowed in (
            ("marginal", registered("eet.matching.marginals", "MARGINALS")),
            ("solver", registered("eet.matching.solvers", "SOLVERS")),
        ):
            if getattr(self, name) not in allowed:
                found.append(f"--{name} {getattr(self, name)}: allowed are {', '.join(allowed)}")
        if not 0 < self.transported <= 1:
            found.append(f"--transported {self.transported}: use above 0 to 1")
        if not 1e-4 <= self.epsilon < float("inf"):
            found.append(f"--epsilon {self.epsilon}: use 0.0001 or more")
        for name in ("weight", "embedding_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                found.append(f"--{name} {getattr(self, name)}: use 0 or more")
        if self.global_similarity == "embedding" and self.embedding_weight:
            found.append("--embedding_weight adds to a similarity of codes, and --global_similarity embedding has none: choose one")
        return found + hits_file_problems(self.out) + self.worker_need.problems()

    @property
    def worker_need(self) -> WorkerNeed:
        return WorkerNeed(self.cpus_per_worker, self.gpus_per_worker)

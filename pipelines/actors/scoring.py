"""Scoring pairs of query and hit by Ray actors, each of which scores one part's pairs at a time."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import ray

from eet.gallery import Gallery, read_manifest
from eet.retrieval.pairs import MatchOptions, PartPairs, Queries, ScoredPairs, Scorer, score_part
from pipelines.actors.pool import run_on_actors
from pipelines.job.cluster import WORKER_MEMORY, WorkerNeed, actor_pool, connected, with_nodes


@contextmanager
def scoring_on_ray(gallery: Gallery, options: MatchOptions, *, address: str, workers: int | None, need: WorkerNeed) -> Iterator[Scorer]:
    """On the cluster at `address`: an autoscaling pool of actors, each of which scores one part's pairs at a time.

    A lost one's part comes again.
    """
    with connected(address) as found:
        resources = with_nodes(found, need)

        def score(queries: Queries, pairs: list[PartPairs]) -> Iterator[ScoredPairs]:
            pool = actor_pool(resources, len(pairs), workers, need, memory=worker_memory(gallery, queries))
            kind = ray.remote(ScoreActor).options(
                num_cpus=pool.cpus, num_gpus=pool.gpus, memory=pool.memory or None, scheduling_strategy="SPREAD"
            )
            held = ray.put(queries)
            tasks = [ray.put(part) for part in pairs]
            yield from run_on_actors(lambda: kind.remote(gallery.path, options, held, gpu=pool.gpu, threads=pool.cpus), tasks, pool)

        yield score


def worker_memory(gallery: Gallery, queries: Queries) -> int:
    """Bytes of memory that an actor needs: the queries, and the tokens of one part, read as float16 and matched as float32."""
    manifest = gallery.manifest
    tokens = manifest.rows_per_part * math.prod(manifest.token_shape or (0,))
    arrays = (*queries.tokens, queries.codes_QB, queries.hash_Qb, queries.embedding_QD)
    return WORKER_MEMORY + sum(array.nbytes for array in arrays if array is not None) + tokens * (2 + 4)


class ScoreActor:
    """The queries of a block, and one part of the gallery after another."""

    def __init__(self, gallery: str, options: MatchOptions, queries: Queries, *, gpu: bool, threads: int) -> None:
        # Not open_gallery: it lists every part, which each actor would do again.
        self.gallery = Gallery(gallery, read_manifest(gallery))
        self.options = replace(options, device="cuda" if gpu else "cpu", threads=options.threads or threads)
        self.queries = queries

    def run(self, pairs: PartPairs) -> ScoredPairs:
        return score_part(self.gallery, pairs, self.queries, self.options)

"""Scoring pairs of query and hit by Ray Data actors, each of which scores one part's pairs at a time."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import ray

from eet.gallery import Gallery, read_manifest
from eet.retrieval.pairs import MatchOptions, PartPairs, Queries, ScoredPairs, Scorer, score_part
from pipelines.job.cluster import WORKER_MEMORY, actor_pool, connected, with_nodes
from pipelines.job.stderr_filter import ACTOR_POOL_WARNING, stderr_without
from pipelines.job.worker_need import WorkerNeed


@contextmanager
def scoring_on_ray(gallery: Gallery, options: MatchOptions, *, address: str, workers: int | None, need: WorkerNeed) -> Iterator[Scorer]:
    """On the cluster at `address`: an autoscaling pool of actors, each of which scores one part's pairs at a time.

    A lost one's part comes again.
    """
    with connected(address) as found:
        resources = with_nodes(found, need)

        def score(queries: Queries, pairs: list[PartPairs]) -> Iterator[ScoredPairs]:
            pool = actor_pool(resources, len(pairs), workers, need, memory=worker_memory(gallery, queries))
            arguments = {
                "gallery": gallery.path,
                "options": options,
                "queries": ray.put(queries),
                "pairs": {part.part: ray.put(part) for part in pairs},
                "gpu": pool.gpu,
                "threads": pool.threads,
            }
            parts = ray.data.from_items([{"part": part.part} for part in pairs], override_num_blocks=len(pairs))
            scored = parts.map_batches(
                ScoreActor,
                batch_size=1,
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=pool.workers, initial_size=pool.initial),
                num_cpus=pool.cpus,
                num_gpus=pool.gpus,
                memory=pool.memory or None,
                fn_constructor_kwargs=arguments,
            )
            with stderr_without(ACTOR_POOL_WARNING):
                for row in scored.iter_rows():
                    numbers = (np.frombuffer(row[name], np.float32) for name in ("global", "struct", "error"))
                    yield ScoredPairs(np.frombuffer(row["pair"], np.int64), *numbers)

        yield score


def worker_memory(gallery: Gallery, queries: Queries) -> int:
    """Bytes of memory that an actor needs: the queries, and the tokens of one part, read as float16 and matched as float32."""
    manifest = gallery.manifest
    tokens = manifest.rows_per_part * math.prod(manifest.token_shape or (0,))
    arrays = (*(queries.tokens or ()), queries.codes_QB, queries.hash_Qb, queries.embedding_QD)
    return WORKER_MEMORY + sum(array.nbytes for array in arrays if array is not None) + tokens * (2 + 4)


class ScoreActor:
    """A Ray Data actor: the queries of a block, and one part of the gallery after another."""

    def __init__(self, gallery: str, options: MatchOptions, queries: Any, pairs: dict[int, Any], gpu: bool, threads: int) -> None:
        # Not open_gallery: it lists every part, which each actor would do again.
        self.gallery = Gallery(gallery, read_manifest(gallery))
        self.options = replace(options, device="cuda" if gpu else "cpu", threads=options.threads or threads)
        self.queries, self.pairs = ray.get(queries), pairs

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        scored = score_part(self.gallery, ray.get(self.pairs[int(batch["part"][0])]), self.queries, self.options)
        columns = {"pair": scored.pair_P, "global": scored.global_P, "struct": scored.struct_P, "error": scored.error_P}
        return {name: [values.tobytes()] for name, values in columns.items()}

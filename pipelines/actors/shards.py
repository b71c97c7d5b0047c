"""Search over Ray actors, each of which holds some of a gallery's parts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import RayActorError

from eet.errors import EetError
from eet.gallery import Gallery, read_manifest
from eet.retrieval.gallery_index import FOUND_SCHEMA, GalleryIndex
from pipelines.job.cluster import WORKER_MEMORY, connected, shard_memory
from pipelines.job.errors import JobFailed

REBUILDS = 3
"""How often a shard that was lost is read from its parts again."""


class Shard:
    """Some parts of a gallery. A failure to read them is kept: a constructor that raises would be a dead actor without a reason."""

    def __init__(self, gallery: str, parts: list[int], gpu: bool, backend: str = "auto") -> None:
        self._device = "cuda" if gpu else "cpu"
        self._failure: Exception | None = None
        try:
            # Not open_gallery: a part that is missing elsewhere is not this shard's failure.
            index = GalleryIndex.of_gallery(Gallery(gallery, read_manifest(gallery)), parts)
            self._index = index.with_backend(backend, self._device)
        except Exception as error:
            self._failure = error

    def search(self, codes_QB: np.ndarray, k: int | None, query_hash: np.ndarray | None, radius: int | None = None) -> pa.Table | str:
        """Its own first k items of each query, or what the user must mend before it can know them. Any other failure is raised."""
        if isinstance(self._failure, EetError):
            return str(self._failure)
        if self._failure is not None:
            raise self._failure
        return self._index.search(codes_QB, k, radius=radius, query_hash=query_hash, device=self._device)


@contextmanager
def sharded_search(
    gallery: Gallery, shards: int, *, address: str, radius: int | None = None, backend: str = "auto"
) -> Iterator[Callable[..., pa.Table]]:
    """A search over `shards` actors, part i in shard i mod `shards`: hit for hit what one process would find, within the radius if given.

    An actor that is lost is built again from its parts. JobFailed, naming what is missing, where that cannot be: never a shorter answer.
    """
    shards = min(shards, max(1, gallery.manifest.num_parts))
    with connected(address) as resources:
        gpu = resources.gpus >= shards
        # A search uses every core of its node for a moment; what is reserved only keeps shards off a head that takes no work. So one that
        # is built again after its node was lost finds room on any other.
        options: dict[str, Any] = {"num_cpus": 0.01, "num_gpus": 1 if gpu else 0, "scheduling_strategy": "SPREAD"}
        options["memory"] = shard_memory(resources.nodes, _memory(gallery, shards, backend), shards) or None
        held = [list(range(number, gallery.manifest.num_parts, shards)) for number in range(shards)]
        kind = ray.remote(Shard).options(max_restarts=REBUILDS, max_task_retries=REBUILDS, **options)
        actors: list[Any] = [kind.remote(gallery.path, parts, gpu, backend) for parts in held]
        try:
            yield lambda codes_QB, k, query_hash=None: _search(actors, held, codes_QB, k, query_hash, radius)
        finally:
            for actor in actors:
                ray.kill(actor)


def _memory(gallery: Gallery, shards: int, backend: str) -> int:
    """Bytes of memory that a shard needs: its codes (the index was measured at one to two times their bytes, and they are read first; FAISS
    has a copy) and its ids, some forty bytes a row."""
    manifest = gallery.manifest
    copies = 4 if backend == "faiss" else 3
    return WORKER_MEMORY // 2 + -(-manifest.num_rows // shards) * (copies * -(-manifest.num_bits // 8) + 40)


def _search(
    actors: list[Any], held: list[list[int]], codes_QB: np.ndarray, k: int | None, query_hash: np.ndarray | None, radius: int | None
) -> pa.Table:
    codes, hashes = ray.put(codes_QB), ray.put(query_hash)
    answers = []
    for parts, task in zip(held, [actor.search.remote(codes, k, hashes, radius) for actor in actors], strict=True):
        try:
            answer = ray.get(task)
        except RayActorError as error:  # what a shard raises is a fault of EET, and keeps its traceback
            reason = " ".join(str(error).split())[:300]
            raise JobFailed(f"the shard of parts {_shown(parts)} was lost and could not be built again: {reason}") from error
        if isinstance(answer, str):
            raise JobFailed(f"the shard of parts {_shown(parts)} cannot be built: {answer}")
        answers.append(answer)
    return merged(answers, k)


def merged(answers: list[pa.Table], k: int | None) -> pa.Table:
    """The first k of each query, or all, over answers in the columns of FOUND_SCHEMA: by distance, then asymmetric score, then item_id."""
    table = pa.concat_tables(answers)
    penalty = -table["score"].to_numpy()
    table = table.append_column("penalty", pa.array(penalty + np.float32(0)))  # no -0.0, which would sort before 0
    table = table.sort_by([(name, "ascending") for name in ("query", "distance", "penalty", "item_id")]).drop_columns("penalty")
    if k is None:
        return table.cast(FOUND_SCHEMA)
    query = table["query"].to_numpy()
    first = np.searchsorted(query, query)
    return table.filter(pa.array(np.arange(len(query)) - first < k)).cast(FOUND_SCHEMA)


def _shown(parts: list[int]) -> str:
    shown = ", ".join(map(str, parts[:5]))
    return shown if len(parts) <= 5 else f"{shown}, ... ({len(parts)} in all)"

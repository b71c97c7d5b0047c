"""Search over Ray actors, each of which holds some of a gallery's parts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import RayActorError

from eet.errors import EetError
from eet.gallery import Gallery, read_manifest
from eet.retrieval.gallery_index import GalleryIndex, merged
from eet.serving import FilteredIndex
from pipelines.job.cluster import WORKER_MEMORY, ClusterResources, connected, shard_memory
from pipelines.job.errors import JobFailed

T = TypeVar("T")

REBUILDS = 3
"""How often a shard that was lost is read from its parts again."""
SHARD_CPUS = 0.01


class Contents(NamedTuple):
    """What a shard holds: items with a code, the numbers of their labels, and the id that sorts first (None where it holds nothing)."""

    num_items: int
    label_numbers: list[int]
    first_id: str | None


class Shard:
    """Some parts of a gallery. A failure to read them is kept: a constructor that raises would be a dead actor without a reason."""

    def __init__(self, gallery: str, parts: list[int], gpu: bool, backend: str = "auto") -> None:
        device = "cuda" if gpu else "cpu"
        self._failure: Exception | None = None
        try:
            # Not open_gallery: a part that is missing elsewhere is not this shard's failure.
            index = GalleryIndex.of_gallery(Gallery(gallery, read_manifest(gallery)), parts)
            self._index = FilteredIndex(index.with_backend(backend, device), backend=backend, device=device)
        except Exception as error:
            self._failure = error

    def search(
        self,
        codes_QB: np.ndarray,
        k: int | None,
        query_hash: np.ndarray | None,
        radius: int | None = None,
        label: int | None = None,
        prefix: str = "",
    ) -> pa.Table | str:
        """Its own first k items of each query, or what the user must mend before it can know them. Any other failure is raised."""
        return self._unless_failed(
            lambda index: index.search(codes_QB, k, radius=radius, query_hash=query_hash, label=label, prefix=prefix)
        )  # fmt: skip

    def contents(self) -> Contents | str:
        """What it holds, or what the user must mend before it can know that."""
        return self._unless_failed(lambda index: Contents(index.num_items, index.label_numbers, index.first_id))

    def _unless_failed(self, answer: Callable[[FilteredIndex], T]) -> T | str:
        if isinstance(self._failure, EetError):
            return str(self._failure)
        if self._failure is not None:
            raise self._failure
        return answer(self._index)


class ShardedIndex:
    """Actors that hold the parts of a gallery, part i in shard i mod the number of shards. An `eet.serving.ItemSearch`.

    An actor that is lost is built again from its parts. JobFailed, naming what is missing, where that cannot be: never a shorter answer.

    Args:
        gallery: the gallery.
        shards: number of actors; at most one for each part.
        resources: of the connected cluster.
        on_gpus: give each actor a GPU of its own, if the cluster has enough of them.
        backend: what searches codes, see `eet.search.with_backend`.
        rebuilds: how often a lost actor is built again; -1 without end.
    """

    def __init__(
        self,
        gallery: Gallery,
        shards: int,
        resources: ClusterResources,
        *,
        on_gpus: bool = False,
        backend: str = "auto",
        rebuilds: int = REBUILDS,
    ) -> None:
        shards = min(shards, max(1, gallery.manifest.num_parts))
        gpu = on_gpus and resources.gpus >= shards
        # A search uses every core of its node for a moment; what is reserved only keeps shards off a head that takes no work. So one that
        # is built again after its node was lost finds room on any other.
        options: dict[str, Any] = {"num_cpus": SHARD_CPUS, "num_gpus": 1 if gpu else 0, "scheduling_strategy": "SPREAD"}
        options["memory"] = shard_memory(resources.nodes, _memory(gallery, shards, backend), shards) or None
        self._held = [list(range(number, gallery.manifest.num_parts, shards)) for number in range(shards)]
        kind = ray.remote(Shard).options(max_restarts=rebuilds, max_task_retries=rebuilds, **options)
        self._actors: list[Any] = [kind.remote(gallery.path, parts, gpu, backend) for parts in self._held]

    @property
    def num_items(self) -> int:
        return sum(contents.num_items for contents in self._contents)

    @property
    def label_numbers(self) -> list[int]:
        return sorted({number for contents in self._contents for number in contents.label_numbers})

    @property
    def first_id(self) -> str | None:
        return min((contents.first_id for contents in self._contents if contents.first_id is not None), default=None)

    @cached_property
    def _contents(self) -> list[Contents]:
        return self._answers([actor.contents.remote() for actor in self._actors])

    def search(
        self,
        codes_QB: np.ndarray,
        k: int | None,
        *,
        radius: int | None = None,
        query_hash: np.ndarray | None = None,
        label: int | None = None,
        prefix: str = "",
    ) -> pa.Table:
        """See `eet.serving.ItemSearch.search`."""
        codes, hashes = ray.put(codes_QB), ray.put(query_hash)
        return merged(self._answers([actor.search.remote(codes, k, hashes, radius, label, prefix) for actor in self._actors]), k)

    def close(self) -> None:
        """Ends the actors."""
        for actor in self._actors:
            ray.kill(actor)

    def _answers(self, tasks: list[Any]) -> list[Any]:
        answers = []
        for parts, task in zip(self._held, tasks, strict=True):
            try:
                answer = ray.get(task)
            except RayActorError as error:  # what a shard raises is a fault of EET, and keeps its traceback
                reason = " ".join(str(error).split())[:300]
                raise JobFailed(f"the shard of parts {_shown(parts)} was lost and could not be built again: {reason}") from error
            if isinstance(answer, str):
                raise JobFailed(f"the shard of parts {_shown(parts)} cannot be built: {answer}")
            answers.append(answer)
        return answers


@contextmanager
def sharded_search(
    gallery: Gallery, shards: int, *, address: str, radius: int | None = None, backend: str = "auto"
) -> Iterator[Callable[..., pa.Table]]:
    """A search over `shards` actors: hit for hit what one process would find, within the radius if given. See `ShardedIndex`."""
    with connected(address) as resources:
        index = ShardedIndex(gallery, shards, resources, on_gpus=True, backend=backend)
        try:
            yield lambda codes_QB, k, query_hash=None: index.search(codes_QB, k, radius=radius, query_hash=query_hash)
        finally:
            index.close()


def _memory(gallery: Gallery, shards: int, backend: str) -> int:
    """Bytes of memory that a shard needs: its codes (the index was measured at one to two times their bytes, and they are read first; FAISS
    has a copy) and its ids, some forty bytes a row."""
    manifest = gallery.manifest
    copies = 4 if backend == "faiss" else 3
    return WORKER_MEMORY // 2 + -(-manifest.num_rows // shards) * (copies * -(-manifest.num_bits // 8) + 40)


def _shown(parts: list[int]) -> str:
    shown = ", ".join(map(str, parts[:5]))
    return shown if len(parts) <= 5 else f"{shown}, ... ({len(parts)} in all)"

"""Exact Hamming search by FAISS: its flat binary index over the distinct codes, on the CPU or on GPUs.

FAISS returns the nearest codes in no order inside ties, and its GPU index returns at most 2,048. So the radius that holds k items is
taken from what it found; where codes at that radius may be missing, all codes within it are collected by a search by radius.

Shape suffixes: U codes, T queries of a tile, W machine words, n codes that FAISS returns for a query.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch

from eet.errors import InputError
from eet.options.defaults import MOST_ON_GPU
from eet.search.distinct_codes import DistinctCodes
from eet.search.hamming_index import QUERIES_ON_DEVICE, HammingIndex
from eet.search.tiled_search import Candidates, Scan, by_query, successive

PAIRS_AT_ONCE = 1 << 24
"""Pairs of a query and a code that are asked of FAISS in one call."""

QUERIES_ON_CPU = 64
"""Queries that are searched together on a CPU; FAISS divides them over threads."""

LEAST_ASKED, ASKED_FOR_EACH = 64, 4
"""Codes that are asked for at first: so many for each of the k items, so that the ties of the last one are mostly among them."""


def imported_faiss(*, needed_by: str = "the backend faiss", instead: str = "the backend native, which gives the same hits") -> ModuleType:
    """FAISS; InputError where it cannot be imported, which says what needs it and what can be used instead."""
    try:
        import faiss
    except ImportError as error:
        raise InputError(
            f"{needed_by} is not available, because faiss cannot be imported ({error}): install it (`pip install faiss-gpu` on Linux "
            f"x86-64, else `pip install faiss-cpu`), or use {instead}"
        ) from error
    return faiss


def faiss_finds_gpus() -> bool:
    """Whether FAISS is installed with its GPU indexes and sees a GPU."""
    try:
        import faiss
    except ImportError:
        return False
    return hasattr(faiss, "GpuIndexBinaryFlat") and faiss.get_num_gpus() > 0


class FaissIndex(HammingIndex):
    """A `HammingIndex` whose searches FAISS does, with the same results. FAISS holds a copy of the codes.

    On a GPU, searches that need more than FAISS's 2,048 codes are completed by the product of signs (`eet.search.device_scan`), since
    FAISS has no search by radius there. The device "cuda" means all GPUs: the codes are divided over them.
    """

    def __init__(self, codes: DistinctCodes) -> None:
        """Makes an index over existing codes. InputError where FAISS cannot be imported."""
        imported_faiss()
        super().__init__(codes)
        self._in_faiss: tuple[str, FlatCodes] | None = None

    def scan(self, device: str, *, radius: int | None = None, threads: int | None = None) -> Scan:
        if self._in_faiss is None or self._in_faiss[0] != device:
            self._in_faiss = device, FlatCodes(self.codes, devices_of(device))
        flat = self._in_faiss[1]

        def find(words_TW: np.ndarray, k: int, _: np.ndarray) -> Candidates:
            with faiss_threads(threads):
                if device == "cpu":
                    return flat.nearest(words_TW, k, radius, rest=flat.within, limit=len(self.codes))
                on_device = self.device_scan(device)
                return flat.nearest(words_TW, k, radius, rest=lambda words, _: on_device.nearest(words, k, radius), limit=MOST_ON_GPU)

        at_once = QUERIES_ON_CPU if device == "cpu" else QUERIES_ON_DEVICE
        return Scan(find, least=at_once, most=at_once, whole=True)


def devices_of(device: str) -> list[str]:
    """The devices over which codes are divided: of "cuda" every GPU, else the named one."""
    return [f"cuda:{number}" for number in range(max(1, torch.cuda.device_count()))] if device == "cuda" else [device]


class FlatCodes:
    """Codes in FAISS's flat binary indexes, one for each device."""

    def __init__(self, codes: DistinctCodes, devices: Sequence[str]) -> None:
        """Copies the codes to the devices. InputError where FAISS cannot be imported, or has no indexes for such a device."""
        faiss = imported_faiss()
        self._sizes_U = np.diff(codes.offsets) if len(codes.offsets) else None
        # Whole words: the bits after the last one of a code are 0 on both sides.
        bytes_UB = np.ascontiguousarray(codes.words_UW).view(np.uint8)
        self._bits = 8 * bytes_UB.shape[1]
        parts = np.array_split(bytes_UB, max(1, min(len(devices), len(codes))))
        indexes = [flat_index(self._bits, device) for device in devices[: len(parts)]]
        for index, part in zip(indexes, parts, strict=True):
            index.add(part)
        self._index = indexes[0]
        if len(indexes) > 1:
            self._index = faiss.IndexBinaryShards(self._bits, True, True)  # a thread each; numbers go on from one to the next
            for index in indexes:
                self._index.add_shard(index)

    def nearest(
        self, words_TW: np.ndarray, k: int, radius: int | None, *, rest: Callable[[np.ndarray, np.ndarray], Candidates], limit: int
    ) -> Candidates:
        """All codes within the smallest radius that holds k items, or within the given radius if that is less.

        Args:
            words_TW: the queries.
            k: items for each query.
            radius: largest distance, or None.
            rest: (queries, their radii) -> the same for the queries for which the index does not find all of them. A radius is an upper
                bound if `limit` is below the number of codes.
            limit: most codes that the index finds for a query.
        """
        num_codes = self._index.ntotal
        radius = self._bits if radius is None else min(radius, self._bits)
        asked = min(num_codes, limit, max(LEAST_ASKED, ASKED_FOR_EACH * k))
        # FAISS would sort nearly all codes for each query, which takes longer than collecting those within the radius.
        by_radius = limit >= num_codes and 2 * k > num_codes > LEAST_ASKED
        at_once = len(words_TW) if by_radius and radius < self._bits else max(1, PAIRS_AT_ONCE // asked)
        parts = []
        for start in range(0, len(words_TW), at_once):
            words = words_TW[start : start + at_once]
            if by_radius:
                parts.append(rest(words, np.full(len(words), radius)))
                continue
            distances_Tn, codes_Tn = self._index.search(words.view(np.uint8), asked)
            radius_T, whole_T = self._radii(distances_Tn, codes_Tn, k, radius)
            query_n, place_n = np.nonzero((distances_Tn <= radius_T[:, None]) & whole_T[:, None])
            found = by_query(query_n, codes_Tn[query_n, place_n], distances_Tn[query_n, place_n], len(words))
            if not whole_T.all():
                found = _completed(found, ~whole_T, rest(words[~whole_T], radius_T[~whole_T]))
            parts.append(found)
        return successive(parts)

    def _radii(self, distances_Tn: np.ndarray, codes_Tn: np.ndarray, k: int, radius: int) -> tuple[np.ndarray, np.ndarray]:
        """The radius of each query, as far as what FAISS found shows it, and whether every code within it is among that."""
        items_Tn = np.arange(1, codes_Tn.shape[1] + 1) if self._sizes_U is None else np.cumsum(self._sizes_U[codes_Tn], axis=1)
        short_T = np.broadcast_to((items_Tn < k).sum(axis=-1), len(codes_Tn))  # codes that hold fewer than k items together
        enough_T = short_T < codes_Tn.shape[1]
        last = np.where(enough_T, short_T, 0)[:, None]
        radius_T = np.where(enough_T, np.minimum(np.take_along_axis(distances_Tn, last, axis=1)[:, 0], radius), radius)
        return radius_T, (distances_Tn[:, -1] > radius_T) | (codes_Tn.shape[1] == self._index.ntotal)

    def within(self, words_TW: np.ndarray, radius_T: np.ndarray) -> Candidates:
        """All codes within the radius of each query; for codes on the CPU."""
        queries, codes, distances = [], [], []
        for radius in np.unique(radius_T):
            rows = np.flatnonzero(radius_T == radius)
            starts, distance_n, code_n = self._index.range_search(words_TW[rows].view(np.uint8), int(radius) + 1)
            queries.append(np.repeat(rows, np.diff(starts.astype(np.int64))))
            codes.append(code_n)
            distances.append(distance_n.astype(np.uint16))
        return by_query(np.concatenate(queries), np.concatenate(codes), np.concatenate(distances), len(words_TW))


def flat_index(bits: int, device: str) -> Any:
    """An empty flat index of FAISS on a device. InputError where FAISS cannot be imported, or has no indexes for such a device."""
    faiss = imported_faiss()
    placed = torch.device(device)
    if placed.type == "cpu":
        return faiss.IndexBinaryFlat(bits)
    if placed.type != "cuda" or not faiss_finds_gpus():
        raise InputError(
            f"the faiss that is installed has no indexes for the device {device} (faiss-cpu has none for GPUs): install faiss-gpu, or use "
            "the backend native"
        )
    config = faiss.GpuIndexBinaryFlatConfig()
    config.device = placed.index or 0
    resources = faiss.StandardGpuResources()
    index = faiss.GpuIndexBinaryFlat(resources, bits, config)
    index.referenced_objects = [resources]  # freed with the index
    return index


def _completed(found: Candidates, rest_T: np.ndarray, rest: Candidates) -> Candidates:
    """Candidates of all queries: `found` where those marked have none, and `rest` for these."""
    pairs = []
    for rows, (starts, codes, distances) in ((np.arange(len(rest_T)), found), (np.flatnonzero(rest_T), rest)):
        pairs.append((np.repeat(rows, np.diff(starts)), codes, distances))
    query_n, code_n, distance_n = (np.concatenate(column) for column in zip(*pairs, strict=True))
    return by_query(query_n, code_n, distance_n, len(rest_T))


@contextmanager
def faiss_threads(threads: int | None) -> Iterator[None]:
    """Lets FAISS use so many CPU threads where this thread calls it; its own default for None."""
    faiss = imported_faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads or before)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)

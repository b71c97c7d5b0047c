"""Searching only the items of one label, or those whose id has a prefix, exactly."""

import bisect
import threading
from collections import OrderedDict

import numpy as np
import pyarrow as pa

from eet.gallery import CodedRows
from eet.retrieval.gallery_index import GalleryIndex, taken_ids

FILTERS_KEPT = 16
"""Filters whose index is kept, the last used ones."""
MOST_ITEMS_KEPT = 1_000_000
"""An index of more items is not kept."""


class FilteredIndex:
    """An index, and the indexes of its items that pass a filter. The search of a filtered one is exact. Thread-safe.

    It is an `ItemSearch`.

    Args:
        whole: the index of all items.
        backend: what searches the filtered items, see `eet.search.with_backend`.
        device: where they are searched.
    """

    def __init__(self, whole: GalleryIndex, *, backend: str = "native", device: str = "cpu") -> None:
        self.whole, self._backend, self._device = whole, backend, device
        self._kept: OrderedDict[tuple[int | None, str], GalleryIndex] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def num_items(self) -> int:
        return self.whole.num_items

    @property
    def label_numbers(self) -> list[int]:
        return np.unique(np.concatenate([np.unique(np.asarray(part.labels_N)) for part in self.whole.segments])).tolist()

    @property
    def first_id(self) -> str | None:
        return min((part.item_ids[0].as_py() for part in self.whole.segments if len(part.item_ids)), default=None)

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
        """See `ItemSearch.search`."""
        return self.of(label, prefix).search(codes_QB, k, radius=radius, query_hash=query_hash, device=self._device)

    def of(self, label: int | None = None, prefix: str = "") -> GalleryIndex:
        """The index of the items with a label, and whose item_id starts with a prefix; the whole one without a filter."""
        if label is None and not prefix:
            return self.whole
        key = (label, prefix)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            index = self._made(label, prefix)
            if len(index.item_ids) <= MOST_ITEMS_KEPT:
                self._kept[key] = index
                if len(self._kept) > FILTERS_KEPT:
                    self._kept.popitem(last=False)
            return index

    def _made(self, label: int | None, prefix: str) -> GalleryIndex:
        codes, ids, labels = zip(*(_filtered(segment, label, prefix) for segment in self.whole.segments), strict=True)
        coded = CodedRows(np.concatenate(codes), pa.concat_arrays(ids), np.concatenate(labels))
        num_bits = self.whole.codes.num_bits or 8 * coded.codes_NB.shape[1]
        return GalleryIndex.of_rows(coded, num_bits).with_backend(self._backend, self._device)


def _filtered(segment: GalleryIndex, label: int | None, prefix: str) -> CodedRows:
    """The items of a segment that pass a filter."""
    first, end = _with_prefix(segment.item_ids, prefix)
    rows = np.arange(first, end)
    if label is not None:
        rows = rows[np.asarray(segment.labels_N[first:end]) == label]
    return CodedRows(segment.codes.packed_codes()[rows], taken_ids(segment.item_ids, rows), np.asarray(segment.labels_N)[rows])


def _with_prefix(ids: pa.Array | pa.ChunkedArray, prefix: str) -> tuple[int, int]:
    """The rows (first, end) whose id starts with a prefix: ids ascend by code point, as Python compares."""
    places, length = range(len(ids)), len(prefix)
    first = bisect.bisect_left(places, prefix, key=lambda row: ids[row].as_py()[:length])
    return first, bisect.bisect_right(places, prefix, lo=first, key=lambda row: ids[row].as_py()[:length])

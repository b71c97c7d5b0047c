"""What finds the items of a gallery for one query: in this process, or in others."""

from typing import Protocol

import numpy as np
import pyarrow as pa


class ItemSearch(Protocol):
    """Finds items by their codes. `FilteredIndex` does it in this process, and shards on Ray do it on several machines.

    Attributes:
        num_items: items that can be found.
        label_numbers: of the labels that the items have, ascending; -1 where an item has none.
        first_id: the item whose id sorts first; None where there is no item.
    """

    @property
    def num_items(self) -> int: ...

    @property
    def label_numbers(self) -> list[int]: ...

    @property
    def first_id(self) -> str | None: ...

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
        """The first k items of each query, in the columns and order of FOUND_SCHEMA.

        Args:
            codes_QB: packed codes (Q, bytes), uint8.
            k: most items of each query; None for all within the radius.
            radius: largest distance, in bits.
            query_hash: real-valued hashes (Q, bits), which order items of equal distance.
            label: only items with this label.
            prefix: only items whose id starts with it.
        """

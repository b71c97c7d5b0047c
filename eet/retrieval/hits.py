"""Hits with the two galleries that they came from."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from eet.errors import InputError
from eet.gallery import Gallery, read_hits, read_recall, write_hits
from eet.retrieval.panels import hit_blocks

if TYPE_CHECKING:
    import pandas
    from PIL import Image


@dataclass(frozen=True)
class Hits:
    """What a search or a re-ranking answers.

    Attributes:
        table: the columns of `eet.gallery.HITS_SCHEMA`, or of RERANKED_SCHEMA; by query, then rank.
        gallery: that was searched.
        queries: the queries' gallery; `gallery` itself where every item was a query.
        recall: of an approximate search, what was measured of it; None for an exact one.
    """

    table: pa.Table
    gallery: Gallery
    queries: Gallery
    recall: dict[str, float] | None = None

    def __len__(self) -> int:
        return len(self.table)

    def __repr__(self) -> str:
        return f"Hits({len(self.table)} hits of {len(self.query_ids)} queries in {self.gallery.path})"

    @property
    def query_ids(self) -> list[str]:
        """Ids of the queries that have hits, in their order."""
        return self.table["query_id"].unique().to_pylist()

    def to_pandas(self) -> pandas.DataFrame:
        """One row a hit."""
        return self.table.to_pandas()

    def panel(self, query: int | str, *, top: int = 5) -> Image.Image:
        """A picture of a query and its first hits, framed green where the labels agree and red where they do not.

        Args:
            query: number of the query, from 0, or its id.
            top: hits shown.

        Raises:
            ValueError: there is no such query, or its image cannot be read any more.
        """
        ids = self.query_ids
        if not isinstance(query, str):
            query = operator.index(query)  # a number of numpy's too
        if isinstance(query, int) and not -len(ids) <= query < len(ids) or isinstance(query, str) and query not in ids:
            raise InputError(f"query {query!r}: give a number from 0 to {len(ids) - 1}, or the id of a query")
        (block,) = hit_blocks(self.table, [ids[query] if isinstance(query, int) else query], self.gallery, self.queries, top=top)
        picture: Any = getattr(block, "image", None)
        if picture is None:
            raise InputError(f"query {query!r}: its image cannot be read any more")
        return picture

    def save(self, path: str | Path) -> None:
        """Writes the table as one Parquet file, a local path or URI that ends in .parquet."""
        write_hits(str(path), self.table, recall=self.recall)

    @classmethod
    def load(cls, path: str | Path, gallery: Gallery, queries: Gallery) -> Hits:
        """The hits that `save` or `eet search` wrote."""
        return cls(read_hits(str(path)), gallery, queries, read_recall(str(path)))

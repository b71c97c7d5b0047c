"""Hits with the two galleries that they came from."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from eet.errors import InputError
from eet.gallery import Gallery, read_hits, read_recall, write_hits
from eet.retrieval.answers import write_answers
from eet.retrieval.metres import radius_of
from eet.retrieval.panels import hit_blocks

if TYPE_CHECKING:
    import pandas
    from PIL import Image


@dataclass(frozen=True)
class Hits:
    """The result of a search or a re-ranking.

    Attributes:
        table: the columns of `eet.gallery.HITS_SCHEMA`, or of RERANKED_SCHEMA; by query, then rank.
        gallery: the searched gallery.
        queries: the gallery of the queries; `gallery` itself if its items were the queries.
        recall: the measured recall of an approximate search, by name; None for an exact one.
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
        """Ids of the queries that have hits, in the order of the table."""
        return self.table["query_id"].unique().to_pylist()

    def to_pandas(self) -> pandas.DataFrame:
        """The table as a pandas DataFrame, one row for each hit."""
        return self.table.to_pandas()

    def panel(self, query: int | str, *, top: int = 5) -> Image.Image:
        """An image of a query and its first hits, with a green frame around right hits and a red one around wrong ones.

        A hit is right by its label or, without labels, by its distance from the place of the query.

        Args:
            query: number of the query, from 0, or its id.
            top: hits shown.

        Raises:
            InputError: there is no such query, or its image can no longer be read.
        """
        ids = self.query_ids
        if not isinstance(query, str):
            query = operator.index(query)  # also an integer of numpy
        if isinstance(query, int) and not -len(ids) <= query < len(ids) or isinstance(query, str) and query not in ids:
            raise InputError(f"query {query!r}: give a number from 0 to {len(ids) - 1}, or the id of a query")
        shown = [ids[query] if isinstance(query, int) else query]
        metres = radius_of(self.gallery, self.queries, None)
        block, *_ = hit_blocks(self.table, shown, self.gallery, self.queries, top=top, metres=metres)
        image: Any = getattr(block, "image", None)
        if image is None:
            raise InputError(f"query {query!r}: its image can no longer be read")
        return image

    def save(self, path: str | Path) -> None:
        """Writes the table as one Parquet file. path: a local path or URI that ends in .parquet."""
        write_hits(str(path), self.table, recall=self.recall)

    def save_answers(self, path: str | Path, *, k: int = 25) -> None:
        """Writes a text file of answers, `KEY DB1 DB2 ...` for each query: the form of results of Mapillary Street-Level Sequences.

        Args:
            path: a local path or URI.
            k: hits of each query.

        Raises:
            InputError: names of images have spaces, or are the same in several folders.
        """
        write_answers(str(path), self.table, k=k)

    @classmethod
    def load(cls, path: str | Path, gallery: Gallery, queries: Gallery) -> Hits:
        """Reads hits that `save` or `eet search` wrote. InputError where the file does not hold hits."""
        return cls(read_hits(str(path)), gallery, queries, read_recall(str(path)))

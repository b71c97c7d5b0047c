"""The hits that a search prints."""

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from eet.storage import secret_in

if TYPE_CHECKING:
    import pyarrow as pa

    from eet.gallery import Gallery

MOST_ROWS = 100
"""Hits that a table shows; the first query is shown whole."""


def hits_table(hits: "pa.Table", gallery: "Gallery", *, by_embedding: bool = False) -> Iterator[str]:
    """The lines of a table for the terminal: the hits of each query, or of the first ones and how many more there are.

    Args:
        hits: columns of `eet.gallery.HITS_SCHEMA`, by query, then rank.
        gallery: that holds the items.
        by_embedding: show the score, which is a cosine, instead of the distance.
    """
    queries: dict[str, list[int]] = {}
    for row, query in enumerate(hits["query_id"].to_pylist()):
        queries.setdefault(query, []).append(row)
    shown: list[str] = []
    rows = 0
    for query, of_query in queries.items():
        if shown and rows + len(of_query) > MOST_ROWS:
            break
        shown.append(query)
        rows += len(of_query)
    first = hits.slice(0, rows).to_pylist()
    uris = item_uris(hits.slice(0, rows), gallery)
    names = gallery.manifest.label_names
    labelled = any(hit["item_label"] is not None for hit in first)
    for query in shown:
        yield f"query {_printable(query)}"
        cells = [["rank", "cosine" if by_embedding else "distance", *(["label"] if labelled else []), "uri"]]
        for row in queries[query]:
            hit = first[row]
            label = hit["item_label"]
            name = "" if label is None else names[label] if names is not None else str(label)
            near = f"{hit['score']:.3f}" if by_embedding else str(hit["distance"])
            cells.append([str(hit["rank"]), near, *([_printable(name)] if labelled else []), _printable(uris[row])])
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for rank, near, *texts in cells:
            padded = [text.ljust(width) for text, width in zip(texts, widths[2:], strict=True)]
            yield f"  {rank:>{widths[0]}}  {near:>{widths[1]}}  {'  '.join(padded)}".rstrip()
    if more := len(queries) - len(shown):
        yield f"{more:,} more {'query' if more == 1 else 'queries'} with {len(hits) - rows:,} hits"


def item_uris(hits: "pa.Table", gallery: "Gallery") -> list[str]:
    """The location of the image of each hit, in the order of the hits; not one with credentials, which galleries of older versions have."""
    if not len(hits):
        return []
    uris = gallery.rows(hits["item_id"], columns=["item_id", "uri"])["uri"].to_pylist()
    return ["(credentials, not shown)" if secret_in(uri) else uri for uri in uris]


def print_for_pipe(lines: Iterable[str]) -> None:
    """Prints lines for another program, which may read only the first ones, as `head` does."""
    try:
        for line in lines:
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:  # the rest, and the flush at the end of this process, go nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _printable(text: str) -> str:
    """A name without the characters that control a terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)

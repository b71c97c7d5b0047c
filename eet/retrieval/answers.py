"""Hits as a file of answers, the form in which Mapillary Street-Level Sequences takes results: `KEY DB1 DB2 ...`, one line a query."""

from pathlib import PurePosixPath

import pyarrow as pa

from eet.errors import InputError
from eet.storage import write_text


def write_answers(path: str, hits: pa.Table, *, k: int = 25) -> None:
    """Writes the first k hits of each query, in their order, by the names of the images without folder and suffix.

    Args:
        path: local path or URI of the text file.
        hits: of a search or a re-ranking.
        k: hits of each query, at least 1.

    Raises:
        InputError: a name has a space, or two images share one.
    """
    if k < 1:
        raise InputError(f"k={k}: give 1 hit of each query or more")
    rows = hits.sort_by([("query_id", "ascending"), ("rank", "ascending")])
    names = {item_id: PurePosixPath(item_id).stem for column in ("query_id", "item_id") for item_id in rows[column].unique().to_pylist()}
    if len(set(names.values())) < len(names):
        raise InputError("two images have the same name in different folders, so answers would not tell them apart")
    if spaced := [name for name in names.values() if " " in name]:
        raise InputError(f"the image {spaced[0]!r} has a space in its name, which separates names in answers")
    lines: dict[str, list[str]] = {}
    for query_id, rank, item_id in zip(*(rows[name].to_pylist() for name in ("query_id", "rank", "item_id")), strict=True):
        line = lines.setdefault(query_id, [names[query_id]])
        line += [names[item_id]] if rank <= k else []
    write_text(path, "".join(" ".join(line) + "\n" for line in lines.values()))

"""Hits: the result of a search or a re-ranking, one row per query and item."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from eet.errors import InputError, NotFoundError
from eet.gallery.job import GALLERY_NAMES, QUERIES_MARKER
from eet.gallery.manifest import MANIFEST_NAME
from eet.storage import FolderKind, remove_leftovers, resolve, split_options, whole_file, with_suffix

HITS_SCHEMA = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("distance", pa.int32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("query_label", pa.int32()),
        pa.field("item_label", pa.int32()),
    ]
)
RERANKED_SCHEMA = pa.schema([*HITS_SCHEMA, pa.field("score_global", pa.float32()), pa.field("score_struct", pa.float32())])
"""Re-ranked hits, with the two parts of their score; null for hits below the re-ranked ones."""
METRES_FIELD = pa.field("metres", pa.float32())
"""The last column of hits between places, of either kind: the distance of query and item, null where unknown."""


_COLUMNS = (*RERANKED_SCHEMA.names, METRES_FIELD.name)
_RECALL, _QUERIES, _OPTIONS = b"eet.recall", b"eet.queries", b"eet.options"

QUERIES_FOLDER = FolderKind(noun="a gallery of encoded query images", marker=QUERIES_MARKER, names=GALLERY_NAMES, complete=MANIFEST_NAME)
"""NAME.queries, which a search replaces. The marker keeps a gallery that a user made under that name from being replaced."""


def write_hits(
    path: str,
    table: pa.Table,
    *,
    recall: Mapping[str, float] | None = None,
    queries_digest: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Writes hits as one Parquet file, completely or not at all.

    Args:
        path: local path or URI ending in .parquet.
        table: the columns of HITS_SCHEMA or of RERANKED_SCHEMA, and METRES_FIELD between places. rank counts from 1, distance
            is in bits, a higher score is better; query_label and item_label are null where unknown, and may be left out.
        recall: the measured recall of an approximate search, by name. It is stored in the metadata of the file, as JSON under
            `eet.recall`, so that it stays with these hits.
        queries_digest: `Gallery.digest` of the queries if they were encoded for these hits, stored as `eet.queries`.
        options: of the job that made the hits, plain values, stored as JSON under `eet.options`.

    Raises:
        InputError: a column is missing, unknown, of another type, or null where it must not be, or the path has another ending.
    """
    filesystem, file_path = resolve(path)
    if not split_options(path)[0].endswith(".parquet"):
        raise InputError(f"Hits go into one file whose name ends in .parquet; {path} does not.")
    unknown = [name for name in table.column_names if name not in _COLUMNS]
    if unknown:
        raise InputError(f"Hits have the columns {', '.join(_COLUMNS)}; not {', '.join(unknown)}.")
    hits = _as_hits(table, path)
    metadata = {} if recall is None else {_RECALL: json.dumps(dict(recall))}
    metadata |= {} if queries_digest is None else {_QUERIES: queries_digest}
    metadata |= {} if options is None else {_OPTIONS: json.dumps(dict(options))}
    if metadata:
        hits = hits.replace_schema_metadata(metadata)
    remove_leftovers(path)
    with whole_file(filesystem, file_path) as file:
        pq.write_table(hits, file, compression="zstd", use_dictionary=["query_id", "item_id", "query_label", "item_label"])


def read_hits(path: str) -> pa.Table:
    """Reads hits in the columns of HITS_SCHEMA, or of RERANKED_SCHEMA where they were re-ranked, in the order of the file.

    METRES_FIELD is read too where the file has it. Other columns are ignored.

    Raises:
        NotFoundError: there is no such file.
        InputError: the file does not hold hits.
    """
    with _opened(path) as parquet:
        table = parquet.read(columns=[name for name in _COLUMNS if name in parquet.schema_arrow.names])
    return _as_hits(table, path)


def read_recall(path: str) -> dict[str, float] | None:
    """The measured recall stored with hits of an approximate search; None for hits of an exact one. Raises as `read_hits`."""
    recall = _stored(path, _RECALL)
    return None if recall is None else json.loads(recall)


def read_queries_digest(path: str) -> str | None:
    """The digest of the queries that were encoded for these hits; None where a gallery was searched with. Raises as `read_hits`."""
    digest = _stored(path, _QUERIES)
    return None if digest is None else digest.decode()


def read_options(path: str) -> dict[str, Any] | None:
    """The options of the job that made these hits; None in hits of older versions. Raises as `read_hits`."""
    options = _stored(path, _OPTIONS)
    return None if options is None else json.loads(options)


def _stored(path: str, key: bytes) -> bytes | None:
    with _opened(path) as parquet:
        return (parquet.schema_arrow.metadata or {}).get(key)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[pq.ParquetFile]:
    filesystem, file_path = resolve(path)
    info = filesystem.get_file_info(file_path)
    if info.type != pafs.FileType.File:
        raise NotFoundError(f"There is no file of hits at {path}; `eet search --out {path}` writes one.")
    try:
        with filesystem.open_input_file(file_path) as file:
            yield pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} is not a Parquet file: {error}.") from error


def _as_hits(table: pa.Table, path: str) -> pa.Table:
    columns = []
    schema = RERANKED_SCHEMA if set(RERANKED_SCHEMA.names) <= set(table.column_names) else HITS_SCHEMA
    schema = schema.append(METRES_FIELD) if METRES_FIELD.name in table.column_names else schema
    for field in schema:
        if field.name not in table.column_names:
            if not field.nullable:
                raise InputError(f"{path} does not hold hits: it has no column {field.name}. Hits have {', '.join(HITS_SCHEMA.names)}.")
            columns.append(pa.nulls(len(table), field.type))
            continue
        column = table.column(field.name)
        try:
            column = column.cast(field.type)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(f"{path} does not hold hits: the column {field.name} is {column.type}, not {field.type} ({error}).") from error
        if column.null_count and not field.nullable:
            raise InputError(f"{path} does not hold hits: {column.null_count} rows have no {field.name}.")
        columns.append(column)
    hits = pa.Table.from_arrays(columns, schema=schema)
    if len(hits) and pc.min(hits["rank"]).as_py() < 1:
        raise InputError(f"{path} does not hold hits: ranks count from 1, the least here is {pc.min(hits['rank']).as_py()}.")
    return hits


def queries_gallery(hits: str) -> str:
    """The location of the gallery with the encoded query images of `hits`."""
    return with_suffix(hits, ".queries", instead_of=".parquet")


def spread_queries(hits: pa.Table, number: int) -> list[str]:
    """Ids of `number` queries, evenly spread over the order of the hits, so that their labels differ."""
    ids = hits["query_id"].unique().to_pylist()
    places = np.unique(np.linspace(0, len(ids) - 1, min(number, len(ids))).round().astype(int))
    return [ids[place] for place in places]

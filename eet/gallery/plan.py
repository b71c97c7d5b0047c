"""The plan of a gallery: which items make up which part, fixed before the first is encoded.

A part is known by its number, so a job that was cut off knows what is left by listing the finished parts, and two
workers that encode the same part write the same bytes under the same name.
"""

import contextlib
import functools
import os
import urllib.parse
from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from eet.gallery.locations import whole_file
from eet.gallery.schema import Labels, label_column
from eet.images.decoding import resolve

PLAN_NAME = "plan.parquet"
PLAN_SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("label", pa.int32()),
        pa.field("part", pa.int32(), nullable=False),
    ]
)


def write_plan(
    gallery: str,
    item_ids: Sequence[str] | pa.Array,
    uris: Sequence[str] | pa.Array,
    labels: Labels | None,
    rows_per_part: int,
) -> int:
    """Write `plan.parquet` into the gallery: items in the order of their ids (by UTF-8 bytes), `rows_per_part` to a
    part; gives the number of parts.

    labels: None, or one per item, None or negative where unknown. A name that is not UTF-8 (lone surrogates, as
    `os.fsdecode` makes them) cannot be a Parquet string: its id is stored with backslash escapes, its uri as a
    `file://` URI with percent escapes, which `eet.images` opens.

    Raises ValueError for no items, ids given twice, lengths that differ, or rows_per_part below 1.
    """
    if rows_per_part < 1:
        raise ValueError(f"rows_per_part is {rows_per_part}; give at least 1.")
    num_items = len(item_ids)
    if num_items == 0:
        raise ValueError("There is no item to plan; give at least one.")
    if len(uris) != num_items:
        raise ValueError(f"There are {len(uris)} uris for {num_items} items; give one each.")
    # 64-bit offsets: the ids of a large gallery pass 2 GiB, which a pyarrow string array cannot hold.
    ids = _large_strings(item_ids, _stored_id)
    order = pc.sort_indices(ids)
    ids = ids.take(order)
    _refuse_duplicates(ids)
    items = pa.table(
        {
            "item_id": ids,
            "uri": _large_strings(uris, _stored_uri).take(order),
            "label": label_column(labels, num_items).take(order),
        }
    )

    filesystem, path = resolve(gallery)
    # No statistics and no dictionaries: they would make the footer, which every reader of a part parses, three times as
    # long.
    options = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}
    with (
        whole_file(filesystem, f"{path}/{PLAN_NAME}") as file,
        pq.ParquetWriter(file, PLAN_SCHEMA, **options) as writer,
    ):
        for part, start in enumerate(range(0, num_items, rows_per_part)):
            rows = items.slice(start, rows_per_part)
            rows = rows.append_column("part", pa.array([part] * len(rows), pa.int32())).cast(PLAN_SCHEMA)
            writer.write_table(rows, row_group_size=rows_per_part)
    return -(-num_items // rows_per_part)


def plan_parts(gallery: str) -> int:
    """The number of planned parts. Raises FileNotFoundError where the gallery has no plan."""
    with _open_plan(gallery) as plan:
        return plan.metadata.num_row_groups


def read_plan_part(gallery: str, part: int) -> pa.Table:
    """The items of one part in order, in the columns of PLAN_SCHEMA. Reads that part's row group only.

    Raises FileNotFoundError where the gallery has no plan, ValueError where the plan has no such part.
    """
    with _open_plan(gallery) as plan:
        if not 0 <= part < plan.metadata.num_row_groups:
            raise ValueError(f"Part {part} is not in the plan of {gallery}; it has the parts 0 to {plan.metadata.num_row_groups - 1}.")
        return plan.read_row_group(part, use_threads=False)


@contextlib.contextmanager
def _open_plan(gallery: str) -> Iterator[pq.ParquetFile]:
    filesystem, path = resolve(gallery)
    info = filesystem.get_file_info(f"{path}/{PLAN_NAME}")
    if info.type != pafs.FileType.File:
        raise FileNotFoundError(f"{gallery} has no {PLAN_NAME}; `eet encode` writes it before it encodes.")
    # Some stores have no times, and then nothing tells a plan from the one that replaced it.
    parse = _metadata if info.mtime_ns is not None else _metadata.__wrapped__
    metadata = parse(gallery, info.size, info.mtime_ns)
    with filesystem.open_input_file(info.path) as file:
        yield pq.ParquetFile(file, metadata=metadata)


@functools.lru_cache(maxsize=2)
def _metadata(gallery: str, size: int, mtime_ns: int | None) -> pq.FileMetaData:
    """The footer grows with the number of parts (214 bytes each): a worker that reads one part after another parses it
    once.
    """
    filesystem, path = resolve(gallery)
    with filesystem.open_input_file(f"{path}/{PLAN_NAME}") as file:
        return pq.read_metadata(file)


def _large_strings(values: Sequence[str] | pa.Array, stored: Callable[[str], str]) -> pa.Array:
    if not isinstance(values, (pa.Array, pa.ChunkedArray)):
        try:
            values = pa.array(values, pa.large_string())
        except UnicodeEncodeError:
            values = pa.array([stored(value) for value in values], pa.large_string())
    column = values.cast(pa.large_string())
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if column.null_count:
        raise ValueError(f"{column.null_count} items have no id or no uri; every item needs both.")
    return column


def _stored_id(item_id: str) -> str:
    return item_id.encode("utf-8", "backslashreplace").decode()


def _stored_uri(uri: str) -> str:
    try:
        uri.encode()
        return uri
    except UnicodeEncodeError:
        return "file://" + urllib.parse.quote(os.fsencode(os.path.abspath(uri)))


def _refuse_duplicates(sorted_ids: pa.Array) -> None:
    repeats = pc.equal(sorted_ids.slice(1), sorted_ids.slice(0, len(sorted_ids) - 1))
    if not pc.any(repeats).as_py():
        return
    repeated = sorted_ids.slice(1).filter(repeats).unique()
    examples = ", ".join(repr(item_id) for item_id in repeated.slice(0, 5).to_pylist())
    raise ValueError(
        f"{len(repeated)} item ids are given more than once: {examples}{', ...' if len(repeated) > 5 else ''}. "
        "Every item needs an id of its own."
    )

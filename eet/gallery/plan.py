"""The plan of a gallery: which items make up which part, fixed before the first part is encoded.

Parts are numbered. So an interrupted job finds what is left by listing the finished parts, and two workers that encode
the same part write the same bytes under the same name. `plan.parquet` plans the parts from 0 on; an append to a finished
gallery is planned in a separate file, plan-NNNNNN.parquet, named after its first part.
"""

import functools
import hashlib
import os
import re
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from eet.datasets.labels import stored_name
from eet.datasets.places import Places
from eet.errors import InputError, NotFoundError
from eet.gallery.external_sort import merge_by_id, sorted_by_id
from eet.gallery.schema import PLACE_FIELDS, Labels, label_column
from eet.storage import check_location, resolve, whole_file

ITEM_SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("label", pa.int32()),
    ]
)
"""The columns of items to plan. Places have those of `eet.gallery.schema.PLACE_FIELDS` too, before the part."""
_PART = pa.field("part", pa.int32(), nullable=False)
PLAN_SCHEMA = ITEM_SCHEMA.append(_PART)
_PLAN_NAME = re.compile(r"plan(?:-(\d{6,}))?\.parquet")
_EXAMPLES = 5
_MAY_HOLD_SECRETS = r"(?s)://([^/]*[@:]|.*[?]|.*://)"
"""A quick test, which almost all URIs pass, before the thorough one."""
_DIGEST = "eet.plan"
"""Key of the plan's digest in the metadata of its file."""


class PlannedPart(NamedTuple):
    """The items of a part: row group `row_group` of the plan file `file`, whose digest is `digest` ('' in plans of older versions)."""

    part: int
    file: str
    row_group: int
    num_rows: int
    digest: str


class PlanSummary(NamedTuple):
    """Rows, parts and digest of a plan, and the number of items left out because the gallery already has them."""

    num_rows: int
    num_parts: int
    num_known: int
    digest: str


def plan_name(first_part: int) -> str:
    """The file that plans the parts from `first_part` on."""
    return "plan.parquet" if first_part == 0 else f"plan-{first_part:06d}.parquet"


def items_table(item_ids: Sequence[str], uris: Sequence[str], labels: Labels | None = None, places: Places | None = None) -> pa.Table:
    """Makes a table of items to plan, in the columns of ITEM_SCHEMA, and those of places if they are given.

    A name that is not UTF-8 (lone surrogates, as from `os.fsdecode`) cannot be a Parquet string: its id is stored with backslash
    escapes, its uri as a `file://` URI with percent escapes, which `eet.storage` opens.

    Args:
        item_ids: id of each item.
        uris: location of each item's image.
        labels: label of each item, None or negative where unknown; None if all are unknown.
        places: where each image was taken.

    Raises:
        InputError: the lengths differ, or a location holds credentials.
    """
    if len(uris) != len(item_ids):
        raise InputError(f"There are {len(uris)} uris for {len(item_ids)} items; give one each.")
    try:
        ids, locations = pa.array(item_ids, pa.string()), pa.array(uris, pa.string())
    except UnicodeEncodeError:
        ids = pa.array([stored_name(item_id) for item_id in item_ids], pa.string())
        locations = pa.array([_stored_uri(uri) for uri in uris], pa.string())
    for uri in locations.filter(pc.match_substring_regex(locations, _MAY_HOLD_SECRETS)).to_pylist():
        check_location(uri, "the location of an image")
    columns = [ids, locations, label_column(labels, len(ids))]
    if places is not None:
        columns += [pa.array(metres_N, mask=np.isnan(metres_N)) for metres_N in places.metres_N2.T]
        columns += [pa.array(places.zones_N, pa.string()), pa.array(places.conditions_N, pa.string())]
    return pa.table(columns, schema=_item_schema(places is not None))


def _item_schema(places: bool) -> pa.Schema:
    return pa.schema([*ITEM_SCHEMA, *PLACE_FIELDS]) if places else ITEM_SCHEMA


def write_plan(
    gallery: str,
    items: Iterable[pa.Table],
    rows_per_part: int,
    *,
    first_part: int = 0,
    known_ids: Iterable[Iterator[pa.Table]] = (),
    places: bool = False,
) -> PlanSummary:
    """Writes a plan into the gallery: items in the order of their ids (by UTF-8 bytes), `rows_per_part` to a part.

    If no item is left to plan, no file is written.

    Args:
        gallery: folder or URI.
        items: tables in the columns of ITEM_SCHEMA, in any order; they are sorted on disk if they do not fit in memory.
        rows_per_part: at least 1.
        first_part: number of the first part.
        known_ids: ids that the gallery already has, as runs of tables with a column item_id, each run sorted; items with such an id
            are left out.
        places: the items have the columns of places.

    Raises:
        InputError: an id occurs twice, an id or a location is null, or rows_per_part is below 1. No plan is written then.
    """
    if rows_per_part < 1:
        raise InputError(f"rows_per_part is {rows_per_part}; give at least 1.")
    schema = _item_schema(places)
    known = (map(lambda ids: _as_known(ids, schema), run) for run in known_ids)
    new = map(_as_new, sorted_by_id(_checked(table, schema) for table in items))
    fresh = _FreshItems(merge_by_id([*known, new]))
    first = next(fresh, None)
    if first is None:
        fresh.refuse_repeats()
        return PlanSummary(0, 0, fresh.num_known, "")
    filesystem, path = resolve(gallery)
    # No statistics and no dictionaries: they would make the footer, which every reader of a part parses, three times as
    # long.
    options = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}
    num_rows = num_parts = 0
    digest = hashlib.sha256()
    with whole_file(filesystem, f"{path}/{plan_name(first_part)}") as file:
        with pq.ParquetWriter(file, schema.append(_PART), **options) as writer:
            for rows in _regrouped(first, fresh, rows_per_part):
                part = pa.array(np.full(len(rows), first_part + num_parts, np.int32))
                planned = rows.append_column(_PART, part)
                writer.write_table(planned, row_group_size=rows_per_part)
                _add_rows(digest, planned)
                num_rows, num_parts = num_rows + len(rows), num_parts + 1
            writer.add_key_value_metadata({_DIGEST: digest.hexdigest()})
        fresh.refuse_repeats()
    return PlanSummary(num_rows, num_parts, fresh.num_known, digest.hexdigest())


def _add_rows(digest: Any, planned: pa.Table) -> None:
    """Adds rows to a digest: equal rows give equal digests, however they are laid out in memory."""
    placed = PLACE_FIELDS[0].name in planned.column_names
    for name in ("item_id", "uri", *(("zone", "condition") if placed else ())):
        texts = planned[name].cast(pa.large_binary()).combine_chunks()
        _, offsets, contents = texts.buffers()
        ends_n = np.frombuffer(offsets, np.int64)[texts.offset : texts.offset + len(texts) + 1]
        digest.update(np.diff(ends_n).tobytes())
        digest.update(memoryview(contents)[ends_n[0] : ends_n[-1]])
    digest.update(planned["label"].fill_null(-1).to_numpy().tobytes())
    for name in ("easting", "northing") if placed else ():
        digest.update(planned[name].fill_null(np.nan).to_numpy().tobytes())


def planned_parts(gallery: str) -> list[PlannedPart]:
    """All parts of all plan files, ascending. NotFoundError where the gallery has no plan."""
    filesystem, path = resolve(gallery)
    entries = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
    found = [(match, entry) for entry in entries if (match := _PLAN_NAME.fullmatch(entry.base_name))]
    if not found:
        raise NotFoundError(f"{gallery} has no plan.parquet; `eet encode` writes it before it encodes.")
    parts = []
    for match, entry in found:
        metadata = _footer(gallery, entry)
        first, digest = int(match[1] or 0), _digest_of(metadata)
        parts += [
            PlannedPart(first + n, entry.base_name, n, metadata.row_group(n).num_rows, digest) for n in range(metadata.num_row_groups)
        ]
    return sorted(parts)


def planned_ids(gallery: str, *, before: int) -> list[Iterator[pa.Table]]:
    """The ids of the parts below `before`, in the form of `write_plan`'s `known_ids`: a run of sorted tables for each plan file."""
    runs: dict[str, list[PlannedPart]] = {}
    for planned in planned_parts(gallery):
        if planned.part < before:
            runs.setdefault(planned.file, []).append(planned)
    return [map(lambda planned: _read(gallery, planned, ["item_id"]), parts) for parts in runs.values()]


def read_planned_part(gallery: str, planned: PlannedPart) -> pa.Table:
    """The items of one part in order, in the columns of PLAN_SCHEMA, and of places. Reads only the row group of that part.

    Raises:
        NotFoundError: the gallery has no such plan.
        InputError: the plan has another part in that row group, or is another plan.
    """
    table = _read(gallery, planned, None)
    if len(table) != planned.num_rows or pc.any(pc.not_equal(table["part"], planned.part)).as_py():
        raise InputError(f"{gallery}/{planned.file} is not the plan of part {planned.part}; start the encode job again.")
    return table


def _read(gallery: str, planned: PlannedPart, columns: list[str] | None) -> pa.Table:
    filesystem, path = resolve(gallery)
    info = filesystem.get_file_info(f"{path}/{planned.file}")
    if info.type != pafs.FileType.File:
        raise NotFoundError(f"{gallery} has no {planned.file}; `eet encode` writes it before it encodes.")
    footer = _footer(gallery, info)
    if planned.row_group >= footer.num_row_groups or _digest_of(footer) != planned.digest:
        raise InputError(f"{gallery}/{planned.file} was replaced by another plan; start the encode job again.")
    with filesystem.open_input_file(info.path) as file:
        return pq.ParquetFile(file, metadata=footer).read_row_group(planned.row_group, columns=columns, use_threads=False)


def _digest_of(footer: pq.FileMetaData) -> str:
    return (footer.metadata or {}).get(_DIGEST.encode(), b"").decode()


def _footer(gallery: str, info: pafs.FileInfo) -> pq.FileMetaData:
    # Some stores have no times: then a replaced plan could not be recognised, so the footer is not cached.
    parse = _parsed_footer if info.mtime_ns is not None else _parsed_footer.__wrapped__
    return parse(gallery, info.base_name, info.size, info.mtime_ns)


@functools.lru_cache(maxsize=4)
def _parsed_footer(gallery: str, name: str, size: int, mtime_ns: int | None) -> pq.FileMetaData:
    """The footer of a plan, parsed once per worker: it grows with the number of parts (214 bytes each)."""
    filesystem, path = resolve(gallery)
    with filesystem.open_input_file(f"{path}/{name}") as file:
        return pq.read_metadata(file)


def _checked(items: pa.Table, schema: pa.Schema) -> pa.Table:
    for name in ("item_id", "uri"):
        if items[name].null_count:
            raise InputError(f"{items[name].null_count} items have no {name}; every item needs one.")
    return items.cast(schema)


_KNOWN = pa.field("known", pa.bool_())


def _as_new(items: pa.Table) -> pa.Table:
    return items.append_column(_KNOWN, pa.array(np.zeros(len(items), bool)))


def _as_known(ids: pa.Table, schema: pa.Schema) -> pa.Table:
    unread = [pa.nulls(len(ids), field.type) for field in schema][2:]
    columns = [ids["item_id"], pa.repeat("", len(ids)), *unread, pa.array(np.ones(len(ids), bool))]
    return pa.table(columns, schema=schema.append(_KNOWN))


class _FreshItems:
    """Filters items sorted by id: yields those whose id is not known, each id once, and counts the others.

    Among rows with the same id, the known one must come first.
    """

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables = tables
        self._last_id: str | None = None
        self._last_known = False
        self.num_known = 0
        self.num_repeated = 0
        self._repeated: list[str] = []

    def __iter__(self) -> Iterator[pa.Table]:
        return self

    def __next__(self) -> pa.Table:
        while True:
            fresh = self._fresh(next(self._tables))
            if len(fresh):
                return fresh

    def _fresh(self, table: pa.Table) -> pa.Table:
        ids = table["item_id"].combine_chunks()
        known = table["known"].to_numpy()
        repeats = np.empty(len(ids), bool)
        repeats[0] = ids[0].as_py() == self._last_id
        repeats[1:] = pc.equal(ids.slice(1), ids.slice(0, len(ids) - 1)).to_numpy(zero_copy_only=False)
        # Whether the id of each row is known: decided by the first row with that id, which may lie in the previous table.
        starts = np.maximum.accumulate(np.where(repeats, -1, np.arange(len(ids))))
        of_known = np.where(starts >= 0, known[starts], self._last_known)
        self._last_id, self._last_known = ids[-1].as_py(), bool(of_known[-1])
        self.num_known += int((of_known & ~known).sum())
        twice = repeats & ~of_known
        if twice.any():
            names = ids.filter(pa.array(twice)).unique().to_pylist()
            self._repeated += [name for name in names if name not in self._repeated[-1:]][: _EXAMPLES + 1 - len(self._repeated)]
            self.num_repeated += int(twice.sum())
        return table.filter(pa.array(~of_known & ~repeats)).drop_columns(_KNOWN.name)

    def refuse_repeats(self) -> None:
        if self.num_repeated:
            examples = ", ".join(map(repr, self._repeated[:_EXAMPLES]))
            more = ", ..." if len(self._repeated) > _EXAMPLES else ""
            raise InputError(f"{self.num_repeated} items have the id of another item: {examples}{more}. Every item needs a unique id.")


def _regrouped(first: pa.Table, rest: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of exactly `rows` rows; the last one may be shorter."""
    waiting, count = [first], len(first)
    while True:
        while count >= rows:
            table = pa.concat_tables(waiting).combine_chunks()
            for start in range(0, count - rows + 1, rows):
                yield table.slice(start, rows)
            done = count - count % rows
            waiting, count = [table.slice(done)], count - done
        following = next(rest, None)
        if following is None:
            if count:
                yield pa.concat_tables(waiting).combine_chunks()
            return
        waiting.append(following)
        count += len(following)


def _stored_uri(uri: str) -> str:
    try:
        uri.encode()
        return uri
    except UnicodeEncodeError:
        if uri.startswith("file://"):
            return "file://" + urllib.parse.quote(os.fsencode(uri.removeprefix("file://")), safe="/%")
        return "file://" + urllib.parse.quote(os.fsencode(os.path.abspath(uri)))

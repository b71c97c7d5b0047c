"""Parts of a gallery: Parquet files that are either complete or absent."""

import re

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from eet.errors import InputError
from eet.storage import join_location, resolve, whole_file

_PART_NAME = re.compile(r"part-(\d{6,})\.parquet")
_ROWS_WITHOUT_TOKENS = 1_000_000
BYTES_WITH_TOKENS = 4 * 2**20


SCHEMA_VERSION = 2
"""Of new galleries. In version 1 the parts lay in the folder of the manifest, which tools that open a folder of Parquet files cannot
read."""

PARTS_FOLDER = "parts"


def part_name(part: int, version: int = SCHEMA_VERSION) -> str:
    """The path of part number `part` in its gallery: parts/part-NNNNNN.parquet, with more digits from part 1,000,000 on."""
    if part < 0:
        raise InputError(f"Part {part} does not exist; parts count from 0.")
    return f"{_folder_of(version)}part-{part:06d}.parquet"


def _folder_of(version: int) -> str:
    return "" if version == 1 else f"{PARTS_FOLDER}/"


def part_location(gallery: str, part: int, version: int = SCHEMA_VERSION) -> str:
    """The location of a part."""
    return join_location(gallery, part_name(part, version))


def write_part(gallery: str, part: int, table: pa.Table, version: int = SCHEMA_VERSION) -> None:
    """Writes one part of a gallery, completely or not at all; an older file of that part is replaced.

    Binary columns are plain and uncompressed, because codes and half-precision tokens do not compress and are read most often; the others
    are compressed with zstd. A row group holds about 4 MiB of tokens, so that re-ranking reads few tokens that it does not need; without
    tokens it holds a million rows.

    Args:
        gallery: local folder or URI.
        part: number of the part.
        table: rows of the part, in the columns of the gallery's schema.
        version: schema version of the gallery.
    """
    binary = [field for field in table.schema if pa.types.is_fixed_size_binary(field.type)]
    rows = _ROWS_WITHOUT_TOKENS
    if "tokens" in table.schema.names:
        rows = max(1, BYTES_WITH_TOKENS // sum(field.type.byte_width for field in binary))
    uncompressed = {field.name for field in binary}
    filesystem, path = resolve(gallery)
    with whole_file(filesystem, f"{path}/{part_name(part, version)}") as file:
        pq.write_table(
            table,
            file,
            row_group_size=rows,
            compression={name: "none" if name in uncompressed else "zstd" for name in table.schema.names},
            use_dictionary=[name for name in ("label", "status", "error") if name in table.schema.names],
            write_statistics=[name for name in ("item_id", "label", "status") if name in table.schema.names],
        )


def finished_parts(gallery: str, version: int = SCHEMA_VERSION) -> list[int]:
    """The numbers of the existing parts, ascending; empty where the folder does not exist."""
    filesystem, path = resolve(gallery)
    entries = filesystem.get_file_info(pafs.FileSelector(f"{path}/{_folder_of(version)}".rstrip("/"), allow_not_found=True))
    found = []
    for entry in entries:
        match = _PART_NAME.fullmatch(entry.base_name)
        if match and entry.type == pafs.FileType.File and part_name(int(match[1]), version=1) == entry.base_name:
            found.append(int(match[1]))
    return sorted(found)

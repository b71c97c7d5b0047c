"""Parts of a gallery: Parquet files that are either complete or absent."""

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from eet.errors import InputError
from eet.storage import Claim, join_location, resolve, whole_file

_PART_NAME = re.compile(r"part-(\d{6,})\.parquet")
_ROWS_WITHOUT_TOKENS = 1_000_000
BYTES_WITH_TOKENS = 2**20


SCHEMA_VERSION = 3
"""Of new galleries. In version 1 the parts lay in the folder of the manifest, which tools that open a folder of Parquet files cannot
read. Before version 3 parts did not say which job they are of."""

PARTS_FOLDER = "parts"
DIGEST_KEY = "eet.digest"
"""Key of a part's digest in the metadata of its file."""


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


def write_part(
    gallery: str,
    part: int,
    table: pa.Table,
    version: int = SCHEMA_VERSION,
    *,
    digest: str | None = None,
    check: Callable[[], object] = lambda: None,
) -> None:
    """Writes one part of a gallery, completely or not at all; an older file of that part is replaced.

    Binary columns are plain and uncompressed, because codes and half-precision tokens do not compress and are read most often; the others
    are compressed with zstd. A row group holds about 1 MiB of tokens, so that re-ranking reads few tokens that it does not need; without
    tokens it holds a million rows.

    Args:
        gallery: local folder or URI.
        part: number of the part.
        table: rows of the part, in the columns of the gallery's schema.
        version: schema version of the gallery.
        digest: what the part is made from (see `PartFiles`), stored in the metadata of the file.
        check: called immediately before the file appears; what it raises stops that.
    """
    if digest is not None:
        table = table.replace_schema_metadata({DIGEST_KEY: digest})
    binary = [field for field in table.schema if pa.types.is_fixed_size_binary(field.type)]
    rows = _ROWS_WITHOUT_TOKENS
    if "tokens" in table.schema.names:
        rows = max(1, BYTES_WITH_TOKENS // sum(field.type.byte_width for field in binary))
    uncompressed = {field.name for field in binary}
    filesystem, path = resolve(gallery)
    with whole_file(filesystem, f"{path}/{part_name(part, version)}", check=check) as file:
        pq.write_table(
            table,
            file,
            row_group_size=rows,
            compression={name: "none" if name in uncompressed else "zstd" for name in table.schema.names},
            use_dictionary=[name for name in ("label", "zone", "condition", "status", "error") if name in table.schema.names],
            write_statistics=[name for name in ("item_id", "label", "status") if name in table.schema.names],
        )


Plans = tuple[tuple[int, str], ...]
"""First part and digest of each encode job of a gallery, ascending. Parts below the first entry have no digest (older versions)."""


def digest_of_part(plans: Plans, part: int) -> str | None:
    """The digest that a part must have; None where it is not known."""
    return next((digest for first, digest in reversed(plans) if first <= part), None)


def digest_of_file(file: pq.ParquetFile) -> str | None:
    """The digest that a part's file has; None where it has none."""
    digest = (file.metadata.metadata or {}).get(DIGEST_KEY.encode())
    return None if digest is None else digest.decode()


@dataclass(frozen=True)
class PartFiles:
    """The parts of a gallery as a job writes and finds them. It can be sent to workers.

    Every part carries the digest of what it is made from: the model, its preprocessing, the options and the plan. A file with another
    digest is of another job, and counts as absent.

    Attributes:
        gallery: folder or URI.
        version: schema version of the gallery.
        plans: the digests.
        claim: held by the job; None where only one job can know the folder.
    """

    gallery: str
    version: int
    plans: Plans
    claim: Claim | None = None

    def write(self, part: int, table: pa.Table) -> None:
        """Writes a part. TakenOverError where another job holds the folder by now."""
        check = (lambda: None) if self.claim is None else self.claim.check
        write_part(self.gallery, part, table, self.version, digest=digest_of_part(self.plans, part), check=check)

    def statuses(self, part: int) -> dict[str, int] | None:
        """status -> number of rows of a part; None where it is absent, of another job, or no whole file."""
        with self._opened(part) as file:
            if file is None:
                return None
            found = file.read(columns=["status"], use_threads=False)["status"].value_counts()
        return {count["values"]: count["counts"] for count in found.to_pylist()}

    def is_there(self, part: int) -> bool:
        """Whether the part is there, of this job, and a whole file, by its footer."""
        with self._opened(part) as file:
            return file is not None

    @contextlib.contextmanager
    def _opened(self, part: int) -> Iterator[pq.ParquetFile | None]:
        filesystem, path = resolve(part_location(self.gallery, part, self.version))
        with contextlib.ExitStack() as stack:
            try:
                file = pq.ParquetFile(stack.enter_context(filesystem.open_input_file(path)))
            except (FileNotFoundError, pa.ArrowInvalid):
                yield None
                return
            wanted = digest_of_part(self.plans, part)
            yield file if wanted is None or digest_of_file(file) == wanted else None

    def remove_from(self, first: int) -> None:
        """Deletes the files of parts from number `first` on, which an earlier job left."""
        filesystem, _ = resolve(self.gallery)
        for part in finished_parts(self.gallery, self.version):
            if part >= first:
                filesystem.delete_file(resolve(part_location(self.gallery, part, self.version))[1])


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

"""Images stored inside larger files: members of a tar shard, cells of a Parquet or Arrow file.

Each such image has its own location, so that a plan can name it and a worker can read it alone:

    LOCATION.tar#OFFSET+SIZE            the bytes from OFFSET on
    LOCATION.tar.gz#OFFSET+SIZE         the bytes from OFFSET on of the unpacked tar; also .tgz, .tar.bz2, .tar.xz and .tar.zst
    LOCATION.parquet#GROUP/ROW/COLUMN   the cell of row ROW of row group GROUP; COLUMN may be a path such as image.bytes
    LOCATION.arrow#BATCH/ROW/COLUMN     the same of an Arrow IPC file or stream; BATCH counts its record batches

A compressed tar can only be read from its beginning. The first read of a member unpacks the whole tar into an unnamed temporary file (in
TMPDIR), which later reads use; each process keeps the last two. This is slower than a plain tar and needs disk space, but no more
memory. An Arrow stream that is not on a local disk is copied in the same way.
"""

import bz2
import gzip
import lzma
import os
import re
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import IO, Any, Generic, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.ipc
import pyarrow.parquet as pq

from eet.errors import InputError

T = TypeVar("T")

_UNPACKERS: dict[str, Callable[[pa.NativeFile], Any]] = {
    ".tar.gz": lambda packed: gzip.GzipFile(fileobj=packed, mode="rb"),
    ".tgz": lambda packed: gzip.GzipFile(fileobj=packed, mode="rb"),
    ".tar.bz2": bz2.BZ2File,
    ".tar.xz": lzma.LZMAFile,
    ".tar.zst": lambda packed: pa.CompressedInputStream(packed, "zstd"),
}
COMPRESSED_TAR_SUFFIXES = tuple(_UNPACKERS)

_TAR = re.compile(
    rf"(?P<container>.+(?:{'|'.join(map(re.escape, ('.tar', *COMPRESSED_TAR_SUFFIXES)))})(?:\?[^#]*)?)#(?P<offset>\d+)\+(?P<size>\d+)",
    re.DOTALL | re.IGNORECASE,
)
_TABLE = re.compile(
    r"(?P<container>.+\.(?:parquet|arrow)(?:\?[^#]*)?)#(?P<group>\d+)/(?P<row>\d+)/(?P<column>.+)", re.DOTALL | re.IGNORECASE
)

# Items are planned in the order of their ids, so that a part's neighbours lie in one file or two.
_OPEN_FILES = 8
_ROW_GROUPS = 2
_UNPACKED_FILES = 2
_ARROW_FILE_MAGIC = b"ARROW1"

_READ_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Member:
    """The position of an image in the file `container`.

    (offset, size) in a tar; (row group, row) and a column in a Parquet file; (record batch, row) and a column in an Arrow file.
    """

    container: str
    first: int
    second: int
    column: str | None = None

    @classmethod
    def parse(cls, location: str) -> "Member | None":
        """The position that `location` names; None where the location is a whole file."""
        if "#" not in location:
            return None
        if match := _TAR.fullmatch(location):
            return cls(match["container"], int(match["offset"]), int(match["size"]))
        if match := _TABLE.fullmatch(location):
            return cls(match["container"], int(match["group"]), int(match["row"]), match["column"])
        return None

    def __str__(self) -> str:
        if self.column is None:
            return f"{self.container}#{self.first}+{self.second}"
        return f"{self.container}#{self.first}/{self.second}/{self.column}"


def read_member(filesystem: pafs.FileSystem, path: str, member: Member) -> bytes:
    """Reads a member of the container at `path`. Thread-safe; threads share open files and row groups.

    Raises:
        OSError: the container cannot be read.
        InputError: the container holds no such member.
    """
    if member.column is None:
        if is_compressed_tar(path):
            # Kept in a variable: the file closes when the cache drops it.
            file = unpacked_files.get(member.container, lambda: unpack(filesystem, path))
            data = os.pread(file.fileno(), member.second, member.first)
        else:
            data = open_files.get(member.container, lambda: filesystem.open_input_file(path)).read_at(member.second, member.first)
        if len(data) < member.second:
            raise InputError(f"{member.container} ends within the image at byte {member.first}: it was replaced after it was listed")
        return data
    key = (member.container, member.first, member.column)
    cells = row_groups.get(key, lambda: read_group(filesystem, path, member))
    if member.second >= len(cells):
        raise InputError(f"{member.container} has {len(cells)} rows in row group {member.first}: it was replaced after it was listed")
    return cells[member.second].as_py() or b""


def is_compressed_tar(path: str) -> bool:
    """Whether a path (without options) has the name of a compressed tar."""
    return path.lower().endswith(COMPRESSED_TAR_SUFFIXES)


@contextmanager
def open_compressed(filesystem: pafs.FileSystem, path: str) -> Iterator[IO[bytes]]:
    """The unpacked contents of a compressed tar, which can only be read in order. The end of its name says how it is compressed."""
    unpacker = next(unpacker for suffix, unpacker in _UNPACKERS.items() if path.lower().endswith(suffix))
    with filesystem.open_input_stream(path, compression=None, buffer_size=_READ_BYTES) as packed, unpacker(packed) as unpacked:
        yield unpacked


def unpack(filesystem: pafs.FileSystem, path: str) -> IO[bytes]:
    """Unpacks a compressed tar into an unnamed temporary file."""
    with open_compressed(filesystem, path) as unpacked:
        return _temporary(unpacked)


def _temporary(contents: IO[bytes] | pa.NativeFile) -> IO[bytes]:
    """An unnamed temporary file with these contents."""
    file = tempfile.TemporaryFile()
    try:
        shutil.copyfileobj(contents, file, _READ_BYTES)
        file.flush()
    except BaseException:
        file.close()
        raise
    return file


def read_group(filesystem: pafs.FileSystem, path: str, member: Member) -> pa.Array:
    """The column of a member in its whole row group, or record batch."""
    assert member.column is not None
    if path.lower().endswith(".arrow"):
        column = _read_batch(filesystem, path, member)
    else:
        with filesystem.open_input_file(path) as file:
            parquet = pq.ParquetFile(file)
            if member.first >= parquet.metadata.num_row_groups:
                raise InputError(f"{member.container} has no row group {member.first}: it was replaced after it was listed")
            read = parquet.read_row_group(member.first, columns=[member.column], use_threads=False)
        column = _cell_column(read, member.column)
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _read_batch(filesystem: pafs.FileSystem, path: str, member: Member) -> pa.Array:
    assert member.column is not None
    with open_arrow(filesystem, path) as file:
        if is_arrow_stream(file):
            if not isinstance(filesystem, pafs.LocalFileSystem):
                copy = unpacked_files.get(member.container, lambda: _copy(filesystem, path))
                file = pa.memory_map(f"/dev/fd/{copy.fileno()}")
            batch = next(islice(pa.ipc.open_stream(file), member.first, None), None)
        else:
            reader = pa.ipc.open_file(file)
            batch = reader.get_batch(member.first) if member.first < reader.num_record_batches else None
        if batch is None:
            raise InputError(f"{member.container} has no record batch {member.first}: it was replaced after it was listed")
        return _cell_column(batch, member.column)


def _cell_column(read: pa.Table | pa.RecordBatch, column: str) -> pa.Array:
    """A column, or a field of a struct column. A column whose own name is the whole of `column`, dots included, comes first."""
    names = [column[:end] for end in range(len(column), 0, -1) if end == len(column) or column[end] == "."]
    name = next((name for name in names if name in read.schema.names), None)
    if name is None:
        raise InputError(f"there is no column {column}: the file was replaced after it was listed")
    cells = read.column(name)
    for field in column[len(name) + 1 :].split(".") if name != column else ():
        cells = pc.struct_field(cells, field)
    return cells


def open_arrow(filesystem: pafs.FileSystem, path: str) -> pa.NativeFile:
    """Opens an Arrow IPC file or stream. A local one is memory-mapped, so that only the parts in use are read."""
    return pa.memory_map(path) if isinstance(filesystem, pafs.LocalFileSystem) else filesystem.open_input_file(path)


def is_arrow_stream(file: pa.NativeFile) -> bool:
    """Whether this is the stream format, as `datasets` (Hugging Face) writes it, and not the file format."""
    magic = file.read(len(_ARROW_FILE_MAGIC))
    file.seek(0)
    return magic != _ARROW_FILE_MAGIC


def _copy(filesystem: pafs.FileSystem, path: str) -> IO[bytes]:
    with filesystem.open_input_stream(path, compression=None, buffer_size=_READ_BYTES) as stream:
        return _temporary(stream)


class Recent(Generic[T]):
    """A cache of the last few values by key. One thread makes a value while others that need it wait. A failure is not cached."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._values: OrderedDict[Any, Future[T]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Any, make: Callable[[], T]) -> T:
        with self._lock:
            future = self._values.get(key)
            mine = future is None
            if future is None:
                future = self._values[key] = Future()
                while len(self._values) > self._size:
                    self._values.popitem(last=False)
            else:
                self._values.move_to_end(key)
        if mine:
            try:
                future.set_result(make())
            except BaseException as error:
                with self._lock:
                    self._values.pop(key, None)
                future.set_exception(error)
        return future.result()


open_files: Recent[pa.NativeFile] = Recent(_OPEN_FILES)
unpacked_files: Recent[IO[bytes]] = Recent(_UNPACKED_FILES)
row_groups: Recent[pa.Array] = Recent(_ROW_GROUPS)

"""Writing a file on any store so that it is either complete or absent."""

import contextlib
import os
import posixpath
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from typing import IO

import pyarrow.fs as pafs

_OBJECT_STORES = ("s3", "gcs", "abfs")
_HELD_BYTES = 64 * 2**20


@contextlib.contextmanager
def whole_file(filesystem: pafs.FileSystem, path: str) -> Iterator[IO[bytes]]:
    """A binary file to write. It appears at `path` when complete; after an exception or a kill it does not appear. An older
    file is replaced.

    On a local disk: written under a temporary name that starts with '.' and ends in '.tmp', flushed to the disk, then
    renamed; missing folders are created. On other stores: collected in memory (a large file on the local disk) and sent as one
    object when the block ends, because a stream that is closed early leaves a truncated object.
    """
    folder, name = posixpath.split(path)
    if isinstance(filesystem, pafs.LocalFileSystem):
        os.makedirs(folder or ".", exist_ok=True)
        temporary = posixpath.join(folder, f".{name}.{uuid.uuid4().hex}.tmp")
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        return
    with tempfile.SpooledTemporaryFile(_HELD_BYTES) as held:
        yield held
        if filesystem.type_name not in _OBJECT_STORES:
            filesystem.create_dir(folder, recursive=True)
        held.seek(0)
        with filesystem.open_output_stream(path, compression=None) as stream:
            shutil.copyfileobj(held, stream, _HELD_BYTES)

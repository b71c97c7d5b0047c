"""Writing a file on any store so that it is either complete or absent."""

import contextlib
import errno
import os
import posixpath
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import IO

import pyarrow.fs as pafs

from eet.storage.leftovers import held_file, hidden_name, sync_folder

_OBJECT_STORES = ("s3", "gcs", "abfs")
_HELD_BYTES = 64 * 2**20
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def naming_file(path: str | os.PathLike[str]) -> Iterator[None]:
    """If the disk is full, adds the name of the file that the block writes to the error, because the system names none."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL and error.filename is None:
            error.filename = os.fspath(path)
        raise


@contextlib.contextmanager
def whole_file(filesystem: pafs.FileSystem, path: str, *, check: Callable[[], object] = lambda: None) -> Iterator[IO[bytes]]:
    """A binary file to write, which appears at `path` when it is complete.

    After an exception or a kill it does not appear. An older file is replaced.

    On a local disk: written under a hidden temporary name (see `eet.storage.leftovers`), flushed to the disk, then renamed, and the
    folder is flushed; missing folders are created. On other stores: collected in memory (a large file on the local disk) and sent as
    one object when the block ends, because a stream that is closed early leaves a truncated object.

    Args:
        filesystem: where the file is written.
        path: path on it.
        check: called when the contents are complete, immediately before the file appears; what it raises stops that.
    """
    folder, name = posixpath.split(path)
    if isinstance(filesystem, pafs.LocalFileSystem):
        os.makedirs(folder or ".", exist_ok=True)
        temporary = posixpath.join(folder, hidden_name(name, ".tmp"))
        try:
            with naming_file(path), held_file(temporary) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                check()
                os.replace(temporary, path)
            sync_folder(folder or ".")
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        return
    with tempfile.SpooledTemporaryFile(_HELD_BYTES) as held:
        with naming_file(tempfile.gettempdir()):
            yield held
        if filesystem.type_name not in _OBJECT_STORES:
            filesystem.create_dir(folder, recursive=True)
        held.seek(0)
        check()
        with filesystem.open_output_stream(path, compression=None) as stream:
            shutil.copyfileobj(held, stream, _HELD_BYTES)

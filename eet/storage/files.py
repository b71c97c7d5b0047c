"""Small files on any store: there or not, read, written whole, deleted; and the bytes at a location, also inside a tar or Parquet file."""

import errno
import os
import shutil
import stat

import pyarrow.fs as pafs

from eet.storage.location import join_location, one_line, resolve
from eet.storage.members import Member, read_member
from eet.storage.whole_file import whole_file


def exists(location: str) -> bool:
    """Whether a file or folder exists at `location`, on any store."""
    filesystem, path = resolve(location)
    return filesystem.get_file_info(path).type != pafs.FileType.NotFound


def read_bytes(location: str) -> bytes:
    """Reads the contents of a file, or of an image inside a tar, Parquet or Arrow file.

    Args:
        location: a local path or URI, see `resolve`; inside another file, see `eet.storage.members`.

    Raises:
        OSError: the file cannot be read. It is a FileNotFoundError, PermissionError or IsADirectoryError where the store reports that,
            and has errno EINVAL where `location` is invalid.
    """
    try:
        if (member := Member.parse(location)) is not None:
            return read_member(*resolve(member.container), member)
        filesystem, path = resolve(location)
        if isinstance(filesystem, pafs.LocalFileSystem):
            # Not through pyarrow, which cannot open a name that is not UTF-8. Pipes and devices are refused: reading one could block
            # forever.
            mode = os.stat(path).st_mode
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, "Is a folder, not a file", path)
            if not stat.S_ISREG(mode):
                raise OSError(errno.ENODEV, "Is not a regular file", path)
            with open(path, "rb") as file:
                return file.read()
        with filesystem.open_input_file(path) as stream:
            return stream.read()
    except OSError:
        raise
    except ValueError as error:
        raise OSError(errno.EINVAL, one_line(error), location) from error
    except Exception as error:  # fsspec backends pass on any exception of their client library
        raise OSError(errno.EIO, f"{type(error).__name__}: {one_line(error)}", location) from error


def read_text(location: str) -> str:
    """Reads a small file as UTF-8 text. FileNotFoundError where it does not exist."""
    filesystem, path = resolve(location)
    with filesystem.open_input_stream(path, compression=None) as stream:
        return stream.read().decode()


def write_text(location: str, text: str) -> None:
    """Writes a small file, completely or not at all. Missing folders are created."""
    with whole_file(*resolve(location)) as file:
        file.write(text.encode())


def remove(location: str) -> None:
    """Deletes one file."""
    filesystem, path = resolve(location)
    filesystem.delete_file(path)


def copy_files(folder: str, target: str) -> None:
    """Copies the files of a local folder (not those in folders below it) to a folder on any store, each completely or not at all."""
    for name in sorted(os.listdir(folder)):
        with open(os.path.join(folder, name), "rb") as source, whole_file(*resolve(join_location(target, name))) as file:
            shutil.copyfileobj(source, file)

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
    """Whether there is a file or folder, on whatever store."""
    filesystem, path = resolve(location)
    return filesystem.get_file_info(path).type != pafs.FileType.NotFound


def read_bytes(location: str) -> bytes:
    """The contents of the file at a local path or URI (see `resolve`), or of a picture inside a tar or Parquet file (see
    `eet.storage.members`).

    Raises OSError, in the fitting subclass where the store says (FileNotFoundError, PermissionError,
    IsADirectoryError), and with errno EINVAL where `location` is none that can be opened.
    """
    try:
        if (member := Member.parse(location)) is not None:
            return read_member(*resolve(member.container), member)
        filesystem, path = resolve(location)
        if isinstance(filesystem, pafs.LocalFileSystem):
            # Not through pyarrow, which cannot open a name that is not UTF-8; and a pipe or a device would block for
            # ever.
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
    except Exception as error:  # fsspec backends raise whatever their client library does
        raise OSError(errno.EIO, f"{type(error).__name__}: {one_line(error)}", location) from error


def read_text(location: str) -> str:
    """A small file as text. FileNotFoundError where there is none."""
    filesystem, path = resolve(location)
    with filesystem.open_input_stream(path, compression=None) as stream:
        return stream.read().decode()


def write_text(location: str, text: str) -> None:
    """Writes a small file, whole or not at all; folders are made."""
    with whole_file(*resolve(location)) as file:
        file.write(text.encode())


def remove(location: str) -> None:
    """Deletes one file."""
    filesystem, path = resolve(location)
    filesystem.delete_file(path)


def copy_files(folder: str, target: str) -> None:
    """Copies the files of a local folder (not those in folders below it) into another folder on any store, each whole or not at all."""
    for name in sorted(os.listdir(folder)):
        with open(os.path.join(folder, name), "rb") as source, whole_file(*resolve(join_location(target, name))) as file:
            shutil.copyfileobj(source, file)

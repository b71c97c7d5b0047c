"""Small files on any store: check, read, write whole, delete; and the bytes at a location, also inside a tar or Parquet file."""

import errno
import os
import shutil
import stat

import pyarrow.fs as pafs

from eet.errors import DamagedError, NotFoundError
from eet.storage.leftovers import remove_leftovers
from eet.storage.location import join_location, location_problem, one_line, resolve
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
    if (problem := location_problem(location)) is not None:
        raise OSError(errno.EINVAL, problem)  # without the location, which may hold credentials
    try:
        filesystem, path = resolve(location)
        is_local = isinstance(filesystem, pafs.LocalFileSystem)
        # A file may have the name of a member, such as x.parquet#1/2/bird.jpg below a folder x.parquet#1.
        if (member := Member.parse(location)) is not None and not (is_local and os.path.isfile(path)):
            return read_member(*resolve(member.container), member)
        if is_local:
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
    """Reads a small file as UTF-8 text. NotFoundError where it does not exist, DamagedError where it is not UTF-8."""
    filesystem, path = resolve(location)
    try:
        with filesystem.open_input_stream(path, compression=None) as stream:
            return stream.read().decode()
    except FileNotFoundError as error:
        raise NotFoundError(f"{location} does not exist") from error
    except UnicodeDecodeError as error:
        raise DamagedError(f"{location} is damaged: it is not UTF-8 text ({error})") from error


def write_text(location: str, text: str) -> None:
    """Writes a small file, completely or not at all. Missing folders are created; what killed writers of it left is removed."""
    remove_leftovers(location)
    with whole_file(*resolve(location)) as file:
        file.write(text.encode())


def remove(location: str) -> None:
    """Deletes one file."""
    filesystem, path = resolve(location)
    filesystem.delete_file(path)


def copy_files(folder: str, target: str) -> None:
    """Copies the files of a local folder (not those in folders below it) to a folder on any store, each completely or not at all."""
    for name in sorted(os.listdir(folder)):
        remove_leftovers(join_location(target, name))
        with open(os.path.join(folder, name), "rb") as source, whole_file(*resolve(join_location(target, name))) as file:
            shutil.copyfileobj(source, file)

"""Hidden temporary files and folders on a local disk, and how to distinguish those that a killed process left from those in use.

A temporary entry for NAME is called `.NAME.<32 hex digits>` plus an optional ending. Its writer holds a lock on it (flock), which the
operating system releases when the process ends, however it ends. So an entry without a lock is a leftover.
"""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from typing import IO

import pyarrow.fs as pafs

from eet.storage.location import resolve

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def hidden_name(name: str, ending: str = "") -> str:
    """A new, unused hidden name for a temporary file or folder that will become `name`."""
    return f".{name}.{uuid.uuid4().hex}{ending}"


def is_hidden_name(entry: str) -> bool:
    """Whether an entry of a folder has a name that `hidden_name` gives."""
    return re.fullmatch(r"\..+\.[0-9a-f]{32}(\.tmp|\.old)?", entry, re.DOTALL) is not None


@contextlib.contextmanager
def held_file(path: str) -> Iterator[IO[bytes]]:
    """Opens a new temporary file for writing, and holds its lock until the block ends."""
    file = open(path, "xb")
    while not _locked(file.fileno(), path):
        file.close()
        file = open(path, "xb")
    with file:
        yield file


@contextlib.contextmanager
def held_folder(path: str) -> Iterator[None]:
    """Makes a new temporary folder, and holds its lock until the block ends."""
    os.makedirs(path)
    descriptor = os.open(path, os.O_RDONLY)
    while not _locked(descriptor, path):
        os.close(descriptor)
        os.makedirs(path)
        descriptor = os.open(path, os.O_RDONLY)
    try:
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int, path: str) -> bool:
    """Locks a new entry. False where `remove_leftovers` of another process took it in the moment before and removes it."""
    try:
        lock(descriptor)
    except BlockingIOError:
        while is_at(descriptor, path):
            time.sleep(0.001)
    return is_at(descriptor, path)


def is_at(descriptor: int, path: str) -> bool:
    """Whether an open file or folder is still the one at `path`."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(found, os.fstat(descriptor))


def lock(descriptor: int) -> bool:
    """Locks an open file or folder for this process. False where the file system has no locks.

    Raises:
        BlockingIOError: another process holds the lock, or another descriptor of this one.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True


def remove_leftovers(location: str, *, wait_s: float = 0.0) -> None:
    """Removes temporary entries for `location` that killed processes left next to it. Entries in use, and all other names, stay.

    Only a local disk has such entries; elsewhere nothing is done.

    Args:
        location: local path or URI.
        wait_s: seconds to wait for entries in use, of processes that are being ended.
    """
    filesystem, path = resolve(location)
    if isinstance(filesystem, pafs.LocalFileSystem):
        folder, name = os.path.split(path)
        _remove(folder, re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{32}}(\.tmp|\.old)?", re.DOTALL), wait_s)


def remove_leftovers_in(location: str, *, wait_s: float = 0.0) -> None:
    """Removes the temporary files that killed processes left in a local folder, whatever they were for. Files in use stay.

    wait_s: as for `remove_leftovers`.
    """
    filesystem, path = resolve(location)
    if isinstance(filesystem, pafs.LocalFileSystem):
        _remove(path, re.compile(r"\..+\.[0-9a-f]{32}\.tmp", re.DOTALL), wait_s)


def _remove(folder: str, names: re.Pattern[str], wait_s: float) -> None:
    until = time.monotonic() + wait_s
    while _in_use(folder, names) and time.monotonic() < until:
        time.sleep(0.1)


def _in_use(folder: str, names: re.Pattern[str]) -> bool:
    """Removes the leftovers among entries with these names. Whether an entry that another process holds is left."""
    in_use = False
    try:
        found = [entry for entry in os.listdir(folder) if names.fullmatch(entry)]
    except (FileNotFoundError, NotADirectoryError):
        return False
    for entry in found:
        path = os.path.join(folder, entry)
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                if lock(descriptor):
                    shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
            except BlockingIOError:
                in_use = True
            finally:
                os.close(descriptor)
    return in_use


def sync_folder(folder: str) -> None:
    """Flushes the entries of a local folder to the disk, so that a rename in it outlasts a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems cannot
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
    finally:
        os.close(descriptor)


def sync_tree(folder: str) -> None:
    """Flushes all files and folders below a local folder, and itself, to the disk."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            descriptor = os.open(os.path.join(place, name), os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(place)

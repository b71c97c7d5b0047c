"""Putting one folder in the place of another, on any store."""

import contextlib
import ctypes
import errno
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow.fs as pafs

from eet.errors import InputError
from eet.storage.leftovers import held_folder, hidden_name, is_hidden_name, remove_leftovers, sync_folder, sync_tree
from eet.storage.location import resolve, split_options

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@dataclass(frozen=True)
class FolderKind:
    """How to recognise a folder that a job writes. Only files that a kind knows are ever deleted.

    Attributes:
        noun: what it is called in messages, such as "an index".
        marker: a file that every such folder has, and no other folder.
        names: a regular expression for the files and folders in it, besides the marker.
        complete: the file that is deleted first and written last where a folder cannot be swapped at once (on an object store), so that
            a folder with it is complete.
    """

    noun: str
    marker: str
    names: str
    complete: str

    def check(self, location: str) -> None:
        """InputError where the folder at `location` is not empty and not of this kind, or holds other things too."""
        filesystem, path = resolve(location)
        entries = filesystem.get_file_info(pafs.FileSelector(path, allow_not_found=True))
        names = sorted(entry.base_name for entry in entries)
        if not names:
            return
        if self.marker not in names:
            raise InputError(f"{location} holds other files (and no {self.marker}, as {self.noun} has): choose another name, or empty it")
        others = [name for name in names if name != self.marker and not re.fullmatch(self.names, name) and not is_hidden_name(name)]
        if others:
            shown = ", ".join(others[:5]) + (", ..." if len(others) > 5 else "")
            raise InputError(f"{location} is {self.noun} and holds other files too ({shown}): move them, or choose another name")


def hidden_beside(location: str) -> str:
    """A new, unused location for a hidden folder next to `location`."""
    path, options = split_options(location.rstrip("/"))
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}{hidden_name(name)}{options}"


def link_files(source: str, target: str, *, like: str) -> None:
    """Gives files of a local folder a second name in another, where the disk can, and else copies them. They must not be changed later.

    Args:
        source: local folder.
        target: local folder, created with its parents.
        like: regular expression of the names.
    """
    os.makedirs(target)
    for name in sorted(os.listdir(source)):
        if re.fullmatch(like, name):
            pair = os.path.join(source, name), os.path.join(target, name)
            try:
                os.link(*pair)
            except OSError:  # two disks, or a store that knows no links; a full disk fails below too
                shutil.copyfile(*pair)


@contextlib.contextmanager
def replace_folder(location: str, kind: FolderKind) -> Iterator[str]:
    """Replaces the folder at `location` by a new one: yields an empty folder to write into, and puts it in place at the end.

    After an error in the block, `location` is unchanged. On a local disk the two folders are swapped at once, so that after a kill, or
    with a full disk, either the old or the new one is there. Folders that killed runs left next to it are removed.

    Args:
        location: local path or URI of the folder to replace; it need not exist.
        kind: what may be replaced.

    Raises:
        InputError: the folder there is not of this kind, or holds files of others.
    """
    filesystem, _ = resolve(location)
    kind.check(location)
    swap = _replaced_at_once if isinstance(filesystem, pafs.LocalFileSystem) else _replaced_file_by_file
    with swap(location, kind) as fresh:
        yield fresh


@contextlib.contextmanager
def _replaced_at_once(location: str, kind: FolderKind) -> Iterator[str]:
    target = os.path.realpath(resolve(location)[1])  # what a link leads to is replaced, not the link
    parent, name = os.path.split(target)
    os.makedirs(parent, exist_ok=True)
    _restore(target)
    remove_leftovers(target)
    fresh = os.path.join(parent, hidden_name(name))
    try:
        with held_folder(fresh):
            yield fresh
            sync_tree(fresh)
            kind.check(location)  # again: somebody may have put a file there meanwhile
            if os.path.isdir(target):
                _exchange(fresh, target)
            else:
                os.rename(fresh, target)
            sync_folder(parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)  # what was there before, or what is incomplete


def _exchange(fresh: str, target: str) -> None:
    """Swaps two folders, at once where the system can (Linux), else by two renames; `_restore` mends a kill between these."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        renameat2 = None
    if renameat2 is not None:
        if renameat2(_AT_FDCWD, os.fsencode(fresh), _AT_FDCWD, os.fsencode(target), _RENAME_EXCHANGE) == 0:
            return
        code = ctypes.get_errno()
        if code not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise OSError(code, os.strerror(code), target)
    old = os.path.join(os.path.dirname(target), hidden_name(os.path.basename(target), ".old"))
    os.rename(target, old)
    os.rename(fresh, target)
    os.rename(old, fresh)


def _restore(target: str) -> None:
    """Puts back a folder that a run took away and was killed before it put the new one in place."""
    if os.path.exists(target):
        return
    parent, name = os.path.split(target)
    pattern = re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{32}}\.old", re.DOTALL)
    for entry in os.listdir(parent):
        if pattern.fullmatch(entry):
            os.rename(os.path.join(parent, entry), target)
            return


@contextlib.contextmanager
def _replaced_file_by_file(location: str, kind: FolderKind) -> Iterator[str]:
    """On a store that cannot rename folders. After a kill in the middle, the folder has its marker, so the next run replaces it."""
    filesystem, target = resolve(location)
    fresh = hidden_beside(location)
    _, source = resolve(fresh)
    filesystem.create_dir(source, recursive=True)
    try:
        yield fresh
        filesystem.create_dir(target, recursive=True)
        there = filesystem.get_file_info(pafs.FileSelector(target, allow_not_found=True))
        for entry in sorted(there, key=lambda entry: entry.base_name != kind.complete):
            if entry.base_name != kind.marker or kind.marker == kind.complete:
                (filesystem.delete_dir if entry.type == pafs.FileType.Directory else filesystem.delete_file)(entry.path)
        written = filesystem.get_file_info(pafs.FileSelector(source, recursive=True))
        for entry in written:
            if entry.type == pafs.FileType.Directory:
                filesystem.create_dir(f"{target}/{entry.path.removeprefix(f'{source}/')}", recursive=True)
        order = {kind.marker: 0, kind.complete: 2}
        for entry in sorted(written, key=lambda entry: order.get(entry.base_name, 1)):
            if entry.type == pafs.FileType.File:
                filesystem.move(entry.path, f"{target}/{entry.path.removeprefix(f'{source}/')}")
    finally:
        filesystem.delete_dir(source)

"""Putting one folder in the place of another, on any store."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow.fs as pafs

from eet.errors import InputError
from eet.storage.location import resolve, split_options, without_secrets


def hidden_beside(location: str) -> str:
    """A new, unused location for a hidden folder next to `location`."""
    path, options = split_options(location.rstrip("/"))
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}.{name}.{uuid.uuid4().hex}{options}"


@contextmanager
def replace_folder(location: str, marker: str) -> Iterator[str]:
    """Replaces the folder at `location` by a new one: yields an empty folder to write into, and moves its files there at the end.

    After an error in the block, `location` is unchanged.

    Args:
        location: local path or URI of the folder to replace; it need not exist.
        marker: name of the file that identifies this kind of folder. It is deleted first and moved last, so that a folder that has
            it is complete.

    Raises:
        InputError: the folder holds files but no `marker`, so it is not a folder of this kind.
    """
    filesystem, target = resolve(location)
    there = filesystem.get_file_info(pafs.FileSelector(target, allow_not_found=True))
    if there and not any(entry.base_name == marker for entry in there):
        raise InputError(f"{without_secrets(location)} holds other files (and no {marker}): choose another name, or empty it")
    fresh = hidden_beside(location)
    _, source = resolve(fresh)
    filesystem.create_dir(source, recursive=True)
    try:
        yield fresh
        filesystem.create_dir(target, recursive=True)
        for entry in sorted(there, key=lambda entry: entry.base_name != marker):
            (filesystem.delete_dir if entry.type == pafs.FileType.Directory else filesystem.delete_file)(entry.path)
        written = filesystem.get_file_info(pafs.FileSelector(source, recursive=True))
        # File by file, because object stores cannot move folders.
        for entry in written:
            if entry.type == pafs.FileType.Directory:
                filesystem.create_dir(f"{target}/{entry.path.removeprefix(f'{source}/')}", recursive=True)
        for entry in sorted(written, key=lambda entry: entry.base_name == marker):
            if entry.type == pafs.FileType.File:
                filesystem.move(entry.path, f"{target}/{entry.path.removeprefix(f'{source}/')}")
    finally:
        filesystem.delete_dir(source)

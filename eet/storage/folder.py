"""Putting one folder in the place of another, on any store."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow.fs as pafs

from eet.errors import InputError
from eet.storage.location import resolve, split_options, without_secrets


def hidden_beside(location: str) -> str:
    """A hidden place beside a folder that nothing has yet."""
    path, options = split_options(location.rstrip("/"))
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}.{name}.{uuid.uuid4().hex}{options}"


@contextmanager
def replace_folder(location: str, marker: str) -> Iterator[str]:
    """Gives an empty folder to write into; what is in it takes the place of what is at `location` when the block ends well.

    marker: the file that makes the folder what it is: it goes first and comes last, and a folder with files but without it is not ours
    to replace: ValueError. After an error `location` is as it was.
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
        # File by file, as object stores move no folders.
        for entry in written:
            if entry.type == pafs.FileType.Directory:
                filesystem.create_dir(f"{target}/{entry.path.removeprefix(f'{source}/')}", recursive=True)
        for entry in sorted(written, key=lambda entry: entry.base_name == marker):
            if entry.type == pafs.FileType.File:
                filesystem.move(entry.path, f"{target}/{entry.path.removeprefix(f'{source}/')}")
    finally:
        filesystem.delete_dir(source)

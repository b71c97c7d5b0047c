"""Listing the files under a folder, local or remote."""

import os
from collections.abc import Iterator

from pyarrow import fs

from eet.errors import NotFoundError
from eet.storage import join_location, resolve, split_options

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".webp", ".avif", ".avifs", ".bmp", ".gif", ".tif", ".tiff"),
    *(".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".mpo", ".ppm", ".pgm", ".pbm", ".pnm"),
)
"""The suffixes of the formats that `eet.images` decodes."""


def is_image_file(path: str) -> bool:
    """Whether a file has an image suffix, in any case."""
    return path.lower().endswith(IMAGE_SUFFIXES)


def image_location(root: str, path: str) -> str:
    """The location of an image with this `path` in a table: below `root`, unless it is an absolute path or a URI.

    Options of a `root` that is a URI are kept.
    """
    return path if path.startswith("/") or "://" in path else join_location(root, path)


def folder_of(location: str) -> str:
    """The folder of a file, a local path or a URI with its options; '.' for a bare file name."""
    path, options = split_options(location)
    folder = path.rpartition("/")[0] or ("/" if path.startswith("/") else ".")
    return folder + options


def list_image_files(root: str) -> tuple[list[str], int]:
    """All files under `root` with an image suffix (any case), sorted, and the number of other files.

    Paths and errors are those of `iter_files`.
    """
    images, others = [], 0
    for path in iter_files(root):
        if is_image_file(path):
            images.append(path)
        else:
            others += 1
    return sorted(images), others


def iter_files(root: str) -> Iterator[str]:
    """All files under `root`, a local folder or any URI that `eet.storage` opens.

    Hidden files and folders (a leading dot) are skipped. Links to folders are followed, each folder once.

    Returns:
        Paths relative to root, '/'-separated, in no particular order.

    Raises:
        NotFoundError: root is not a folder.
    """
    filesystem, base = resolve(root)
    return _local_files(root, base) if isinstance(filesystem, fs.LocalFileSystem) else _remote_files(root, filesystem, base.rstrip("/"))


def _refuse(error: OSError) -> None:
    """Raises the error of a folder that cannot be listed; otherwise its files would be silently missing."""
    raise error


def _local_files(root: str, base: str) -> Iterator[str]:
    if not os.path.isdir(base):
        raise NotFoundError(f"{root} is not a folder: give the folder that holds the images")
    seen: set[tuple[int, int]] = set()
    for folder, subfolders, names in os.walk(base, followlinks=True, onerror=_refuse):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        # Sorted, so that of two links to one folder the same one is always followed.
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        prefix = os.path.relpath(folder, base).replace(os.sep, "/")
        prefix = "" if prefix == "." else f"{prefix}/"
        yield from (prefix + name for name in names if not name.startswith("."))


def _remote_files(root: str, filesystem: fs.FileSystem, base: str) -> Iterator[str]:
    if filesystem.get_file_info(base).type != fs.FileType.Directory:
        raise NotFoundError(f"{root} is not a folder: give the folder that holds the images")
    for info in filesystem.get_file_info(fs.FileSelector(base, recursive=True)):
        path = info.path[len(base) + 1 :]
        if info.type == fs.FileType.File and not any(part.startswith(".") for part in path.split("/")):
            yield path

"""Locations: a local path or a URI, its options, its file system."""

import functools
import os
import posixpath
import re
import urllib.parse

import pyarrow as pa
import pyarrow.fs as pafs

from eet.errors import InputError
from eet.storage.secrets import secret_in

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")  # two letters at least, so that a Windows drive is a path
_BUCKET_SCHEMES = ("s3", "gs", "gcs")


def split_options(location: str) -> tuple[str, str]:
    """Splits a location into itself without options, and a URI's options with their question mark (`?region=...`, or '')."""
    path, mark, options = location.partition("?") if _URI.match(location) else (location, "", "")
    return path, mark + options


def join_location(folder: str, name: str) -> str:
    """The location of `name` in a folder (a local path or a URI); the folder's options stay at the end."""
    path, options = split_options(folder)
    if _URI.match(folder):
        name = name.replace("%", "%25").replace("?", "%3F")
    return f"{path.rstrip('/')}/{name}{options}"


def with_suffix(location: str, suffix: str, *, instead_of: str = "") -> str:
    """This location with `suffix` appended to its name; the ending `instead_of`, if present, is removed first."""
    path, options = split_options(location)
    return f"{path.rstrip('/').removesuffix(instead_of)}{suffix}{options}"


def absolute(location: str | None) -> str | None:
    """A local path from the root of the file system; a URI, or None, as it is. InputError where it is invalid, see `location_problem`."""
    if location is None:
        return None
    check_location(location)
    return location if "://" in location else os.path.abspath(location)


def location_problem(location: str) -> str | None:
    """Why a location can never be used: it is empty, or holds credentials. None where it can. The text does not repeat the credentials."""
    if not location:
        return "it is empty; give a path or a URI"
    if "\0" in location:
        return "it holds a zero byte, which no name can"
    return secret_in(location)


def check_location(location: str, what: str = "a location") -> None:
    """InputError where a location is empty or holds credentials. what: what it is, for the message."""
    if (problem := location_problem(location)) is not None:
        raise InputError(f"{what} cannot be used: {problem}")


def local_path(location: str) -> str | None:
    """The absolute path of a location on this machine, also of a `file://` URI; None for another URI. Raises as `check_location`."""
    check_location(location)
    if not _URI.match(location):
        return os.path.abspath(location)
    scheme, rest = location.split("://", 1)
    if scheme.lower() != "file":
        return None
    return os.path.abspath(os.fsdecode(urllib.parse.unquote_to_bytes("/" + rest.partition("/")[2])))


def resolve(location: str | os.PathLike[str]) -> tuple[pafs.FileSystem, str]:
    """Finds the file system of a location, and the path on it. The file need not exist.

    Args:
        location: a local path (made absolute), a `file://` URI (percent escapes are decoded, so that it can name a file whose name is not
            UTF-8), or any URI that pyarrow (s3, gs, abfs, hdfs) or else an installed fsspec backend opens. Options such as `?region=` are
            those of pyarrow.

    Returns:
        filesystem: a pyarrow file system.
        path: path on it, without options.

    Raises:
        InputError: no installed package opens the scheme, the URI is malformed or holds credentials, or the location is empty.
    """
    text = os.fspath(location)
    if (path := local_path(text)) is not None:
        return pafs.LocalFileSystem(), path
    scheme, rest = text.split("://", 1)
    scheme = scheme.lower()
    try:
        if scheme in _BUCKET_SCHEMES:
            body, _, query = rest.partition("?")
            bucket, _, key = body.partition("/")
            filesystem, root = _bucket(f"{scheme}://{bucket}" + (f"?{query}" if query else ""))
            key = key.rstrip("/")
            return filesystem, f"{root}/{urllib.parse.unquote(key)}" if key else root
        filesystem, path = pafs.FileSystem.from_uri(text)
        return filesystem, path.rstrip("/") or path
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as refusal:
        return _resolve_with_fsspec(text, refusal)


def same_location(one: str, other: str) -> bool:
    """Whether two locations name the same file or folder, however they are written: by a link, a mount, a relative path or a file URI."""
    if (local_path(one) is None) != (local_path(other) is None):
        return False  # without opening the store, which may ask the network
    (filesystem, path), (other_filesystem, other_path) = resolve(one), resolve(other)
    return filesystem == other_filesystem and bool(_identities(filesystem, path) & _identities(filesystem, other_path))


def is_inside(location: str, folder: str) -> bool:
    """Whether `location` is the folder, or lies in it at any depth, links followed. Neither need exist. Compared as by `same_location`."""
    if (local_path(location) is None) != (local_path(folder) is None):
        return False
    (filesystem, path), (other_filesystem, other_path) = resolve(location), resolve(folder)
    if filesystem != other_filesystem:
        return False
    wanted = _identities(filesystem, other_path)
    path = os.path.realpath(path) if isinstance(filesystem, pafs.LocalFileSystem) else posixpath.normpath(path)
    while not wanted & _identities(filesystem, path):
        parent = posixpath.dirname(path)
        if parent in (path, ""):
            return False
        path = parent
    return True


def _identities(filesystem: pafs.FileSystem, path: str) -> set[object]:
    """What identifies a file or folder: its path without links and, on a local disk, device and inode, equal under all mounts."""
    if not isinstance(filesystem, pafs.LocalFileSystem):
        return {posixpath.normpath(path)}
    found: set[object] = {os.path.realpath(path)}
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # it is missing or out of reach
        return found
    return found | {(status.st_dev, status.st_ino)}


@functools.lru_cache(maxsize=64)
def _bucket(uri: str) -> tuple[pafs.FileSystem, str]:
    """Opening a bucket asks the network for its region: once per bucket, not once per image."""
    return pafs.FileSystem.from_uri(uri)


def _resolve_with_fsspec(uri: str, refusal: Exception) -> tuple[pafs.FileSystem, str]:
    scheme = uri.split("://", 1)[0]
    try:
        import fsspec

        filesystem, path = fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise InputError(
            f"{uri} cannot be opened: pyarrow reports '{one_line(refusal)}', fsspec reports '{one_line(error)}'. Give a "
            f"local path, or install the fsspec backend for {scheme}://."
        ) from error
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path


def one_line(error: BaseException) -> str:
    """An error's message as one line of at most 300 characters."""
    return (" ".join(str(error).split()) or type(error).__name__)[:300]

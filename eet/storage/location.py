"""Locations: a local path or a URI, its options, its file system."""

import functools
import os
import re
import urllib.parse

import pyarrow as pa
import pyarrow.fs as pafs

from eet.errors import InputError

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
    """A local path from the root of the file system; a URI, or None, as it is."""
    return location if location is None or "://" in location else os.path.abspath(location)


def without_secrets(location: str) -> str:
    """A location for display: the user name and password of a URI are removed."""
    return re.sub(r"(?<=://)[^/@]*@", "", location)


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
        InputError: no installed package opens the scheme, or the URI is malformed.
    """
    text = os.fspath(location)
    if not _URI.match(text):
        return pafs.LocalFileSystem(), os.path.abspath(text)
    scheme, rest = text.split("://", 1)
    scheme = scheme.lower()
    if scheme == "file":
        return pafs.LocalFileSystem(), os.path.abspath(os.fsdecode(urllib.parse.unquote_to_bytes("/" + rest.partition("/")[2])))
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
    """Whether two locations name the same file or folder."""
    (filesystem, path), (other_filesystem, other_path) = resolve(one), resolve(other)
    if isinstance(filesystem, pafs.LocalFileSystem) and isinstance(other_filesystem, pafs.LocalFileSystem):
        return os.path.realpath(path) == os.path.realpath(other_path)
    return filesystem == other_filesystem and path == other_path


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

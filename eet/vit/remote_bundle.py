"""The files of a bundle at a URI, on this machine: from a model hub, or any store."""

import functools
import hashlib
import shutil
from pathlib import Path

import pyarrow.fs as pafs

from eet.errors import EetError, InputError
from eet.storage import cache_folder, check_location, join_location, one_line, read_text, resolve, whole_file, write_text

WEIGHTS_FILE, RECORD_FILE = "model.safetensors", "model.json"
_HUB = "hf://"


def downloaded(location: str, *, weights: bool) -> Path:
    """A local folder with the record of a bundle, and its weights if asked for.

    Of `hf://OWNER/NAME`, huggingface_hub keeps them in its own cache, with its login, and works without a network where it has them. Of
    another URI they are kept in the cache of EET, by the contents of the record, which is read each time.

    Args:
        location: a URI: hf://OWNER/NAME, hf://OWNER/NAME@REVISION or with a folder after it, or a folder that `eet.storage.resolve` opens.
        weights: download the weights too.

    Raises:
        InputError: it cannot be read, or there is no bundle.
    """
    check_location(location)
    if location.startswith(_HUB):
        return _of_hub(location, weights=weights)
    try:
        text = read_text(join_location(location, RECORD_FILE))
    except FileNotFoundError as error:
        raise InputError(f"{location} is no model bundle: {RECORD_FILE} is missing there") from error
    except EetError:
        raise
    except Exception as error:  # fsspec backends pass on any exception of their client library
        raise InputError(f"the model {location} cannot be read: {one_line(error)}") from error
    folder = cache_folder() / "models" / hashlib.sha256(f"{location}\n{text}".encode()).hexdigest()[:32]
    if weights and not (folder / WEIGHTS_FILE).is_file():
        _copy(join_location(location, WEIGHTS_FILE), folder / WEIGHTS_FILE)
    if not (folder / RECORD_FILE).is_file():
        write_text(str(folder / RECORD_FILE), text)
    return folder


def _copy(location: str, path: Path) -> None:
    try:
        filesystem, source = resolve(location)
        with filesystem.open_input_stream(source, compression=None) as stream, whole_file(pafs.LocalFileSystem(), str(path)) as file:
            shutil.copyfileobj(stream, file, 1 << 20)
    except Exception as error:
        raise InputError(f"the weights {location} cannot be copied to {path}: {one_line(error)}") from error


@functools.cache
def _of_hub(location: str, *, weights: bool) -> Path:
    """One process sees one state of a repository, and asks the hub once."""
    import huggingface_hub

    owner, slash, rest = location.removeprefix(_HUB).partition("/")
    name, _, inside = rest.strip("/").partition("/")
    name, at, revision = name.partition("@")
    if not owner or not slash or not name or (at and not revision) or owner in ("datasets", "spaces", "buckets"):
        raise InputError(f"{location} names no model of the hub: give hf://OWNER/NAME, or hf://OWNER/NAME@REVISION")
    below = f"{inside}/" if inside else ""
    wanted = [f"{below}{file}" for file in ((RECORD_FILE, WEIGHTS_FILE) if weights else (RECORD_FILE,))]
    try:
        folder = huggingface_hub.snapshot_download(f"{owner}/{name}", revision=revision or None, allow_patterns=wanted)
    except Exception as error:  # of the hub, the connection, or the disk
        raise InputError(
            f"the model {location} cannot be downloaded: {one_line(error)}. Check the name, the network and `hf auth login`, or "
            "give a local copy of the folder"
        ) from error
    return Path(folder) / inside

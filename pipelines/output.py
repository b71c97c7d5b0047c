"""What a job writes: small files on any store, and the resolved config beside every output."""

import os
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any

import pyarrow.fs as pafs
import yaml

from eet.gallery import whole_file
from eet.images import join_location, resolve, split_options, with_suffix, without_secrets


def is_table(out: str) -> bool:
    """Whether an output is one Parquet file, not a folder."""
    return split_options(out)[0].endswith(".parquet")


def absolute(location: str | None) -> str | None:
    """A local path from the root of the file system; a URI, or None, as it is."""
    return location if location is None or "://" in location else os.path.abspath(location)


def exists(location: str) -> bool:
    """Whether there is a file or folder, on whatever store."""
    filesystem, path = resolve(location)
    return filesystem.get_file_info(path).type != pafs.FileType.NotFound


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


def hidden_beside(location: str) -> str:
    """A hidden place beside a folder that nothing has yet."""
    path, options = split_options(location.rstrip("/"))
    folder, slash, name = path.rpartition("/")
    return f"{folder}{slash}.{name}.{uuid.uuid4().hex}{options}"


@contextmanager
def replace_folder(location: str, marker: str) -> Iterator[str]:
    """Gives an empty folder to write flat files into; they take the place of those at `location` when the block ends well.

    marker: the file that makes the folder what it is: it goes first and comes last, and a folder with files but without it is not ours
    to replace: ValueError. After an error `location` is as it was.
    """
    filesystem, target = resolve(location)
    there = filesystem.get_file_info(pafs.FileSelector(target, allow_not_found=True))
    if there and not any(entry.base_name == marker for entry in there):
        raise ValueError(f"{without_secrets(location)} holds other files (and no {marker}): choose another name, or empty it")
    fresh = hidden_beside(location)
    _, source = resolve(fresh)
    filesystem.create_dir(source, recursive=True)
    try:
        yield fresh
        filesystem.create_dir(target, recursive=True)
        for entry in sorted(there, key=lambda entry: entry.base_name != marker):
            (filesystem.delete_dir if entry.type == pafs.FileType.Directory else filesystem.delete_file)(entry.path)
        for entry in sorted(filesystem.get_file_info(pafs.FileSelector(source)), key=lambda entry: entry.base_name == marker):
            filesystem.move(entry.path, f"{target}/{entry.base_name}")
    finally:
        filesystem.delete_dir(source)


def config_values(config: Any) -> dict[str, Any]:
    """A config dataclass as plain values, nested as its flags are."""
    assert is_dataclass(config) and not isinstance(config, type)
    return _plain(asdict(config))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def flat_values(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{'data': {'name': 'cub'}} -> {'data.name': 'cub'}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= flat_values(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def changed_flags(config: Any) -> dict[str, Any]:
    """The flags that are not at their defaults, and their values."""
    usual = flat_values(config_values(_default_config(config)))
    return {flag: value for flag, value in flat_values(config_values(config)).items() if value != usual.get(flag)}


def _default_config(config: Any) -> Any:
    """The same job with no flag given but those that must be."""
    required = {field.name: getattr(config, field.name) for field in fields(config) if field.default is field.default_factory is MISSING}
    return type(config)(**required)


def config_location(out: str) -> str:
    """config.yaml in an output folder, NAME.config.yaml beside NAME.parquet."""
    return with_suffix(out, ".config.yaml", instead_of=".parquet") if is_table(out) else join_location(out, "config.yaml")


def write_config(out: str, config: Any, *, location: str | None = None) -> None:
    """Writes the resolved config beside the output (or to `location`), so that `--config` on it repeats the job."""
    write_text(location or config_location(out), yaml.safe_dump(config_values(config), sort_keys=False))


def check_same_options(config: Any, free: Collection[str]) -> None:
    """ValueError where a job that is continued was begun with other options than `config` has.

    free: flags, or groups of them, that may differ. A flag that there was not when the job began was at its default.
    """
    written = read_written_config(config.out)
    if written is None:
        return
    now, then = flat_values(config_values(config)), flat_values(_with_defaults(config, written))
    changed = [key for key in now if not {key, key.partition(".")[0]} & set(free) and now[key] != then.get(key)]
    if changed:
        told = "; ".join(f"{key}: {then.get(key)} then, {now[key]} now" for key in changed)
        raise ValueError(f"{config.out} was begun with other options ({told}): resume with the same, or choose another --out")


def _with_defaults(config: Any, written: dict[str, Any]) -> dict[str, Any]:
    """Plain values of an older config of the same job, flags that it lacks at their defaults."""
    usual = config_values(_default_config(config))
    groups = {field.name for field in fields(config) if is_dataclass(getattr(config, field.name))}
    return {**usual, **written, **{name: {**usual[name], **written.get(name, {})} for name in groups}}


def read_written_config(out: str) -> dict[str, Any] | None:
    """The resolved config beside an output, or None where there is none."""
    location = config_location(out)
    return yaml.safe_load(read_text(location)) if exists(location) else None

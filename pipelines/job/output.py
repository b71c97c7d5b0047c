"""The resolved config next to every output of a job."""

import os
from collections.abc import Collection
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any

import yaml

from eet.errors import DamagedError, InputError
from eet.storage import (
    exists,
    join_location,
    local_path,
    location_problem,
    one_line,
    read_text,
    same_location,
    secret_in,
    split_options,
    with_suffix,
    write_text,
)
from pipelines.job.location import absolute_values, input_locations, location_problems, with_absolute_locations, with_relative_locations


def is_table(out: str) -> bool:
    """Whether an output is one Parquet file, not a folder."""
    return _file_ending(out) == ".parquet"


def _file_ending(out: str) -> str:
    """The ending of an output that is one file; empty for a folder."""
    return next((ending for ending in (".parquet", ".onnx") if split_options(out)[0].endswith(ending)), "")


def name_of(out: str) -> str:
    """The last part of an output's location, which is the name of the run."""
    return split_options(out)[0].rstrip("/").rpartition("/")[2]


def output_problems(config: Any) -> list[str]:
    """Why a job cannot write its output: it is the same place as an input, or nothing can be written there."""
    out = getattr(config, "out", None)
    if out is None or location_problem(out) is not None:  # `location_problems` reports the second
        return []
    inputs = [flag for flag, location in input_locations(config) if _same(out, location)]
    found = [f"--out {out} is the same place as --{flag}: choose another one" for flag in inputs]
    path = local_path(out)
    if path is not None and (problem := _place_problem(path, file=_file_ending(out) != "")) is not None:
        found.append(f"--out {out}: {problem}; choose another one")
    return found


def _same(one: str, other: str) -> bool:
    try:
        return same_location(one, other)
    except (OSError, ValueError):  # a store that nothing opens, or that is out of reach: the job says so where it opens it
        return False


def _place_problem(path: str, *, file: bool) -> str | None:
    if file and os.path.isdir(path):
        return "it is a folder, and the output is a file"
    there = path
    while not os.path.lexists(there) or (file and there == path):
        there = os.path.dirname(there)
    if not os.path.isdir(there):
        return "it is a file, and the output is a folder" if there == path else f"{there} is no folder"
    return None if os.access(there, os.W_OK | os.X_OK) else f"you may not write into {there}"


def config_values(config: Any) -> dict[str, Any]:
    """A config dataclass as plain values, nested as its flags are; locations are absolute.

    InputError where a location can never be used, or a text holds credentials: these values are stored.
    """
    if problems := location_problems(config):
        raise InputError("; ".join(problems))
    return _plain(asdict(with_absolute_locations(config)))


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
    """The flags that do not have their defaults, with their values. Locations below the working directory are relative to it."""
    usual = flat_values(_plain(asdict(default_config(config))))
    current = flat_values(_plain(asdict(with_relative_locations(config))))
    return {flag: value for flag, value in current.items() if value != usual.get(flag)}


def default_config(config: Any, **values: Any) -> Any:
    """The same job with all flags at their defaults, except the required ones and `values`."""
    required = {field.name: getattr(config, field.name) for field in fields(config) if field.default is field.default_factory is MISSING}
    return type(config)(**{**required, **values})


def config_location(out: str) -> str:
    """config.yaml in an output folder, NAME.config.yaml next to a file such as NAME.parquet."""
    ending = _file_ending(out)
    return with_suffix(out, ".config.yaml", instead_of=ending) if ending else join_location(out, "config.yaml")


def write_config(out: str, config: Any, *, location: str | None = None) -> None:
    """Writes the resolved config next to the output (or to `location`). `--config` with this file repeats the job, from any folder."""
    write_text(location or config_location(out), yaml.safe_dump(config_values(config), sort_keys=False))


def check_own_folder(config: Any) -> None:
    """InputError where the output folder has the config of another job, which this one would replace."""
    others = set(read_written_config(config.out) or {}) - {field.name for field in fields(config)}
    if others:
        raise InputError(f"{config_location(config.out)} is of another job (it has {min(others)}): choose another --out")


def check_same_options(config: Any, free: Collection[str], *, defaults: Any = None) -> None:
    """Compares the options of a continued job with those with which it was started.

    Args:
        config: the current config of the job.
        free: flags, or groups of flags, that may differ.
        defaults: config with the values of flags that did not exist when the job was started; None for the defaults of the job.

    Raises:
        InputError: another option differs, or the stored options hold credentials. The message does not repeat those.
    """
    written = read_written_config(config.out)
    if written is None:
        return
    now = flat_values(config_values(config))
    try:
        then = flat_values(_with_defaults(config, written, defaults or default_config(config)))
    except InputError as error:
        raise InputError(f"{config_location(config.out)}: {error}; correct that file, or choose another --out") from error
    changed = [key for key in now if not {key, key.partition(".")[0]} & set(free) and now[key] != then.get(key)]
    if changed:
        differences = "; ".join(f"{key}: {_shown(then.get(key))} then, {_shown(now[key])} now" for key in changed)
        raise InputError(f"{config.out} was started with other options ({differences}): resume with the same, or choose another --out")


def _shown(value: Any) -> str:
    """The value for a message; not if it holds credentials, which earlier versions stored."""
    return "(credentials, not shown)" if secret_in(str(value)) else str(value)


def _with_defaults(config: Any, written: dict[str, Any], defaults: Any) -> dict[str, Any]:
    """Plain values of an older config of the same job, with flags that it lacks as in `defaults`.

    Locations are made absolute, because earlier versions wrote them as they were given. Relative ones are resolved from the working
    directory, as those versions did when a job was resumed.
    """
    usual = config_values(defaults)
    groups = {field.name for field in fields(config) if is_dataclass(getattr(config, field.name))}
    values = {**usual, **written, **{name: {**usual[name], **written.get(name, {})} for name in groups}}
    return absolute_values(config, values)


def read_written_config(out: str) -> dict[str, Any] | None:
    """The resolved config next to an output, or None if there is none."""
    location = config_location(out)
    if not exists(location):
        return None
    try:
        return yaml.safe_load(read_text(location))
    except yaml.YAMLError as error:
        raise DamagedError(f"{location} is damaged: {one_line(error)}") from error


def options_of_hits(hits: str) -> dict[str, Any]:
    """The options of the job that made these hits, from the file of hits itself. Hits of older versions have them only in the config file.

    A job that is stopped between its two files leaves its config next to older hits.
    """
    from eet.gallery import read_options

    options = read_options(hits) if exists(hits) else None  # hits that were re-ranked may be gone, and their config be left
    return (read_written_config(hits) or {}) if options is None else options

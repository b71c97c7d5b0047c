"""The resolved config next to every output of a job."""

from collections.abc import Collection
from dataclasses import MISSING, asdict, fields, is_dataclass
from typing import Any

import yaml

from eet.errors import InputError
from eet.storage import exists, join_location, read_text, split_options, with_suffix, write_text
from pipelines.job.location import absolute_values, with_absolute_locations, with_relative_locations


def is_table(out: str) -> bool:
    """Whether an output is one Parquet file, not a folder."""
    return split_options(out)[0].endswith(".parquet")


def name_of(out: str) -> str:
    """The last part of an output's location, which is the name of the run."""
    return split_options(out)[0].rstrip("/").rpartition("/")[2]


def config_values(config: Any) -> dict[str, Any]:
    """A config dataclass as plain values, nested as its flags are; locations are absolute."""
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
    """config.yaml in an output folder, NAME.config.yaml next to NAME.parquet."""
    return with_suffix(out, ".config.yaml", instead_of=".parquet") if is_table(out) else join_location(out, "config.yaml")


def write_config(out: str, config: Any, *, location: str | None = None) -> None:
    """Writes the resolved config next to the output (or to `location`). `--config` with this file repeats the job, from any folder."""
    write_text(location or config_location(out), yaml.safe_dump(config_values(config), sort_keys=False))


def check_same_options(config: Any, free: Collection[str], *, defaults: Any = None) -> None:
    """Compares the options of a continued job with those with which it was started.

    Args:
        config: the current config of the job.
        free: flags, or groups of flags, that may differ.
        defaults: config with the values of flags that did not exist when the job was started; None for the defaults of the job.

    Raises:
        InputError: another option differs.
    """
    written = read_written_config(config.out)
    if written is None:
        return
    now, then = flat_values(config_values(config)), flat_values(_with_defaults(config, written, defaults or default_config(config)))
    changed = [key for key in now if not {key, key.partition(".")[0]} & set(free) and now[key] != then.get(key)]
    if changed:
        differences = "; ".join(f"{key}: {then.get(key)} then, {now[key]} now" for key in changed)
        raise InputError(f"{config.out} was started with other options ({differences}): resume with the same, or choose another --out")


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
    return yaml.safe_load(read_text(location)) if exists(location) else None

"""Options that are locations. A job converts local paths to absolute ones.

Ray's workers have another working directory than the job; so may a user who repeats the job from its config, or reads its output later.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

_KEY = "location"
LOCATION: Mapping[str, Any] = {_KEY: ()}
"""Metadata of a dataclass field that is a path or a URI, or several: `field(metadata=LOCATION)`."""
WEIGHTS: Mapping[str, Any] = {_KEY: ("timm", "none")}
"""The same for weights, which may also be 'timm' or 'none'."""

_ADDRESS = "address"
ADDRESS: Mapping[str, Any] = {_ADDRESS: True}
"""Metadata of a field that is the address of a server."""

Config = TypeVar("Config")


def location_problems(config: Any, prefix: str = "") -> list[str]:
    """The locations that can never be used, and the texts that hold credentials, in a config and in its groups; one sentence each.

    They come before all other problems, because the sentences of those repeat the values.
    """
    from eet.storage import location_problem, secret_in

    found = []
    for entry in fields(config):
        value, flag = getattr(config, entry.name), f"--{prefix}{entry.name}"
        if is_dataclass(value):
            found += location_problems(value, f"{prefix}{entry.name}.")
            continue
        for text in value if isinstance(value, tuple | list) else (value,):
            if isinstance(text, str):
                problem = location_problem(text) if entry.metadata.keys() & {_KEY, _ADDRESS} else secret_in(text)
                if problem is None and any("\ud800" <= character <= "\udfff" for character in text):  # as from os.fsdecode
                    problem = "it is not UTF-8, and options are stored as text: rename it, or give a file:// URI with percent escapes"
                found += [f"{flag}: {problem}"] if problem else []
    return found


def input_locations(config: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(flag, location) of every location of a config except its output."""
    for entry in fields(config):
        value, flag = getattr(config, entry.name), f"{prefix}{entry.name}"
        if is_dataclass(value):
            yield from input_locations(value, f"{flag}.")
        elif _KEY in entry.metadata and flag != "out":
            locations = value if isinstance(value, tuple | list) else (value,)
            yield from ((flag, location) for location in locations if location is not None and location not in entry.metadata[_KEY])


def with_absolute_locations(config: Config) -> Config:
    """The same config, or group of options, with all local paths absolute, also those of its groups. URIs do not change."""
    from eet.storage import absolute

    return _with_locations(config, absolute)


def with_relative_locations(config: Config) -> Config:
    """The same config, with all local paths below the working directory relative to it. Other locations do not change.

    For output that other people read, so that it has few paths of this machine.
    """
    return _with_locations(config, _relative)


def absolute_values(config: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values of another config of the same job, for example of an earlier one from YAML, with all local paths absolute."""
    from eet.storage import absolute

    changed = dict(values)
    for entry in fields(config):
        group = getattr(config, entry.name)
        if entry.name not in values:
            continue
        if is_dataclass(group) and not isinstance(group, type):
            changed[entry.name] = absolute_values(group, values[entry.name])
        elif _KEY in entry.metadata:
            changed[entry.name] = _each(absolute, values[entry.name], entry.metadata[_KEY])
    return changed


def _with_locations(config: Config, change: Callable[[str | None], str | None]) -> Config:
    assert is_dataclass(config) and not isinstance(config, type)
    changed = {}
    for entry in fields(config):
        value = getattr(config, entry.name)
        if is_dataclass(value) and not isinstance(value, type):
            changed[entry.name] = _with_locations(value, change)
        elif _KEY in entry.metadata:
            changed[entry.name] = _each(change, value, entry.metadata[_KEY])
    return replace(config, **changed)


def _each(change: Callable[[str | None], str | None], value: Any, words: tuple[str, ...]) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(_each(change, one, words) for one in value)
    return value if value in words else change(value)


def _relative(location: str | None) -> str | None:
    if location is None or not os.path.isabs(location):
        return location
    below = os.path.relpath(location)
    return location if below == os.pardir or below.startswith(os.pardir + os.sep) else below

"""Which options are locations, and how a job takes them: a local path from the root of the file system, whatever folder it was given in.

Ray's workers have another working directory than the job, and so may who repeats the job from its config, or reads its output later.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from eet.storage import absolute

_KEY = "location"
LOCATION: Mapping[str, Any] = {_KEY: ()}
"""Metadata of a dataclass field that is a path or a URI, or several: `field(metadata=LOCATION)`."""
WEIGHTS: Mapping[str, Any] = {_KEY: ("timm", "none")}
"""The same of weights, which may also be one of two words."""

Config = TypeVar("Config")


def with_absolute_locations(config: Config) -> Config:
    """The same config, or group of options, with every local path in it absolute; groups in it too. URIs stay."""
    assert is_dataclass(config) and not isinstance(config, type)
    changed = {}
    for entry in fields(config):
        value = getattr(config, entry.name)
        if is_dataclass(value) and not isinstance(value, type):
            changed[entry.name] = with_absolute_locations(value)
        elif _KEY in entry.metadata:
            changed[entry.name] = _absolute(value, entry.metadata[_KEY])
    return replace(config, **changed)


def absolute_values(config: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values of a config of the same job, such as an earlier one that was read from YAML: every local path in them absolute."""
    changed = dict(values)
    for entry in fields(config):
        group = getattr(config, entry.name)
        if entry.name not in values:
            continue
        if is_dataclass(group) and not isinstance(group, type):
            changed[entry.name] = absolute_values(group, values[entry.name])
        elif _KEY in entry.metadata:
            changed[entry.name] = _absolute(values[entry.name], entry.metadata[_KEY])
    return changed


def _absolute(value: Any, words: tuple[str, ...]) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(_absolute(one, words) for one in value)
    return value if value in words else absolute(value)

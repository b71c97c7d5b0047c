"""Options that are locations. A job converts local paths to absolute ones.

Ray's workers have another working directory than the job; so may a user who repeats the job from its config, or reads its output later.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from eet.storage import absolute

_KEY = "location"
LOCATION: Mapping[str, Any] = {_KEY: ()}
"""Metadata of a dataclass field that is a path or a URI, or several: `field(metadata=LOCATION)`."""
WEIGHTS: Mapping[str, Any] = {_KEY: ("timm", "none")}
"""The same for weights, which may also be 'timm' or 'none'."""

Config = TypeVar("Config")


def with_absolute_locations(config: Config) -> Config:
    """A copy of a config, or of a group of options, with all local paths absolute, also in nested groups. URIs are unchanged."""
    assert is_dataclass(config) and not isinstance(config, type)
    changed = {}
    for entry in fields(config):
        value = getattr(config, entry.name)
        if is_dataclass(value) and not isinstance(value, type):
            changed[entry.name] = with_absolute_locations(value)
        elif _KEY in entry.metadata:
            changed[entry.name] = _absolute(value, entry.metadata[_KEY])
    return replace(config, **changed)


def _absolute(value: Any, words: tuple[str, ...]) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(_absolute(one, words) for one in value)
    return value if value in words else absolute(value)

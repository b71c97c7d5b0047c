"""A search space of a sweep: the function that describes it, the points that are drawn from it, and the job of a point."""

import dataclasses
import hashlib
import importlib
import inspect
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from eet.errors import InputError
from pipelines.configs.distill import DistillConfig
from pipelines.configs.rerank import RerankConfig


def space_path(name: str, spaces: Mapping[str, str]) -> str:
    """The dotted path of a space. InputError where the name can be that of no space; nothing is imported."""
    path = spaces.get(name, name)
    if path.partition(".")[0] in sys.stdlib_module_names:
        raise InputError(
            f"{name} belongs to Python itself and is no space: give one of {', '.join(spaces)}, or MODULE.FUNCTION of your own"
        )
    if not all(part.isidentifier() for part in path.split(".")) or "." not in path:
        raise InputError(f"{name} is neither one of {', '.join(spaces)} nor the dotted path of a function")
    return path


def space_of(name: str, options: Mapping[str, Any], spaces: Mapping[str, str]) -> dict[str, Any]:
    """The Tune dictionary of a space.

    Args:
        name: one of `spaces`, or MODULE.FUNCTION of the user's own. A config names the space, so not everything that can be called is
            one: it is a function that its module defines, and the module is not Python's. A module of an installed package must import
            ray.tune, as those of `tune_spaces` do.
        options: its arguments.
        spaces: names of the known spaces and their dotted paths.

    Raises:
        InputError: an unknown space, something that is no space, or unknown options. Nothing has been called then.
    """
    module_name, _, function_name = space_path(name, spaces).rpartition(".")
    if os.getcwd() not in sys.path:  # as with `python -m`: the console script also finds modules in the working directory
        sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{name} is neither one of {', '.join(spaces)} nor the dotted path of a function: {error}") from error
    if not _is_space(function, module_name):
        raise InputError(
            f"{name} is no space: a space is a function that {module_name} itself defines; in an installed package, of a module that "
            "imports ray.tune"
        )
    try:
        inspect.signature(function).bind(**options)
    except TypeError as error:
        raise InputError(f"{name}{inspect.signature(function)} cannot take --space_options {dict(options)}: {error}") from error
    return function(**options)


def _is_space(function: Any, module_name: str) -> bool:
    if not inspect.isfunction(function) or function.__module__ != module_name:
        return False
    module = sys.modules[module_name]
    from ray import tune

    installed = {"site-packages", "dist-packages"} & set(Path(getattr(module, "__file__", None) or "").parts)
    return not installed or any(value is tune for value in vars(module).values())


# Flags of a trial's job that are the same for the whole sweep.
FIXED = {
    DistillConfig: ("out", "teacher", "resume", "address", "tracking_uri", "dry_run", "data"),
    RerankConfig: ("out", "hits", "gallery", "queries", "engine", "workers", "seed", "address", "tracking_uri", "dry_run"),
}


Job = TypeVar("Job", DistillConfig, RerankConfig)


def drawn_parameters(space: Mapping[str, Any], *, trials: int, seed: int) -> list[dict[str, Any]]:
    """The parameters of every trial, drawn before any runs, so that a sweep can be described, estimated and resumed from its seed.

    A space with a grid yields its product once. Otherwise there are `trials` draws; the first n of them are the same as in a sweep of n
    trials. Equal draws count once.
    """
    import numpy as np
    from ray.tune.search.variant_generator import generate_variants

    from pipelines.job.output import flat_values

    random = np.random.RandomState(seed)
    drawn: dict[str, dict[str, Any]] = {}
    for _ in range(1 if has_grid(space) else trials):
        for _, variant in generate_variants(dict(space), random_state=random):
            parameters = flat_values(plain(variant))
            drawn.setdefault(trial_name(parameters), parameters)
    return list(drawn.values())


def has_grid(space: Mapping[str, Any]) -> bool:
    """Whether a space contains a grid, which then determines the number of trials."""
    return any(isinstance(value, Mapping) and ("grid_search" in value or has_grid(value)) for value in space.values())


def plain(value: Any) -> Any:
    """Drawn values in the types of JSON: Python numbers, not numpy's; lists, not tuples."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value.item() if hasattr(value, "dtype") else value


def trial_name(parameters: Mapping[str, Any]) -> str:
    """Name of the trial's folder: eight characters, equal for equal parameters."""
    return hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:8]


def with_parameters(base: Job, parameters: Mapping[str, Any]) -> Job:
    """The job with some of its flags replaced: {'loss.beta': 0.3, 'student.keep_ratios.0': 0.5, 'seed': 7}.

    A number at the end of a flag's name is an index into its list; all indexes from 0 must be given. Text for a flag of another type is
    parsed as on the command line ('[4, 8, 10]').

    Raises:
        InputError: flags that the job lacks, or that a sweep must not change; the message names all of them.
    """
    values: dict[str, Any] = {}
    items: dict[str, dict[int, Any]] = {}
    for key, value in parameters.items():
        flag, _, place = key.rpartition(".")
        if place.isdigit():
            items.setdefault(flag, {})[int(place)] = value
        else:
            values[key] = value
    for flag, at in items.items():
        if sorted(at) != list(range(len(at))):
            raise InputError(f"{flag} is given at the indexes {sorted(at)}: give all indexes from 0")
        values[flag] = [at[place] for place in range(len(at))]
    known = {flag: now for flag, now in _flags(base) if flag.partition(".")[0] not in FIXED[type(base)]}
    unknown = [flag for flag in values if flag not in known]
    if unknown:
        raise InputError(f"the space changes {', '.join(unknown)}, which a trial does not have: it may change {', '.join(known)}")
    groups: dict[str, dict[str, Any]] = {}
    for flag, value in values.items():
        group, _, name = flag.rpartition(".")
        if isinstance(value, str) and not isinstance(known[flag], str):
            value = yaml.safe_load(value)
        groups.setdefault(group, {})[name] = tuple(value) if isinstance(value, list) else value
    changes = groups.pop("", {})
    changes |= {group: dataclasses.replace(getattr(base, group), **fields) for group, fields in groups.items()}
    return dataclasses.replace(base, **changes)


def _flags(config: Any) -> Iterator[tuple[str, Any]]:
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        if dataclasses.is_dataclass(value):
            yield from ((f"{entry.name}.{inner.name}", getattr(value, inner.name)) for inner in dataclasses.fields(value))
        else:
            yield entry.name, value

"""Wrong arguments in one plain sentence: what was given, what is allowed, and the nearest right name."""

import re
import types
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any, Literal, Union, get_args, get_origin

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def argument_problem(message: str, config_class: type, arguments: Sequence[str]) -> str:
    """The sentence for an error of the argument parser.

    Args:
        message: of the parser (jsonargparse).
        config_class: dataclass of the job's options.
        arguments: that were parsed.
    """
    types_of = flags_of(config_class)
    line = " ".join(message.split())
    if match := re.match(r"unrecognized arguments: (\S+)", line):
        return _unknown(match[1], types_of) if match[1].startswith("-") else f"{match[1]} stands without a flag: give --FLAG VALUE"
    if match := re.match(r"Option '(.+?)' is not accepted", line):
        return f"{_unknown(f'--{match[1]}', types_of)} (in a file of --config)"
    if match := re.match(r"the following arguments are required: (.+)", line):
        names = [f"--{name}" for name in match[1].split(", ")]
        return f"{' and '.join(names)} {'are' if len(names) > 1 else 'is'} missing"
    if match := re.match(r"argument (--\S+): expected one argument", line):
        return f"{match[1]} has no value: give one"
    if match := re.match(r"Problems parsing config: (.+)", line):
        files = [value for flag, value in zip(arguments, arguments[1:], strict=False) if flag == "--config"]
        return f"--config {', '.join(files)} is not valid YAML: {match[1]}"
    match = re.match(r'Parser key "(.+?)": (.+)', line)
    value = re.search(r"(?:Got|Given) value: (.*)", line)
    if match and value and match[1] in types_of:
        kind = types_of[match[1]]
        return f"--{match[1]} {value[1]}: use {_allowed(kind)}{_nearest(value[1], choices_of(kind))}"
    return f"--{match[1]}: {match[2]}" if match else line


def flags_of(config_class: type, prefix: str = "") -> dict[str, Any]:
    """Flag -> type of every option, also of groups: {'train': ..., 'train.epochs': int | None}."""
    found: dict[str, Any] = {}
    for entry in fields(config_class):
        found[f"{prefix}{entry.name}"] = entry.type
        if is_dataclass(entry.type):
            found |= flags_of(entry.type, f"{prefix}{entry.name}.")  # type: ignore[arg-type]
    return found


def _unknown(flag: str, types_of: dict[str, Any]) -> str:
    name = flag.partition("=")[0].lstrip("-").replace("-", "_")
    nearest = get_close_matches(name, types_of, n=1, cutoff=0.5) or [known for known in types_of if known.rpartition(".")[2] == name][:1]
    return f"--{name}: there is no such flag" + (f"; did you mean --{nearest[0]}?" if nearest else "; --help lists all")


def _nearest(value: str, choices: list[str]) -> str:
    nearest = get_close_matches(value, choices, n=1)
    return f"; did you mean {nearest[0]}?" if nearest else ""


def choices_of(kind: Any) -> list[str]:
    """The values that a type allows, if it allows only some; else none."""
    return [str(choice) for part in (kind, *get_args(kind)) if get_origin(part) is Literal for choice in get_args(part)]


def _allowed(kind: Any) -> str:
    """The values of a type, in words."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_allowed(part) for part in inner if part is not type(None)))
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin in (tuple, list):
        number = "" if origin is list or ... in inner else f"{len(inner)} "
        return f"a list of {number}{_allowed(inner[0]).removeprefix('a ')}s, such as '[{', '.join(_example(inner[0]))}]'"
    if origin is dict or is_dataclass(kind):
        return "a mapping, such as '{NAME: VALUE}'"
    return _WORDS.get(kind, "another value")


def _example(kind: Any) -> tuple[str, ...]:
    return {int: ("1", "10"), float: ("0.5", "0.25")}.get(kind, tuple(choices_of(kind)[:2]) or ("A", "B"))

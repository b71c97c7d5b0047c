"""Brace patterns, as in a shell and in webdataset: train-{000..009}.tar, {a,b}.csv."""

import re
from itertools import product

from eet.errors import InputError

MOST_EXPANSIONS = 1_000_000

_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(-?\d+))?")
_LETTERS = re.compile(r"([A-Za-z])\.\.([A-Za-z])(?:\.\.(-?\d+))?")


def expand_braces(pattern: str) -> list[str]:
    """Expands a brace pattern into all its texts, in order; the pattern alone if it has no braces to expand.

    {a,b} expands to each alternative, which may contain braces; {1..9} to each whole number, {008..012} with leading zeros to one width,
    {a..e} to each letter, {0..10..5} to each fifth number. Braces without a comma or a range are literal, as in bash.

    Raises:
        InputError: there would be more than MOST_EXPANSIONS texts.

    Example:
        >>> expand_braces("s-{08..10}.{tar,tgz}")
        ['s-08.tar', 's-08.tgz', 's-09.tar', 's-09.tgz', 's-10.tar', 's-10.tgz']
    """
    pieces: list[list[str]] = []
    number = 1
    rest = pattern
    while rest:
        opening = rest.find("{")
        if opening < 0:
            pieces.append([rest])
            break
        closing = _closing(rest, opening)
        alternatives = None if closing is None else _alternatives(rest[opening + 1 : closing], pattern)
        if closing is None or alternatives is None:  # this brace is literal; one inside it may not be
            pieces.append([rest[: opening + 1]])
            rest = rest[opening + 1 :]
            continue
        pieces += [[rest[:opening]], alternatives]
        number *= len(alternatives)
        _refuse_too_many(number, pattern)
        rest = rest[closing + 1 :]
    return ["".join(chosen) for chosen in product(*pieces)] or [pattern]


def _closing(text: str, opening: int) -> int | None:
    depth = 0
    for place in range(opening, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return place
    return None


def _alternatives(inside: str, pattern: str) -> list[str] | None:
    """The expanded contents of two braces; None where the braces are literal."""
    if match := _RANGE.fullmatch(inside):
        first, last, step = match.groups()
        numbers = _steps(int(first), int(last), step, pattern)
        padded = any(re.match(r"-?0\d", end) for end in (first, last))
        width = max(len(first), len(last)) if padded else 0
        return [f"{number:0{width}d}" for number in numbers]
    if match := _LETTERS.fullmatch(inside):
        first, last, step = match.groups()
        return [chr(letter) for letter in _steps(ord(first), ord(last), step, pattern)]
    choices, depth, start = [], 0, 0
    for place, character in enumerate(inside):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            choices.append(inside[start:place])
            start = place + 1
    if not choices:
        return None
    return [expanded for choice in [*choices, inside[start:]] for expanded in expand_braces(choice)]


def _steps(first: int, last: int, step: str | None, pattern: str) -> range:
    size = abs(int(step or 1)) or 1
    _refuse_too_many(abs(last - first) // size + 1, pattern)
    return range(first, last + 1, size) if first <= last else range(first, last - 1, -size)


def _refuse_too_many(number: int, pattern: str) -> None:
    if number > MOST_EXPANSIONS:
        raise InputError(f"{pattern} expands to {number} names; at most {MOST_EXPANSIONS} are allowed: give a glob ('shards/*.tar')")

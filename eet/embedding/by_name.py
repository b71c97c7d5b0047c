"""The class that a user names in a dictionary, and the options that it takes."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from eet.errors import InputError

_T = TypeVar("_T")


def class_by_name(
    what: str, classes: Mapping[str, Callable[..., _T]], name: str, options: Iterable[str], *, positional: int
) -> Callable[..., _T]:
    """The class of this name.

    Args:
        what: what such a class is called in messages, such as "loss".
        classes: name -> class.
        name: as the user gave it.
        options: names of the options that the user gave.
        positional: number of the class's first arguments, which are no options.

    Raises:
        InputError: an unknown name, or an option that the class does not have.
    """
    if name not in classes:
        raise InputError(f"there is no {what} {name!r}: use one of {', '.join(classes)}")
    allowed = list(inspect.signature(classes[name]).parameters)[positional:]
    if unknown := sorted(set(options) - set(allowed)):
        raise InputError(f"the {what} {name} has no option {', '.join(unknown)}: it has {', '.join(allowed) or 'none'}")
    return classes[name]

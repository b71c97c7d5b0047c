"""The names in the dictionaries of EET, read without what they hold."""

import ast
import sys
from importlib import import_module
from pathlib import Path

_ROOT = Path(__file__).parents[2]


def registered(module: str, dictionary: str) -> tuple[str, ...]:
    """The keys of an explicit dictionary, such as `eet.matching.marginals.MARGINALS`.

    Importing its module would take seconds, because its values are made of torch. So the keys are read from the text of the module, until
    it is loaded: then from the dictionary, which the user's own code may have extended.

    Args:
        module: that defines it, or the package of that name.
        dictionary: its name.

    Raises:
        LookupError: the module has no dictionary of that name.
    """
    if module not in sys.modules:
        path = _ROOT / module.replace(".", "/")
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if path.is_file() and (keys := _literal_keys(path.read_text(encoding="utf-8"), dictionary)) is not None:
            return keys
    try:
        return tuple(getattr(import_module(module), dictionary))
    except AttributeError as error:
        raise LookupError(f"{module} has no {dictionary}") from error


def _literal_keys(source: str, dictionary: str) -> tuple[str, ...] | None:
    """The keys where the dictionary is written out with text as keys; else None."""
    for statement in ast.parse(source).body:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Dict(keys=keys)) if name == dictionary:
                break
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Dict(keys=keys)) if name == dictionary:
                break
    else:
        return None
    found = [key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]
    return tuple(found) if len(found) == len(keys) else None

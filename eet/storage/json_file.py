"""JSON files, read into typed values: whatever a file holds, the answer is a value of the right types or one clear error."""

from typing import Any, TypeVar

from eet.errors import DamagedError
from eet.storage.files import read_text

T = TypeVar("T")


def read_json(location: str, kind: type[T]) -> T:
    """Reads a JSON file.

    Args:
        location: local path or URI.
        kind: a dataclass, or any other annotated type that the values must have. Fields that it does not know are ignored.

    Raises:
        NotFoundError: there is no such file.
        DamagedError: the file is no JSON in UTF-8, lacks a field, or a field has another type. The message names the field.
    """
    return parsed_json(read_text(location), kind, location)


def parsed_json(text: str, kind: type[T], location: str) -> T:
    """The values in JSON text, as `read_json` returns them. location: for messages."""
    from pydantic import TypeAdapter, ValidationError

    adapter: Any = TypeAdapter(kind)
    try:
        return adapter.validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise DamagedError(f"{location} is damaged: {f'{field}: ' if field else ''}{first['msg']}{more}") from error

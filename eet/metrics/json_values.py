"""Measures as JSON can hold them."""

import math
from typing import Any


def json_values(values: Any) -> Any:
    """`values`, dictionaries and lists of numbers and text, with null for NaN and infinity, which JSON does not have."""
    if isinstance(values, dict):
        return {name: json_values(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [json_values(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values

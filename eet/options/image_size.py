"""The size of a network's input as a user gives it: one side of a square, or height and width."""

from typing import TypeAlias

ImageSize: TypeAlias = int | tuple[int, int]
FEWEST_PIXELS, MOST_PIXELS = 16, 8192
"""Limits of a side."""


def height_and_width(size: ImageSize | None) -> tuple[int, int] | None:
    """(height, width) in pixels; None for the backbone's own."""
    return (size, size) if isinstance(size, int) else size


def image_size_problems(flag: str, size: ImageSize | None) -> list[str]:
    """One sentence if a side is outside the limits, else none. flag: that gave the size, such as '--image_size'."""
    sides = height_and_width(size)
    if sides is None or all(FEWEST_PIXELS <= side <= MOST_PIXELS for side in sides):
        return []
    given = size if isinstance(size, int) else list(sides)
    return [f"{flag} {given}: use {FEWEST_PIXELS} to {MOST_PIXELS} pixels, one number for a square, or two, height and width: '[480,640]'"]

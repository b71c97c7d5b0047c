"""Resampling of part of an image on any device, by the filters of Pillow's `Image.resize` with a box.

Shapes: H, W of the image; h, w of the view.
"""

import functools
import math

import torch
from torch import Tensor


def resample(image_3HW: Tensor, box: tuple[float, float, float, float], size: tuple[int, int], interpolation: str) -> Tensor:
    """Resamples the part `box` of an image to another size. The result is within one level of 255 of Pillow's.

    Args:
        image_3HW: uint8 (3, H, W), on any device.
        box: (left, top, right, bottom), in pixels of the image, inside it; fractions are allowed.
        size: (h, w), pixels.
        interpolation: 'bilinear' or 'bicubic', widened where the image is made smaller (antialiased).

    Returns:
        uint8 (h, w, 3), on the device of the image.
    """
    _, height, width = image_3HW.shape
    left, top, right, bottom = box
    columns, first_column = _weights(width, left, right, size[1], interpolation, image_3HW.device)
    rows, first_row = _weights(height, top, bottom, size[0], interpolation, image_3HW.device)
    seen = image_3HW[:, first_row : first_row + rows.shape[1], first_column : first_column + columns.shape[1]].to(torch.float32)
    narrowed_3Hw = _to_levels(seen @ columns.T)
    view_3hw = _to_levels(rows @ narrowed_3Hw)
    return view_3hw.movedim(0, -1).to(torch.uint8)


def _to_levels(values: Tensor) -> Tensor:
    """Rounds to integers in 0 .. 255, halves up. Pillow rounds after each direction."""
    return values.add_(0.5).floor_().clamp_(0, 255)


@functools.lru_cache(maxsize=32)  # images of one camera have one size
def _weights(length: int, start: float, end: float, out: int, interpolation: str, device: torch.device) -> tuple[Tensor, int]:
    """The weights of input pixels for each of `out` output pixels, float32 (out, used), and the index of the first input pixel used."""
    scale = (end - start) / out
    widened = max(scale, 1.0)
    reach = {"bilinear": 1.0, "bicubic": 2.0}[interpolation] * widened
    first = max(0, math.floor(start + 0.5 * scale - reach))
    last = min(length, math.ceil(end - 0.5 * scale + reach))
    places_W, centres_w = (torch.arange(*ends, dtype=torch.float64, device=device) + 0.5 for ends in ((first, last), (0, out)))
    distance_wW = ((places_W - (start + centres_w * scale)[:, None]) / widened).abs()
    weights_wW = _triangle(distance_wW) if interpolation == "bilinear" else _cubic(distance_wW)
    return (weights_wW / weights_wW.sum(1, keepdim=True)).to(torch.float32), first


def _triangle(distance: Tensor) -> Tensor:
    return (1 - distance).clamp_(min=0)


def _cubic(distance: Tensor) -> Tensor:
    """Keys' convolution kernel with a = -0.5."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))

"""How much of the images, and of the tokens that pruning keeps, lies on an object whose mask is known."""

from collections.abc import Callable

import numpy as np
from PIL import Image

from eet.errors import InputError
from eet.gallery import OK, Gallery, fixed_binary_to_numpy
from eet.images import Preprocessing

PIXELS = 8
"""Side of a patch of the scaled mask, in pixels."""


def mask_shares(gallery: Gallery, mask_of: Callable[[str], np.ndarray], grid: tuple[int, int]) -> dict[str, float]:
    """The share of the object in the images of a gallery and in their kept tokens.

    A patch counts with the share of its pixels inside the mask.

    Args:
        gallery: encoded with tokens.
        mask_of: item_id to the mask of its image, bool (H, W).
        grid: rows and columns of the model's patches.

    Returns:
        {"image": share of all patches, "last_stage": share of the kept tokens}, means over the images, in 0 .. 1.

    Raises:
        InputError: the gallery has no tokens.
    """
    token_shape = gallery.manifest.token_shape
    if token_shape is None:
        raise InputError(f"{gallery.path} has no tokens: encode it with tokens")
    image_shares, kept_shares = [], []
    for part in gallery.parts(["item_id", "token_index", "status"]):
        good = part.filter(np.asarray(part["status"]) == OK)
        index_NK = fixed_binary_to_numpy(good["token_index"], "<u2", token_shape[:1])
        for item_id, index_K in zip(good["item_id"].to_pylist(), index_NK, strict=True):
            patches = _patch_shares(mask_of(item_id), grid)
            image_shares.append(patches.mean())
            kept_shares.append(patches.ravel()[index_K].mean())
    return {"image": float(np.mean(image_shares)), "last_stage": float(np.mean(kept_shares))}


def _patch_shares(mask_HW: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Share of each patch inside the mask, (rows, columns), of the centred part of the image that the network sees."""
    rows, columns = grid
    size = Preprocessing.published((rows * PIXELS, columns * PIXELS))
    view = size.view(Image.fromarray(mask_HW.astype(np.uint8) * 255).convert("RGB"))
    pixels = np.asarray(view)[:, :, 0] / 255
    return pixels.reshape(rows, PIXELS, columns, PIXELS).mean(axis=(1, 3))

"""Which input sizes a network sees completely."""

from eet.errors import InputError


def check_whole_patches(name: str, image_size: tuple[int, int], patch_size: tuple[int, int]) -> None:
    """InputError unless patches cover the input: of a patch that is cut by its edge, the network would see nothing.

    Args:
        name: of the backbone.
        image_size: (height, width) of the input in pixels.
        patch_size: (height, width) of a patch in pixels.
    """
    (height, width), (patch_height, patch_width) = image_size, patch_size
    if height % patch_height == 0 and width % patch_width == 0:
        return
    near = [max(1, round(side / patch)) * patch for side, patch in zip(image_size, patch_size, strict=True)]
    raise InputError(
        f"{name} has patches of {patch_height} x {patch_width} pixels, which do not cover an image of {height} x {width} (height x width): "
        f"use multiples, such as {near[0]} x {near[1]}"
    )

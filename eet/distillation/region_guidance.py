"""DRG, discriminative region guidance: the teacher's most important patches are masked, and the student must still predict the label."""

import torch
import torch.nn.functional as F
from torch import Tensor

from eet.errors import InputError


def most_important_patches(mass_BK: Tensor, token_index_BK: Tensor, num_masked: int) -> Tensor:
    """Original positions of the patches with the greatest mass.

    Args:
        mass_BK: mass of the living patches.
        token_index_BK: int64, their original positions.
        num_masked: number of patches, 0 .. K.

    Returns:
        int64 (B, num_masked).

    Raises:
        InputError: num_masked is outside its range.
    """
    if not 0 <= num_masked <= mass_BK.shape[1]:
        raise InputError(f"masked_patches {num_masked}: the teacher has {mass_BK.shape[1]} patches, so use 0 to {mass_BK.shape[1]}")
    return token_index_BK.gather(1, mass_BK.topk(num_masked, dim=1).indices)


def mask_patches(images_BCHW: Tensor, patches_Bw: Tensor, grid: tuple[int, int]) -> Tensor:
    """Sets some patches of images to zero (the mean colour of normalised images).

    Source: EET, DRG. (The published code swaps rows and columns.)

    Args:
        images_BCHW: normalised images.
        patches_Bw: int64 positions, row by row: position p is in grid row p // columns and grid column p % columns.
        grid: (rows, columns) of patches, which must divide the image.

    Returns:
        A new tensor (B, C, H, W).

    Raises:
        InputError: the grid does not divide the image.
    """
    rows, columns = grid
    height, width = images_BCHW.shape[-2:]
    if height % rows or width % columns:
        raise InputError(f"images of {height} x {width} do not divide into a patch grid of {rows} x {columns}")
    visible_BN = torch.ones(len(images_BCHW), rows * columns, device=images_BCHW.device, dtype=images_BCHW.dtype)
    visible_BN = visible_BN.scatter(1, patches_Bw, 0.0)
    visible_B1HW = F.interpolate(visible_BN.view(-1, 1, rows, columns), size=(height, width), mode="nearest")
    return images_BCHW * visible_B1HW

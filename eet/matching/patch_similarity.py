"""How similar a ViT's patch tokens become, block by block: a measure of smoothing, which makes tokens hard to match."""

import numpy as np
import torch
from torch import Tensor, nn

from eet.errors import InputError
from eet.matching.token_set import unit_length


@torch.no_grad()
def patch_similarity(model: nn.Module, images_BCHW: Tensor) -> np.ndarray:
    """Mean cosine of two different patch tokens of an image, after each block; prefix tokens are left out.

    Args:
        model: any timm ViT (it has `forward_intermediates`), in eval mode; for a student, its `trunk`, which is not pruned.
        images_BCHW: preprocessed, on the model's device.

    Returns:
        float32 (blocks,), the mean over the images, from -1 / (n - 1) of n patches to 1.

    Raises:
        InputError: the model has no `forward_intermediates`.
    """
    if not hasattr(model, "forward_intermediates"):
        raise InputError(f"{type(model).__name__} has no forward_intermediates; give a timm ViT, such as deit_small_patch16_224.")
    blocks = model.forward_intermediates(images_BCHW, output_fmt="NLC", intermediates_only=True)  # type: ignore[operator]
    means = []
    for tokens_BnD in blocks:
        n = tokens_BnD.shape[1]
        # All pairs at once: the square of the sum of unit vectors, minus each vector with itself.
        sums_BD = unit_length(tokens_BnD).sum(dim=1)
        means.append(((sums_BD.square().sum(dim=1) - n) / (n * (n - 1))).mean())
    return torch.stack(means).cpu().numpy()

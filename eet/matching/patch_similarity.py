"""How alike a ViT's patch tokens become, block by block: the probe of smoothing, and of what matching can still tell apart."""

import numpy as np
import torch
from torch import Tensor, nn

from eet.errors import InputError
from eet.matching.token_set import unit_length


@torch.no_grad()
def patch_similarity(model: nn.Module, images_BCHW: Tensor) -> np.ndarray:
    """Mean cosine of two different patch tokens of one image, behind every block; prefix tokens are left out.

    Args:
        model: any timm ViT (what has `forward_intermediates`), in eval mode; for a student, its `trunk`, which is not pruned.
        images_BCHW: preprocessed, on the model's device.

    Returns:
        float32 (blocks,), the mean over the images, from -1 / (n - 1) of n patches to 1.

    Raises:
        ValueError: a model that does not give its intermediate tokens.
    """
    if not hasattr(model, "forward_intermediates"):
        raise InputError(f"{type(model).__name__} has no forward_intermediates; give a timm ViT, such as deit_small_patch16_224.")
    blocks = model.forward_intermediates(images_BCHW, output_fmt="NLC", intermediates_only=True)  # type: ignore[operator]
    means = []
    for tokens_BnD in blocks:
        n = tokens_BnD.shape[1]
        # All pairs at once: the square of the sum of unit vectors, less each with itself.
        sums_BD = unit_length(tokens_BnD).sum(dim=1)
        means.append(((sums_BD.square().sum(dim=1) - n) / (n * (n - 1))).mean())
    return torch.stack(means).cpu().numpy()

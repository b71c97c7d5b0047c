"""Attention rollout: which patches the output of a ViT comes from, without gradients and without labels.

Shape suffixes: B images, H heads, N tokens (prefix tokens first), n patches.
"""

from typing import Any

import torch
from torch import Tensor, nn

from eet.errors import InputError
from eet.matching.published_marginals import importance


@torch.no_grad()
def attention_rollout(model: nn.Module, images_BCHW: Tensor, *, discard: float = 0.1) -> Tensor:
    """Relevancy of every patch, of each image alone: the attention maps of all blocks, multiplied (Abnar and Zuidema, ACL 2020).

    As in vit-reranking's published code: a map is the least over the heads; its lowest entries are zeroed; A + I, rows scaled to 1, the
    product over the blocks; the relevancy of a patch is the mean over the patches that look. Three things differ. Entries are zeroed by
    image (there, the union over the batch: at 16 images 82 % of them). Prefix tokens (CLS, registers) stay in the maps, since what they
    gather comes back to the patches, and their rows and columns are never zeroed. The map keeps its resolution.

    Args:
        model: any timm ViT of one resolution, in eval mode: `blocks` whose `attn` has timm's `fused_attn` and `attn_drop`.
        images_BCHW: preprocessed, on the model's device.
        discard: share of the patch-to-patch entries of a map, the lowest, that count as 0; in [0, 1).

    Returns:
        (B, n) float32, each row non-negative with sum 1: a mass for `eet.matching.match_pairs`.

    Raises:
        InputError: the model is no timm ViT or is in training mode, or discard is out of range.
    """
    if not 0 <= discard < 1:
        raise InputError(f"discard={discard}; give a share of the entries, from 0 to below 1 (published: 0.1).")
    attentions: list[Any] = [getattr(block, "attn", None) for block in getattr(model, "blocks", [])]
    if not attentions or not all(hasattr(attn, "fused_attn") and hasattr(attn, "attn_drop") for attn in attentions):
        raise InputError(f"{type(model).__name__} has no blocks with timm's attention; give a timm ViT, such as deit_small_patch16_224.")
    if model.training:
        raise InputError("the model is in training mode, where attention is dropped at random; call model.eval() first.")
    num_prefix: int = model.num_prefix_tokens  # type: ignore[assignment]
    rolled: list[Tensor] = []

    def follow(module: nn.Module, inputs: tuple[Any, ...], attention_BHNN: Tensor) -> None:
        step_BNN = residual_step(attention_BHNN.float().amin(dim=1), num_prefix, discard)
        rolled[:] = [step_BNN @ rolled[0] if rolled else step_BNN]

    # Fused attention never holds the map; for this pass it is computed in steps.
    fused = [attn.fused_attn for attn in attentions]
    hooks = [attn.attn_drop.register_forward_hook(follow) for attn in attentions]
    try:
        for attn in attentions:
            attn.fused_attn = False
        model.forward_features(images_BCHW)  # type: ignore[operator]
    finally:
        for attn, was_fused, hook in zip(attentions, fused, hooks, strict=True):
            attn.fused_attn = was_fused
            hook.remove()
    return importance(rolled[0][:, num_prefix:, num_prefix:].mean(dim=1))


def residual_step(map_BNN: Tensor, num_prefix: int, discard: float) -> Tensor:
    """The attention map of a block, together with its residual connection; rows sum to 1."""
    patches_Be = map_BNN[:, num_prefix:, num_prefix:].flatten(1)
    lowest_Be = patches_Be.topk(int(discard * patches_Be.shape[1]), dim=1, largest=False).indices
    kept_BNN = map_BNN.clone()
    kept_BNN[:, num_prefix:, num_prefix:] = patches_Be.scatter(1, lowest_Be, 0.0).view_as(map_BNN[:, num_prefix:, num_prefix:])
    kept_BNN.diagonal(dim1=1, dim2=2).add_(1.0)
    return kept_BNN / kept_BNN.sum(dim=2, keepdim=True)

"""Attention rollout through a network that drops patches: a mass for the kept tokens, as an alternative to importance.

Shape suffixes: B images, H heads, N living tokens (prefix tokens first), n living patches, k patches that a stage kept, K kept tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from eet.errors import InputError
from eet.matching.published_marginals import importance
from eet.matching.rollout import residual_step


@torch.no_grad()
def rollout_mass(student: nn.Module, images_BCHW: Tensor, *, discard: float = 0.1) -> Tensor:
    """Mass of the kept tokens by attention rollout: how much of the kept tokens' content came from each of their positions.

    As `attention_rollout`, with the attention maps of the pruned network: when a stage drops patches, their rows leave the product. What
    other tokens took from them before stays counted as coming from a dropped position. Without pruning it equals `attention_rollout` of
    the trunk.

    Args:
        student: an `eet.vit.Student` or a teacher, in eval mode; see `forward_with_rollout` for the attributes that are read.
        images_BCHW: preprocessed, on the student's device.
        discard: share of the patch-to-patch entries of a map, the lowest, that count as 0; in [0, 1).

    Returns:
        (B, K) float32 in the order of `HashOutput.token_index`, each row non-negative with sum 1.

    Raises:
        InputError: the model is no student, has rotary positions or is in training mode, or discard is out of range.
    """
    return forward_with_rollout(student, images_BCHW, discard=discard)[1]


@torch.no_grad()
def forward_with_rollout(student: nn.Module, images_BCHW: Tensor, *, discard: float = 0.1) -> tuple[Any, Tensor]:
    """The student's output and `rollout_mass`, from one forward pass; arguments and errors are those of `rollout_mass`.

    Of the student these attributes are read: `trunk.blocks`, whose `attn` is timm's Attention (qkv, q_norm, k_norm, num_heads, scale),
    `trunk.num_prefix_tokens`, and an output with `token_index` (B, K) and `kept`, as `HashOutput` has them.

    Returns:
        The output of `student(images_BCHW)`, a HashOutput, unchanged; and the mass, (B, K) float32.
    """
    if not 0 <= discard < 1:
        raise InputError(f"discard={discard}; give a share of the entries, from 0 to below 1 (published: 0.1).")
    trunk = getattr(student, "trunk", None)
    attentions: list[Any] = [getattr(block, "attn", None) for block in getattr(trunk, "blocks", [])]
    if not attentions or not all(hasattr(attn, "qkv") and hasattr(attn, "q_norm") for attn in attentions):
        raise InputError(f"{type(student).__name__} is no student: its trunk has no blocks with timm's Attention.")
    if any(hasattr(attn, "rotate_half") for attn in attentions):
        raise InputError(
            f"attention rollout of a pruned model reads timm's Attention; this one has {type(attentions[0]).__name__}, which rotates "
            "queries and keys by position. Use the mass by importance, which every student has."
        )
    if student.training:
        raise InputError("the model is in training mode, where attention is dropped at random; call student.eval() first.")
    num_prefix: int = trunk.num_prefix_tokens  # type: ignore[union-attr,assignment]
    steps: list[Tensor] = []

    def follow(attn: Any, qkv_BNC: Tensor) -> None:
        q_BHNd, k_BHNd = (part.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for part in qkv_BNC.chunk(3, dim=-1)[:2])
        q_BHNd, k_BHNd = attn.q_norm(q_BHNd).float(), attn.k_norm(k_BHNd).float()
        # In float32 even if the network runs in bfloat16, which cannot distinguish the lowest entries.
        with torch.autocast(qkv_BNC.device.type, enabled=False):
            attention_BHNN = (q_BHNd * attn.scale @ k_BHNd.mT).softmax(dim=-1)
        steps.append(residual_step(attention_BHNN.amin(dim=1), num_prefix, discard))

    hooks = [attn.qkv.register_forward_hook(lambda module, given, qkv, attn=attn: follow(attn, qkv)) for attn in attentions]
    try:
        output = student(images_BCHW)
    finally:
        for hook in hooks:
            hook.remove()
    with torch.autocast(images_BCHW.device.type, enabled=False):
        return output, _mass_of_kept(steps, output.kept, output.token_index, num_prefix)


def _mass_of_kept(steps_BNN: Sequence[Tensor], kept: Sequence[Tensor], token_index_BK: Tensor, num_prefix: int) -> Tensor:
    """The product of the steps, each over the tokens living at that block, as mass (B, K) of the positions in `token_index_BK`.

    kept: for each stage the original positions (B, k) of its patches, ascending. Stages are found by the number of living patches: one
    that kept all changes nothing.
    """
    rolled_BNN = steps_BNN[0]
    num_patches = rolled_BNN.shape[1] - num_prefix
    alive_Bn = torch.arange(num_patches, device=rolled_BNN.device).expand(len(rolled_BNN), -1)
    positions = {positions_Bk.shape[1]: positions_Bk for positions_Bk in kept}
    for step_BNN in steps_BNN[1:]:
        living = step_BNN.shape[1] - num_prefix
        if living != alive_Bn.shape[1]:
            rolled_BNN = _rows_of(rolled_BNN, alive_Bn, positions[living], num_prefix)
            alive_Bn = positions[living]
        rolled_BNN = step_BNN @ rolled_BNN
    rolled_BNN = _rows_of(rolled_BNN, alive_Bn, token_index_BK, num_prefix)
    relevancy_BN = rolled_BNN[:, num_prefix:, num_prefix:].mean(dim=1)
    return importance(relevancy_BN.gather(1, token_index_BK))


def _rows_of(rolled_BNN: Tensor, alive_Bn: Tensor, kept_Bk: Tensor, num_prefix: int) -> Tensor:
    """The rows of the prefix tokens and of the kept patches; both position tensors ascend, the kept are among the alive."""
    places_Bk = torch.searchsorted(alive_Bn.contiguous(), kept_Bk.contiguous()) + num_prefix
    patches_BkN = rolled_BNN.gather(1, places_Bk[:, :, None].expand(-1, -1, rolled_BNN.shape[2]))
    return torch.cat([rolled_BNN[:, :num_prefix], patches_BkN], dim=1)

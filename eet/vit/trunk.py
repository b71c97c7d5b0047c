"""A timm ViT as EET reads it: its tokens before the first block, their rotary positions, and the vector that it pools at the end.

Shapes: B images, N tokens (P prefix tokens first, then n patches), D width, H heads, d width of a head, k living patches.
"""

from typing import Literal, TypeAlias, get_args

import torch
from timm.layers import AttentionPoolLatent
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from eet.errors import InputError
from eet.vit.pruned_block import check_block

Trunk: TypeAlias = VisionTransformer | Eva
Pooling = Literal["token", "avg", "map"]
WANTED = (
    "a ViT of one resolution with attention over all tokens, such as deit_small_patch16_224, vit_small_patch14_reg4_dinov2, "
    "vit_small_patch16_dinov3, vit_pe_core_small_patch16_384 or vit_base_patch16_siglip_256"
)
"""What errors name as the kind of model that can be a student."""


def check_trunk(trunk: nn.Module, name: str) -> None:
    """InputError unless students can be made of `trunk`; the message begins with `name` and names models that fit."""
    if not isinstance(trunk, Trunk):
        raise InputError(f"{name} is a {type(trunk).__name__}, whose tokens cannot be dropped between blocks. Choose {WANTED}")
    for block in trunk.blocks:
        check_block(block, name, WANTED)
    if trunk.global_pool not in get_args(Pooling):
        raise InputError(f"{name} pools by {trunk.global_pool!r}; EET reads models that pool by {', '.join(get_args(Pooling))}")
    if isinstance(getattr(trunk.patch_drop, "prob", None), float):
        raise InputError(f"{name} drops random patches in training (patch_drop_rate); a pruning schedule replaces that: leave it out")


def has_cls(trunk: Trunk) -> bool:
    """Whether the first token is CLS."""
    return trunk.cls_token is not None


def first_tokens(trunk: Trunk, images_BCHW: Tensor) -> tuple[Tensor, Tensor | None]:
    """The input of the first block.

    Returns:
        tokens: (B, P + n, D).
        rotary: sines and cosines of the patches' positions, (n, 2 d) for all blocks or (blocks, H, n, 2 d) for each; None for a model
            without rotary positions. Prefix tokens have none.
    """
    patches = trunk.patch_embed(images_BCHW)
    if isinstance(trunk, Eva):
        x_BND, rotary = trunk._pos_embed(patches)
        return trunk.norm_pre(x_BND), rotary
    return trunk.norm_pre(trunk.patch_drop(trunk._pos_embed(patches))), None


class RotaryPositions:
    """The rotary positions of the living patches: a patch keeps its own, wherever it stands among those that stay.

    Args:
        table: of all patches, as `first_tokens` returns it.
    """

    def __init__(self, table: Tensor | None) -> None:
        self._table = table
        self._of_each_block = table is not None and table.ndim == 4
        self._alive_Bk: Tensor | None = None
        self._shared = table

    def keep(self, alive_Bk: Tensor) -> None:
        """From here on only the patches at these original positions, (B, k) int64, live."""
        self._alive_Bk = alive_Bk
        if self._table is not None and not self._of_each_block:
            self._shared = self._table[alive_Bk].unsqueeze(1)

    def of_block(self, index: int) -> Tensor | None:
        """Sines and cosines of the living patches for block `index`, from 0, broadcast to (B, H, k, 2 d); None without rotation."""
        if self._table is None or not self._of_each_block:
            return self._shared
        table_HnC = self._table[index]
        return table_HnC if self._alive_Bk is None else table_HnC[:, self._alive_Bk].transpose(0, 1)


def final_outputs(trunk: Trunk, x_BND: Tensor, *, tokens: bool) -> tuple[Tensor, Tensor | None]:
    """The pooled vector and the patch tokens, both after the final norm, as timm has them before its classifier.

    Args:
        trunk: the model.
        x_BND: output of the last block, the prefix tokens first; where the model pools by CLS, patches may be missing.
        tokens: return the patch tokens too.

    Returns:
        vector: (B, D), by the model's own pooling: CLS ("token"), the mean of the patches ("avg"), or an attention whose query was
            trained ("map"; timm's AttentionPoolLatent).
        tokens: (B, k, D), or None. Where the norm comes after the mean, they get the same norm.
    """
    num_prefix = trunk.num_prefix_tokens
    if trunk.global_pool == "token":
        x_BND = trunk.fc_norm(trunk.norm(x_BND))
        return x_BND[:, 0], x_BND[:, num_prefix:] if tokens else None
    x_BND = trunk.norm(x_BND)
    patches_BkD = x_BND[:, num_prefix:]
    vector_BD = trunk.fc_norm(trunk.pool(x_BND))
    if not tokens:
        return vector_BD, None
    return vector_BD, patches_BkD if trunk.global_pool == "map" else trunk.fc_norm(patches_BkD)


@torch.no_grad()
def pooling_importance(trunk: Trunk, x_BND: Tensor) -> Tensor | None:
    """How much the trained query of an attention pooling attends to each patch; None for a model with another pooling.

    Args:
        trunk: the model.
        x_BND: output of the last block, all tokens.

    Returns:
        float32 (B, k), mean over the heads, not negative.
    """
    if trunk.global_pool != "map":
        return None
    pool: AttentionPoolLatent = trunk.attn_pool
    # timm's VisionTransformer pools the patches alone, Eva also the prefix tokens.
    num_prefix = trunk.num_prefix_tokens
    if isinstance(trunk, VisionTransformer) and not trunk.pool_include_prefix:
        x_BND, num_prefix = x_BND[:, num_prefix:], 0
    q_1HLd = pool.q_norm(pool.q(pool.latent).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2))
    keys_BND = pool.kv(trunk.norm(x_BND)).chunk(2, dim=-1)[0]
    k_BHNd = pool.k_norm(keys_BND.unflatten(-1, (pool.num_heads, -1)).transpose(1, 2))
    rows_BHLN = (q_1HLd * pool.scale @ k_BHNd.mT).float().softmax(dim=-1)
    return rows_BHLN.mean(dim=(1, 2))[:, num_prefix:]

"""One timm ViT block, run with content-based token pruning (CTP) between its attention and its MLP.

Shapes: B images, N tokens (P prefix tokens first, then n living patches), D width, H heads, d width of a head, k kept patches,
C = H * d.
"""

from typing import TypeAlias

import torch
import torch.nn.functional as F
from timm.layers import Attention, AttentionRope, apply_rot_embed_cat
from timm.models.eva import EvaAttention, EvaBlock
from timm.models.vision_transformer import Block
from torch import Tensor

from eet.errors import InputError

CONTENT_EPSILON = 1e-8  # in the denominator of W, as in the published code


AnyBlock: TypeAlias = Block | EvaBlock
AnyAttention: TypeAlias = Attention | EvaAttention | AttentionRope
_ATTENTIONS: dict[type, tuple[type, ...]] = {Block: (Attention,), EvaBlock: (EvaAttention, AttentionRope)}
"""The blocks that pruning reads, each with the kinds of attention in it."""


def check_block(block: torch.nn.Module, backbone: str, wanted: str = "a deit_* or vit_* model") -> None:
    """InputError unless `block` is one of timm's pre-norm blocks that pruning reads: Block, or EvaBlock with rotary positions.

    Args:
        block: any module.
        backbone: what the message calls the model.
        wanted: models that the message proposes.
    """
    if type(getattr(block, "attn", None)) not in _ATTENTIONS.get(type(block), ()):
        raise InputError(
            f"{backbone}: its blocks are {type(block).__name__} with {type(getattr(block, 'attn', None)).__name__}; token pruning reads "
            f"timm's pre-norm Block with Attention and EvaBlock with EvaAttention or AttentionRope. Choose {wanted}"
        )


def content_importance(q_cls_BHd: Tensor, k_BHNd: Tensor, content_BHNd: Tensor, *, scale: float, num_prefix: int) -> Tensor:
    """CTP's importance of each living patch, from the attention of one block.

    M[i] = sum_h W[h,i] A[h,CLS,i], where A[h,CLS] is the CLS row of the attention, S[h,i] = ||o[h,i]||_2 is the norm of token i's
    attention output (before the output projection), and W[h,i] = S[h,i] / (sum_h S[h,i] + 1e-8).

    Source: EET's published code, stage scores.

    Args:
        q_cls_BHd: query of CLS in each head.
        k_BHNd: keys of all tokens.
        content_BHNd: o, the output of the attention for all tokens.
        scale: of the attention's logits.
        num_prefix: number of prefix tokens, which are not scored.

    Returns:
        float32 (B, n) with n = N - num_prefix, not negative; no gradient flows through it.
    """
    with torch.no_grad():
        row_BHN = torch.einsum("bhd,bhnd->bhn", q_cls_BHd * scale, k_BHNd).float().softmax(dim=-1)
        return _weighted_row(row_BHN, content_BHNd, num_prefix)


def patches_importance(q_BHNd: Tensor, k_BHNd: Tensor, content_BHNd: Tensor, *, scale: float, num_prefix: int) -> Tensor:
    """`content_importance` of a model without CLS: A[h,CLS] is replaced by the mean of the patches' own rows.

    In a block before the end there is no pooled token yet. The mean of the patches, which is what such a model pools, reads the block's
    values by the mean of the patches' rows. The rows are computed head by head, so that one head's n x N rows are in memory at a time.

    Args:
        q_BHNd: queries of all tokens; those of the prefix tokens (registers) are not read.

    The other arguments and the result are those of `content_importance`.
    """
    with torch.no_grad():
        q_BHnd = q_BHNd[:, :, num_prefix:] * scale
        rows = [(q_BHnd[:, head] @ k_BHNd[:, head].mT).float().softmax(dim=-1).mean(dim=1) for head in range(q_BHnd.shape[1])]
        return _weighted_row(torch.stack(rows, dim=1), content_BHNd, num_prefix)


def _weighted_row(row_BHN: Tensor, content_BHNd: Tensor, num_prefix: int) -> Tensor:
    """sum_h W[h,i] row[h,i] of each patch."""
    norms_BHn = torch.linalg.vector_norm(content_BHNd[:, :, num_prefix:].float(), dim=-1)
    weights_BHn = norms_BHn / (norms_BHn.sum(dim=1, keepdim=True) + CONTENT_EPSILON)
    return (weights_BHn * row_BHN[:, :, num_prefix:]).sum(dim=1)


def top_patches(importance_Bn: Tensor, keep: int) -> Tensor:
    """Indices (B, keep) int64 of the most important living patches, ascending, so that patches stay in row-major order."""
    return importance_Bn.topk(keep, dim=1, sorted=False).indices.sort(dim=1).values


def gather_tokens(tokens_BNC: Tensor, kept_Bk: Tensor, num_prefix: int) -> Tensor:
    """The prefix tokens and the kept patches of (B, N, C): (B, num_prefix + k, C)."""
    patches_BkC = tokens_BNC[:, num_prefix:].gather(1, kept_Bk.unsqueeze(-1).expand(-1, -1, tokens_BNC.shape[-1]))
    return torch.cat([tokens_BNC[:, :num_prefix], patches_BkC], dim=1)


def _project(attn: AnyAttention, normed_BND: Tensor, content_BNC: Tensor) -> Tensor:
    """The steps of timm's attention after the heads: norm, gate and output projection, for each token alone."""
    content_BNC = attn.norm(content_BNC)
    if attn.gate is not None:
        content_BNC = content_BNC * attn.gate(normed_BND).sigmoid()
    return attn.proj_drop(attn.proj(content_BNC))


def _finish(block: AnyBlock, x_BND: Tensor, projected_BND: Tensor) -> Tensor:
    """Both residual sums of a block, after its attention."""
    if isinstance(block, Block):
        x_BND = x_BND + block.drop_path1(block.ls1(projected_BND))
        return x_BND + block.drop_path2(block.ls2(block.mlp(block.norm2(x_BND))))
    x_BND = x_BND + block.drop_path1(projected_BND if block.gamma_1 is None else block.gamma_1 * projected_BND)
    added_BND = block.mlp(block.norm2(x_BND))
    return x_BND + block.drop_path2(added_BND if block.gamma_2 is None else block.gamma_2 * added_BND)


def _heads(tokens_BNC: Tensor, num_heads: int) -> Tensor:
    """(B, N, H * d) -> (B, H, N, d)."""
    return tokens_BNC.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def _qkv_bias(attn: AnyAttention) -> Tensor | None:
    """The bias of the joint projection. EvaAttention keeps it in parts, that of the keys 0."""
    if isinstance(attn, EvaAttention):
        return None if attn.q_bias is None else torch.cat((attn.q_bias, attn.k_bias, attn.v_bias))
    return attn.qkv.bias


def _queries(attn: AnyAttention, normed_BND: Tensor) -> Tensor:
    """Queries (B, H, N, d) of these tokens, before rotation."""
    if attn.qkv is None:
        q_BNC = attn.q_proj(normed_BND)
    else:
        bias = _qkv_bias(attn)
        width = attn.qkv.out_features // 3
        q_BNC = F.linear(normed_BND, attn.qkv.weight[:width], None if bias is None else bias[:width])
    return attn.q_norm(_heads(q_BNC, attn.num_heads))


def _keys_values(attn: AnyAttention, normed_BND: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values (B, H, N, d) of these tokens, before rotation; fewer than H heads of each with grouped queries."""
    if attn.qkv is None:
        k_BNC, v_BNC = attn.k_proj(normed_BND), attn.v_proj(normed_BND)
    else:
        bias = _qkv_bias(attn)
        width = attn.qkv.out_features // 3
        k_BNC, v_BNC = F.linear(normed_BND, attn.qkv.weight[width:], None if bias is None else bias[width:]).chunk(2, dim=-1)
    num_heads = getattr(attn, "num_kv_heads", attn.num_heads)
    return attn.k_norm(_heads(k_BNC, num_heads)), _heads(v_BNC, num_heads)


def _queries_keys_values(attn: AnyAttention, normed_BND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All three of all tokens, from one projection where the model has one."""
    if attn.qkv is None:
        return _queries(attn, normed_BND), *_keys_values(attn, normed_BND)
    joint_BNC = F.linear(normed_BND, attn.qkv.weight, _qkv_bias(attn)) if isinstance(attn, EvaAttention) else attn.qkv(normed_BND)
    q_BHNd, k_BHNd, v_BHNd = (_heads(part, attn.num_heads) for part in joint_BNC.chunk(3, dim=-1))
    return attn.q_norm(q_BHNd), attn.k_norm(k_BHNd), v_BHNd


def _rotated(attn: AnyAttention, tokens_BHNd: Tensor, rotary: Tensor, num_prefix: int) -> Tensor:
    """Queries or keys with the patches rotated by their positions; the prefix tokens have none."""
    patches_BHnd = apply_rot_embed_cat(tokens_BHNd[:, :, num_prefix:], rotary, half=attn.rotate_half)
    return torch.cat([tokens_BHNd[:, :, :num_prefix], patches_BHnd], dim=2)


def _grouped(attn: AnyAttention, tokens_BGNd: Tensor) -> Tensor:
    """Keys or values with one head for each head of the queries."""
    groups = getattr(attn, "num_kv_groups", 1)
    return tokens_BGNd if groups == 1 else tokens_BGNd.repeat_interleave(groups, dim=1)


def _attend(attn: AnyAttention, q_BHNd: Tensor, k_BHNd: Tensor, v_BHNd: Tensor) -> Tensor:
    dropout = attn.attn_drop.p if attn.training else 0.0
    return F.scaled_dot_product_attention(q_BHNd, k_BHNd, v_BHNd, dropout_p=dropout, scale=attn.scale)


def forward_block(
    block: AnyBlock,
    x_BND: Tensor,
    *,
    num_prefix: int,
    keep: int | None = None,
    importance: bool = False,
    prefix_output: bool = False,
    rotary: Tensor | None = None,
    has_cls: bool = True,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Runs one block with fused attention, and scores and prunes its patches where requested.

    Scores depend on the attention only, while the output projection and the MLP act on each token alone. So patches are dropped before
    those two: the result is the same as pruning after the block, at less cost.

    Args:
        block: one of timm's pre-norm blocks, see `check_block`.
        x_BND: tokens, the prefix tokens first.
        num_prefix: number of prefix tokens (CLS, registers), which are never dropped.
        keep: number of patches to keep; None for all.
        importance: return M even if nothing is pruned.
        prefix_output: compute the outputs of the prefix tokens only; for the last block, if no patch tokens are needed.
        rotary: sines and cosines of the patches' positions, broadcast to (B, H, n, 2 d); None for a block without rotary positions.
        has_cls: the first token is CLS, whose attention scores the patches; False for the mean of the patches' own attention.

    Returns:
        x: (B, num_prefix + k, D), or (B, num_prefix, D) with prefix_output.
        importance: M (B, k) float32 of the patches that remain after this block, or None.
        kept: indices (B, k) int64 of the kept patches among the input patches, or None.
    """
    attn = block.attn
    normed_BND = block.norm1(x_BND)
    scored = keep is not None or importance
    if prefix_output and not scored:
        return _forward_prefix(block, x_BND, normed_BND, num_prefix, rotary), None, None

    q_BHNd, k_BHNd, v_BHNd = _queries_keys_values(attn, normed_BND)
    if rotary is not None:
        q_BHNd, k_BHNd = _rotated(attn, q_BHNd, rotary, num_prefix), _rotated(attn, k_BHNd, rotary, num_prefix)
    k_BHNd, v_BHNd = _grouped(attn, k_BHNd), _grouped(attn, v_BHNd)
    content_BHNd = _attend(attn, q_BHNd, k_BHNd, v_BHNd)

    importance_Bn, kept_Bk = None, None
    if scored:
        if has_cls:
            importance_Bn = content_importance(q_BHNd[:, :, 0], k_BHNd, content_BHNd, scale=attn.scale, num_prefix=num_prefix)
        else:
            importance_Bn = patches_importance(q_BHNd, k_BHNd, content_BHNd, scale=attn.scale, num_prefix=num_prefix)
    content_BNC = content_BHNd.transpose(1, 2).flatten(2)
    if keep is not None:
        assert importance_Bn is not None
        kept_Bk = top_patches(importance_Bn, keep)
        importance_Bn = importance_Bn.gather(1, kept_Bk)
    if prefix_output:
        x_BND, normed_BND, content_BNC = x_BND[:, :num_prefix], normed_BND[:, :num_prefix], content_BNC[:, :num_prefix]
    elif kept_Bk is not None:
        x_BND, content_BNC = gather_tokens(x_BND, kept_Bk, num_prefix), gather_tokens(content_BNC, kept_Bk, num_prefix)
        normed_BND = gather_tokens(normed_BND, kept_Bk, num_prefix) if attn.gate is not None else normed_BND
    return _finish(block, x_BND, _project(attn, normed_BND, content_BNC)), importance_Bn, kept_Bk


def _forward_prefix(block: AnyBlock, x_BND: Tensor, normed_BND: Tensor, num_prefix: int, rotary: Tensor | None) -> Tensor:
    """Only the outputs of the prefix tokens: queries, projection and MLP for them, keys and values for all tokens."""
    attn = block.attn
    normed_BPD = normed_BND[:, :num_prefix]
    q_BHPd = _queries(attn, normed_BPD)
    k_BHNd, v_BHNd = _keys_values(attn, normed_BND)
    if rotary is not None:
        k_BHNd = _rotated(attn, k_BHNd, rotary, num_prefix)
    content_BHPd = _attend(attn, q_BHPd, _grouped(attn, k_BHNd), _grouped(attn, v_BHNd))
    return _finish(block, x_BND[:, :num_prefix], _project(attn, normed_BPD, content_BHPd.transpose(1, 2).flatten(2)))

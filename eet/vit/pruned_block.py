"""One timm ViT block, run with content-based token pruning (CTP) between its attention and its MLP.

Shapes: B images, N tokens (P prefix tokens first, then n living patches), D width, H heads, d width of a head, k kept patches.
"""

import torch
import torch.nn.functional as F
from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor

from eet.errors import InputError

CONTENT_EPSILON = 1e-8  # in the denominator of W, as in the published code


def check_block(block: torch.nn.Module, backbone: str) -> None:
    """InputError unless `block` is timm's pre-norm `Block` with plain attention, the only kind that pruning supports."""
    if type(block) is not Block or type(block.attn) is not Attention:
        raise InputError(
            f"{backbone}: its blocks are {type(block).__name__} with {type(getattr(block, 'attn', None)).__name__}; token pruning reads "
            "timm's pre-norm Block with Attention, as in deit_* and vit_* models. Choose one of those"
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


def _project(attn: Attention, normed_BND: Tensor, content_BNC: Tensor) -> Tensor:
    """The steps of timm's Attention after the heads: norm, gate and output projection, for each token alone."""
    content_BNC = attn.norm(content_BNC)
    if attn.gate is not None:
        content_BNC = content_BNC * attn.gate(normed_BND).sigmoid()
    return attn.proj_drop(attn.proj(content_BNC))


def _finish(block: Block, x_BND: Tensor, projected_BND: Tensor) -> Tensor:
    """Both residual sums of a block, after its attention."""
    x_BND = x_BND + block.drop_path1(block.ls1(projected_BND))
    return x_BND + block.drop_path2(block.ls2(block.mlp(block.norm2(x_BND))))


def _heads(tokens_BNC: Tensor, num_heads: int) -> Tensor:
    """(B, N, H * d) -> (B, H, N, d)."""
    return tokens_BNC.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def forward_block(
    block: Block, x_BND: Tensor, *, num_prefix: int, keep: int | None = None, importance: bool = False, prefix_output: bool = False
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Runs one block with fused attention, and scores and prunes its patches where requested.

    Scores depend on the attention only, while the output projection and the MLP act on each token alone. So patches are dropped before
    those two: the result is the same as pruning after the block, at less cost.

    Args:
        block: timm's pre-norm block, see `check_block`.
        x_BND: tokens, the prefix tokens first.
        num_prefix: number of prefix tokens (CLS, registers), which are never dropped.
        keep: number of patches to keep; None for all.
        importance: return M even if nothing is pruned.
        prefix_output: compute the outputs of the prefix tokens only; for the last block, if no patch tokens are needed.

    Returns:
        x: (B, num_prefix + k, D), or (B, num_prefix, D) with prefix_output.
        importance: M (B, k) float32 of the patches that remain after this block, or None.
        kept: indices (B, k) int64 of the kept patches among the input patches, or None.
    """
    attn = block.attn
    normed_BND = block.norm1(x_BND)
    scored = keep is not None or importance
    if prefix_output and not scored:
        return _forward_prefix(block, x_BND, normed_BND, num_prefix), None, None

    q_BHNd, k_BHNd, v_BHNd = (_heads(part, attn.num_heads) for part in attn.qkv(normed_BND).chunk(3, dim=-1))
    q_BHNd, k_BHNd = attn.q_norm(q_BHNd), attn.k_norm(k_BHNd)
    dropout = attn.attn_drop.p if attn.training else 0.0
    content_BHNd = F.scaled_dot_product_attention(q_BHNd, k_BHNd, v_BHNd, dropout_p=dropout, scale=attn.scale)

    importance_Bn, kept_Bk = None, None
    if scored:
        importance_Bn = content_importance(q_BHNd[:, :, 0], k_BHNd, content_BHNd, scale=attn.scale, num_prefix=num_prefix)
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


def _forward_prefix(block: Block, x_BND: Tensor, normed_BND: Tensor, num_prefix: int) -> Tensor:
    """Only the outputs of the prefix tokens: queries, projection and MLP for them, keys and values for all tokens."""
    attn = block.attn
    weight, bias, width = attn.qkv.weight, attn.qkv.bias, attn.attn_dim
    normed_BPD = normed_BND[:, :num_prefix]
    q_BPC = F.linear(normed_BPD, weight[:width], None if bias is None else bias[:width])
    k_BNC, v_BNC = F.linear(normed_BND, weight[width:], None if bias is None else bias[width:]).chunk(2, dim=-1)
    q_BHPd = attn.q_norm(_heads(q_BPC, attn.num_heads))
    k_BHNd = attn.k_norm(_heads(k_BNC, attn.num_heads))
    dropout = attn.attn_drop.p if attn.training else 0.0
    content_BHPd = F.scaled_dot_product_attention(q_BHPd, k_BHNd, _heads(v_BNC, attn.num_heads), dropout_p=dropout, scale=attn.scale)
    return _finish(block, x_BND[:, :num_prefix], _project(attn, normed_BPD, content_BHPd.transpose(1, 2).flatten(2)))

"""One block, compared with the same block as loops over heads and tokens, pruned after the whole block."""

import pytest
import torch
from timm.layers import LayerScale
from timm.models.vision_transformer import Block, ParallelThingsBlock, ResPostBlock
from torch import Tensor, nn

from eet.vit.pruned_block import check_block, content_importance, forward_block, gather_tokens, top_patches

WIDTH, HEADS = 16, 4


def make_block(*, qk_norm: bool = False, init_values: float | None = None, seed: int = 0) -> Block:
    torch.manual_seed(seed)
    block = Block(WIDTH, HEADS, qkv_bias=True, qk_norm=qk_norm, init_values=init_values)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.5)  # far from a uniform attention, so that patches differ
    return block.eval()


def plain_importance(q_Hd: Tensor, k_HNd: Tensor, content_HNd: Tensor, num_prefix: int) -> Tensor:
    heads, length, width = k_HNd.shape
    importance = []
    for i in range(num_prefix, length):
        norms = [float(content_HNd[h, i].pow(2).sum().sqrt()) for h in range(heads)]
        value = 0.0
        for h in range(heads):
            row = (k_HNd[h] @ q_Hd[h] / width**0.5).softmax(dim=0)
            value += norms[h] / (sum(norms) + 1e-8) * float(row[i])
        importance.append(value)
    return torch.tensor(importance)


def plain_block(block: Block, x_ND: Tensor, num_prefix: int) -> tuple[Tensor, Tensor]:
    attn = block.attn
    normed_ND = block.norm1(x_ND)
    q_HNd, k_HNd, v_HNd = attn.qkv(normed_ND).view(len(x_ND), 3, attn.num_heads, -1).permute(1, 2, 0, 3)
    q_HNd, k_HNd = attn.q_norm(q_HNd), attn.k_norm(k_HNd)
    content = []
    for h in range(attn.num_heads):
        attention_NN = (q_HNd[h] @ k_HNd[h].T / q_HNd.shape[-1] ** 0.5).softmax(dim=-1)
        content.append(attention_NN @ v_HNd[h])
    importance_n = plain_importance(q_HNd[:, 0], k_HNd, torch.stack(content), num_prefix)
    x_ND = x_ND + block.ls1(attn.proj(torch.cat(content, dim=-1)))
    return x_ND + block.ls2(block.mlp(block.norm2(x_ND))), importance_n


@pytest.mark.parametrize("num_prefix", [1, 5])
@pytest.mark.parametrize(("qk_norm", "init_values"), [(False, None), (True, 0.3)])
@torch.no_grad()
def test_pruned_block_equals_pruning_after_the_plain_block(num_prefix: int, qk_norm: bool, init_values: float | None) -> None:
    block = make_block(qk_norm=qk_norm, init_values=init_values)
    assert isinstance(block.ls1, LayerScale) == (init_values is not None)
    x_BND = torch.randn(3, num_prefix + 9, WIDTH)
    out_BND, importance_Bk, kept_Bk = forward_block(block, x_BND, num_prefix=num_prefix, keep=4)
    assert importance_Bk is not None and kept_Bk is not None and kept_Bk.dtype == torch.int64
    for b in range(3):
        plain_ND, plain_n = plain_block(block, x_BND[b], num_prefix)
        kept = sorted(sorted(range(9), key=lambda i: -float(plain_n[i]))[:4])  # noqa: B023 (used at once)
        assert kept_Bk[b].tolist() == kept
        rows = list(range(num_prefix)) + [num_prefix + i for i in kept]
        torch.testing.assert_close(out_BND[b], plain_ND[rows], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(importance_Bk[b], plain_n[kept], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("keep", [None, 4])
@pytest.mark.parametrize("importance", [False, True])
@pytest.mark.parametrize("qk_norm", [False, True])
@torch.no_grad()
def test_prefix_outputs_alone_equal_those_with_all_tokens(keep: int | None, importance: bool, qk_norm: bool) -> None:
    block = make_block(qk_norm=qk_norm)
    x_BND = torch.randn(2, 3 + 9, WIDTH)
    whole = forward_block(block, x_BND, num_prefix=3, keep=keep, importance=importance)
    prefix = forward_block(block, x_BND, num_prefix=3, keep=keep, importance=importance, prefix_output=True)
    assert prefix[0].shape == (2, 3, WIDTH)
    torch.testing.assert_close(prefix[0], whole[0][:, :3], atol=1e-5, rtol=1e-5)
    assert (prefix[1] is None) == (whole[1] is None) == (keep is None and not importance)
    if keep is None and importance:
        assert whole[1] is not None and whole[1].shape == (2, 9)
    assert (prefix[2] is None) == (whole[2] is None) == (keep is None)
    for one, other in zip(prefix[1:], whole[1:], strict=True):
        if one is not None:
            torch.testing.assert_close(one, other)


@torch.no_grad()
def test_prefix_alone_works_without_a_qkv_bias() -> None:
    torch.manual_seed(0)
    block = Block(WIDTH, HEADS, qkv_bias=False).eval()
    x_BND = torch.randn(2, 10, WIDTH)
    out, _, _ = forward_block(block, x_BND, num_prefix=1, prefix_output=True)
    torch.testing.assert_close(out, block(x_BND)[:, :1], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_an_unpruned_block_equals_timm() -> None:
    block = make_block(qk_norm=True, init_values=0.3)
    x_BND = torch.randn(2, 12, WIDTH)
    out, importance, kept = forward_block(block, x_BND, num_prefix=3)
    assert importance is None and kept is None
    torch.testing.assert_close(out, block(x_BND), atol=1e-5, rtol=1e-5)


def test_scores_have_no_gradient() -> None:
    q, k, content = torch.randn(2, 4, 8, requires_grad=True), torch.randn(2, 4, 10, 8), torch.randn(2, 4, 10, 8, requires_grad=True)
    importance = content_importance(q, k, content, scale=0.3, num_prefix=1)
    assert not importance.requires_grad and importance.shape == (2, 9)


def test_scores_are_float32_for_any_dtype_of_tokens() -> None:
    q, k, content = torch.randn(1, 2, 8), torch.randn(1, 2, 6, 8), torch.randn(1, 2, 6, 8)
    low = content_importance(q.bfloat16(), k.bfloat16(), content.bfloat16(), scale=8**-0.5, num_prefix=1)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low[0], plain_importance(q[0], k[0], content[0], 1), atol=0.02, rtol=0.05)


def test_tokens_without_content_have_score_zero_not_nan() -> None:
    importance = content_importance(torch.randn(1, 2, 8), torch.randn(1, 2, 6, 8), torch.zeros(1, 2, 6, 8), scale=1.0, num_prefix=1)
    assert importance.tolist() == [[0.0] * 5]


def test_top_patches_are_the_most_important_in_image_order() -> None:
    importance = torch.tensor([[0.1, 0.9, 0.3, 0.8], [0.7, 0.1, 0.6, 0.0]])
    assert top_patches(importance, 2).tolist() == [[1, 3], [0, 2]]
    assert top_patches(importance, 4).tolist() == [[0, 1, 2, 3]] * 2


def test_gathering_keeps_the_prefix_and_the_given_patches() -> None:
    tokens = torch.arange(2 * 6).view(2, 6, 1)
    assert gather_tokens(tokens, torch.tensor([[0, 3], [1, 2]]), 2).squeeze(-1).tolist() == [[0, 1, 2, 5], [6, 7, 9, 10]]


@pytest.mark.parametrize("kind", [ParallelThingsBlock, ResPostBlock])
def test_blocks_of_another_shape_are_refused(kind: type[nn.Module]) -> None:
    check_block(make_block(), "vit_tiny_patch16_224")
    with pytest.raises(ValueError, match=f"odd_vit.*{kind.__name__}.*deit_"):
        check_block(kind(WIDTH, HEADS), "odd_vit")

import pytest
import timm
import torch

from eet.matching import attention_rollout


def tiny_vit(**options):  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=48, patch_size=16, embed_dim=32, depth=3, num_heads=4, num_classes=2, **options
    ).eval()


def slow_rollout(model, image, discard):  # type: ignore[no-untyped-def]
    """One image, entry by entry."""
    maps = []
    hooks = [block.attn.attn_drop.register_forward_hook(lambda module, given, map: maps.append(map[0])) for block in model.blocks]
    fused = [block.attn.fused_attn for block in model.blocks]
    for block in model.blocks:
        block.attn.fused_attn = False
    with torch.no_grad():
        model.forward_features(image[None])
    for block, hook, was in zip(model.blocks, hooks, fused, strict=True):
        hook.remove()
        block.attn.fused_attn = was
    prefix, product = model.num_prefix_tokens, None
    for map_HNN in maps:
        step = map_HNN.min(dim=0).values.clone()
        size = len(step)
        entries = sorted((float(step[i, j]), i, j) for i in range(prefix, size) for j in range(prefix, size))
        for _, i, j in entries[: int(discard * len(entries))]:
            step[i, j] = 0
        step = step + torch.eye(size)
        step = step / step.sum(dim=1, keepdim=True)
        product = step if product is None else step @ product
    relevancy = product[prefix:, prefix:].mean(dim=0)
    return relevancy / relevancy.sum()


@pytest.mark.parametrize("options", [{}, {"reg_tokens": 2}, {"qk_norm": True}])
def test_rollout_equals_the_slow_loop_and_no_image_feels_its_neighbours(options) -> None:  # type: ignore[no-untyped-def]
    model = tiny_vit(**options)
    images = torch.randn(3, 3, 48, 48)
    relevancy = attention_rollout(model, images, discard=0.3)
    assert relevancy.shape == (3, 9) and relevancy.dtype == torch.float32
    for image, row in zip(images, relevancy, strict=True):
        torch.testing.assert_close(row, slow_rollout(model, image, 0.3), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(relevancy, attention_rollout(model, images, discard=0.0), atol=1e-5)


def test_the_model_is_left_as_it_was() -> None:
    model = tiny_vit()
    model.blocks[1].attn.fused_attn = False
    before = [block.attn.fused_attn for block in model.blocks]
    attention_rollout(model, torch.randn(1, 3, 48, 48))
    with pytest.raises(AssertionError):
        attention_rollout(model, torch.randn(1, 3, 32, 32))
    assert [block.attn.fused_attn for block in model.blocks] == before
    assert not any(block.attn.attn_drop._forward_hooks for block in model.blocks)


def test_wrong_arguments_are_refused() -> None:
    images = torch.zeros(1, 3, 48, 48)
    with pytest.raises(ValueError, match="ResNet has no blocks"):
        attention_rollout(timm.create_model("resnet10t").eval(), images)
    with pytest.raises(ValueError, match="discard"):
        attention_rollout(tiny_vit(), images, discard=1.0)
    with pytest.raises(ValueError, match="eval"):
        attention_rollout(tiny_vit().train(), images)

"""Backbones of base models against their definition, written again without pooling tricks."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from eet.embedding import BaseModel, build_base

SMALL = {
    "deit_tiny_patch16_224": ({"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}, (56, 56), (14, 14), 24),
    "vit_small_patch14_reg4_dinov2": ({"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}, (28, 40), (7, 10), 24),
    "swin_tiny_patch4_window7_224": ({"embed_dim": 8, "depths": (1, 1, 1, 2), "num_heads": (1, 1, 2, 2)}, (224, 224), (7, 7), 64),
    "resnet50": ({"layers": (1, 1, 1, 1), "base_width": 8}, (224, 256), (7, 8), 2048),
    "cvt_13": ({"embed_dim": (8, 12, 24), "num_heads": (1, 3, 6), "depth": (1, 2, 3)}, (224, 256), (14, 16), 24),
}


def small(name: str, **changes) -> BaseModel:  # type: ignore[no-untyped-def]
    if name.startswith("cvt"):
        pytest.importorskip("transformers", reason="CvT is transformers' (extra cvt)")
    options, image_size, _, _ = SMALL[name]
    given = {"embedding_width": 10, "image_size": image_size, "weights": "none", "backbone_options": options, "seed": 4, **changes}
    return build_base(name, **given).eval()


def random_images(model: BaseModel, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, *model.preprocessing.image_size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_shapes_units_and_mass(name):
    model = small(name)
    _, image_size, grid, width = SMALL[name]
    assert (model.backbone.grid, model.backbone.width, model.preprocessing.image_size) == (grid, width, image_size)
    out = model(random_images(model))
    assert out.embedding.shape == (2, 10) and out.tokens.shape == (2, 49, 10) and out.token_mass.shape == (2, 49)
    ones = torch.ones(2, 49)
    torch.testing.assert_close(out.embedding.norm(dim=1), ones[:, 0])
    torch.testing.assert_close(out.tokens.norm(dim=2), ones)
    torch.testing.assert_close(out.token_mass.sum(dim=1), ones[:, 0])
    assert (out.token_mass >= 0).all() and out.token_mass.dtype == torch.float32
    torch.testing.assert_close(model.embed(random_images(model)), out.embedding)


def reference(name: str, model: BaseModel, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """(vector (B, D), patches (B, R, C, D), importance on the 7 x 7 grid or None) through the library's own forward."""
    trunk = model.backbone.trunk
    if name.startswith(("deit", "vit")):
        tokens = trunk.forward_features(images)
        rows, columns = model.backbone.grid
        # M of the last block, by its definition: attention as a matrix, head by head.
        seen: list[torch.Tensor] = []
        last = trunk.blocks[-1]
        hook = last.attn.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        trunk.forward_features(images)
        hook.remove()
        batch, length, width = seen[0].shape
        heads = last.attn.num_heads
        q, k, v = last.attn.qkv(seen[0]).reshape(batch, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-1, -2) * (width // heads) ** -0.5).softmax(dim=-1)
        prefix = trunk.num_prefix_tokens
        norms = (attention @ v).norm(dim=-1)[:, :, prefix:]
        importance = (norms / norms.sum(dim=1, keepdim=True) * attention[:, :, 0, prefix:]).sum(dim=1)
        return tokens[:, 0], tokens[:, prefix:].reshape(batch, rows, columns, width), importance.reshape(batch, rows, columns)
    if name.startswith("swin"):
        patches = trunk.forward_features(images)
        return trunk(images), patches, None
    if name.startswith("resnet"):
        patches = trunk.forward_features(images).permute(0, 2, 3, 1)
        return trunk(images), patches, None
    out = trunk.cvt(images)  # transformers' own forward
    rows_seen: list[torch.Tensor] = []
    attention = trunk.cvt.encoder.stages[-1].layers[-1].attention.attention
    hook = attention.dropout.register_forward_hook(lambda _, __, weights: rows_seen.append(weights))
    trunk.cvt(images)
    hook.remove()
    rows, columns = out.last_hidden_state.shape[-2:]
    row = rows_seen[0][:, :, 0, 1:].mean(dim=1).reshape(len(images), rows // 2, columns // 2)
    return trunk.layernorm(out.cls_token_value)[:, 0], trunk.layernorm(out.last_hidden_state.permute(0, 2, 3, 1)), row


def pooled(values_RCE: torch.Tensor) -> torch.Tensor:
    """(7, 7, E): for each of 7 x 7 windows, which overlap where 7 does not divide the side, the mean over its cells."""
    rows, columns = values_RCE.shape[:2]
    out = torch.empty(7, 7, values_RCE.shape[2])
    for i in range(7):
        for j in range(7):
            window = values_RCE[i * rows // 7 : -(-(i + 1) * rows // 7), j * columns // 7 : -(-(j + 1) * columns // 7)]
            out[i, j] = window.mean(dim=(0, 1))
    return out


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_the_head_reads_vector_and_patches_and_pools_between_projection_and_norm(name):
    model = small(name)
    images = random_images(model)
    vector, patches, importance = reference(name, model, images)
    out = model(images)
    torch.testing.assert_close(out.embedding, F.normalize(vector @ model.head.weight.T + model.head.bias, dim=1), atol=1e-5, rtol=1e-4)
    for number in range(2):
        projected = pooled(patches[number] @ model.head.weight.T + model.head.bias).reshape(49, -1)
        torch.testing.assert_close(out.tokens[number], F.normalize(projected, dim=1), atol=1e-5, rtol=1e-4)
        if importance is None:
            share = (projected @ out.embedding[number]).clamp(min=0)
        else:
            share = pooled(importance[number].unsqueeze(-1)).flatten()
        torch.testing.assert_close(out.token_mass[number], share / share.sum(), atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_shares_of_patches_that_are_averaged_are_all_of_the_embedding():
    """Before the negative ones are left out: the mean over tokens of <t, e> is the embedding's own length."""
    model = small("swin_tiny_patch4_window7_224")
    images = random_images(model)
    vector, patches, _ = reference("swin", model, images)
    shares = torch.einsum("brce,be->b", model.head(patches), model.embed(images)) / 49
    torch.testing.assert_close(shares, model.head(vector).norm(dim=1))


@pytest.mark.parametrize("name", SMALL)
def test_every_weight_learns_from_the_embedding_alone(name):
    model = small(name).train()
    model.embed(random_images(model)).square().mul(torch.randn(10)).sum().backward()
    idle = [key for key, parameter in model.named_parameters() if parameter.grad is None]
    assert idle == []
    assert any(parameter.grad.abs().max() > 0 for parameter in model.backbone.parameters())


@pytest.mark.parametrize("name", ["resnet50", "cvt_13"])
def test_statistics_of_batchnorm_stay_in_training_while_its_scale_learns(name):
    model = small(name).train()
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms and not any(norm.training for norm in norms)
    before = [norm.running_mean.clone() for norm in norms]
    images = random_images(model, 3)
    alone = model.embed(images[:1])
    if name == "resnet50":  # no chance in it
        torch.testing.assert_close(model.embed(images)[:1], alone)
    alone.sum().backward()
    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))
    assert all(norm.weight.grad is not None for norm in norms)


def test_cvt_has_the_activation_and_the_dropped_paths_that_its_weights_were_trained_with():
    stages = small("cvt_13").backbone.trunk.cvt.encoder.stages
    x = torch.linspace(-3, 3, 7)
    torch.testing.assert_close(stages[1].layers[0].intermediate.activation(x), x * torch.sigmoid(1.702 * x))
    assert [[layer.drop_path.drop_prob for layer in stage.layers] for stage in stages] == [[0], [0, 0], pytest.approx([0, 0.05, 0.1])]


def test_the_seed_draws_the_weights_and_nothing_else_is_disturbed():
    torch.manual_seed(1)
    first = torch.rand(1)
    torch.manual_seed(1)
    one, again, other = (small("deit_tiny_patch16_224", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), first)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in one.state_dict().items())
    assert not torch.equal(one.head.weight, other.head.weight)


@pytest.mark.parametrize("name", SMALL)
def test_weights_come_from_a_file_without_its_classifier(name, tmp_path):
    from safetensors.torch import save_file

    source, target = small(name, seed=5), small(name, seed=6)
    state = {key: value.contiguous() for key, value in source.backbone.trunk.state_dict().items()}
    classifier = {"resnet50": "fc", "cvt_13": "classifier"}.get(name, "head")
    save_file({**state, f"{classifier}.weight": torch.zeros(1000, 3), f"{classifier}.bias": torch.zeros(1000)}, tmp_path / "w.safetensors")
    loaded = small(name, seed=6, weights=str(tmp_path / "w.safetensors"))
    images = random_images(source, 1)
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.backbone(images, patches=False).vector, source.backbone(images, patches=False).vector, atol=1e-5, rtol=1e-4
        )
    assert torch.equal(loaded.head.weight, target.head.weight)
    key = next(iter(state))
    save_file({other: value for other, value in state.items() if other != key}, tmp_path / "short.safetensors")
    with pytest.raises(ValueError, match="do not fit this backbone"):
        small(name, weights=str(tmp_path / "short.safetensors"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"backbone": "efficientnet_b0"}, "begins with none of deit, vit, swin, cvt, resnet"),
        ({"backbone": "swin_huge"}, "'swin_huge' is not a timm model"),
        ({"backbone": "swinv2_cr_tiny_224"}, "is a SwinTransformerV2Cr, not a timm SwinTransformer"),
        ({"backbone": "resnet50", "backbone_options": {"depth": 3}}, "cannot be built"),
        ({"backbone": "cvt_w24"}, "is not one of cvt_13, cvt_21"),
        ({"backbone": "cvt_13", "image_size": (230, 224)}, "multiples of 16"),
        ({"backbone": "deit_tiny_patch16_224", "image_size": (96, 224)}, "6 x 14 patches .* fewer than the 7 x 7 tokens"),
        ({"backbone": "deit_tiny_patch16_224", "embedding_width": 0}, "0 wide"),
        ({"backbone": "deit_tiny_patch16_224", "weights": "no/such.pt"}, "no such file"),
    ],
)
def test_what_cannot_be_built_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        build_base(**{"weights": "none", **arguments})


def test_an_image_goes_in_as_the_preprocessing_says():
    model = small("resnet50")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 280, 3), dtype=np.uint8))
    assert model.preprocess(image).shape == (3, 224, 256)

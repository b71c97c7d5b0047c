"""Backbones of base models against their definition, written again without pooling tricks."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from eet.embedding import BaseModel, build_base
from eet.vit import PruningSchedule, Student

SMALL = {
    "deit_tiny_patch16_224": ({"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}, (56, 56), (14, 14), 24),
    "vit_small_patch14_reg4_dinov2": ({"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}, (28, 40), (7, 10), 24),
    "vit_small_patch16_dinov3": ({"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}, (28, 40), (7, 10), 32),
    "vit_base_patch16_siglip_256": ({"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}, (28, 40), (7, 10), 32),
    "vit_medium_patch16_reg1_gap_256": ({"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}, (28, 40), (7, 10), 32),
    "swin_tiny_patch4_window7_224": ({"embed_dim": 8, "depths": (1, 1, 1, 2), "num_heads": (1, 1, 2, 2)}, (224, 320), (7, 10), 64),
    "resnet50": ({"layers": (1, 1, 1, 1), "base_width": 8}, (224, 256), (7, 8), 2048),
    "cvt_13": ({"embed_dim": (8, 12, 24), "num_heads": (1, 3, 6), "depth": (1, 2, 3)}, (224, 256), (14, 16), 24),
}

TEACHERS = ("vit_small_patch16_dinov3", "vit_base_patch16_siglip_256", "vit_medium_patch16_reg1_gap_256")


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
        if name in TEACHERS:  # tests/eet/vit/test_trunk.py compares their mass with loops
            with_head = copy.deepcopy(trunk)
            with_head.head = torch.nn.Linear(trunk.embed_dim, 2)
            out = Student(with_head, num_bits=1, schedule=PruningSchedule((), ()), preprocessing=model.preprocessing)(images)
            mass = out.token_mass.unflatten(1, (rows, columns))
            return trunk.forward_head(tokens, pre_logits=True), out.tokens.unflatten(1, (rows, columns)), mass
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
    shares = torch.einsum("brce,be->b", model.head(patches), model.embed(images)) / 70
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
        ({"backbone": "efficientnet_b0"}, "is a EfficientNet; a base model reads VisionTransformer, Eva.*Choose .*siglip.*swin"),
        ({"backbone": "swin_huge"}, "'swin_huge' is not a timm model"),
        ({"backbone": "swinv2_cr_tiny_224"}, "is a SwinTransformerV2Cr; a base model reads"),
        ({"backbone": "resnet50", "backbone_options": {"depth": 3}}, "cannot be built"),
        ({"backbone": "cvt_w24"}, "is not one of cvt_13, cvt_21"),
        ({"backbone": "cvt_13", "image_size": (230, 224)}, "multiples of 16"),
        ({"backbone": "deit_tiny_patch16_224", "image_size": (96, 224)}, "6 x 14 patches .* fewer than the 7 x 7 tokens"),
        (
            {"backbone": "deit_tiny_patch16_224", "image_size": (224, 230)},
            "16 x 16 pixels, which do not cover .* 224 x 230 .* 224 x 224",
        ),
        ({"backbone": "swin_tiny_patch4_window7_224", "image_size": (240, 320)}, "32 x 32 pixels, .* such as 256 x 320"),
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


@torch.no_grad()
def test_without_a_width_the_embedding_is_the_vector_of_the_backbone():
    options = {"patch_size": 6, "embed_dim": 24, "depth": 2, "num_heads": 3}
    model = build_base("deit_tiny_patch16_224", embedding_width=None, image_size=(48, 48), weights="none", backbone_options=options).eval()
    images = torch.randn(3, 3, 48, 48)
    vector = model.backbone(images, patches=False).vector
    torch.testing.assert_close(model(images, tokens=False).embedding, torch.nn.functional.normalize(vector, dim=-1))
    assert model.embedding_width == 24


VIT = {"patch_size": 4, "embed_dim": 24, "depth": 3, "num_heads": 3}


def alone(model: BaseModel) -> BaseModel:
    """The model with blocks that change nothing, so that a patch depends on its own pixels and position alone."""
    for block in model.backbone.trunk.blocks:
        for layer in (block.attn.proj, block.mlp.fc2):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
    return model


@pytest.mark.parametrize("aggregation", ["gem", "netvlad", "salad"])
@pytest.mark.parametrize("image_size", [(28, 48), (44, 28)])
@torch.no_grad()
def test_patches_of_an_input_that_is_not_square_lie_where_their_pixels_are(aggregation, image_size):
    """Cut out of the image one by one, row by row. The layers themselves are compared with loops in their own tests."""
    model = build_base(
        "deit_tiny_patch16_224", embedding_width=None, image_size=image_size, weights="none", backbone_options=VIT, aggregation=aggregation,
        aggregation_options={} if aggregation == "gem" else {"words": 3},
    )  # fmt: skip
    trunk = alone(model.eval()).backbone.trunk
    torch.nn.init.normal_(trunk.pos_embed, generator=torch.Generator().manual_seed(2))
    images = random_images(model)
    rows, columns = image_size[0] // 4, image_size[1] // 4
    patches = torch.empty(2, rows, columns, 24)
    for row in range(rows):
        for column in range(columns):
            pixels = images[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].reshape(2, -1)
            projected = pixels @ trunk.patch_embed.proj.weight.reshape(24, -1).T + trunk.patch_embed.proj.bias
            patches[:, row, column] = trunk.norm(projected + trunk.pos_embed[0, 1 + row * columns + column])
    out = model(images)
    cls = trunk.norm(trunk.cls_token[0] + trunk.pos_embed[0, :1]).expand(2, -1)
    torch.testing.assert_close(out.embedding, F.normalize(model.aggregation(cls, patches.reshape(2, -1, 24)), dim=1), atol=1e-5, rtol=1e-4)
    tokens = torch.stack([F.normalize(pooled(one).reshape(49, 24), dim=1) for one in patches])
    torch.testing.assert_close(out.tokens, tokens, atol=1e-5, rtol=1e-4)


BLOCK = {"image_size": (28, 32), "weights": "none", "backbone_options": VIT, "seed": 4}


def outputs_of_blocks(model: BaseModel, images: torch.Tensor) -> list[torch.Tensor]:
    trunk = model.backbone.trunk
    x = trunk._pos_embed(trunk.patch_embed(images))
    outputs = []
    for block in trunk.blocks:
        x = block(x)
        outputs.append(x)
    return outputs


@pytest.mark.parametrize("aggregation", ["vector", "netvlad"])
@torch.no_grad()
def test_tokens_can_come_from_an_earlier_block(aggregation):
    model, whole = (
        build_base("deit_tiny_patch16_224", aggregation=aggregation, tokens_from_block=block, embedding_width=None, **BLOCK).eval()
        for block in (2, None)
    )
    images = random_images(model)
    out, outputs = model(images), outputs_of_blocks(whole, images)
    patches = outputs[1][:, 1:].reshape(2, 7, 8, 24)
    expected = torch.stack([F.normalize(pooled(patches[row]).reshape(49, 24), dim=1) for row in range(2)])
    torch.testing.assert_close(out.tokens, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(out.token_mass.sum(dim=1), torch.ones(2))
    assert model.token_shape == (49, 24)
    if aggregation == "vector":
        torch.testing.assert_close(out.embedding, whole.embed(images), atol=1e-5, rtol=1e-4)
        assert len(model.backbone.trunk.blocks) == 3
    else:  # what reads patches alone needs no later block
        assert len(model.backbone.trunk.blocks) == 2
        layer = whole.aggregation
        torch.testing.assert_close(out.embedding, layer(outputs[1][:, 0], outputs[1][:, 1:]), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model.embed(images), out.embedding)


@pytest.mark.parametrize(
    "backbone",
    [
        "vit_small_patch16_dinov3",
        "vit_small_patch16_rope_mixed_224",
        "vit_pe_core_tiny_patch16_384",
        "vit_base_patch16_siglip_256",
        "vit_base_patch16_gap_224",
    ],
)
@pytest.mark.parametrize("aggregation", ["vector", "netvlad"])
@torch.no_grad()
def test_tokens_can_come_from_an_earlier_block_of_every_kind_of_vit(backbone, aggregation):
    """As hooks on timm's own blocks see them."""
    options = {"embed_dim": 32, "depth": 3, "num_heads": 2}
    model, whole = (
        build_base(
            backbone, aggregation=aggregation, tokens_from_block=block, embedding_width=None, image_size=(112, 128), weights="none",
            backbone_options=options, seed=4,
        ).eval()
        for block in (2, None)
    )  # fmt: skip
    images, trunk, outputs = random_images(model), whole.backbone.trunk, []
    for name, parameter in trunk.named_parameters():  # an untrained ViT attends almost uniformly, which would hide wrong positions
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.25)
        elif "gamma" in name:
            torch.nn.init.uniform_(parameter, 0.1, 0.8)
    assert not model.load_state_dict(whole.state_dict(), strict=False).missing_keys
    for block in trunk.blocks:
        block.register_forward_hook(lambda module, given, output: outputs.append(output))
    trunk.forward_features(images)
    out, patches = model(images), outputs[1][:, trunk.num_prefix_tokens :]
    tokens = torch.stack([pooled(row.reshape(7, 8, 32)) for row in patches])
    torch.testing.assert_close(out.tokens, F.normalize(tokens.flatten(1, 2), dim=-1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(out.token_mass.sum(dim=1), torch.ones(2))
    if aggregation == "vector":
        torch.testing.assert_close(out.embedding, whole.embed(images), atol=1e-5, rtol=1e-4)
        assert len(model.backbone.trunk.blocks) == 3
    else:
        torch.testing.assert_close(out.embedding, whole.aggregation(outputs[1][:, 0], patches), atol=1e-5, rtol=1e-4)
        assert len(model.backbone.trunk.blocks) == 2
    torch.testing.assert_close(model.embed(images), out.embedding, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("block", [0, 4])
def test_a_block_that_does_not_exist_is_refused(block):
    with pytest.raises(ValueError, match=f"block {block}: deit_tiny_patch16_224 has blocks 1 to 3"):
        build_base("deit_tiny_patch16_224", tokens_from_block=block, **BLOCK)
    with pytest.raises(ValueError, match="of a ViT .* not of a ResNetBackbone"):
        small("resnet50", tokens_from_block=1)


@pytest.mark.parametrize("aggregation", ["gem", "netvlad", "salad"])
def test_every_weight_of_an_aggregation_gets_a_gradient(aggregation):
    model = build_base(
        "deit_tiny_patch16_224", aggregation=aggregation, tokens_from_block=2, aggregation_options={}, **{**BLOCK, "image_size": (48, 48)}
    )
    model.embed(torch.randn(2, 3, 48, 48)).sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []

import argparse
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eet.errors import InputError
from eet.options.image_size import ImageSize
from eet.vit import (
    PruningSchedule,
    Student,
    build_student,
    load_bundle,
    read_state_dict,
    save_bundle,
    student_from_state_dict,
    timm_named_weights,
)

NO_PRUNING = PruningSchedule((), ())
SMALL: dict[str, Any] = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}


def build(
    backbone: str = "deit_tiny_patch16_224", *, weights: str = "none", seed: int = 0, image_size: ImageSize | None = 32, **options: Any
) -> Student:
    return build_student(
        backbone,
        num_classes=5,
        num_bits=12,
        schedule=PruningSchedule((1,), (0.5,)),
        image_size=image_size,
        weights=weights,
        backbone_options={**SMALL, **options},
        seed=seed,
    ).eval()


# ---- by name


def test_published_student_of_deit_small() -> None:
    student = build_student("deit_small_patch16_224", num_classes=200, num_bits=64, schedule=PruningSchedule(), weights="none")
    assert (student.num_classes, student.num_bits, student.grid) == (200, 64, (14, 14))
    preprocessing = student.preprocessing
    assert preprocessing.image_size == (224, 224) and preprocessing.crop_share == 0.875 and preprocessing.interpolation == "bilinear"
    assert preprocessing.mean == (0.485, 0.456, 0.406) and preprocessing.std == (0.229, 0.224, 0.225)


def test_preprocessing_is_that_of_the_backbones_training() -> None:
    student = build("vit_tiny_patch16_224", image_size=48)
    assert student.preprocessing.mean == (0.5, 0.5, 0.5) and student.preprocessing.std == (0.5, 0.5, 0.5)
    assert student.preprocessing.image_size == (48, 48) and student.grid == (6, 6)


def test_an_input_has_height_and_width_and_patches_cover_it(tmp_path: Path) -> None:
    wide = build(image_size=(32, 64))
    assert wide.preprocessing.image_size == (32, 64) and wide.grid == (4, 8) and wide.num_patches == 32
    images = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        assert int(wide(images).token_index.max()) >= 16  # positions of more rows than a square of this height has
        save_bundle(wide, tmp_path)
        assert torch.equal(load_bundle(tmp_path)(images).hash, wide(images).hash)
    assert load_bundle(tmp_path).preprocessing == wide.preprocessing
    for size in (36, (32, 60)):
        with pytest.raises(ValueError, match="has patches of 8 x 8 pixels, which do not cover"):
            build(image_size=size)


def test_only_the_seed_determines_the_weights() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build(seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), before), "building must leave the global generator alone"
    torch.manual_seed(2)
    second, other = build(seed=3).state_dict(), build(seed=4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    for name in ("trunk.head.weight", "head_hash.weight", "trunk.blocks.0.attn.qkv.weight"):
        assert not torch.equal(first[name], other[name])


def test_heads_are_truncated_normal_with_zero_bias() -> None:
    student = build_student(
        "deit_tiny_patch16_224", num_classes=300, num_bits=64, schedule=NO_PRUNING, weights="none", backbone_options={"depth": 1}
    )
    for head in (student.trunk.head, student.head_hash):
        assert head.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert head.bias.abs().max() == 0


@pytest.mark.parametrize(("weights", "expected"), [("timm", True), ("none", False)])
def test_timm_weights_are_requested_only_by_name(weights: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    create_model, pretrained = timm.create_model, []

    def without_network(*args: Any, **kwargs: Any) -> Any:
        pretrained.append(kwargs.pop("pretrained"))
        return create_model(*args, pretrained=False, **kwargs)

    monkeypatch.setattr(timm, "create_model", without_network)
    build(weights=weights)
    assert pretrained == [False, expected]  # the first call only looks at the class


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("deit_smal_patch16_224", "is not a timm model; for example .*deit"),
        ("vit_small_patch16_18x2_224", "ParallelThingsBlock.*Choose.*dinov3.*siglip"),
        ("eva02_enormous_patch14_clip_224", "EvaBlockPostNorm.*Choose"),
        ("vit_dwee_patch16_reg1_gap_256", "DiffAttention.*Choose"),
        ("swin_tiny_patch4_window7_224", "is a SwinTransformer, whose tokens cannot be dropped between blocks. Choose .*dinov2.*siglip"),
        ("samvit_base_patch16_224", "is a VisionTransformerSAM, whose tokens cannot be dropped"),
        ("mvitv2_tiny", "is a MultiScaleVit, whose tokens cannot be dropped"),
        ("resnet18", "is a ResNet, whose tokens cannot be dropped"),
    ],
)
def test_backbones_that_cannot_be_pruned_are_refused(backbone: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_student(backbone, num_classes=5, num_bits=12, schedule=NO_PRUNING, weights="none")


def test_a_pooling_that_keeps_no_vector_is_refused() -> None:
    with pytest.raises(ValueError, match="pools by ''.*token, avg, map"):
        build(global_pool="")


@torch.no_grad()
def test_the_pooling_can_be_chosen() -> None:
    by_mean, by_cls = build("vit_tiny_patch16_224", global_pool="avg"), build("vit_tiny_patch16_224")
    images = torch.randn(2, 3, 32, 32)
    assert (by_mean.trunk.global_pool, by_cls.trunk.global_pool) == ("avg", "token")
    out = by_mean(images)
    features = by_mean.with_schedule(NO_PRUNING).trunk.forward_features(images)
    assert out.embedding.shape == (2, 24) and not torch.allclose(out.embedding, by_cls(images).embedding)
    teacher = by_mean.with_schedule(NO_PRUNING)
    torch.testing.assert_close(teacher(images).embedding, teacher.trunk.fc_norm(features[:, 1:].mean(dim=1)), atol=1e-5, rtol=1e-5)


def test_unknown_option_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="patchsize"):
        build(patchsize=4)


def test_distilled_backbone_keeps_no_untrained_classifier() -> None:
    student = build("deit_tiny_distilled_patch16_224")
    student(torch.randn(2, 3, 32, 32)).hash.sum().backward()
    assert [name for name, parameter in student.named_parameters() if parameter.grad is None] == []


# ---- weights from a file


@pytest.fixture(scope="module")
def trained() -> Student:
    """A student whose heads have other sizes than those of the student that gets its weights."""
    options = {**SMALL, "img_size": 32}
    return build_student(
        "deit_tiny_patch16_224", num_classes=7, num_bits=4, schedule=NO_PRUNING, weights="none", backbone_options=options, seed=9
    )


def write(trained: Student, file: Path, *, nest: str | None = None) -> str:
    state = timm_named_weights(trained)
    if file.suffix == ".safetensors":
        safetensors.torch.save_file({name: value.half() for name, value in state.items()}, file)
    else:
        torch.save(state if nest is None else {nest: state, "epoch": 3}, file)
    return str(file)


@pytest.mark.parametrize(("name", "nest"), [("w.safetensors", None), ("w.pt", None), ("w.pth", "model"), ("w.pt", "state_dict")])
def test_weights_of_a_file_fill_the_trunk_and_leave_the_heads(trained: Student, tmp_path: Path, name: str, nest: str | None) -> None:
    student = build(weights=write(trained, tmp_path / name, nest=nest))
    fresh = build()
    for key, value in student.state_dict().items():
        assert value.dtype == torch.float32
        if "head" in key:
            assert torch.equal(value, fresh.state_dict()[key])
        else:
            torch.testing.assert_close(value, trained.state_dict()[key], atol=2e-3, rtol=2e-3)
            assert value.abs().max() == 0 or not torch.equal(value, fresh.state_dict()[key]) or "norm" in key


def test_position_embeddings_are_resized_to_another_image(trained: Student, tmp_path: Path) -> None:
    path = write(trained, tmp_path / "w.pt")
    larger = build(weights=path, image_size=64).trunk.pos_embed
    old = trained.trunk.pos_embed
    assert larger.shape == (1, 1 + 64, 24) and torch.equal(larger[:, 0], old[:, 0])
    grid = old[:, 1:].view(1, 4, 4, 24).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, size=(8, 8), mode="bicubic", antialias=True).permute(0, 2, 3, 1).flatten(1, 2)
    torch.testing.assert_close(larger[:, 1:], expected)
    wide = build(weights=path, image_size=None, img_size=(32, 64)).trunk.pos_embed
    expected = F.interpolate(grid, size=(4, 8), mode="bicubic", antialias=True).permute(0, 2, 3, 1).flatten(1, 2)
    torch.testing.assert_close(wide[:, 1:], expected)


def test_patch_embedding_is_resized_to_another_patch(trained: Student, tmp_path: Path) -> None:
    student = build(weights=write(trained, tmp_path / "w.pt"), patch_size=16)
    assert student.trunk.patch_embed.proj.weight.shape == (24, 3, 16, 16)
    flat = torch.full((1, 3, 64, 64), 0.7)  # on a uniform image both kernels must give the same output
    projected = trained.trunk.patch_embed.proj(flat)[0, :, 0, 0]
    torch.testing.assert_close(student.trunk.patch_embed.proj(flat)[0, :, 0, 0], projected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"embed_dim": 48}, r"blocks.0.attn.proj.bias is \(24,\), needs \(48,\).*; and 26 more"),
        ({"depth": 3}, "missing blocks.2"),
        ({"depth": 1}, "unknown blocks.1"),
        ({"init_values": 0.1}, "missing blocks.0.ls1.gamma"),
    ],
)
def test_weights_of_another_backbone_are_refused_by_name(trained: Student, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    path = write(trained, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=f"w.safetensors' do not fit this backbone: .*{message}"):
        build(weights=path, **options)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
@pytest.mark.parametrize("nest", [None, "state_dict"])
def test_prefixes_that_a_wrapper_added_are_removed(trained: Student, tmp_path: Path, prefix: str, nest: str | None) -> None:
    state = {prefix + name: value for name, value in timm_named_weights(trained).items()}
    torch.save(state if nest is None else {nest: state, "epoch": 3}, tmp_path / "w.pt")
    student = build(weights=str(tmp_path / "w.pt"))
    assert torch.equal(student.trunk.blocks[1].mlp.fc2.weight, trained.trunk.blocks[1].mlp.fc2.weight)


class ClipBlock(nn.Module):
    """open_clip's ResidualAttentionBlock, with its names (Ilharco et al., 2021)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        normed = self.ln_1(tokens)
        tokens = tokens + self.attn(normed, normed, normed, need_weights=False)[0]
        return tokens + self.mlp(self.ln_2(tokens))


class ClipVisual(nn.Module):
    """open_clip's VisionTransformer. Returns the CLS token after the last norm, before the projection."""

    def __init__(self, width: int, depth: int, heads: int, patch: int, num_patches: int) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(1 + num_patches, width))
        self.proj = nn.Parameter(torch.empty(width, 7))
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList(ClipBlock(width, heads) for _ in range(depth))

    def forward(self, images: Tensor) -> Tensor:
        patches = self.conv1(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_embedding.expand(len(images), 1, -1), patches], 1) + self.positional_embedding
        tokens = self.ln_pre(tokens)
        for block in self.transformer.resblocks:
            tokens = block(tokens)
        return self.ln_post(tokens)[:, 0]


class Clip(nn.Module):
    """Both encoders of a CLIP model; of the text encoder only some weights, which must not be taken for those of the image encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.empty(77, 24))
        self.text_projection = nn.Parameter(torch.empty(24, 7))
        self.logit_scale = nn.Parameter(torch.empty([]))
        self.visual = ClipVisual(24, 2, 3, 8, 16)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.ModuleList([ClipBlock(24, 3)])
        self.token_embedding = nn.Embedding(50, 24)
        self.ln_final = nn.LayerNorm(24)
        generator = torch.Generator().manual_seed(5)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3, generator=generator)


CLIP_NAMES = {
    "visual.class_embedding",
    "visual.positional_embedding",
    "visual.proj",
    "visual.conv1.weight",
    "visual.ln_pre.weight",
    "visual.transformer.resblocks.0.ln_1.weight",
    "visual.transformer.resblocks.0.attn.in_proj_weight",
    "visual.transformer.resblocks.0.attn.in_proj_bias",
    "visual.transformer.resblocks.0.attn.out_proj.weight",
    "visual.transformer.resblocks.1.mlp.c_fc.weight",
    "visual.transformer.resblocks.1.mlp.c_proj.bias",
    "visual.ln_post.bias",
    "transformer.resblocks.0.mlp.c_fc.weight",
    "positional_embedding",
}


@pytest.mark.parametrize("prefix", ["", "module."])
@torch.no_grad()
def test_the_image_encoder_of_an_open_clip_model_gives_the_same_outputs(tmp_path: Path, prefix: str) -> None:
    clip = Clip().eval()
    assert set(clip.state_dict()) >= CLIP_NAMES
    torch.save({"epoch": 3, "state_dict": {prefix + name: value for name, value in clip.state_dict().items()}}, tmp_path / "clip.pt")
    student = build_student(
        "vit_base_patch16_clip_224",
        num_classes=5,
        num_bits=12,
        schedule=NO_PRUNING,
        image_size=32,
        weights=str(tmp_path / "clip.pt"),
        backbone_options=SMALL,
    ).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(6))
    torch.testing.assert_close(student(images).embedding, clip.visual(images), atol=1e-4, rtol=1e-4)


def test_the_error_for_a_clip_model_that_does_not_fit_names_fitting_backbones(tmp_path: Path) -> None:
    torch.save(Clip().state_dict(), tmp_path / "clip.pt")
    with pytest.raises(ValueError, match=r"unknown norm_pre.*ViT of width 24, patch 8: choose .*such as vit_.*clip.*OpenAI"):
        build(weights=str(tmp_path / "clip.pt"))
    torch.save({"visual.layer1.0.conv1.weight": torch.zeros(1)}, tmp_path / "resnet.pt")
    with pytest.raises(ValueError, match="image encoder is not open_clip's ViT"):
        build(weights=str(tmp_path / "resnet.pt"))


def test_errors_of_refused_files_give_advice(trained: Student, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Choose the backbone and the options that the file was trained with"):
        build(weights=write(trained, tmp_path / "w.pt"), depth=3)
    torch.save({"model": timm_named_weights(trained), "args": argparse.Namespace(lr=1)}, tmp_path / "args.pt")
    with pytest.raises(ValueError, match=r"if you trust this one.*torch.save\(model.state_dict\(\), FILE\)"):
        build(weights=str(tmp_path / "args.pt"))


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("raw_pickle", [False, True])
def test_code_in_a_weights_file_does_not_run(tmp_path: Path, raw_pickle: bool) -> None:
    target, file = tmp_path / "it-ran", tmp_path / "w.pt"
    harmful = {"cls_token": torch.zeros(1), "more": Malicious(target)}
    if raw_pickle:
        file.write_bytes(pickle.dumps(harmful))
    else:
        torch.save(harmful, file)
    with pytest.raises(ValueError, match="cannot be read as tensors"):
        build(weights=str(file))
    assert not target.exists()
    torch.load(file, weights_only=False) if not raw_pickle else pickle.loads(file.read_bytes())
    assert target.exists(), "the file must be harmful, or this test checks nothing"


def test_files_that_hold_no_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file.*'none'"):
        read_state_dict(str(tmp_path / "absent.pt"))
    (tmp_path / "bad.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ValueError, match="cannot be read as safetensors"):
        read_state_dict(str(tmp_path / "bad.safetensors"))
    for content in ([torch.zeros(2)], {"a": 3}, {"model": {"a": "b"}}):
        torch.save(content, tmp_path / "odd.pt")
        with pytest.raises(ValueError, match="no plain dictionary of tensors"):
            read_state_dict(str(tmp_path / "odd.pt"))


# ---- from a state dict only


@pytest.mark.parametrize(
    ("backbone", "options"),
    [
        ("deit_tiny_patch16_224", {}),
        ("deit_tiny_patch16_224", {"qkv_bias": False, "mlp_ratio": 2.0}),
        ("deit_tiny_distilled_patch16_224", {}),
        ("vit_small_patch14_reg4_dinov2", {"qk_norm": True}),
        ("vit_tiny_patch16_224", {"reg_tokens": 2}),
        ("vit_tiny_patch16_224", {"pre_norm": True}),
    ],
)
@torch.no_grad()
def test_every_size_is_read_from_the_tensors(backbone: str, options: dict[str, Any]) -> None:
    student = build(backbone, **options)
    again = student_from_state_dict(timm_named_weights(student), num_heads=3, prune_after=(1,), keep_ratios=(0.5,))
    assert not again.training and again.preprocessing.image_size == (32, 32)
    images = torch.randn(2, 3, 32, 32)
    for one, other in zip(again(images)[:6], student(images)[:6], strict=True):
        assert torch.equal(one, other)


def test_half_precision_arrays_are_converted_to_float32() -> None:
    student = build()
    halves = {name: value.half().numpy() for name, value in timm_named_weights(student).items()}
    again = student_from_state_dict(halves, num_heads=3, prune_after=())
    assert again.schedule == NO_PRUNING
    assert all(value.dtype == torch.float32 for value in again.state_dict().values())


@pytest.mark.parametrize(
    ("drop", "add", "num_heads", "message"),
    [
        ("head_hash.weight", {}, 3, "lacks .*head_hash.weight"),
        ("cls_token", {}, 3, "lacks .*cls_token"),
        ("pos_embed", {}, 3, "lacks pos_embed"),
        ("norm.bias", {}, 3, r"does not fit(.|\n)*norm\.bias"),
        (None, {}, 5, "5 heads do not divide the width 24"),
        (None, {"rope.freqs": torch.zeros(2)}, 3, "weights that this student lacks.*rope.freqs"),
        (None, {"pos_embed": torch.zeros(1, 1 + 15, 24)}, 3, None),  # 16 is a square: taken as a grid of 4 x 4 without CLS
        (None, {"pos_embed": torch.zeros(1, 1 + 13, 24)}, 3, "not a square patch grid"),
    ],
)
def test_state_dicts_that_are_not_a_student_are_refused(drop: str | None, add: dict[str, Any], num_heads: int, message: str | None) -> None:
    state = {name: value for name, value in timm_named_weights(build()).items() if name != drop} | add
    if message is None:
        assert student_from_state_dict(state, num_heads=num_heads, prune_after=()).trunk.no_embed_class
        return
    with pytest.raises(ValueError, match=message):
        student_from_state_dict(state, num_heads=num_heads, prune_after=())


def test_options_that_name_files_are_refused():
    """L1: a bundle of others must not make its reader open its files."""
    with pytest.raises(InputError, match="checkpoint_path do not describe a network"):
        build_student(
            "deit_tiny_patch16_224",
            num_classes=2,
            num_bits=4,
            schedule=NO_PRUNING,
            weights="none",
            backbone_options={"checkpoint_path": "/etc/passwd"},
        )

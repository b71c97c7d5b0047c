"""Weights under the names in which their owners publish them, with random values: each gives the outputs of the model it was made from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from eet.vit import PruningSchedule, Student, build_student

SMALL: dict[str, Any] = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


def build(backbone: str, *, weights: str = "none", image_size: int = 32, seed: int = 0, **options: Any) -> Student:
    return build_student(
        backbone,
        num_classes=5,
        num_bits=12,
        schedule=PruningSchedule((), ()),
        image_size=image_size,
        weights=weights,
        backbone_options={**SMALL, **options},
        seed=seed,
    ).eval()


def random_model(backbone: str, **options: Any) -> Student:
    student = build(backbone, seed=7, **options)
    generator = torch.Generator().manual_seed(8)
    for parameter in student.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return student


def images(size: int = 32) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(6))


def of_dinov2(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Meta's dinov2_*_pretrain.pth: timm's names, and the token of masked patches."""
    return state | {"mask_token": torch.randn(1, 32)}


def of_dinov2_registers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Meta's dinov2_*_reg4_pretrain.pth: CLS has a position of its own, registers have another name."""
    of_cls = torch.randn(1, 1, 32, generator=torch.Generator().manual_seed(9))
    state = dict(state)
    return state | {
        "mask_token": torch.randn(1, 32),
        "register_tokens": state.pop("reg_token"),
        "cls_token": state["cls_token"] - of_cls,
        "pos_embed": torch.cat([of_cls, state["pos_embed"]], dim=1),
    }


def of_dinov3(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Meta's dinov3_*_pretrain_*.pth."""
    published = {"mask_token": torch.randn(1, 1, 32), "rope_embed.periods": torch.ones(4), "local_cls_norm.weight": torch.ones(32)}
    for name, value in state.items():
        if name.endswith(("q_bias", "v_bias")):
            continue
        for part, published_part in (("reg_token", "storage_tokens"), ("gamma_1", "ls1.gamma"), ("gamma_2", "ls2.gamma")):
            name = name.replace(part, published_part)
        for part, published_part in (("mlp.fc1_g", "mlp.w1"), ("mlp.fc1_x", "mlp.w2"), ("mlp.fc2", "mlp.w3")):
            name = name.replace(part, published_part) if "blocks.0.mlp.fc1_g.weight" in state else name
        published[name] = value
    for block in range(2):
        attention = f"blocks.{block}.attn"
        biases = [state.get(f"{attention}.{letter}_bias", torch.zeros(32)) for letter in "qv"]
        published[f"{attention}.qkv.bias"] = torch.cat([biases[0], torch.full((32,), 0.5), biases[1]])
        published[f"{attention}.qkv.bias_mask"] = torch.cat([torch.ones(32), torch.zeros(32), torch.ones(32)])
    return published


def of_perception_encoder(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Meta's PE-Core-*.pt: names of CLIP, and both encoders in one file."""
    published = {"text_projection": torch.zeros(3, 3), "logit_scale": torch.zeros(()), "visual.proj": torch.randn(32, 9)}
    for name, value in state.items():
        if name.startswith("attn_pool."):
            continue
        for part, published_part in (
            ("patch_embed.proj", "conv1"), ("pos_embed", "positional_embedding"), ("cls_token", "class_embedding"), ("norm_pre", "ln_pre"),
            ("norm1", "ln_1"), ("norm2", "ln_2"), ("blocks.", "transformer.resblocks."), ("attn.qkv.", "attn.in_proj_"),
            ("attn.proj", "attn.out_proj"), ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"),
        ):  # fmt: skip
            name = name.replace(part, published_part)
        name = f"ln_post.{name[5:]}" if name.startswith("norm.") else name
        value = value.squeeze(0) if name == "positional_embedding" else value.flatten() if name == "class_embedding" else value
        published[f"visual.{name}"] = value
    pool = {name.removeprefix("attn_pool."): value for name, value in state.items() if name.startswith("attn_pool.")}
    for kind in ("weight", "bias"):
        published[f"visual.attn_pool.attn.in_proj_{kind}"] = torch.cat([pool[f"q.{kind}"], pool[f"kv.{kind}"]])
        published[f"visual.attn_pool.attn.out_proj.{kind}"] = pool[f"proj.{kind}"]
        published[f"visual.attn_pool.layernorm.{kind}"] = pool[f"norm.{kind}"]
        for part, published_part in (("fc1", "c_fc"), ("fc2", "c_proj")):
            published[f"visual.attn_pool.mlp.{published_part}.{kind}"] = pool[f"mlp.{part}.{kind}"]
    return published | {"visual.attn_pool.probe": pool["latent"]}


def of_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's model.safetensors of a model whose image encoder is timm's."""
    return {f"visual.trunk.{name}": value for name, value in state.items()} | {
        "logit_scale": torch.zeros(()),
        "text.token_embedding.weight": torch.zeros(9, 3),
        "text.transformer.resblocks.0.ln_1.bias": torch.ones(3),
    }


def of_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's model.safetensors on the Hugging Face hub, with a classifier."""
    return state | {"head.weight": torch.randn(1000, 32), "head.bias": torch.randn(1000)}


FILES: dict[str, tuple[str, dict[str, Any], Callable[[dict[str, Tensor]], dict[str, Tensor]], set[str]]] = {
    "dinov2_vits14_pretrain": ("vit_small_patch14_dinov2", {}, of_dinov2, {"mask_token", "blocks.1.ls2.gamma", "blocks.0.attn.qkv.bias"}),
    "dinov2_vits14_reg4_pretrain": (
        "vit_small_patch14_reg4_dinov2", {}, of_dinov2_registers, {"register_tokens", "mask_token", "pos_embed", "norm.bias"},
    ),
    "dinov3_vits16_pretrain": (
        "vit_small_patch16_dinov3_qkvb", {}, of_dinov3,
        {"storage_tokens", "mask_token", "rope_embed.periods", "blocks.0.attn.qkv.bias_mask", "blocks.1.ls1.gamma"},
    ),
    "dinov3_vits16plus_pretrain": (
        "vit_small_plus_patch16_dinov3_qkvb", {}, of_dinov3, {"storage_tokens", "blocks.0.mlp.w1.weight", "blocks.0.mlp.w3.bias"},
    ),
    "dinov3_vitb16_pretrain": ("vit_base_patch16_dinov3", {}, of_dinov3, {"storage_tokens", "blocks.0.attn.qkv.bias"}),
    "PE-Core-T16-384": (
        "vit_pe_core_tiny_patch16_384", {"attn_pool_num_heads": 4}, of_perception_encoder,
        {"visual.conv1.weight", "visual.class_embedding", "visual.positional_embedding",
         "visual.transformer.resblocks.0.attn.in_proj_weight", "visual.transformer.resblocks.1.mlp.c_fc.weight",
         "visual.attn_pool.probe", "visual.attn_pool.attn.in_proj_weight"},
    ),
    "ViT-B-16-SigLIP": ("vit_base_patch16_siglip_224", {}, of_open_clip, {"visual.trunk.attn_pool.latent", "visual.trunk.pos_embed"}),
    "EVA02-B-16": ("eva02_base_patch16_clip_224", {}, of_open_clip, {"visual.trunk.blocks.0.mlp.fc1_g.weight"}),
    "timm/vit_base_patch16_rope_mixed_224": ("vit_small_patch16_rope_mixed_224", {}, of_timm, {"rope.freqs", "head.weight"}),
    "timm/vit_small_patch16_dinov3": ("vit_small_patch16_dinov3", {}, of_timm, {"blocks.0.gamma_1", "reg_token"}),
}  # fmt: skip
"""Name of the file -> (backbone, options, timm's names to the published ones, some of those)."""


@pytest.mark.parametrize("file", FILES)
@torch.no_grad()
def test_a_published_file_gives_the_outputs_of_its_model(file: str, tmp_path: Path) -> None:
    backbone, options, published_names, some_names = FILES[file]
    model = random_model(backbone, **options)
    if backbone == "vit_base_patch16_dinov3":  # the published keys have biases, which the mask sets to 0
        published_names = lambda state: {n: v * 0 if n.endswith("qkv.bias") else v for n, v in of_dinov3(state).items()}  # noqa: E731
    state = published_names({name: value for name, value in model.trunk.state_dict().items() if not name.startswith("head.")})
    assert some_names <= set(state)
    safetensors.torch.save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "w.safetensors")
    loaded = build(backbone, weights=str(tmp_path / "w.safetensors"), **options)
    torch.testing.assert_close(loaded(images()).embedding, model(images()).embedding, atol=1e-5, rtol=1e-4)
    larger = build(backbone, weights=str(tmp_path / "w.safetensors"), image_size=48, **options)
    assert larger(images(48)).tokens.shape == (2, 36, 32)


def test_biases_are_never_dropped_silently(tmp_path: Path) -> None:
    state = of_dinov3(dict(random_model("vit_small_patch16_dinov3_qkvb").trunk.state_dict()))
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="biases of queries and values, which this backbone lacks: .*_qkvb"):
        build("vit_small_patch16_dinov3", weights=str(tmp_path / "w.safetensors"))
    with pytest.raises(ValueError, match="DINOv3 of width 32: choose the backbone of that size among .*vit_small_patch16_dinov3"):
        build("vit_tiny_patch16_224", weights=str(tmp_path / "w.safetensors"))


# ---- transformers

_OF_VIT = (
    ("norm.", "layernorm."), ("blocks.", "encoder.layer."), ("attn.proj.", "attention.output.dense."), ("norm1.", "layernorm_before."),
    ("norm2.", "layernorm_after."), ("mlp.fc1.", "intermediate.dense."), ("mlp.fc2.", "output.dense."),
    ("cls_token", "embeddings.cls_token"), ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj.", "embeddings.patch_embeddings.projection."), ("attn.", "attention.attention."),
)  # fmt: skip
_OF_DINOV3 = (
    ("blocks.", "layer."), ("attn.proj.", "attention.o_proj."), ("mlp.fc1_g.", "mlp.gate_proj."), ("mlp.fc1_x.", "mlp.up_proj."),
    ("mlp.fc1.", "mlp.up_proj."), ("mlp.fc2.", "mlp.down_proj."), ("gamma_1", "layer_scale1.lambda1"), ("gamma_2", "layer_scale2.lambda1"),
    ("cls_token", "embeddings.cls_token"), ("reg_token", "embeddings.register_tokens"),
    ("patch_embed.proj.", "embeddings.patch_embeddings."), ("attn.", "attention."),
)  # fmt: skip
_OF_SIGLIP = (
    ("norm.", "post_layernorm."), ("attn_pool.latent", "head.probe"), ("attn_pool.proj.", "head.attention.out_proj."),
    ("attn_pool.in_proj_", "head.attention.in_proj_"), ("attn_pool.norm.", "head.layernorm."), ("attn_pool.mlp.", "head.mlp."),
    ("blocks.", "encoder.layers."), ("attn.proj.", "self_attn.out_proj."), ("norm1.", "layer_norm1."), ("norm2.", "layer_norm2."),
    ("norm_pre.", "pre_layrnorm."), ("cls_token", "embeddings.class_embedding"), ("pos_embed", "embeddings.position_embedding.weight"),
    ("patch_embed.proj.", "embeddings.patch_embedding."), ("attn.", "self_attn."),
)  # fmt: skip
NAMED: dict[str, tuple[str, tuple[tuple[str, str], ...], tuple[str, ...], str, set[str]]] = {
    "google/vit-base-patch16-224": (
        "vit_tiny_patch16_224", _OF_VIT, ("query", "key", "value"), "vit.",
        {"vit.embeddings.cls_token", "vit.encoder.layer.0.attention.attention.query.weight", "vit.layernorm.bias"},
    ),
    "facebook/dinov3-vits16plus": (
        "vit_small_plus_patch16_dinov3_qkvb", _OF_DINOV3, ("q_proj", "k_proj", "v_proj"), "",
        {"embeddings.register_tokens", "layer.0.attention.q_proj.weight", "layer.1.mlp.gate_proj.bias", "layer.0.layer_scale1.lambda1"},
    ),
    "google/siglip2-base-patch16-256": (
        "vit_base_patch16_siglip_256", _OF_SIGLIP, ("q_proj", "k_proj", "v_proj"), "vision_model.",
        {"vision_model.head.probe", "vision_model.encoder.layers.1.self_attn.q_proj.bias", "vision_model.post_layernorm.weight"},
    ),
    "openai/clip-vit-base-patch16": (
        "vit_base_patch16_clip_quickgelu_224", _OF_SIGLIP, ("q_proj", "k_proj", "v_proj"), "vision_model.",
        {"vision_model.embeddings.class_embedding", "vision_model.pre_layrnorm.weight", "vision_model.encoder.layers.0.mlp.fc1.weight"},
    ),
}  # fmt: skip
"""Repository -> (backbone, parts of names, names of queries, keys and values, prefix, some names of the file)."""


def transformers_file(state: dict[str, Tensor], parts: tuple[tuple[str, str], ...], qkv: tuple[str, ...], prefix: str) -> dict[str, Tensor]:
    joint = {}
    for name, value in state.items():
        kind = name.rsplit(".", 1)[-1]
        if "attn.qkv." in name:
            joint |= {f"{name.split('qkv')[0]}{letter}.{kind}": part for letter, part in zip(qkv, value.chunk(3), strict=True)}
        elif kind in ("q_bias", "v_bias"):
            joint[name.replace(kind, f"{kind[0]}_proj.bias")] = value
        elif name.startswith("attn_pool.q."):
            joint[f"attn_pool.in_proj_{kind}"] = torch.cat([value, state[name.replace("pool.q.", "pool.kv.")]])
        elif not name.startswith("attn_pool.kv."):
            joint[name] = value
    file = {"logit_scale": torch.zeros(()), "text_model.embeddings.token_embedding.weight": torch.zeros(3, 3)} if "model" in prefix else {}
    for name, value in joint.items():
        if prefix == "vision_model." and name in ("pos_embed", "cls_token"):
            value = value[0] if name == "pos_embed" else value.flatten()
        for part, published_part in parts:
            if name.startswith(part) or (f".{part}" in name and part not in ("norm.", "attn_pool.norm.")):
                name = name.replace(part, published_part, 1)
        file[prefix + name] = value.contiguous()
    return file | {"classifier.weight": torch.zeros(3, 3)}


@pytest.mark.parametrize("repository", NAMED)
@torch.no_grad()
def test_a_file_with_names_of_transformers_gives_the_outputs_of_its_model(repository: str, tmp_path: Path) -> None:
    backbone, parts, qkv, prefix, some_names = NAMED[repository]
    model = random_model(backbone)
    state = {name: value for name, value in model.trunk.state_dict().items() if not name.startswith("head.")}
    file = transformers_file(state, parts, qkv, prefix)
    assert some_names <= set(file)
    safetensors.torch.save_file(file, tmp_path / "w.safetensors")
    loaded = build(backbone, weights=str(tmp_path / "w.safetensors"))
    torch.testing.assert_close(loaded(images()).embedding, model(images()).embedding, atol=1e-5, rtol=1e-4)


TINY: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
TRANSFORMERS: dict[str, tuple[str, dict[str, Any], str, set[str]]] = {
    "ViT": (
        "vit_tiny_patch16_224", {"intermediate_size": 128}, "cls",
        {"embeddings.position_embeddings", "encoder.layer.0.attention.attention.query.weight", "encoder.layer.1.output.dense.bias"},
    ),
    "Dinov2": (
        "vit_small_patch14_dinov2", {}, "cls",
        {"embeddings.mask_token", "encoder.layer.0.layer_scale1.lambda1", "encoder.layer.1.mlp.fc1.weight", "layernorm.weight"},
    ),
    "Dinov2WithRegisters": ("vit_small_patch14_reg4_dinov2", {}, "cls", {"embeddings.register_tokens"}),
    "DINOv3ViT": (
        "vit_small_patch16_dinov3_qkvb", {"intermediate_size": 128, "num_register_tokens": 4}, "cls",
        {"embeddings.register_tokens", "layer.0.attention.q_proj.weight", "layer.1.mlp.up_proj.weight", "layer.0.layer_scale1.lambda1"},
    ),
    "CLIPVision": (
        "vit_base_patch16_clip_224", {"intermediate_size": 128, "hidden_act": "gelu"}, "pooled",
        {"vision_model.embeddings.class_embedding", "vision_model.pre_layrnorm.weight",
         "vision_model.encoder.layers.0.self_attn.k_proj.bias"},
    ),
    "SiglipVision": (
        "vit_base_patch16_siglip_224", {"intermediate_size": 128, "hidden_act": "gelu"}, "pooled",  # by default a tanh is near to GELU
        {"vision_model.embeddings.position_embedding.weight", "vision_model.head.probe", "vision_model.head.attention.in_proj_weight"},
    ),
}  # fmt: skip
"""Class of transformers -> (backbone, further settings, where its vector is, some names of its published files)."""


@pytest.mark.parametrize("kind", TRANSFORMERS)
@torch.no_grad()
def test_a_file_of_transformers_gives_the_outputs_of_transformers(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="of the extra cvt")
    backbone, settings, vector, some_names = TRANSFORMERS[kind]
    config = getattr(transformers, f"{kind}Config")(**{**TINY, **settings})
    model = getattr(transformers, f"{kind}Model")(config).eval()
    generator = torch.Generator().manual_seed(8)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    model.save_pretrained(tmp_path)
    file = str(tmp_path / "model.safetensors")
    found = {name.removeprefix("vision_model.") for name in safetensors.torch.load_file(file)}
    assert {name.removeprefix("vision_model.") for name in some_names} <= found
    loaded = build(backbone, weights=file)
    out = model(images())
    expected = out.last_hidden_state[:, 0] if vector == "cls" else out.pooler_output
    torch.testing.assert_close(loaded(images()).embedding, expected, atol=1e-4, rtol=1e-3)

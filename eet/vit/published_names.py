"""Weights of ViTs under the names in which their owners publish them: timm, open_clip, Meta, and Hugging Face's transformers."""

import re
from collections.abc import Mapping

import torch
from timm.models.eva import Eva, EvaAttention
from timm.models.eva import checkpoint_filter_fn as eva_weights
from timm.models.vision_transformer import checkpoint_filter_fn as vit_weights
from torch import Tensor, nn

from eet.errors import InputError

_PERCEPTION_ENCODER = {"visual.conv1.weight", "conv1.weight"}

_NAMES = (
    (r"^(vit|deit|dinov2|dinov2_with_registers|dinov3_vit|model)\.", ""),
    (r"^embeddings\.(cls_token|class_embedding)$", "cls_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.position_embedding(s|\.weight)$", "pos_embed"),
    (r"^embeddings\.patch_embeddings?\.(projection\.)?", "patch_embed.proj."),
    (r"^(encoder\.|model\.)?layers?\.(\d+)\.", r"blocks.\2."),
    (r"\.(attention\.attention|attention|self_attn)\.(query|key|value|q_proj|k_proj|v_proj)\.", r".attn.\2."),
    (r"\.(attention\.output\.dense|attention\.o_proj|self_attn\.out_proj)\.", ".attn.proj."),
    (r"\.(layernorm_before|layer_norm1)\.", ".norm1."),
    (r"\.(layernorm_after|layer_norm2)\.", ".norm2."),
    (r"\.(intermediate\.dense|mlp\.weights_in)\.", ".mlp.fc1."),
    (r"\.(output\.dense|mlp\.weights_out|mlp\.down_proj)\.", ".mlp.fc2."),
    (r"\.mlp\.gate_proj\.", ".mlp.fc1_g."),
    (r"^(layernorm|post_layernorm)\.", "norm."),
    (r"^pre_layrnorm\.", "norm_pre."),
    (r"^head\.probe$", "attn_pool.latent"),
    (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
    (r"^head\.attention\.in_proj_", "attn_pool.in_proj."),
    (r"^head\.layernorm\.", "attn_pool.norm."),
    (r"^head\.mlp\.", "attn_pool.mlp."),
)
"""Patterns of transformers' names and what timm calls the same, applied one after another."""

_NOT_OF_THE_TRUNK = re.compile(r"^(pooler|classifier|cls_classifier|distillation_classifier)\.|mask_token$|position_ids$|inv_freq$")
_PART = re.compile(r"^(.*\.attn)\.(query|key|value|q_proj|k_proj|v_proj)\.(weight|bias)$")


def adapted_weights(state: dict[str, Tensor], trunk: nn.Module) -> Mapping[str, Tensor]:
    """The weights of a published file under the names and in the shapes of `trunk`, by timm's own conversion.

    Args:
        state: weights with names of timm, open_clip, or of Meta's DINOv2, DINOv3 and Perception Encoder.
        trunk: timm VisionTransformer or Eva.

    Raises:
        InputError: the file has biases that are not 0, and `trunk` has no such biases.
    """
    if not isinstance(trunk, Eva):
        return vit_weights(state, trunk)
    attention = trunk.blocks[0].attn
    if isinstance(attention, EvaAttention) and attention.qkv is not None and attention.q_bias is None:
        # timm leaves these biases out without looking at them.
        biases = {name for name in state if name.endswith(("attn.qkv.bias", "attn.q_bias", "attn.v_bias"))}
        if any(bool((state[name] * state.get(f"{name}_mask", torch.ones(()))).any()) for name in biases):
            raise InputError("it has biases of queries and values, which this backbone lacks: choose one with _qkvb at the end of its name")
        state = {name: value for name, value in state.items() if name not in biases}
    named = eva_weights(state, trunk)
    # Names of Meta's Perception Encoder are converted without resizing; the second pass resizes.
    return eva_weights(named, trunk) if _PERCEPTION_ENCODER & state.keys() else named


def has_transformers_names(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the weights of a ViT of transformers."""
    return any("embeddings.patch_embedding" in name for name in state)


def timm_names(state: Mapping[str, Tensor], *, rotary: bool) -> dict[str, Tensor]:
    """The same weights under timm's names; those of text encoders and classifiers are left out.

    Args:
        state: weights by transformers' names.
        rotary: for timm's Eva, which has DINOv3: it names layer scales and biases of queries otherwise than timm's VisionTransformer.

    Returns:
        Weights by name. What is not known keeps its name, so that an error can show it.
    """
    if any(name.startswith("vision_model.") for name in state):
        state = {name.removeprefix("vision_model."): value for name, value in state.items() if name.startswith("vision_model.")}
    named: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        if _NOT_OF_THE_TRUNK.search(name):
            continue
        if part := _PART.match(name):
            parts.setdefault(part[1], {})[f"{part[2][0]}.{part[3]}"] = value
        else:
            named[name] = value
    for attention, values in parts.items():
        named |= {f"{attention}.{name}": value for name, value in _joined(values, rotary=rotary).items()}
    gated = any(".mlp.fc1_g." in name for name in named)
    named = {name.replace(".mlp.up_proj.", ".mlp.fc1_x." if gated else ".mlp.fc1."): value for name, value in named.items()}
    scale = r"gamma_\1" if rotary else r"ls\1.gamma"
    named = {re.sub(r"layer_scale([12])\.lambda1$", scale, name): value for name, value in named.items()}
    return _with_timm_shapes(named)


def _joined(parts: Mapping[str, Tensor], *, rotary: bool) -> dict[str, Tensor]:
    """One projection of queries, keys and values, from three."""
    joined = {"qkv.weight": torch.cat([parts[f"{letter}.weight"] for letter in "qkv"])}
    if "q.bias" not in parts:
        return joined
    keys = parts.get("k.bias", torch.zeros_like(parts["q.bias"]))
    if rotary:
        return joined | {"q_bias": parts["q.bias"], "v_bias": parts["v.bias"]}
    return joined | {"qkv.bias": torch.cat([parts["q.bias"], keys, parts["v.bias"]])}


def _with_timm_shapes(named: dict[str, Tensor]) -> dict[str, Tensor]:
    if (cls := named.get("cls_token")) is not None:
        named["cls_token"] = cls.reshape(1, 1, -1)
    if (positions := named.get("pos_embed")) is not None:
        positions = positions if positions.ndim == 3 else positions.unsqueeze(0)
        if "reg_token" in named:  # DINOv2 with registers: timm adds the position of CLS to CLS itself
            named["cls_token"], positions = named["cls_token"] + positions[:, :1], positions[:, 1:]
        named["pos_embed"] = positions
    for kind in ("weight", "bias"):
        if (joint := named.pop(f"attn_pool.in_proj.{kind}", None)) is not None:
            width = len(joint) // 3
            named[f"attn_pool.q.{kind}"], named[f"attn_pool.kv.{kind}"] = joint[:width], joint[width:]
    return named

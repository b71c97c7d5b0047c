"""Building students and teachers: from the name of a timm ViT, with weights of timm, of a file or random; or from a state dict."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import timm
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from eet.errors import InputError
from eet.hashing import Projection
from eet.images import Preprocessing
from eet.options.choices import Fit, HashInput
from eet.options.defaults import DEFAULT_LABEL_WEIGHT
from eet.options.image_size import ImageSize
from eet.options.schedule import PUBLISHED_KEEP_RATIOS, PUBLISHED_PRUNE_AFTER, PruningSchedule
from eet.storage import one_line
from eet.vit.published_names import adapted_weights, has_transformers_names, timm_names
from eet.vit.student import Student
from eet.vit.timm_names import built, sketch
from eet.vit.trunk import Trunk, check_trunk, has_cls
from eet.vit.whole_patches import check_whole_patches

_WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes that DataParallel and torch.compile add to every name."""

_CLIP_SIZES = {256: "xsmall", 512: "medium", 768: "base", 1024: "large", 1280: "huge"}
"""Width of a CLIP ViT -> size in timm's model name."""

_PLAIN_FILE = (
    "Give a .safetensors file, or a .pt file of tensors alone: if you trust this one, open it with the program that wrote it and keep "
    "torch.save(model.state_dict(), FILE)"
)


def build_student(
    backbone: str,
    *,
    num_classes: int,
    num_bits: int,
    schedule: PruningSchedule,
    image_size: ImageSize | None = None,
    weights: str = "timm",
    backbone_options: Mapping[str, Any] | None = None,
    hash_input: HashInput = "logits",
    label_weight: float = DEFAULT_LABEL_WEIGHT,
    fit: Fit = "crop",
    seed: int = 0,
) -> Student:
    """Builds a student on a timm ViT, or a teacher if the schedule is empty. Both heads get random weights.

    Args:
        backbone: name of a timm ViT, for example 'deit_small_patch16_224' or 'vit_small_patch16_dinov3', see `timm_vit`.
        num_classes: number of training labels, the outputs of the classification head.
        num_bits: length of the hash, the outputs of the hash head.
        schedule: pruning stages; an empty schedule makes a teacher.
        image_size: side of a square input in pixels, or (height, width); None for the backbone's own. Position embeddings are resized to
            it.
        weights: 'timm' (pretrained, downloaded by timm), 'none' (random), or a file: .safetensors, or .pt / .pth opened with
            weights_only=True, with weight names of timm, open_clip, transformers or Meta's models. Its classifier is dropped; patch and
            position embeddings are resized where needed. A file does not record its activation: for weights of OpenAI's CLIP choose a
            backbone with quickgelu in its name.
        backbone_options: further arguments of timm's constructor (patch_size, depth, embed_dim, num_heads, ...).
        hash_input, label_weight: what the hash head reads, see `Student`.
        fit: how images of another shape become inputs, see `Preprocessing`.
        seed: of the random weights and heads.

    Returns:
        The model in training mode, float32, on the CPU.

    Raises:
        InputError: an unknown backbone, a model that is no ViT of one resolution, an unknown option, an image size that is no multiple of
            the patch size, or weights that do not fit.
    """
    options: dict[str, Any] = dict(backbone_options or {})
    if image_size is not None:
        options["img_size"] = image_size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trunk = timm_vit(backbone, options, num_classes=num_classes, pretrained=weights == "timm")
        if image_size is not None:
            check_whole_patches(backbone, trunk.patch_embed.img_size, trunk.patch_embed.patch_size)
        if weights not in ("timm", "none"):
            load_trunk_weights(trunk, read_state_dict(weights), source=weights)
        student = Student(
            trunk,
            num_bits=num_bits,
            schedule=schedule,
            preprocessing=preprocessing_of(trunk).with_fit(fit),
            hash_input=hash_input,
            label_weight=label_weight,
            backbone=backbone,
            backbone_options=options,
        )
    student.reset_heads(torch.Generator().manual_seed(seed))
    return student


def timm_vit(backbone: str, options: Mapping[str, Any], *, num_classes: int, pretrained: bool) -> Trunk:
    """A timm ViT of which students can be made, with a classifier of `num_classes` outputs (0: none), for images of one size.

    It pools as its own weights were trained, or by the option global_pool. There is one exception: a model that timm pools by the mean
    although its final norm comes before the mean, such as DINOv3, gives its CLS token, as its authors do.

    Raises InputError where `backbone` is not such a ViT, or its options do not fit.
    """
    own = sketch(backbone, options)
    check_trunk(own, f"backbone {backbone!r}")
    assert isinstance(own, Trunk)
    settings: dict[str, Any] = {"global_pool": _own_pooling(own)}
    if own.dynamic_img_size:
        settings["dynamic_img_size"] = False  # positions are computed once, and images of another size are refused
    trunk = built(backbone, {**settings, **options}, num_classes=num_classes, pretrained=pretrained)
    assert isinstance(trunk, Trunk)
    if isinstance(trunk, VisionTransformerDistilled):
        # The second classifier reads the distillation token, which hashing does not use; it would be an untrained parameter.
        trunk.head_dist = nn.Identity()
    return trunk


def _own_pooling(trunk: Trunk) -> str:
    normed_before = not isinstance(trunk.norm, nn.Identity)
    return "token" if trunk.global_pool == "avg" and has_cls(trunk) and normed_before else trunk.global_pool


def preprocessing_of(trunk: Any, image_size: tuple[int, int] | None = None) -> Preprocessing:
    """The published preprocessing with the mean and std that a timm model was trained with.

    Args:
        trunk: a timm model.
        image_size: (height, width) of the input in pixels; None for the size of the model's patch embedding.
    """
    height, width = image_size or trunk.patch_embed.img_size
    known = getattr(trunk, "pretrained_cfg", None) or {}
    return Preprocessing.published(
        image_size=(height, width),
        mean=tuple(known.get("mean") or Preprocessing.IMAGENET_MEAN),
        std=tuple(known.get("std") or Preprocessing.IMAGENET_STD),
    )


def read_state_dict(path: str) -> dict[str, Tensor]:
    """Reads the tensors of a checkpoint file by name, without running code from it.

    Weights nested under 'model' or 'state_dict' are unwrapped. A prefix of all names that DataParallel ('module.') or torch.compile
    ('_orig_mod.') added is removed.

    Args:
        path: a local .safetensors file; any other file is read in torch's format with weights_only=True.

    Raises:
        InputError: there is no such file, or it does not hold a dictionary of tensors.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"weights {path!r}: no such file. Give a .safetensors or .pt file, 'timm' (download) or 'none' (random)")
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(
            f"weights {path!r} cannot be read as {'safetensors' if file.suffix == '.safetensors' else 'tensors'}: {error}. {_PLAIN_FILE}"
        ) from error
    for nest in ("model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(nest), dict):
            state = state[nest]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"weights {path!r} hold no plain dictionary of tensors. {_PLAIN_FILE}")
    return _without_wrappers(state)


def _without_wrappers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    while prefix := next((prefix for prefix in _WRAPPERS if state and all(name.startswith(prefix) for name in state)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def load_trunk_weights(
    trunk: nn.Module,
    state: Mapping[str, Tensor],
    *,
    source: str,
    heads: tuple[str, ...] = ("head.", "head_hash.", "head_dist."),
    adapt: Callable[[dict[str, Tensor], nn.Module], Mapping[str, Tensor]] | None = None,
) -> None:
    """Loads all weights except the classifier's into `trunk`.

    Args:
        trunk: the model to fill.
        state: weights by name.
        source: what error messages call the weights.
        heads: prefixes of the classifiers' names.
        adapt: converts a checkpoint's weights to those of `trunk`. The default is timm's for a ViT of this class: it resizes patch and
            position embeddings, and takes the image encoder (visual.*) of an open_clip model, and the names of Meta's DINOv2, DINOv3 and
            Perception Encoder. Names of transformers are converted before it.

    Raises:
        InputError: weights are missing, unknown or of another shape; the message names them.
    """
    adapt = adapt or adapted_weights
    if has_transformers_names(state):
        state = timm_names(state, rotary=isinstance(trunk, Eva))
    without_heads = {name: value.float() for name, value in state.items() if not name.startswith(heads)}
    expected = {name: value for name, value in trunk.state_dict().items() if not name.startswith(heads)}
    try:
        # Adapting may add a classifier: CLIP's projection into the space shared with text.
        adapted = {name: value for name, value in adapt(without_heads, trunk).items() if not name.startswith(heads)}
    except InputError as error:
        raise InputError(f"weights {source!r} do not fit this backbone: {error}") from error
    except Exception as error:
        raise InputError(f"weights {source!r} do not fit this backbone: {error}. {_advice(state)}") from error
    problems = [f"missing {name}" for name in expected if name not in adapted]
    problems += [f"unknown {name}" for name in adapted if name not in expected]
    problems += [
        f"{name} is {tuple(value.shape)}, needs {tuple(expected[name].shape)}"
        for name, value in adapted.items()
        if name in expected and value.shape != expected[name].shape
    ]
    if problems:
        shown = "; ".join(problems[:4]) + (f"; and {len(problems) - 4} more" if len(problems) > 4 else "")
        raise InputError(f"weights {source!r} do not fit this backbone: {shown}. {_advice(state)}")
    trunk.load_state_dict(adapted, strict=False)


def _advice(state: Mapping[str, Tensor]) -> str:
    if "storage_tokens" in state and "patch_embed.proj.weight" in state:
        width = state["patch_embed.proj.weight"].shape[0]
        known = ", ".join(timm.list_models("vit_*_dinov3*"))
        return f"The file holds DINOv3 of width {width}: choose the backbone of that size among {known}"
    if "visual.class_embedding" in state and "visual.conv1.weight" in state:
        width, _, patch, _ = state["visual.conv1.weight"].shape
        size = _CLIP_SIZES.get(width, "*")
        known = timm.list_models(f"vit_{size}_patch{patch}_clip_*") or timm.list_models("vit_*_clip_*")
        return (
            f"The file holds a CLIP model with a ViT of width {width}, patch {patch}: choose a backbone of that size with clip in its "
            f"name, such as {', '.join(known[:4])} (quickgelu is for weights of OpenAI)"
        )
    if any(name.startswith("visual.") for name in state):
        return "The file holds a CLIP model whose image encoder is not open_clip's ViT: choose a file of timm or open_clip for a ViT"
    return "Choose the backbone and the options that the file was trained with, or a file whose weights have timm's names"


def student_from_state_dict(
    state: Mapping[str, Any],
    *,
    num_heads: int,
    prune_after: tuple[int, ...] = PUBLISHED_PRUNE_AFTER,
    keep_ratios: tuple[float, ...] = PUBLISHED_KEEP_RATIOS,
    preprocessing: Preprocessing | None = None,
    hash_input: HashInput = "logits",
    temperature: float = 1.0,
    label_weight: float = DEFAULT_LABEL_WEIGHT,
) -> Student:
    """Builds a student from its weights alone; all sizes follow from the shapes of the tensors.

    The input is assumed to be square, the epsilon of LayerNorm to be 1e-6 (as published, and timm's default for a ViT).

    Args:
        state: tensors or arrays by name, any floating dtype (converted to float32): timm's ViT names plus head.* and head_hash.*.
        num_heads: number of attention heads, which the shapes do not show.
        prune_after: block numbers of the pruning stages, see `PruningSchedule`; () makes a teacher.
        keep_ratios: one ratio in (0, 1] for each stage; ignored for a teacher.
        preprocessing: of the images; None for the published one at the size that pos_embed implies.
        hash_input, temperature, label_weight: what the hash head reads, see `Student`.

    Returns:
        The student in eval mode, float32, on the CPU.

    Raises:
        InputError: names or shapes do not form a ViT.
    """
    # The distillation token has its own classifier, which hashing does not use.
    tensors = {name: torch.as_tensor(value).float() for name, value in state.items() if not name.startswith("head_dist.")}
    needed = ("cls_token", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "head.weight", "head_hash.weight")
    missing = [name for name in needed if name not in tensors]
    if missing:
        raise InputError(f"the state dict lacks {missing}; it needs timm's ViT names plus head.* and head_hash.*")
    if not prune_after:
        keep_ratios = ()
    width, channels, *patch = tensors["patch_embed.proj.weight"].shape
    if width % num_heads:
        raise InputError(f"{num_heads} heads do not divide the width {width}")
    depth = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))
    num_registers = tensors["reg_token"].shape[1] if "reg_token" in tensors else 0
    num_prefix = 1 + num_registers + ("dist_token" in tensors)
    length = tensors["pos_embed"].shape[1] if "pos_embed" in tensors else None
    if length is None:
        raise InputError("the state dict lacks pos_embed, from which the patch grid is derived")
    no_embed_class = math.isqrt(length) ** 2 == length and math.isqrt(length - num_prefix) ** 2 != length - num_prefix
    side = math.isqrt(length if no_embed_class else length - num_prefix)
    if side * side != (length if no_embed_class else length - num_prefix):
        raise InputError(f"pos_embed of length {length} with {num_prefix} prefix tokens is not a square patch grid")
    vit = VisionTransformerDistilled if "dist_token" in tensors else VisionTransformer
    trunk = vit(
        img_size=(side * patch[0], side * patch[1]),
        patch_size=tuple(patch),
        in_chans=channels,
        num_classes=tensors["head.weight"].shape[0],
        embed_dim=width,
        depth=depth,
        num_heads=num_heads,
        mlp_ratio=tensors["blocks.0.mlp.fc1.weight"].shape[0] / width,
        qkv_bias="blocks.0.attn.qkv.bias" in tensors,
        qk_norm="blocks.0.attn.q_norm.weight" in tensors,
        init_values=1.0 if "blocks.0.ls1.gamma" in tensors else None,
        no_embed_class=no_embed_class,
        reg_tokens=num_registers,
        pre_norm="norm_pre.weight" in tensors,
    )
    if isinstance(trunk, VisionTransformerDistilled):
        trunk.head_dist = nn.Identity()
    student = Student(
        trunk,
        num_bits=tensors["head_hash.weight"].shape[0],
        schedule=PruningSchedule(prune_after, keep_ratios),
        preprocessing=preprocessing or preprocessing_of(trunk),
        hash_input=hash_input,
        temperature=temperature,
        label_weight=label_weight,
    )
    load_named_weights(student, tensors)
    return student.eval()


def timm_named_weights(student: Student) -> dict[str, Tensor]:
    """The student's weights under timm's names plus head_hash.* and whitening.*, as in a bundle's file and in other tools."""
    return {name.removeprefix("trunk."): value for name, value in student.state_dict().items()}


def load_named_weights(student: Student, state: Mapping[str, Tensor]) -> None:
    """Loads weights under timm's names plus head_hash.* and whitening.*. A whitening layer is made if there are weights for it.

    Raises:
        InputError: weights are missing, unknown or of another shape; the message names them.
    """
    if {"whitening.weight", "whitening.bias"} <= set(state) and student.hash_input == "joint":
        width = student.embedding_width
        student.set_whitening(Projection(np.eye(width), np.zeros(width)))
    names = {name.removeprefix("trunk."): name for name in student.state_dict()}
    unknown = [name for name in state if name not in names]
    if unknown:
        raise InputError(f"the state dict has weights that this student lacks: {unknown[:4]}{' ...' if len(unknown) > 4 else ''}")
    try:
        student.load_state_dict({names[name]: value for name, value in state.items()})
    except RuntimeError as error:
        raise InputError(f"the state dict does not fit this student: {one_line(error)}") from error

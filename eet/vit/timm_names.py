"""timm's models by name: which kind of network a name stands for, found without its weights."""

from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import nn

from eet.errors import InputError
from eet.storage import one_line
from eet.vit.initial_values import WithoutInitialValues

_NOT_OF_A_NETWORK = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "scriptable", "exportable"}
_BUILDING = (AssertionError, TypeError, ValueError, RuntimeError)


def check_options(options: Mapping[str, Any]) -> None:
    """InputError where a backbone's options name files or downloads: a bundle must not make its reader open other files."""
    if found := sorted(_NOT_OF_A_NETWORK & options.keys()):
        raise InputError(f"backbone options {', '.join(found)} do not describe a network: weights are named by --weights")


def check_name(backbone: str) -> None:
    """InputError, with names that begin alike, where timm has no model of this name."""
    if not timm.is_model(backbone):
        first = backbone.split("_")[0]
        close = timm.list_models(f"*{first}*patch*")[:5] or timm.list_models(f"{first.rstrip('0123456789')}*")[:5]
        raise InputError(
            f"backbone {backbone!r} is not a timm model; for example {close or ['deit_small_patch16_224', 'vit_small_patch16_224']}"
        )


def sketch(backbone: str, options: Mapping[str, Any]) -> nn.Module:
    """The named model on torch's meta device, which stores no numbers, and one block deep if it is a ViT: its class and its settings.

    Args:
        backbone: name of a timm model.
        options: further arguments of its constructor.

    Raises:
        InputError: an unknown name, an option that does not describe a network, or options that do not fit.
    """
    check_options(options)
    check_name(backbone)
    # The whole model is built only where it takes no depth, or where another option must have one value for each block.
    depths: list[dict[str, Any]] = [{"depth": 1}, {}]
    for depth in depths:
        try:
            with torch.random.fork_rng(devices=[]), WithoutInitialValues():
                return timm.create_model(backbone, pretrained=False, device="meta", **{"num_classes": 0, **options, **depth})
        except _BUILDING as error:
            if depth == depths[-1]:
                raise InputError(f"backbone {backbone!r} with options {dict(options)} cannot be built: {one_line(error)}") from error
    raise AssertionError


def built(backbone: str, options: Mapping[str, Any], *, num_classes: int, pretrained: bool) -> nn.Module:
    """The named model. InputError where options do not fit, or timm has no weights for it although `pretrained` asks for them."""
    try:
        return timm.create_model(backbone, pretrained=pretrained, num_classes=num_classes, **options)
    except _BUILDING as error:
        raise InputError(
            f"backbone {backbone!r} with options {dict(options)} cannot be built: {one_line(error)}. Its timm class must accept the "
            "options, and timm must have weights for it if weights are 'timm'"
        ) from error

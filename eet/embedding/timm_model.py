"""A timm model of one architecture by name, without its classifier."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from eet.errors import InputError
from eet.vit.timm_names import built, check_name, check_options


def timm_model(name: str, options: Mapping[str, Any], architecture: type[nn.Module], *, pretrained: bool) -> Any:
    """Builds a timm model without a classifier. InputError for an unknown name, another architecture, or options that do not fit."""
    check_options(options)
    check_name(name)
    model = built(name, options, num_classes=0, pretrained=pretrained)
    if type(model) is not architecture:
        raise InputError(f"backbone {name!r} is a {type(model).__name__}, not a timm {architecture.__name__}")
    return model

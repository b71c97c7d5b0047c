"""A timm model of one architecture by name, without its classifier."""

from collections.abc import Mapping
from typing import Any

import timm
from torch import nn

from eet.errors import InputError


def timm_model(name: str, options: Mapping[str, Any], architecture: type[nn.Module], *, pretrained: bool) -> Any:
    """Builds a timm model without a classifier. InputError for an unknown name, another architecture, or options that do not fit."""
    if not timm.is_model(name):
        close = timm.list_models(f"{name.split('_')[0].rstrip('0123456789')}*")[:5]
        raise InputError(f"backbone {name!r} is not a timm model; for example {close}")
    try:
        model = timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"backbone {name!r} with options {dict(options)} cannot be built: {error}. timm must have weights for it if weights are "
            f"'timm', and timm's {architecture.__name__} must accept the options"
        ) from error
    if type(model) is not architecture:
        raise InputError(f"backbone {name!r} is a {type(model).__name__}, not a timm {architecture.__name__}")
    return model

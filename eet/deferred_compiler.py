"""timm without torch's compiler, which takes longer to import than all of timm and which running a network does not need.

timm and torchvision load `torch._dynamo` while they are imported: timm marks functions of one model family (NaFlex) as not to be compiled,
torchvision asks whether one of its operators can be. This module imports timm with a module in the place of `torch._dynamo` that puts
both off until they are used. Afterwards `torch._dynamo` is what it always was: it is loaded when something asks for it, such as
`torch.compile`.

Packages of eet that need timm import this module first.
"""

import functools
import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch  # noqa: F401  loaded before anything stands in the place of a part of it

COMPILER, UTILS = "torch._dynamo", "torch._dynamo.utils"


def disable(function: Callable[..., Any] | None = None, recursive: bool = True, **options: Any) -> Callable[..., Any]:
    """`torch._dynamo.disable` at the first call of the function; until the compiler is loaded nothing is compiled."""
    if function is None:
        return functools.partial(disable, recursive=recursive, **options)

    @functools.wraps(function)
    def called(*args: Any, **keywords: Any) -> Any:
        if COMPILER not in sys.modules:
            return function(*args, **keywords)
        return importlib.import_module(COMPILER).disable(function, recursive, **options)(*args, **keywords)

    return called


def is_compile_supported(device_type: str) -> bool:
    """`torch._dynamo.utils.is_compile_supported`, of the real module."""
    return bool(importlib.import_module(UTILS).is_compile_supported(device_type))


class Deferred(ModuleType):
    """Stands for a module of the compiler while timm is imported; any other name is that of the real module, loaded for it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        withdraw()
        return getattr(importlib.import_module(self.__name__), name)


def withdraw() -> None:
    """Takes the modules that stand for the compiler away."""
    for name in (UTILS, COMPILER):
        if isinstance(sys.modules.get(name), Deferred):
            del sys.modules[name]


def import_timm() -> None:
    """Imports timm; where the compiler or timm is loaded already, as any import does."""
    if COMPILER in sys.modules or "timm" in sys.modules:
        importlib.import_module("timm")
        return
    compiler, utils = Deferred(COMPILER), Deferred(UTILS)
    compiler.__dict__.update(__path__=[], disable=disable, utils=utils)
    utils.__dict__.update(is_compile_supported=is_compile_supported)
    sys.modules |= {COMPILER: compiler, UTILS: utils}
    try:
        importlib.import_module("timm")
    finally:
        withdraw()


import_timm()

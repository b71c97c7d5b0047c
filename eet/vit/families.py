"""The families of timm's transformers, and which of them can be students. No weights are loaded and no memory is taken for them."""

import re
from dataclasses import dataclass

import timm
import torch

from eet.errors import InputError
from eet.options.schedule import PruningSchedule
from eet.vit.backbone import preprocessing_of, timm_vit
from eet.vit.student import Student

BY_NAME = ("vision_transformer", "eva", "deit", "vision_transformer_hybrid")
"""Modules of timm with plain ViTs, which hold many families: those whose names differ in more than a size."""

BY_MODULE = (
    "beit",
    "vision_transformer_relpos",
    "vision_transformer_sam",
    "naflexvit",
    "deepseek_vit",
    "gemma4_vit",
    "qwen3_vit",
    "cait",
    "coat",
    "convit",
    "crossvit",
    "davit",
    "edgenext",
    "efficientformer",
    "efficientformer_v2",
    "efficientvit_mit",
    "efficientvit_msra",
    "fastvit",
    "gcvit",
    "hiera",
    "hieradet_sam2",
    "iformer",
    "levit",
    "maxxvit",
    "metaformer",
    "mobilevit",
    "mvitv2",
    "nest",
    "nextvit",
    "pit",
    "pvt_v2",
    "swiftformer",
    "swin_transformer",
    "swin_transformer_v2",
    "swin_transformer_v2_cr",
    "tiny_vit",
    "tnt",
    "twins",
    "visformer",
    "vitamin",
    "volo",
    "xcit",
)
"""Modules of timm with windowed, hierarchical or otherwise different transformers, one family each."""

_PREFERRED = ("small", "base", "tiny", "medium", "large")
_SIZES = {
    *_PREFERRED,
    "little",
    "mediumd",
    "huge",
    "giant",
    "giantopt",
    "gigantic",
    "enormous",
    "wee",
    "pwee",
    "dwee",
    "dpwee",
    "dlittle",
    "plus",
}
_SIZES |= {"betwixt", "so150m", "so150m2", "so400m", "xsmall", "intern300m"}
_NO_NAME = re.compile(r"\d+b?|(patch|window|s|p)\d+")
_NUMBERED = re.compile(r"(reg|r|resnet)\d+d?")


@dataclass(frozen=True)
class Family:
    """Models of timm that differ in size, patch and resolution alone.

    Attributes:
        name: what their names share, such as "vit_dinov3"; of BY_MODULE the module.
        models: their names.
    """

    name: str
    models: tuple[str, ...]

    @property
    def example(self) -> str:
        """A model of common size, of the lowest resolution."""

        def order(model: str) -> tuple[int, int, str]:
            words = model.split("_")
            size = next((rank for rank, size in enumerate(_PREFERRED) if size in words), len(_PREFERRED))
            return size, next((int(word) for word in reversed(words) if word.isdigit()), 0), model

        return min(self.models, key=order)


def timm_families() -> list[Family]:
    """The families of the installed timm, without the models of its own tests (test_*)."""
    found: dict[str, list[str]] = {}
    for module in (*BY_NAME, *BY_MODULE):
        for model in timm.list_models(module=module):
            if not model.startswith("test_"):
                found.setdefault(_family_name(model) if module in BY_NAME else module, []).append(model)
    return [Family(name, tuple(models)) for name, models in found.items()]


def _family_name(model: str) -> str:
    words = [word for word in model.split("_") if word not in _SIZES and not _NO_NAME.fullmatch(word)]
    return "_".join(found[1] if (found := _NUMBERED.fullmatch(word)) else word for word in words)


def meta_student(backbone: str, *, num_classes: int, num_bits: int) -> Student:
    """A student without schedule on torch's meta device: its shapes and its cost, without numbers.

    Raises:
        InputError: no student can be made of the backbone; the message says why.
    """
    with torch.device("meta"):
        trunk = timm_vit(backbone, {}, num_classes=num_classes, pretrained=False)
        student = Student(
            trunk, num_bits=num_bits, schedule=PruningSchedule((), ()), preprocessing=preprocessing_of(trunk), backbone=backbone
        )
    return student.eval()


def why_refused(error: InputError) -> str:
    """The reason in the message of a refused backbone, without its name and without the advice after it."""
    reason = re.split(r"; |\. Choose", str(error))[0]
    return re.sub(r"^backbone '[^']*':? (with options \{\} )?", "", reason)

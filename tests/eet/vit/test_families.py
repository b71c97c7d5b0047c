"""Families of timm's transformers: every model is in one of them, and those that work do so with numbers too."""

import timm
import torch

from eet.errors import InputError
from eet.options.schedule import PruningSchedule
from eet.vit import build_student
from eet.vit.families import BY_MODULE, BY_NAME, Family, meta_student, timm_families, why_refused


def test_every_model_is_in_one_family():
    models = [model for family in timm_families() for model in family.models]
    wanted = {model for module in (*BY_NAME, *BY_MODULE) for model in timm.list_models(module=module) if not model.startswith("test_")}
    assert len(models) == len(set(models)) and set(models) == wanted
    assert set(BY_NAME + BY_MODULE) <= set(timm.list_modules())


def test_families_differ_in_more_than_a_size():
    of_model = {model: family.name for family in timm_families() for model in family.models}
    assert of_model["vit_small_patch16_dinov3"] == of_model["vit_large_patch16_dinov3"] == "vit_dinov3" != of_model["vit_base_patch16_224"]
    assert of_model["vit_small_patch14_reg4_dinov2"] == "vit_reg_dinov2" and of_model["vit_small_patch14_dinov2"] == "vit_dinov2"
    assert of_model["swin_tiny_patch4_window7_224"] == "swin_transformer"


def test_the_example_is_of_common_size_and_small_images():
    models = ("vit_giant_patch14_x_224", "vit_base_patch16_x_224", "vit_small_patch16_x_384", "vit_small_patch16_x_224")
    assert Family("vit_x", models).example == "vit_small_patch16_x_224"


def test_a_student_without_numbers_has_the_shapes_of_one_with_them():
    name = "vit_tiny_patch16_224"
    meta = meta_student(name, num_classes=7, num_bits=16)
    real = build_student(name, num_classes=7, num_bits=16, schedule=PruningSchedule((), ()), weights="none")
    assert {key: value.shape for key, value in meta.state_dict().items()} == {key: value.shape for key, value in real.state_dict().items()}
    assert {value.device.type for value in meta.state_dict().values()} == {"meta"}
    out = meta.with_schedule(PruningSchedule((4,), (0.5,)))(torch.zeros(2, 3, 224, 224, device="meta"), tokens=False)
    assert out.hash.shape == (2, 16) and meta.preprocessing == real.preprocessing


def test_a_refusal_says_why_without_advice():
    reasons = {}
    for name in ("swin_tiny_patch4_window7_224", "vit_base_patch16_rpn_224"):
        try:
            meta_student(name, num_classes=7, num_bits=16)
        except InputError as error:
            reasons[name] = why_refused(error)
    assert reasons == {
        "swin_tiny_patch4_window7_224": "is a SwinTransformer, whose tokens cannot be dropped between blocks",
        "vit_base_patch16_rpn_224": "its blocks are ResPostBlock with Attention",
    }

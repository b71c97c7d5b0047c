"""Networks without initial values differ from others in their parameters alone."""

import pytest
import timm
import torch
from torch import nn

from eet.vit.initial_values import WithoutInitialValues
from eet.vit.timm_names import sketch

SMALL = {"depth": 2, "num_heads": 2, "embed_dim": 32}


INITIALISING = [
    "constant_",
    "kaiming_normal_",
    "kaiming_uniform_",
    "normal_",
    "ones_",
    "trunc_normal_",
    "uniform_",
    "xavier_uniform_",
    "zeros_",
]


@pytest.mark.parametrize("name", INITIALISING)
def test_a_parameter_keeps_what_it_holds(name):
    initialise, values = getattr(nn.init, name), {"val": 3.0} if name == "constant_" else {}
    parameter, buffer = nn.Parameter(torch.full((2, 2), 7.0)), torch.full((2, 2), 7.0)
    with WithoutInitialValues():
        assert initialise(parameter, **values) is parameter
        initialise(buffer, **values)
    assert (parameter == 7).all()
    assert not (buffer == 7).all()


@pytest.mark.parametrize(
    ("backbone", "options"),
    [("vit_tiny_patch16_224", SMALL), ("vit_small_patch16_dinov3", {**SMALL, "img_size": 64}), ("vit_base_patch16_siglip_224", SMALL)],
)
def test_buffers_are_those_of_a_model_that_was_built_as_always(backbone, options):
    torch.manual_seed(0)
    expected = timm.create_model(backbone, pretrained=False, **options)
    state = torch.get_rng_state()
    with WithoutInitialValues():
        model = timm.create_model(backbone, pretrained=False, **options)
    assert torch.equal(torch.get_rng_state(), state)  # no random number was drawn
    buffers = dict(expected.named_buffers())
    assert dict(model.named_buffers()).keys() == buffers.keys()
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())
    model.load_state_dict(expected.state_dict())
    images = torch.rand(1, 3, *expected.patch_embed.img_size)
    with torch.inference_mode():
        assert torch.equal(model.eval()(images), expected.eval()(images))


def test_a_sketch_has_settings_and_no_numbers():
    model = sketch("vit_tiny_patch16_224", {"num_heads": 2})
    assert all(parameter.is_meta for parameter in model.parameters())
    assert model.blocks[0].attn.num_heads == 2

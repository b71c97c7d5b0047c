"""VGG as a backbone: the map before the last ReLU and pooling."""

import pytest
import torch

from eet.embedding import BaseModel, build_base


@pytest.fixture(scope="module")
def model() -> BaseModel:
    return build_base(
        "vgg11", embedding_width=6, image_size=(112, 128), weights="none", aggregation="netvlad", aggregation_options={"words": 2}
    )


def test_patches_are_the_last_convolution_and_every_weight_gets_a_gradient(model):
    images = torch.randn(1, 3, 112, 128, generator=torch.Generator().manual_seed(0))
    seen: list[torch.Tensor] = []
    last = [layer for layer in model.backbone.trunk.features if isinstance(layer, torch.nn.Conv2d)][-1]
    hook = last.register_forward_hook(lambda _, __, out: seen.append(out.clone()))  # the ReLU after it works in place
    out = model.backbone(images, patches=True)
    hook.remove()
    assert model.backbone.grid == (7, 8) and out.patches.shape == (1, 7, 8, 512)
    torch.testing.assert_close(out.patches, seen[0].permute(0, 2, 3, 1))
    torch.testing.assert_close(out.vector, seen[0].mean(dim=(2, 3)))
    assert (out.patches < 0).any()
    model.embed(images).sum().backward()
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []

"""Counted multiply-adds are those of the layers, whatever mode the caller is in."""

import pytest
import torch

from eet.vit import PruningSchedule, build_student
from pipelines.costs.networks import gmacs_per_image


@pytest.mark.parametrize("backbone", ["vit_tiny_patch16_224", "vit_base_patch16_siglip_224"])
def test_the_count_does_not_depend_on_gradients(backbone):
    schedule = PruningSchedule((1,), (0.5,))
    small = {"depth": 2, "embed_dim": 32, "num_heads": 2, "mlp_ratio": 2.0}
    student = build_student(backbone, num_classes=5, num_bits=16, schedule=schedule, weights="none", backbone_options=small).eval()
    counts = []
    for mode in (torch.inference_mode, torch.no_grad, torch.enable_grad):
        with mode():
            counts.append(gmacs_per_image(lambda images: student(images, tokens=False), (224, 224), torch.device("cpu")))
    assert counts[0] == counts[1] == counts[2] > 0


def test_a_linear_layer_costs_its_weights():
    layer = torch.nn.Linear(3 * 8 * 8, 10)
    assert gmacs_per_image(lambda images: layer(images.flatten(1)), (8, 8), torch.device("cpu")) == 3 * 8 * 8 * 10 / 1e9

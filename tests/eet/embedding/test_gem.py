"""GeM against its definition in loops."""

import pytest
import torch

from eet.embedding import build_aggregation


@pytest.mark.parametrize("power", [1.0, 3.0])
def test_it_is_the_definition_and_its_power_is_trained(power):
    patches = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(0))
    layer = build_aggregation("gem", 4, 7, {"power": power})
    found = layer(torch.zeros(2, 4), patches)
    for row in range(2):
        for column in range(4):
            mean = sum(max(float(value), 1e-6) ** power for value in patches[row, :, column]) / 7
            assert found[row, column].item() == pytest.approx(mean ** (1 / power), rel=1e-4)
    found.sum().backward()
    assert layer.power.grad.abs() > 0

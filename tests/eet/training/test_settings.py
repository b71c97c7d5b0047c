import numpy as np
import pytest

from eet.training import FitSettings, learning_rate_factor


def test_the_learning_rate_rises_linearly_and_falls_as_a_cosine():
    factors = [learning_rate_factor(step, warmup_steps=4, total_steps=12) for step in range(13)]
    assert factors[:4] == [0.25, 0.5, 0.75, 1.0]
    assert factors[4:] == pytest.approx([0.5 * (1 + np.cos(np.pi * done / 8)) for done in range(9)])
    assert learning_rate_factor(0, warmup_steps=0, total_steps=10) == 1
    assert learning_rate_factor(20, warmup_steps=0, total_steps=10) == 0


@pytest.mark.parametrize(("epochs", "warmup", "expected"), [(45, None, 10), (4500, None, 500), (4, None, 0), (45, 0, 0), (45, 33, 33)])
def test_warm_up_is_500_steps_or_a_ninth(epochs, warmup, expected):
    """Two steps per epoch: 33 images, 16 per step, the last image left out."""
    settings = FitSettings(epochs=epochs, batch_size=16, warmup_steps=warmup)
    assert settings.total_steps(33) == 2 * epochs and settings.warmup(33) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (FitSettings(epochs=4, batch_size=16, warmup_steps=9), "warmup_steps 9 is more than the 8 steps of 4 epochs"),
        (FitSettings(batch_size=64), "batch_size 64 is more than the 32 training images"),
    ],
)
def test_settings_without_a_training_step_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        settings.check(32)


@pytest.mark.parametrize(("micro_batch_size", "device", "expected"), [(None, "cpu", 16), (None, "cuda", 64), (5, "cuda", 5), (5, "cpu", 5)])
def test_a_worker_runs_a_part_of_its_share_at_once(micro_batch_size, device, expected):
    assert FitSettings(micro_batch_size=micro_batch_size).micro_batch(64, device) == expected

import random

import numpy as np
import pytest

from pipelines.distill import DistillConfig
from pipelines.job.options import LossOptions, TrainOptions
from tune_spaces.loss_weights import BETA_GRID, SIGMA_GRID, loss_weights


@pytest.mark.parametrize("form", ["random", "grid"])
def test_keys_are_flags_of_the_objective(form):
    names = [key.split(".") for key in loss_weights(form)]
    assert {group for group, _ in names} == {"loss"}
    assert {name for _, name in names} == set(vars(LossOptions()))


def test_grid_crosses_all_values_in_their_ranges_and_holds_the_published_ones():
    space = loss_weights("grid", masked_patches=(0, 4))
    grids = {key: value["grid_search"] for key, value in space.items()}
    assert {key: len(values) for key, values in grids.items()} == {"loss.beta": 5, "loss.sigma": 5, "loss.masked_patches": 2}
    published = DistillConfig(out="x", train=TrainOptions(recipe="published")).loss
    assert published.beta in grids["loss.beta"] and published.sigma in grids["loss.sigma"]
    assert (min(grids["loss.beta"]), max(grids["loss.beta"])) == (0.01, 1.0)
    assert (min(grids["loss.sigma"]), max(grids["loss.sigma"])) == (0.1, 5.0)


def test_random_draws_lie_in_the_ranges_log_uniformly():
    random.seed(0)
    np.random.seed(0)
    space = loss_weights("random", masked_patches=(2, 4, 8))
    draws = {key: [domain.sample() for _ in range(400)] for key, domain in space.items()}
    for key, grid in (("loss.beta", BETA_GRID), ("loss.sigma", SIGMA_GRID)):
        low, high = grid[0], grid[-1]
        assert low <= min(draws[key]) and max(draws[key]) <= high
        middle = np.sqrt(low * high)  # half of a log-uniform draw lies below; of a uniform one, a tenth or so
        assert 0.4 < np.mean(np.array(draws[key]) < middle) < 0.6
    assert set(draws["loss.masked_patches"]) == {2, 4, 8}


def test_impossible_spaces_are_refused():
    with pytest.raises(ValueError, match="'random', 'grid' or 'figures'"):
        loss_weights("sobol")  # type: ignore[arg-type]
    for masked in ((), (4, -1)):
        with pytest.raises(ValueError, match="from 0"):
            loss_weights(masked_patches=masked)

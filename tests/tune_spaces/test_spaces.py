"""What the spaces draw: flags that exist, values that their jobs take."""

import dataclasses

import numpy as np
import pytest

from eet import matching as matchings
from eet.vit import PruningSchedule
from pipelines.configs.space import drawn_parameters, with_parameters
from pipelines.distill import DistillConfig
from tune_spaces.bits import bits
from tune_spaces.joint import joint
from tune_spaces.keep_ratios import keep_ratios
from tune_spaces.loss_weights import BETA_GRID, SIGMA_GRID, loss_weights
from tune_spaces.matching import MARGINALS, matching

BASE = DistillConfig(out="x")


def configs_of(space, trials=40):
    return [with_parameters(BASE, parameters) for parameters in drawn_parameters(space, trials=trials, seed=0)]


@pytest.mark.parametrize("depth", [4, 7, 12])
@pytest.mark.parametrize("stages", [1, 2, 3])
@pytest.mark.parametrize("form", ["random", "grid"])
def test_every_schedule_drawn_is_one_that_the_network_takes_and_drops_patches_stage_by_stage(form, stages, depth):
    configs = configs_of(keep_ratios(form, stages=stages, depth=depth))
    assert len({(config.student.keep_ratios, config.student.prune_after) for config in configs}) == len(configs) > 8
    for config in configs:
        schedule = PruningSchedule(config.student.prune_after, config.student.keep_ratios)
        schedule.check_depth(depth)
        assert max(depth // 4, 1) <= config.student.prune_after[0] and config.student.prune_after[-1] < depth
        counts = (196, *schedule.kept_counts(196))
        assert len(counts) == stages + 1 and all(later < earlier for earlier, later in zip(counts, counts[1:], strict=False))


def test_keep_ratios_lie_in_their_range_and_leave_the_places_alone_unless_asked():
    configs = configs_of(keep_ratios(ratios=(0.4, 0.6)), trials=100)
    drawn = np.array([config.student.keep_ratios for config in configs])
    assert drawn.shape == (100, 3) and 0.4 <= drawn.min() < 0.45 and 0.55 < drawn.max() <= 0.6
    assert len(np.unique(drawn)) == drawn.size  # stages are drawn apart
    assert {config.student.prune_after for config in configs} == {None}
    assert (0.5, 0.5, 0.25) in [config.student.keep_ratios for config in configs_of(keep_ratios("grid"))]


def test_bits_takes_each_length():
    assert [config.student.bits for config in configs_of(bits())] == [16, 32, 48, 64]
    assert {config.student.bits for config in configs_of(bits("random", lengths=(12, 24)))} == {12, 24}


def test_the_paper_s_figures_move_one_weight_at_a_time_for_each_length():
    assert len(loss_weights("figures")["loss"]["grid_search"]) == 9  # the published pair once
    configs = configs_of(loss_weights("figures", bits=(16, 64)))
    assert len(configs) == 2 * 9
    for length in (16, 64):
        pairs = {(config.loss.beta, config.loss.sigma) for config in configs if config.student.bits == length}
        assert pairs == {(beta, 1.0) for beta in BETA_GRID} | {(0.1, sigma) for sigma in SIGMA_GRID}


def test_joint_moves_all_of_them_together():
    configs = configs_of(joint(lengths=(16, 32), stages=2, depth=6))
    for values in zip(*[(c.loss.beta, c.loss.sigma, c.student.keep_ratios, c.student.prune_after, c.student.bits) for c in configs],
                      strict=True):  # fmt: skip
        assert len(set(values)) > 1
    assert {tuple(config.problems()) for config in configs} == {("--data.root is missing: give the folder of the dataset",)}


def test_matching_knows_every_marginal():
    assert set(MARGINALS) == set(matchings.MARGINALS)


def test_matching_draws_the_flags_of_the_reranking_in_their_ranges():
    for form, trials in (("random", 200), ("grid", 1)):
        drawn = drawn_parameters(matching(form), trials=trials, seed=1)
        assert len(drawn) == (200 if form == "random" else 6 * 4 * 3 * 4)
        assert {parameters["marginal"] for parameters in drawn} == set(MARGINALS)
        assert all(0 < parameters["transported"] <= 1 and 0.01 <= parameters["epsilon"] <= 0.2 for parameters in drawn)
        assert all(0.3 <= parameters["weight"] <= 10.001 and len(parameters) == 4 for parameters in drawn)


@pytest.mark.parametrize(
    ("space", "options", "message"),
    [
        (keep_ratios, {"stages": 0}, "1 or more"),
        (keep_ratios, {"ratios": (0.0, 0.5)}, "least and the greatest"),
        (keep_ratios, {"ratios": (0.6, 0.5)}, "least and the greatest"),
        (keep_ratios, {"stages": 9, "depth": 6}, "do not fit a network of 6 blocks"),
        (keep_ratios, {"form": "sobol"}, "'random' or 'grid'"),
        (bits, {"lengths": ()}, "from 1"),
        (bits, {"lengths": (0,)}, "from 1"),
        (bits, {"form": "sobol"}, "'random' or 'grid'"),
        (loss_weights, {"bits": (0, 16)}, "at least 1"),
        (matching, {"marginals": ("softmin",)}, "choose from importance"),
        (matching, {"form": "sobol"}, "'random' or 'grid'"),
        (matching, {"transported": (0.5, 1.1)}, "above 0 to 1"),
        (matching, {"epsilons": ()}, "above 0"),
        (matching, {"weights": (0.0, 1.0)}, "above 0"),
    ],
)
def test_impossible_spaces_are_refused(space, options, message):
    with pytest.raises(ValueError, match=message):
        space(**options)


def test_a_space_of_flags_that_are_none_is_not_taken():
    with pytest.raises(ValueError, match="marginal"):
        with_parameters(BASE, {"marginal": "uniform"})
    assert dataclasses.replace(BASE) == with_parameters(BASE, {})

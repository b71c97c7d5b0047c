import pytest

from eet.vit import PUBLISHED_PRUNE_AFTER, PruningSchedule, scaled_prune_after


def test_published_schedule_keeps_98_49_and_12_of_196() -> None:
    schedule = PruningSchedule()
    assert schedule.prune_after == (4, 8, 10)
    assert schedule.kept_counts(196) == (98, 49, 12)


@pytest.mark.parametrize(
    ("ratios", "patches", "counts"),
    [
        ((0.5, 0.5), 7, (3, 1)),  # floor, and floor of the living patches
        ((0.1, 0.5), 5, (1, 1)),  # never below one
        ((1.0, 1.0), 9, (9, 9)),
        ((0.7, 0.29), 100, (70, 20)),
        ((0.29, 1.0), 100, (29, 29)),  # 0.29 * 100 is 28.999... in binary
    ],
)
def test_counts_are_floored_shares_of_the_living_patches(ratios: tuple[float, ...], patches: int, counts: tuple[int, ...]) -> None:
    assert PruningSchedule((1, 2), ratios).kept_counts(patches) == counts


def test_lists_become_tuples_so_that_equal_schedules_are_equal() -> None:
    schedule = PruningSchedule([2, 3], [1, 0.5])  # type: ignore[arg-type]
    assert schedule == PruningSchedule((2, 3), (1.0, 0.5))
    assert hash(schedule) == hash(PruningSchedule((2, 3), (1.0, 0.5)))


def test_empty_schedule_keeps_everything() -> None:
    schedule = PruningSchedule((), ())
    schedule.check_depth(1)
    assert schedule.kept_counts(196) == ()


@pytest.mark.parametrize(
    ("ratios", "patches", "num_prefix", "multiple", "counts"),
    [
        ((0.5, 0.5, 0.25), 196, 1, 1, (98, 49, 12)),
        ((0.5, 0.5, 0.25), 196, 1, 8, (95, 47, 15)),  # 99, 50, 13 tokens -> 96, 48, 16
        ((0.5, 0.5, 0.25), 196, 2, 16, (94, 46, 14)),
        ((1.0, 0.9), 196, 1, 8, (196, 175)),  # not more than the living patches
        ((0.01, 0.5), 196, 1, 8, (7, 7)),  # one multiple at least
        ((0.1,), 40, 9, 8, (7,)),  # the prefix tokens alone fill a multiple
    ],
)
def test_rounded_stages_leave_multiples_of_tokens(
    ratios: tuple[float, ...], patches: int, num_prefix: int, multiple: int, counts: tuple[int, ...]
) -> None:
    schedule = PruningSchedule(tuple(range(1, len(ratios) + 1)), ratios)
    rounded = schedule.rounded(patches, num_prefix=num_prefix, multiple=multiple)
    assert rounded.kept_counts(patches) == counts and rounded.prune_after == schedule.prune_after


def test_every_count_of_patches_can_be_given_as_a_ratio() -> None:
    for patches in (49, 196, 576, 1369):
        for multiple in (1, 7, 8, 16):
            schedule = PruningSchedule((1, 2, 3, 4), (0.83, 0.71, 0.5, 0.34)).rounded(patches, num_prefix=1, multiple=multiple)
            assert all((kept + 1) % multiple == 0 for kept in schedule.kept_counts(patches))


def test_a_multiple_of_1_leaves_the_schedule_unchanged() -> None:
    """Its ratios are part of a model's record and digest."""
    schedule = PruningSchedule()
    assert schedule.rounded(196, num_prefix=1, multiple=1) == schedule


def test_a_multiple_of_0_is_refused() -> None:
    with pytest.raises(ValueError, match="tokens_multiple 0: use 1 or more"):
        PruningSchedule().rounded(196, num_prefix=1, multiple=0)


@pytest.mark.parametrize(
    ("prune_after", "keep_ratios", "message"),
    [
        ((4, 8), (0.5,), "one ratio for each block"),
        ((0,), (0.5,), "counted from 1"),
        ((4, 4), (0.5, 0.5), "strictly increasing"),
        ((8, 4), (0.5, 0.5), "strictly increasing"),
        ((4,), (0.0,), "outside"),
        ((4,), (1.5,), "outside"),
        ((4,), (float("nan"),), "outside"),
    ],
)
def test_invalid_schedules_are_refused(prune_after: tuple[int, ...], keep_ratios: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PruningSchedule(prune_after, keep_ratios)


def test_a_stage_after_the_last_block_is_refused_and_a_fitting_schedule_proposed() -> None:
    PruningSchedule().check_depth(10)
    with pytest.raises(ValueError, match=r"blocks 1 to 6, for example \[2, 4, 5\]"):
        PruningSchedule().check_depth(6)
    with pytest.raises(ValueError, match=r"blocks 1 to 2, for example \[1, 2\]"):
        PruningSchedule().check_depth(2)


def test_scaled_schedules() -> None:
    assert scaled_prune_after(12) == PUBLISHED_PRUNE_AFTER
    assert scaled_prune_after(24) == (8, 16, 20)
    assert scaled_prune_after(12, 1) == (4,)
    assert scaled_prune_after(12, 4) == (4, 6, 8, 10)
    for depth in range(1, 30):
        for stages in range(1, depth + 1):
            blocks = scaled_prune_after(depth, stages)
            assert len(blocks) == stages
            assert blocks[0] >= 1 and blocks[-1] <= depth
            assert all(a < b for a, b in zip(blocks, blocks[1:], strict=False)), (depth, stages, blocks)


@pytest.mark.parametrize(("depth", "stages"), [(2, 3), (4, 0)])
def test_stages_that_do_not_fit_are_refused(depth: int, stages: int) -> None:
    with pytest.raises(ValueError, match=f"1 to {depth}"):
        scaled_prune_after(depth, stages)

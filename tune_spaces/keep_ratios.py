"""The pruning schedule: how much each stage keeps, and optionally after which blocks the stages are."""

from itertools import combinations
from typing import Any, Literal

from ray import tune

RATIO_GRID = (0.25, 0.5, 0.75)


def keep_ratios(
    form: Literal["random", "grid"] = "random",
    *,
    stages: int = 3,
    ratios: tuple[float, float] = (0.2, 0.9),
    depth: int | None = None,
) -> dict[str, Any]:
    """Tune's search space over the flags student.keep_ratios (one parameter a stage, counted from 0) and student.prune_after.

    A keep ratio is the share of the living patches that a stage keeps, so the number of patches never rises from stage
    to stage.

    Args:
        form: 'random' draws each stage's ratio from `ratios`, uniformly; 'grid' crosses 0.25, 0.5 and 0.75 (which include the published
            ratios).
        stages: number of stages, 1 or more.
        ratios: smallest and largest ratio drawn, 0 < smallest < largest <= 1.
        depth: number of blocks of the network, to sweep the stages' blocks too: every increasing choice of blocks from a quarter of the
            depth (before that, importance means little) to the last but one. None keeps student.prune_after (by default 4, 8, 10 of 12,
            scaled). Blocks are written as on the command line, '[4, 8, 10]', which Optuna can store.
    """
    if stages < 1:
        raise ValueError(f"stages {stages}: a student has 1 or more")
    if not 0 < ratios[0] < ratios[1] <= 1:
        raise ValueError(f"ratios {tuple(ratios)}: give the least and the greatest, above 0 to 1")
    if form not in ("random", "grid"):
        raise ValueError(f"form {form!r}: use 'random' or 'grid'")
    ratio = tune.grid_search(list(RATIO_GRID)) if form == "grid" else tune.uniform(*ratios)
    space: dict[str, Any] = {f"student.keep_ratios.{stage}": ratio for stage in range(stages)}
    if depth is None:
        return space
    places = [str(list(blocks)) for blocks in combinations(range(max(1, depth // 4), depth), stages)]
    if not places:
        raise ValueError(f"{stages} stages do not fit a network of {depth} blocks: use fewer")
    return space | {"student.prune_after": tune.grid_search(places) if form == "grid" else tune.choice(places)}

"""The pruning schedule: how much each stage keeps, and, where asked, behind which blocks the stages lie."""

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

    A keep ratio is the share of the living patches that a stage keeps, so whatever is drawn, the number of patches falls from stage to
    stage, and the stages' blocks increase.

    form: 'random' draws each stage's ratio from `ratios`, uniform; 'grid' crosses 0.25, 0.5 and 0.75 (the published ratios are of these).
    stages: how many, 1 or more. ratios: least and greatest ratio drawn, 0 < least < greatest <= 1.
    depth: the network's number of blocks, to sweep the stages' places too: every increasing choice of blocks from a quarter of the depth
    (before it, importance means little) to the last but one; None leaves student.prune_after as it is (by default 4, 8, 10 of 12, scaled).
    The places are written as on the command line, '[4, 8, 10]', which Optuna can store too.
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

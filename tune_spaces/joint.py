"""Everything at once: objective, pruning schedule and code length, for a Pareto set of accuracy against cost."""

from typing import Any

from tune_spaces.bits import PUBLISHED_BITS, bits
from tune_spaces.keep_ratios import keep_ratios
from tune_spaces.loss_weights import loss_weights


def joint(
    *,
    lengths: tuple[int, ...] = PUBLISHED_BITS,
    stages: int = 3,
    ratios: tuple[float, float] = (0.2, 0.9),
    depth: int | None = None,
    masked_patches: tuple[int, ...] = (4,),
) -> dict[str, Any]:
    """Tune's search space over the flags of `loss_weights`, `keep_ratios` and `bits`, each in its random form.

    A grid over all of them would be thousands of trainings.

    Args:
        lengths: see `bits`.
        stages: see `keep_ratios`.
        ratios: see `keep_ratios`.
        depth: see `keep_ratios`.
        masked_patches: see `loss_weights`.
    """
    return (
        loss_weights("random", masked_patches=masked_patches)
        | keep_ratios("random", stages=stages, ratios=ratios, depth=depth)
        | bits("random", lengths=lengths)
    )

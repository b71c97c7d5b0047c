"""The weights of the student's objective: beta (classification), sigma (following the teacher) and the masked patches."""

from typing import Any, Literal

from ray import tune

BETA_GRID = (0.01, 0.05, 0.1, 0.5, 1.0)
SIGMA_GRID = (0.1, 0.5, 1.0, 2.0, 5.0)


def loss_weights(form: Literal["random", "grid"] = "random", *, masked_patches: tuple[int, ...] = (4,)) -> dict[str, Any]:
    """Tune's search space over the flags loss.beta, loss.sigma and loss.masked_patches.

    form: 'random' draws beta from 0.01..1 and sigma from 0.1..5, log-uniform, around the published 0.1 and 1; 'grid' crosses five values of
    each over the same ranges. masked_patches: the choices for w, each 0 or more; published is 4.
    Source of the two weights: EET, figures 4 and 5, which sweep them.
    """
    if not masked_patches or min(masked_patches) < 0:
        raise ValueError(f"masked_patches {masked_patches}: give one or more numbers from 0")
    if form == "grid":
        return {
            "loss.beta": tune.grid_search(list(BETA_GRID)),
            "loss.sigma": tune.grid_search(list(SIGMA_GRID)),
            "loss.masked_patches": tune.grid_search(list(masked_patches)),
        }
    if form != "random":
        raise ValueError(f"form {form!r}: use 'random' or 'grid'")
    return {
        "loss.beta": tune.loguniform(BETA_GRID[0], BETA_GRID[-1]),
        "loss.sigma": tune.loguniform(SIGMA_GRID[0], SIGMA_GRID[-1]),
        "loss.masked_patches": tune.choice(list(masked_patches)),
    }

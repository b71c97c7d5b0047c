"""The weights of the student's objective: beta (classification), sigma (following the teacher) and the masked patches."""

from typing import Any, Literal

from ray import tune

BETA_GRID = (0.01, 0.05, 0.1, 0.5, 1.0)
SIGMA_GRID = (0.1, 0.5, 1.0, 2.0, 5.0)
PUBLISHED = (0.1, 1.0)


def loss_weights(
    form: Literal["random", "grid", "figures"] = "random", *, masked_patches: tuple[int, ...] = (4,), bits: tuple[int, ...] = ()
) -> dict[str, Any]:
    """Tune's search space over the flags loss.beta, loss.sigma and loss.masked_patches, and student.bits if `bits` is given.

    form: 'random' draws beta from 0.01..1 and sigma from 0.1..5, log-uniform, around the published 0.1 and 1; 'grid' crosses five values of
    each over the same ranges; 'figures' moves one of the two at a time, the other at its published value: nine pairs, like the paper's two
    figures. masked_patches: the choices for w, each 0 or more; published is 4. bits: code lengths to cross with all of these (in the random
    form: to draw from); if empty, the length is not swept.
    Source of the two weights: EET, figures 4 and 5, which sweep them for 16 to 64 bits.
    """
    if not masked_patches or min(masked_patches) < 0:
        raise ValueError(f"masked_patches {masked_patches}: give one or more numbers from 0")
    if bits and min(bits) < 1:
        raise ValueError(f"bits {bits}: a code needs at least 1")
    if form == "random":
        lengths = {"student.bits": tune.choice(list(bits))} if bits else {}
        return {
            "loss.beta": tune.loguniform(BETA_GRID[0], BETA_GRID[-1]),
            "loss.sigma": tune.loguniform(SIGMA_GRID[0], SIGMA_GRID[-1]),
            "loss.masked_patches": tune.choice(list(masked_patches)),
        } | lengths
    lengths = {"student.bits": tune.grid_search(list(bits))} if bits else {}
    patches = {"loss.masked_patches": tune.grid_search(list(masked_patches))}
    if form == "grid":
        return {"loss.beta": tune.grid_search(list(BETA_GRID)), "loss.sigma": tune.grid_search(list(SIGMA_GRID))} | patches | lengths
    if form != "figures":
        raise ValueError(f"form {form!r}: use 'random', 'grid' or 'figures'")
    beta, sigma = PUBLISHED
    pairs = [{"beta": value, "sigma": sigma} for value in BETA_GRID]
    pairs += [{"beta": beta, "sigma": value} for value in SIGMA_GRID if value != sigma]
    return {"loss": tune.grid_search(pairs)} | patches | lengths

"""How hits are re-ranked by optimal transport: nothing is trained, a given gallery is scored."""

from typing import Any, Literal

from ray import tune

MARGINALS = ("importance", "uniform", "cross_correlation", "inverse", "exponential", "softmax")
TRANSPORTED_GRID = (0.4, 0.6, 0.8, 1.0)
EPSILON_GRID = (0.01, 0.05, 0.2)
WEIGHT_GRID = (0.25, 0.5, 0.75, 1.0)


def matching(form: Literal["random", "grid"] = "random", *, marginals: tuple[str, ...] = MARGINALS) -> dict[str, Any]:
    """Tune's search space over the flags marginal, transported, epsilon and weight of `eet rerank`.

    form: 'random' draws the marginal, the transported share from 0.3..1, epsilon from 0.01..0.5 (log-uniform, around the published 0.05)
    and the weight of the structural score beside the global one from 0..1; 'grid' crosses a few values of each.
    marginals: the choices; see `eet.matching.marginals` for what each means.
    """
    unknown = [name for name in marginals if name not in MARGINALS]
    if unknown or not marginals:
        raise ValueError(f"marginals {tuple(marginals)}: choose from {', '.join(MARGINALS)}")
    if form == "grid":
        return {
            "marginal": tune.grid_search(list(marginals)),
            "transported": tune.grid_search(list(TRANSPORTED_GRID)),
            "epsilon": tune.grid_search(list(EPSILON_GRID)),
            "weight": tune.grid_search(list(WEIGHT_GRID)),
        }
    if form != "random":
        raise ValueError(f"form {form!r}: use 'random' or 'grid'")
    return {
        "marginal": tune.choice(list(marginals)),
        "transported": tune.uniform(0.3, 1.0),
        "epsilon": tune.loguniform(0.01, 0.5),
        "weight": tune.uniform(0.0, 1.0),
    }

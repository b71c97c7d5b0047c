"""The options of re-ranking by optimal transport. Nothing is trained."""

from typing import Any, Literal

from ray import tune

MARGINALS = ("importance", "uniform", "cross_correlation", "inverse", "exponential", "softmax")
TRANSPORTED_GRID = (0.4, 0.6, 0.8, 1.0)
EPSILON_GRID = (0.01, 0.05, 0.2)
WEIGHT_GRID = (0.3, 1.0, 3.0, 10.0)


def matching(
    form: Literal["random", "grid"] = "random",
    *,
    marginals: tuple[str, ...] = MARGINALS,
    transported: tuple[float, ...] = TRANSPORTED_GRID,
    epsilons: tuple[float, ...] = EPSILON_GRID,
    weights: tuple[float, ...] = WEIGHT_GRID,
) -> dict[str, Any]:
    """Tune's search space over the flags marginal, transported, epsilon and weight of `eet rerank`.

    form: 'grid' crosses the choices; 'random' draws a marginal, and numbers between the smallest and the largest of each: the transported
    share uniform, epsilon and weight log-uniform (published are 0.05 and 1).
    marginals: the choices; see `eet.matching.marginals` for what each means. transported: shares of the mass, above 0 to 1. epsilons: above
    0. weights: of the structural score, above 0; the global one has weight 1.
    """
    unknown = [name for name in marginals if name not in MARGINALS]
    if unknown or not marginals:
        raise ValueError(f"marginals {tuple(marginals)}: choose from {', '.join(MARGINALS)}")
    for name, values, most, allowed in (
        ("transported", transported, 1.0, "above 0 to 1"),
        ("epsilons", epsilons, float("inf"), "above 0"),
        ("weights", weights, float("inf"), "above 0"),
    ):
        if not values or not 0 < min(values) <= max(values) <= most:
            raise ValueError(f"{name} {tuple(values)}: give one or more numbers {allowed}")
    if form == "grid":
        return {
            "marginal": tune.grid_search(list(marginals)),
            "transported": tune.grid_search(list(transported)),
            "epsilon": tune.grid_search(list(epsilons)),
            "weight": tune.grid_search(list(weights)),
        }
    if form != "random":
        raise ValueError(f"form {form!r}: use 'random' or 'grid'")
    return {
        "marginal": tune.choice(list(marginals)),
        "transported": tune.uniform(min(transported), max(transported)),
        "epsilon": tune.loguniform(min(epsilons), max(epsilons)),
        "weight": tune.loguniform(min(weights), max(weights)),
    }

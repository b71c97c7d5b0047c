"""mAP over the weights of the objective in a sweep, like figures 4 and 5 of EET."""

from collections.abc import Sequence
from pathlib import Path

from eet.figures import save_png, weight_curves_figure
from pipelines.trials.trial import Trial

WEIGHTS = {"loss.beta": "beta", "loss.sigma": "sigma"}


def draw_weight_curves(trials: Sequence[Trial], out: Path, *, bits: int) -> None:
    """Writes map_over_beta.png and map_over_sigma.png if these were swept. trials: finished trainings. bits: code length if not swept."""
    for weight, name in WEIGHTS.items():
        drawn = [trial for trial in trials if trial.parameters.get(weight, 0) > 0]
        if len({trial.parameters[weight] for trial in drawn}) < 2:
            continue
        by_bits: dict[int, list[Trial]] = {}
        for trial in drawn:
            by_bits.setdefault(trial.parameters.get("student.bits", bits), []).append(trial)
        points = {f"{length} bits": _points(by_bits[length], weight) for length in sorted(by_bits)}
        lines = {f"{length} bits": _points(line, weight) for length in by_bits if (line := weight_line(by_bits[length], weight))}
        save_png(
            weight_curves_figure(lines, points, weight=name, quality="validation mAP", title=f"mAP over {name}"),
            out / f"map_over_{name}.png",
        )


def weight_line(trials: Sequence[Trial], weight: str) -> list[Trial]:
    """The largest group of finished trials that differ only in `weight`, sorted by it; of equally large groups the one with the best trial.

    Empty if there is no such pair, as in a random space.
    """
    alike: dict[str, list[Trial]] = {}
    for trial in trials:
        others = {name: value for name, value in trial.parameters.items() if name != weight}
        alike.setdefault(str(sorted(others.items())), []).append(trial)
    line = max(alike.values(), key=lambda group: (len(group), max(trial.best["val_mAP"] for trial in group)))
    return sorted(line, key=lambda trial: trial.parameters[weight]) if len(line) > 1 else []


def _points(trials: Sequence[Trial], weight: str) -> tuple[list[float], list[float]]:
    return [trial.parameters[weight] for trial in trials], [trial.best["val_mAP"] for trial in trials]

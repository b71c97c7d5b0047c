"""`eet sweep-matching`: many re-rankings of given hits over a search space on Ray Tune: quality against time."""

import dataclasses

from pipelines.configs.sweep_matching import SweepMatchingConfig
from pipelines.trials.rerankings import Rerankings, read_halves
from pipelines.trials.tuning import SweepResult, run_sweep


def run(config: SweepMatchingConfig) -> SweepResult:
    """Runs the trials that are not finished yet, and writes tables, figures and best.yaml into config.out."""
    return run_sweep(config, lambda tracking_uri: rerankings_of(config, tracking_uri))


def rerankings_of(config: SweepMatchingConfig, tracking_uri: str | None = None) -> Rerankings:
    """The trials of a sweep, with the hits that they share. InputError where trials cannot be compared by them."""
    halves, before = read_halves(config.base, seed=config.seed, metres=config.metres)
    return Rerankings(
        base=dataclasses.replace(config.base, tracking_uri=tracking_uri),
        trials_dir=config.trials_dir,
        halves=halves,
        before=before,
        concurrent=config.concurrent,
        metres=config.metres,
    )

"""Options of every sweep."""

import importlib.util
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from eet.errors import InputError
from pipelines.configs.space import drawn_parameters, has_grid, space_of, space_path
from pipelines.job.location import LOCATION
from pipelines.job.options import JobOptions

TRIALS = "trials"
"""Folder of the trials in the output of a sweep."""


@dataclass(kw_only=True)
class SweepOptions(JobOptions):
    """Options of every sweep; the jobs that inherit it describe the fields."""

    spaces: ClassVar[Mapping[str, str]]
    """Name -> dotted path of the function of each space."""

    out: str = field(metadata=LOCATION)
    space: str
    space_options: dict[str, Any] = field(default_factory=dict)
    trials: int = 20
    search: Literal["random", "optuna"] = "random"
    concurrent: int | None = None
    resume: bool = False

    def problems(self) -> list[str]:
        found = super().problems() + self.local_only("out")
        for name in ("trials", "concurrent"):
            if (value := getattr(self, name)) is not None and value < 1:
                found.append(f"--{name} {value}: use 1 or more")
        try:
            space_path(self.space, self.spaces)
        except InputError as error:
            found.append(f"--space: {error}")
        return found

    def space_problems(self) -> list[str]:
        """The problems of the points of the space, if `problems` finds none: drawing them needs Ray Tune, which takes seconds to load."""
        try:
            space = self.drawn_space()
            drawn = drawn_parameters(space, trials=self.trials, seed=self.seed)
            found = [*dict.fromkeys(f"--space: {problem}" for parameters in drawn for problem in self.trial_problems(parameters))]
        except ValueError as error:
            return [f"--space: {error}"]
        if self.search == "optuna":
            if has_grid(space):
                found.append("--search optuna draws its own points: use the random form of the space")
            if importlib.util.find_spec("optuna") is None:
                found.append("--search optuna needs the package optuna: pip install 'eet[optuna]'")
        return found

    @abstractmethod
    def trial_problems(self, parameters: Mapping[str, Any]) -> list[str]:
        """Problems of a trial with these parameters that are not in the shared flags. InputError for parameters that it lacks."""

    def drawn_space(self) -> dict[str, Any]:
        """The Tune dictionary of the space. InputError for an unknown space, or options that it does not accept."""
        return space_of(self.space, self.space_options, self.spaces)

    @property
    def trials_dir(self) -> Path:
        """Folder that contains a folder for each trial."""
        return Path(self.out).absolute() / TRIALS

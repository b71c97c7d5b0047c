"""Shared code of trials in the process where Ray Tune runs them: reading parameters, recording failures."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eet.errors import EetError
from eet.storage import Claim
from pipelines.configs.space import plain
from pipelines.job.output import flat_values
from pipelines.trials.trial import end_trial

PLANNED = "planned"  # Tune passes parameters that were drawn beforehand under this key
TITLE = "trial"


def parameters_of(drawn: dict[str, Any]) -> dict[str, Any]:
    """The trial's parameters from the dictionary that Tune passes."""
    return flat_values(plain(drawn.get(PLANNED, drawn)))


@contextmanager
def failure_recorded(folder: Path, claim: Claim) -> Iterator[None]:
    """Records an exception in the block in the trial's folder as the reason of its failure.

    Nothing is written if the sweep no longer holds its folder by this claim; TakenOverError then, also at the start.
    """
    claim.check()
    try:
        yield
    except Exception as error:
        claim.check()
        end_trial(folder, "failed", reason_of(error), [])
        raise


def reason_of(error: Exception) -> str:
    """The reason of a failure in one line: the message of an EetError, else the kind and last line of the error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kind = "" if isinstance(error, EetError) else f"{type(error).__name__}: "
    return f"{kind}{lines[-1] if lines else ''}"[:300]

"""What every trial does in the process where Ray Tune runs it: read its parameters, and say why it failed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eet.errors import EetError
from pipelines.job.output import flat_values
from pipelines.trials.trial import end_trial, plain

PLANNED = "planned"  # under this key Tune hands over parameters that were drawn beforehand
TITLE = "trial"


def parameters_of(drawn: dict[str, Any]) -> dict[str, Any]:
    """The trial's parameters in what Tune hands over."""
    return flat_values(plain(drawn.get(PLANNED, drawn)))


@contextmanager
def failure_told(folder: Path) -> Iterator[None]:
    """Writes into the trial's folder why it failed, where it does."""
    try:
        yield
    except Exception as error:
        end_trial(folder, "failed", reason_of(error), [])
        raise


def reason_of(error: Exception) -> str:
    """One line that says why a trial failed: its own message, or the error's kind and last line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kind = "" if isinstance(error, EetError) else f"{type(error).__name__}: "
    return f"{kind}{lines[-1] if lines else ''}"[:300]

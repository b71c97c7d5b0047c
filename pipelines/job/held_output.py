"""The start of a job that works for long: its output is held, and the cluster and MLflow answer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from eet.errors import InputError
from eet.storage import Claim, claimed
from pipelines.job.address import check_address
from pipelines.job.tracking import check_tracking


@contextmanager
def held_output(config: Any) -> Iterator[Claim | None]:
    """Holds the output folder while the block runs, after checking, before any image is read, that the job can begin.

    Args:
        config: of a job that uses Ray and MLflow and writes a local folder.

    Yields:
        The claim, for checks before later files are written; None in a dry run, which holds nothing.

    Raises:
        InputError: the output is a URI, another job holds the folder, there is no cluster at the address, or MLflow cannot be used.
    """
    check_local_output(config)
    check_address(config.ray_address)
    if config.dry_run:
        yield None
        return
    with claimed(config.out, take_over=None, notify=print) as claim:
        check_tracking(config.tracking_uri, config.out)
        yield claim


def check_local_output(config: Any) -> None:
    """InputError where the output of a job that writes a local folder is a URI: the command line has refused it, Python has not."""
    if problems := config.local_only("out"):
        raise InputError("; ".join(problems))

"""The program: `eet JOB`, and the same as `python -m pipelines JOB` from a bare checkout, which a submitted Ray job runs."""

import gc
import sys

from pipelines.job.stopping import handle_signals


def main() -> int:
    """Runs the job that the arguments name; returns the exit code."""
    handle_signals()  # before anything large is imported, which takes seconds
    gc.disable()  # while a job is imported, nothing is garbage, and looking for it takes a fifth of the time
    from pipelines import cli

    return cli.main(on_loaded=_collect_garbage)


def _collect_garbage() -> None:
    gc.freeze()  # what is imported stays to the end, and is not looked through again, also not when the program ends
    gc.enable()


if __name__ == "__main__":
    sys.exit(main())

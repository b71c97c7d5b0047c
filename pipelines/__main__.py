"""The program: `eet JOB`, and the same as `python -m pipelines JOB` from a bare checkout, which a submitted Ray job runs."""

import gc
import sys

from pipelines.job.stopping import handle_signals


def main() -> int:
    """Runs the job that the arguments name; returns the exit code."""
    handle_signals()  # before anything large is imported, which takes seconds
    gc.disable()  # while a job is imported, nothing is garbage, and looking for it takes a fifth of the time
    from pipelines import cli

    # Not frozen: libraries that look for leaks when the program ends would print all that they have.
    return cli.main(on_loaded=gc.enable)


if __name__ == "__main__":
    sys.exit(main())

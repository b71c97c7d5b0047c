"""The program: `eet JOB`, and the same as `python -m pipelines JOB` from a bare checkout, which a submitted Ray job runs."""

import sys

from pipelines.job.stopping import handle_signals


def main() -> int:
    """Runs the job that the arguments name; returns the exit code."""
    handle_signals()  # before anything large is imported, which takes seconds
    from pipelines import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())

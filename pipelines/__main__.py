"""`python -m pipelines JOB`: the same as `eet JOB`, from a bare checkout; a submitted Ray job runs it."""

import sys

from pipelines.cli import main

sys.exit(main())

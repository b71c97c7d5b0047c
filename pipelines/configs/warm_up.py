"""Options of `eet warm-up`."""

from dataclasses import dataclass
from typing import ClassVar

from pipelines.job.options import JobOptions


@dataclass(kw_only=True)
class WarmUpConfig(JobOptions):
    """Compiles the loops of search, measures and matching for this processor, and keeps them on the disk for all later processes.

    Without it the first job that needs a loop compiles it. The folder is NUMBA_CACHE_DIR if that is set.
    """

    examples: ClassVar[tuple[str, ...]] = ("eet warm-up",)
    unused: ClassVar[tuple[str, ...]] = ("address", "tracking_uri", "seed")

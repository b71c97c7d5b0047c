"""Options of `eet doctor`."""

from dataclasses import dataclass, field
from typing import ClassVar

from pipelines.job.location import LOCATION
from pipelines.job.options import JobOptions


@dataclass(kw_only=True)
class DoctorConfig(JobOptions):
    """Prints versions and devices, and checks what jobs need: folders, compiled code, a network, FAISS, Ray, a location, MLflow.

    The exit code is 1 if a check fails. A bug report should contain the output.

    Attributes:
        location: Folder or URI (s3://bucket/prefix) in which a small file is written, read and removed again.
    """

    examples: ClassVar[tuple[str, ...]] = (
        "eet doctor",
        "eet doctor --location s3://bucket/prefix --dry-run",
    )
    unused: ClassVar[tuple[str, ...]] = ("seed",)

    location: str | None = field(default=None, metadata=LOCATION)

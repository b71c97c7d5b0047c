"""What a worker needs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class WorkerNeed:
    """Resources that a user requests for a worker; None for a default by the nodes. cpus: reserved, also threads. gpus: 0, 1 or a share."""

    cpus: int | None = None
    gpus: float | None = None

    def problems(self) -> list[str]:
        problems = []
        if self.cpus is not None and self.cpus < 1:
            problems.append(f"--cpus_per_worker {self.cpus}: use 1 or more")
        if self.gpus is not None and not 0 <= self.gpus <= 1:
            problems.append(f"--gpus_per_worker {self.gpus}: use 0 (none), 1, or a fraction between them")
        return problems

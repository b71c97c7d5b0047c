"""A gate in the way of a job's actors, so that a test decides at which moment a process or a node is lost, and never depends on speed.

The gate is a folder that all processes of this machine see: an actor that arrives leaves a file there, and waits for
the file `open`.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

TIMEOUT_S = 400
INTERVAL_S = 0.01


class Arrival(NamedTuple):
    """A process that waits at the gate, and the Ray node that it runs on."""

    pid: int
    node_id: str


class Gate:
    """A folder. `closed(actor)` is a subclass of a Ray Data actor class that waits before each batch for which `stops` is true."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def closed(self, actor: type, stops: Callable[[], bool] = lambda: True) -> type:
        gate = self

        class Gated(actor):  # type: ignore[misc]
            def __call__(self, batch: Any) -> Any:
                if stops():
                    gate.arrive()
                return super().__call__(batch)

        return Gated

    def arrive(self) -> None:
        """In the job's process: says that it is here and waits until the gate is open."""
        import ray

        node_id = ray.get_runtime_context().get_node_id()
        (self.folder / f"arrived-{os.getpid()}-{node_id}").touch()
        wait_until((self.folder / "open").exists)

    def arrivals(self) -> list[Arrival]:
        names = [file.name.split("-") for file in self.folder.glob("arrived-*")]
        return [Arrival(int(pid), node_id) for _, pid, node_id in names]

    def open(self) -> None:
        """Lets through who waits, and everyone after."""
        (self.folder / "open").touch()


def wait_until(condition: Callable[[], bool]) -> None:
    """Returns once a condition holds that will hold. TimeoutError after some minutes: then it never would."""
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("what the test waits for did not happen")
        time.sleep(INTERVAL_S)

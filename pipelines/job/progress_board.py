"""Progress of workers on Ray: they write events to a board, and the driver reads them and passes them to a display."""

import sys
from collections.abc import Callable
from threading import Event, Thread
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


class ProgressBoard:
    """Holds events until the driver takes them. A restarted worker may report an epoch twice; the last report counts."""

    def __init__(self) -> None:
        self._events: list[Any] = []

    def put(self, event: Any) -> None:
        self._events.append(event)

    def take(self) -> list[Any]:
        events, self._events = self._events, []
        return events


def open_board() -> Any:
    """A board on the driver's own node, so that it survives the loss of a worker node."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    return ray.remote(ProgressBoard).options(num_cpus=0, scheduling_strategy=here).remote()


class BoardReader:
    """Reads a board in a thread while the driver waits in `fit()`, and passes each event to a listener.

    An error while showing or logging progress is reported once; the training continues.
    """

    def __init__(self, board: Any, listener: Callable[[Any], object], interval_s: float = 0.5) -> None:
        self._board, self._listener, self._interval_s = board, listener, interval_s
        self._done = Event()
        self._error_reported = False
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> "BoardReader":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._done.wait(self._interval_s):
            self._pass_on()
        self._pass_on()

    def _pass_on(self) -> None:
        try:
            events = ray.get(self._board.take.remote())
        except Exception as error:
            return self._report(error)
        for event in events:
            try:
                self._listener(event)
            except Exception as error:
                self._report(error)

    def _report(self, error: Exception) -> None:
        if not self._error_reported:
            print(f"note: progress could not be shown or logged ({type(error).__name__}: {error}); training continues", file=sys.stderr)
            self._error_reported = True

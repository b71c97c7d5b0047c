"""Counts and times of a running search page, for Prometheus."""

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bounds of the buckets of times."""


class Metrics:
    """The metrics of one application.

    Args:
        pending: the number of searches that run or wait.
        items: in the gallery.
    """

    def __init__(self, pending: Callable[[], int], items: int) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter("eet_requests", "Answered requests.", ["path", "status"], registry=self._registry)
        self._stages = Histogram("eet_stage_seconds", "Time of a stage.", ["stage"], buckets=SECONDS, registry=self._registry)
        Gauge("eet_pending_searches", "Searches that run or wait.", registry=self._registry).set_function(pending)
        Gauge("eet_items", "Items of the gallery.", registry=self._registry).set(items)

    def answered(self, path: str, status: int) -> None:
        """Counts an answer. path: of the route, with names in place of values."""
        self._requests.labels(path, status).inc()

    def took(self, milliseconds: Mapping[str, float]) -> None:
        """Adds the times of stages."""
        for stage, value in milliseconds.items():
            self._stages.labels(stage).observe(value / 1000)

    def render(self) -> bytes:
        """In Prometheus' text form."""
        return generate_latest(self._registry)

"""Timing several calls in turn, so that a change of the machine's speed meets all alike."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch

_Name = TypeVar("_Name")


def interleaved_seconds(
    calls: Mapping[_Name, Callable[[], Any]], *, repeats: int, device: torch.device | None = None, warm_ups: int = 2
) -> dict[_Name, list[float]]:
    """Seconds of every call in turn, `repeats` times over behind so many rounds of warm-up.

    device: where the calls work, where that is not the CPU: a call has ended when the device has.
    """
    seconds: dict[_Name, list[float]] = {name: [] for name in calls}
    for repeat in range(-warm_ups, repeats):
        for name, call in calls.items():
            _settle(device)
            started = time.perf_counter()
            call()
            _settle(device)
            if repeat >= 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def median_ratio(values: Sequence[float], others: Sequence[float]) -> float:
    """The median of the ratios within each round, not the ratio of medians: a slow spell of the machine cancels."""
    return statistics.median(value / other for value, other in zip(values, others, strict=True))


def _settle(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize()

"""Timing several calls in turn, so that changes of the machine's speed affect all of them."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch

_Name = TypeVar("_Name")


def interleaved_seconds(
    calls: Mapping[_Name, Callable[[], Any]],
    *,
    repeats: int,
    device: torch.device | None = None,
    warm_ups: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[_Name, list[float]]:
    """Times every call in turn, `repeats` times after `warm_ups` rounds of warm-up.

    Args:
        calls: name -> call.
        repeats: timed rounds.
        device: device that the calls use; a call ends when its work on the device is complete. None for the CPU.
        warm_ups: rounds that are not timed.
        clock: gives seconds; `time.process_time` for the CPU time of this process.

    Returns:
        name -> seconds of each round.
    """
    seconds: dict[_Name, list[float]] = {name: [] for name in calls}
    for repeat in range(-warm_ups, repeats):
        for name, call in calls.items():
            _settle(device)
            started = clock()
            call()
            _settle(device)
            if repeat >= 0:
                seconds[name].append(clock() - started)
    return seconds


def median_ratio(values: Sequence[float], others: Sequence[float]) -> float:
    """The median of the ratios within each round, not the ratio of medians: slow phases of the machine cancel."""
    return statistics.median(value / other for value, other in zip(values, others, strict=True))


def _settle(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize()

"""Calls are timed in turn, by the clock that was asked for."""

import time

from pipelines.costs.interleaved import interleaved_seconds


def test_calls_take_turns_and_warm_ups_are_not_timed():
    called: list[str] = []
    ticks = iter(range(1000))
    seconds = interleaved_seconds(
        {name: lambda name=name: called.append(name) for name in "ab"}, repeats=3, warm_ups=1, clock=lambda: float(next(ticks))
    )
    assert called == list("abababab") and seconds == {"a": [1.0] * 3, "b": [1.0] * 3}


def test_waiting_takes_no_cpu_time():
    seconds = interleaved_seconds({"sleep": lambda: time.sleep(0.2)}, repeats=1, warm_ups=0, clock=time.process_time)
    assert seconds["sleep"][0] < 0.1

"""Stopping the program by Ctrl-C (SIGINT) or SIGTERM: one line, exit code 130 or 143, and what is open is closed in order.

Before a job works, and after it, nothing has to be closed, and the program ends at once. While a job works, the first signal raises
`Stopped` in the main thread; a second one, more than a moment later, ends the program at once.

This module is loaded before all others, so it imports only what Python has loaded anyway or loads in a moment.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

SAME_PRESS_S = 1.0
"""Signals within so many seconds are one: launchers pass on the Ctrl-C that the terminal sends to every process."""
RAISED_AGAIN_S = 0.01


class Stopped(KeyboardInterrupt):
    """A signal asks the job to stop."""


class _Program:
    """The state of this process. pid: where the signals are handled, 0 for nowhere. name: in the line that is printed."""

    pid: int = 0
    name: str = "eet"
    working: bool = False
    postponing: bool = False
    stopped_by: signal.Signals | None = None
    stopped_at: float = 0.0


_program = _Program()


def handle_signals() -> None:
    """Handles SIGINT and SIGTERM in this process from now on. To be called in the main thread."""
    _program.pid = os.getpid()
    sys.unraisablehook = _unraisable
    signal.signal(signal.SIGALRM, _raise_again)
    _set_handlers()


@contextlib.contextmanager
def working(name: str) -> Iterator[None]:
    """While the block runs, a signal raises `Stopped` in it. name: of the program with its job."""
    _program.name, _program.working = name, True
    try:
        yield
    finally:
        _program.working = False


@contextlib.contextmanager
def postponed() -> Iterator[None]:
    """While the block runs, a signal waits for its end. For starting and stopping Ray, which must not remain half done.

    Ray sets handlers of its own for SIGTERM when it starts, in Python and in C++, and removes them when it stops. They are replaced
    at the end. If one of them is called before, it raises SystemExit.
    """
    before, _program.postponing = _program.stopped_by, True
    try:
        yield
    except SystemExit as error:
        raise _stopped(signal.SIGTERM) from error
    finally:
        _program.postponing = False
        if _handles_here() and threading.current_thread() is threading.main_thread():
            _set_handlers()
    if _program.stopped_by is not None and before is None:
        raise Stopped(_program.stopped_by)


def stop_signal(error: BaseException) -> signal.Signals | None:
    """The signal that ended a job with this error, whatever a library has made of `Stopped`; None if there was none."""
    return _program.stopped_by or (signal.SIGINT if isinstance(error, KeyboardInterrupt) else None)


def _handles_here() -> bool:
    """False in a program that handles signals itself, such as pytest, and in processes that were forked from this one."""
    return _program.pid == os.getpid()


def _set_handlers() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _on_signal)


def _stopped(number: int) -> Stopped:
    _program.stopped_by, _program.stopped_at = signal.Signals(number), time.monotonic()
    return Stopped(number)


def _on_signal(number: int, frame: FrameType | None) -> None:
    if not _handles_here():
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    elif not _program.working:
        _end_at_once(number)
    elif _program.stopped_by is None:
        stopped = _stopped(number)
        if not _program.postponing:
            raise stopped
    elif time.monotonic() - _program.stopped_at > SAME_PRESS_S:
        _end_at_once(number)


def _end_at_once(number: int) -> None:
    with contextlib.suppress(Exception):  # the signal may have come while something was printed
        sys.stdout.flush()
    os.write(2, f"{_program.name}: stopped by {signal.Signals(number).name}\n".encode())
    os._exit(128 + number)


def _unraisable(report: Any) -> None:
    """Python prints an exception in a destructor or a callback, and goes on: `Stopped` is raised again instead, a moment later."""
    if isinstance(report.exc_value, Stopped):
        signal.setitimer(signal.ITIMER_REAL, RAISED_AGAIN_S)
    else:
        sys.__unraisablehook__(report)


def _raise_again(number: int, frame: FrameType | None) -> None:
    if _program.working:
        raise Stopped(_program.stopped_by)

"""Leaving a line of a native library out of what this process writes to stderr."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

ENDS_WITHIN_S = 5.0
ACTOR_POOL_WARNING = "has constructor arguments in the object store and max_restarts > 0"
"""In a line that Ray prints in red for every actor of Ray Data. It warns of the way in which Ray Data makes its actors, does no harm (the
arguments stay as long as the job runs), and a user can do nothing about it. See https://github.com/ray-project/ray/issues/53727."""


@contextmanager
def stderr_without(text: str) -> Iterator[None]:
    """Within it, lines that contain `text` are left out where they are written to file descriptor 2, as by the C++ part of Ray.

    Another process (grep) reads the lines and writes the others on. So nothing is lost if this process crashes: what it wrote until then
    is still written. `sys.stderr` is not filtered and stays a terminal where it is one. Without grep nothing is left out.
    """
    grep = shutil.which("grep")
    if grep is None:
        yield
        return
    sys.stderr.flush()
    with ExitStack() as stack:
        before = os.dup(2)
        stack.callback(os.close, before)
        # A session of its own: Ctrl-C must not end it before this process.
        filtering = subprocess.Popen(
            [grep, "--line-buffered", "--invert-match", "--fixed-strings", "--text", text],
            stdin=subprocess.PIPE,
            stdout=before,
            start_new_session=True,
        )
        stack.callback(_end, filtering)
        if _is_stderr(sys.stderr):
            unfiltered = stack.enter_context(
                open(os.dup(before), "w", buffering=1, encoding=sys.stderr.encoding, errors="backslashreplace")
            )
            stack.callback(setattr, sys, "stderr", sys.stderr)
            sys.stderr = unfiltered
        assert filtering.stdin is not None
        os.dup2(filtering.stdin.fileno(), 2)
        stack.callback(os.dup2, before, 2)
        filtering.stdin.close()  # descriptor 2 is the only one left: the filter ends when it is put back
        yield


def _is_stderr(stream: object) -> bool:
    try:
        return stream.fileno() == 2  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False


def _end(filtering: subprocess.Popen[bytes]) -> None:
    try:
        filtering.wait(ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:  # a process that was started meanwhile still has the descriptor; the filter ends with it
        pass

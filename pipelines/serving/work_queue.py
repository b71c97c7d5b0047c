"""Work that waits its turn, and is refused where too much waits already: nothing queues without end."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")

LONGEST_S = 60.0
"""Seconds after which a caller no longer waits for its work."""


class OverloadedError(Exception):
    """Too much work waits, or this took too long."""


class WorkQueue:
    """Runs calls in threads, from one event loop.

    Args:
        threads: calls that run at once, at least 1.
        waiting: calls that may wait for a thread, at least 0.
        longest_s: see LONGEST_S. The call itself runs to its end.
    """

    def __init__(self, threads: int, waiting: int, *, longest_s: float = LONGEST_S) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="serve")
        self._most, self._longest_s = threads + waiting, longest_s
        self._pending: set[Future[Any]] = set()

    @property
    def is_full(self) -> bool:
        return len(self._pending) >= self._most

    @property
    def pending(self) -> int:
        """Calls that run or wait."""
        return len(self._pending)

    async def run(self, call: Callable[..., T], *given: Any, **options: Any) -> T:
        """The result of a call. OverloadedError where the queue is full, or the call takes too long."""
        if self.is_full:
            raise OverloadedError("too many requests wait: try again in a moment")
        future = self._pool.submit(partial(call, *given, **options))
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._longest_s)
        except TimeoutError as error:
            raise OverloadedError(f"no answer within {self._longest_s:g} seconds: try again later") from error

    def close(self) -> None:
        """Drops what waits."""
        self._pool.shutdown(wait=False, cancel_futures=True)

"""Loops that numba compiles for this processor at their first call, and keeps on the disk for all later processes."""

import functools
import logging
from typing import Any

from numba import njit
from numba.core import event

compiled = functools.partial(njit, nogil=True, cache=True)
"""Decorator of a loop, also with options of `numba.njit`."""


class _Notice(event.Listener):  # type: ignore[misc]
    """Says once for a process that it compiles. Otherwise the first search on a machine would wait without a visible reason."""

    said = False

    def on_start(self, event: Any) -> None:
        if not self.said:
            self.said = True
            logging.getLogger(__name__).warning("compiling loops for this processor; it takes up to a minute, once")

    def on_end(self, event: Any) -> None:
        """Nothing is said at the end."""


event.register("numba:compile", _Notice())

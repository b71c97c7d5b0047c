"""Counting bits inside compiled loops."""

import functools
from typing import Any


@functools.cache
def compiled_popcount() -> Any:
    """A function for code that numba compiles: the number of ones in an unsigned integer, one instruction where the CPU has it."""
    from numba.extending import intrinsic

    @intrinsic
    def popcount(typing_context: Any, word: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.ctpop(arguments[0])

        return word(word), generate

    return popcount

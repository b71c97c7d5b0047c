"""Counting bits inside compiled loops. Importing this module imports numba."""

from typing import Any

from numba.extending import intrinsic


@intrinsic
def popcount(typing_context: Any, word: Any) -> Any:
    """The number of ones in an unsigned integer, one instruction where the CPU has it. For code that numba compiles."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return word(word), generate

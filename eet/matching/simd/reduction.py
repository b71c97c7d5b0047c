"""The lanes of a vector made one number, halves on halves."""

from collections.abc import Callable
from typing import Any

from numba.extending import intrinsic

from eet.matching.simd.arithmetic import emit_add, emit_larger, emit_smaller
from eet.matching.simd.lanes import emit_shuffle, emit_zip
from eet.matching.simd.vector import INT32, number, quad, vector


def emit_fold(builder: Any, a: Any, combine: Callable[..., Any]) -> Any:
    """One number of all lanes: the upper half is combined with the lower, until one lane is left. Here of a quad and `emit_add`.

    ::

        %low = shufflevector <4 x float> %a, <4 x float> %a, <2 x i32> <i32 0, i32 1>
        %high = shufflevector <4 x float> %a, <4 x float> %a, <2 x i32> <i32 2, i32 3>
        %two = fadd <2 x float> %low, %high
        %first = shufflevector <2 x float> %two, <2 x float> %two, <1 x i32> zeroinitializer
        %second = shufflevector <2 x float> %two, <2 x float> %two, <1 x i32> <i32 1>
        %one = fadd <1 x float> %first, %second
        %r = extractelement <1 x float> %one, i32 0
    """
    while a.type.count > 1:
        a = emit_half(builder, a, combine)
    return builder.extract_element(a, INT32(0))


def emit_half(builder: Any, a: Any, combine: Callable[..., Any]) -> Any:
    """The lower half of a vector combined with its upper half; here of a quad and `emit_add`.

    ::

        %low = shufflevector <4 x float> %a, <4 x float> %a, <2 x i32> <i32 0, i32 1>
        %high = shufflevector <4 x float> %a, <4 x float> %a, <2 x i32> <i32 2, i32 3>
        %r = fadd <2 x float> %low, %high
    """
    left = a.type.count // 2
    low, high = (emit_shuffle(builder, a, a, list(range(start, start + left))) for start in (0, left))
    return combine(builder, low, high)


def emit_row_sums(builder: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """The sums of four vectors, as a quad in their order: three additions of zipped vectors, then halves on halves.

    Of vectors of four lanes (of more, `emit_half` follows until four are left)::

        %ac0 = shufflevector <4 x float> %a, <4 x float> %c, <4 x i32> <i32 0, i32 4, i32 1, i32 5>
        %ac1 = shufflevector <4 x float> %a, <4 x float> %c, <4 x i32> <i32 2, i32 6, i32 3, i32 7>
        %ac = fadd <4 x float> %ac0, %ac1
        %bd0 = shufflevector <4 x float> %b, <4 x float> %d, <4 x i32> <i32 0, i32 4, i32 1, i32 5>
        %bd1 = shufflevector <4 x float> %b, <4 x float> %d, <4 x i32> <i32 2, i32 6, i32 3, i32 7>
        %bd = fadd <4 x float> %bd0, %bd1
        %abcd0 = shufflevector <4 x float> %ac, <4 x float> %bd, <4 x i32> <i32 0, i32 4, i32 1, i32 5>
        %abcd1 = shufflevector <4 x float> %ac, <4 x float> %bd, <4 x i32> <i32 2, i32 6, i32 3, i32 7>
        %r = fadd <4 x float> %abcd0, %abcd1
    """
    # b and c change places, so that the sums come out in order.
    ac, bd = (builder.fadd(*emit_zip(builder, *two)) for two in ((a, c), (b, d)))
    value = builder.fadd(*emit_zip(builder, ac, bd))
    while value.type.count > 4:
        value = emit_half(builder, value, emit_add)
    return value


def folded(combine: Callable[..., Any]) -> Any:
    """The intrinsic (vector or quad) -> float32 of `emit_fold`."""

    @intrinsic
    def fold(typing_context: Any, a: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return emit_fold(builder, arguments[0], combine)

        return number(a), generate

    return fold


total, greatest, least = folded(emit_add), folded(emit_larger), folded(emit_smaller)


@intrinsic
def row_sums(typing_context: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Four numbers, the sum of each vector: see `emit_row_sums`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return emit_row_sums(builder, *arguments)

    return quad(vector, vector, vector, vector), generate

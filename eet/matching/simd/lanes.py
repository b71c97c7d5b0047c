"""A vector of one number, a lane of four, and moves between lanes."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from eet.matching.simd.vector import FLOATS, FOUR_FLOATS, INT32, LANES, number, quad, vector


def emit_splat(builder: Any, value: Any, shape: Any) -> Any:
    """A vector of type `shape` with `value` in every lane.

    ::

        %first = insertelement <8 x float> undef, float %value, i32 0
        %r = shufflevector <8 x float> %first, <8 x float> undef, <8 x i32> zeroinitializer
    """
    undefined = ir.Constant(shape, ir.Undefined)
    first = builder.insert_element(undefined, value, INT32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(INT32, shape.count), [0] * shape.count))


def emit_shuffle(builder: Any, a: Any, b: Any, places: list[int]) -> Any:
    """A vector of the lanes at `places` of a and b together: b's lanes count on from a's. Here of two quads, at [0, 4, 1, 5].

    ::

        %r = shufflevector <4 x float> %a, <4 x float> %b, <4 x i32> <i32 0, i32 4, i32 1, i32 5>
    """
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(INT32, len(places)), places))


def emit_zip(builder: Any, a: Any, b: Any) -> tuple[Any, Any]:
    """a0 b0 a1 b1 ...: its first and its second half, each as long as a. Here of two quads.

    ::

        %r0 = shufflevector <4 x float> %a, <4 x float> %b, <4 x i32> <i32 0, i32 4, i32 1, i32 5>
        %r1 = shufflevector <4 x float> %a, <4 x float> %b, <4 x i32> <i32 2, i32 6, i32 3, i32 7>
    """
    lanes = a.type.count
    places = [place for k in range(lanes) for place in (k, lanes + k)]
    return emit_shuffle(builder, a, b, places[:lanes]), emit_shuffle(builder, a, b, places[lanes:])


def splatter(kind: Any, shape: Any) -> Any:
    """The intrinsic (number) -> numba's `kind`, in LLVM `shape`."""

    @intrinsic
    def splat(typing_context: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return emit_splat(builder, arguments[0], shape)

        return kind(number), generate

    return splat


splat, splat4 = splatter(vector, FLOATS), splatter(quad, FOUR_FLOATS)


@intrinsic
def lane(typing_context: Any, a: Any, k: Any) -> Any:
    """A vector with lane `k`, a literal, of the quad `a` in every lane; here of k = 2.

    ::

        %r = shufflevector <4 x float> %a, <4 x float> %a, <8 x i32> <i32 2, i32 2, i32 2, i32 2, i32 2, i32 2, i32 2, i32 2>
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return emit_shuffle(builder, arguments[0], arguments[0], [k.literal_value] * LANES)

    return (vector(quad, k), generate) if isinstance(k, types.IntegerLiteral) else None

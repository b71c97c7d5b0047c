"""A square of `LANES` vectors, transposed in registers."""

from typing import Any

from numba import types
from numba.extending import intrinsic

from eet.matching.simd.lanes import emit_splat, emit_zip
from eet.matching.simd.memory import data_of, emit_load, emit_store
from eet.matching.simd.vector import FLOATS, INT64, LANES


def emit_transpose(builder: Any, rows: list[Any]) -> list[Any]:
    """The columns of a square matrix, given as its rows; as many as a row has lanes, a power of two.

    Each step zips row k of the first half with row k of the second half; after log2(rows) steps, every entry is in its place. One step
    of four rows::

        %r0 = shufflevector <4 x float> %row0, <4 x float> %row2, <4 x i32> <i32 0, i32 4, i32 1, i32 5>
        %r1 = shufflevector <4 x float> %row0, <4 x float> %row2, <4 x i32> <i32 2, i32 6, i32 3, i32 7>
        %r2 = shufflevector <4 x float> %row1, <4 x float> %row3, <4 x i32> <i32 0, i32 4, i32 1, i32 5>
        %r3 = shufflevector <4 x float> %row1, <4 x float> %row3, <4 x i32> <i32 2, i32 6, i32 3, i32 7>
    """
    half = len(rows) // 2
    for _ in range(len(rows).bit_length() - 1):
        rows = [part for k in range(half) for part in emit_zip(builder, rows[k], rows[half + k])]
    return rows


@intrinsic
def transpose(typing_context: Any, source: Any, at: Any, stride: Any, scales: Any, scale_at: Any, target: Any, to: Any, width: Any) -> Any:
    """Rows `stride` numbers apart, from source[at] on, become columns: rows `width` numbers apart, from target[to] on.

    Row k of the source is multiplied by scales[scale_at + k] first. There are `LANES` rows of `LANES` numbers. For each row::

        %row = load <8 x float>, ptr %source_k, align 4
        %scale = load float, ptr %scale_k
        %first = insertelement <8 x float> undef, float %scale, i32 0
        %scales = shufflevector <8 x float> %first, <8 x float> undef, <8 x i32> zeroinitializer
        %row_k = fmul <8 x float> %row, %scales

    then `emit_transpose`, and for each column::

        store <8 x float> %column_k, ptr %target_k, align 4
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source_, at_, stride_, scales_, scale_at_, target_, to_, width_ = arguments
        from_rows, from_scales, to_rows = (
            data_of(context, builder, kind, array) for kind, array in ((source, source_), (scales, scales_), (target, target_))
        )
        rows = []
        for k in range(LANES):
            row = emit_load(builder, from_rows, builder.add(at_, builder.mul(stride_, INT64(k))), FLOATS)
            scale = builder.load(builder.gep(from_scales, [builder.add(scale_at_, INT64(k))]))
            rows.append(builder.fmul(row, emit_splat(builder, scale, FLOATS)))
        for k, column in enumerate(emit_transpose(builder, rows)):
            emit_store(builder, to_rows, builder.add(to_, builder.mul(width_, INT64(k))), column)
        return context.get_dummy_value()

    index = types.intp
    return types.none(source, index, index, scales, index, target, index, index), generate

"""Inner products of several rows with several vectors of columns at once, the sums kept in registers."""

import functools
from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from eet.matching.simd.arithmetic import emit_multiply_add
from eet.matching.simd.lanes import emit_splat
from eet.matching.simd.memory import data_of
from eet.matching.simd.vector import FLOATS, INT64, LANES, constant

_STEPS = 4  # at once: they share their row addresses, which with one step cost as much as the sums


@functools.cache
def products(num_rows: int, width: int) -> Any:
    """The intrinsic of one size of block, which compiled code calls.

    (rows, at, stride, columns, column_at, depth, scales, scale_at, out, out_at, out_stride) -> None. For `num_rows` rows of `depth`
    numbers (a multiple of 4), `stride` apart from rows[at] on, and columns laid out as (depth, width * LANES) from columns[column_at]
    on: all inner products, row r times scales[scale_at + r], to rows `out_stride` apart from out[out_at] on.

    Args:
        num_rows: rows of the block, at least 1.
        width: vectors of columns, at least 1. num_rows * width sums and `width` columns must fit in the CPU's vector registers.
    """

    @intrinsic
    def block(
        typing_context: Any, rows: Any, at: Any, stride: Any, columns: Any, column_at: Any, depth: Any,
        scales: Any, scale_at: Any, out: Any, out_at: Any, out_stride: Any,
    ) -> Any:  # fmt: skip
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            rows_, at_, stride_, columns_, column_at_, depth_, scales_, scale_at_, out_, out_at_, out_stride_ = arguments
            from_rows, from_columns, from_scales, to_out = (
                data_of(context, builder, kind, array)
                for kind, array in ((rows, rows_), (columns, columns_), (scales, scales_), (out, out_))
            )
            sums = [[cgutils.alloca_once(builder, FLOATS) for _ in range(width)] for _ in range(num_rows)]
            starts = [builder.gep(from_rows, [builder.add(at_, builder.mul(stride_, INT64(r)))]) for r in range(num_rows)]
            emit_sums(builder, sums, starts, builder.gep(from_columns, [column_at_]), depth_)
            for r in range(num_rows):
                scale = builder.load(builder.gep(from_scales, [builder.add(scale_at_, INT64(r))]))
                place = builder.gep(to_out, [builder.add(out_at_, builder.mul(out_stride_, INT64(r)))])
                place = builder.bitcast(place, FLOATS.as_pointer())
                for v in range(width):
                    value = builder.fmul(builder.load(sums[r][v]), emit_splat(builder, scale, FLOATS))
                    builder.store(value, builder.gep(place, [INT64(v)]), align=4)
            return context.get_dummy_value()

        index = types.intp
        return types.none(rows, index, index, columns, index, index, scales, index, out, index, index), generate

    return block


def emit_sums(builder: Any, sums: list[list[Any]], starts: list[Any], columns: Any, depth: Any) -> None:
    """Fills the stack slots `sums` [row][vector] with inner products; LLVM moves the slots to registers.

    starts: pointers to the rows. columns: pointer to (depth, width * LANES) numbers. In a loop over depth, for each number d of the
    depth, each vector v of columns and each row r::

        %column_v = load <8 x float>, ptr %columns_dv, align 4
        %entry = load float, ptr %row_rd
        %first = insertelement <8 x float> undef, float %entry, i32 0
        %entries = shufflevector <8 x float> %first, <8 x float> undef, <8 x i32> zeroinitializer
        %product = fmul contract <8 x float> %entries, %column_v
        %sum_rv1 = fadd contract <8 x float> %product, %sum_rv
    """
    width = len(sums[0])
    for slot in sum(sums, []):
        builder.store(constant(FLOATS, 0.0), slot)
    with cgutils.for_range(builder, builder.sdiv(depth, INT64(_STEPS))) as loop:
        first = builder.mul(loop.index, INT64(_STEPS))
        here = builder.bitcast(builder.gep(columns, [builder.mul(first, INT64(width * LANES))]), FLOATS.as_pointer())
        places = [builder.gep(start, [first]) for start in starts]
        for step in range(_STEPS):
            held = [builder.load(builder.gep(here, [INT64(step * width + v)]), align=4) for v in range(width)]
            for place, row_sums in zip(places, sums, strict=True):
                value = emit_splat(builder, builder.load(builder.gep(place, [INT64(step)])), FLOATS)
                for column, slot in zip(held, row_sums, strict=True):
                    builder.store(emit_multiply_add(builder, value, column, builder.load(slot)), slot)

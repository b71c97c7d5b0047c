"""Float32 vectors for loops that numba compiles: `num_lanes()` numbers in one register, and what the matching kernel does with them.

numba leaves the choice of vector instructions to LLVM's loop vectoriser, which keeps no block of accumulators in registers across a
loop; here they are written out, as LLVM's portable vector operations (any CPU that LLVM knows compiles them).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple


@functools.cache
def num_lanes() -> int:
    """Numbers of a vector: 16 with AVX-512, else 8 (LLVM pairs up registers that are narrower)."""
    import llvmlite.binding

    return 16 if llvmlite.binding.get_host_cpu_features().get("avx512f", False) else 8


class Vectors(NamedTuple):
    """Functions for compiled code. `array` is a flat C-contiguous array, `at` an index into it; a vector starts there.

    load, store: of float32 arrays; load4, store4: the same of four numbers. half, single: load of a uint16 array that holds float16, or
    float32, `at` counting those; half1, single1: one number of it.
    splat, splat4: a vector of one number. lane: a vector of lane `k` (a literal) of four.
    add, subtract, multiply, divide, larger, smaller: by lanes. multiply_add(a, b, c): a * b + c. absolute.
    reciprocal_root: of four numbers, each above 0.
    total: sum of all lanes. greatest, least: of all lanes. row_sums(a, b, c, d): four numbers, the sum of each vector.
    exp2: 2^x, relative error 2e-7; 0 below -126.
    transpose(source, at, stride, scales, scale_at, target, to, width): a square of vectors, from rows `stride` apart to rows `width` apart;
    row k is multiplied by scales[scale_at + k].
    products(rows, width): a function for all inner products of `rows` rows with the numbers of `width` vectors, kept in registers.
    """

    load: Callable[..., Any]
    store: Callable[..., Any]
    load4: Callable[..., Any]
    store4: Callable[..., Any]
    half: Callable[..., Any]
    single: Callable[..., Any]
    half1: Callable[..., Any]
    single1: Callable[..., Any]
    splat: Callable[..., Any]
    splat4: Callable[..., Any]
    lane: Callable[..., Any]
    add: Callable[..., Any]
    subtract: Callable[..., Any]
    multiply: Callable[..., Any]
    divide: Callable[..., Any]
    larger: Callable[..., Any]
    smaller: Callable[..., Any]
    multiply_add: Callable[..., Any]
    absolute: Callable[..., Any]
    reciprocal_root: Callable[..., Any]
    total: Callable[..., Any]
    greatest: Callable[..., Any]
    least: Callable[..., Any]
    row_sums: Callable[..., Any]
    exp2: Callable[..., Any]
    transpose: Callable[..., Any]
    products: Callable[[int, int], Any]


_FUSED = ("contract",)  # a * b + c in one instruction where there is one; NaN and infinity stay what they are


@functools.cache
def vectors() -> Vectors:
    """The functions, made at the first call."""
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic, models, register_model

    lanes = num_lanes()
    f32, half, i32, i64 = ir.FloatType(), ir.HalfType(), ir.IntType(32), ir.IntType(64)
    wide, four, wide_ints = ir.VectorType(f32, lanes), ir.VectorType(f32, 4), ir.VectorType(i32, lanes)

    class VectorType(types.Type):  # type: ignore[misc]
        def __init__(self, number: int) -> None:
            self.number = number
            super().__init__(name=f"float32x{number}")

    @register_model(VectorType)
    class VectorModel(models.PrimitiveModel):  # type: ignore[misc]
        def __init__(self, manager: Any, kind: Any) -> None:
            super().__init__(manager, kind, ir.VectorType(f32, kind.number))

    vector, quad = VectorType(lanes), VectorType(4)
    number = types.float32

    def address(context: Any, builder: Any, kind: Any, value: Any, at: Any) -> Any:
        return builder.gep(cgutils.create_struct_proxy(kind)(context, builder, value=value).data, [at])

    def constant(shape: Any, value: float) -> Any:
        return ir.Constant(shape, [value] * shape.count)

    def broadcast(builder: Any, value: Any, shape: Any) -> Any:
        first = builder.insert_element(ir.Constant(shape, ir.Undefined), value, i32(0))
        return builder.shuffle_vector(
            first, ir.Constant(shape, ir.Undefined), ir.Constant(ir.VectorType(i32, shape.count), [0] * shape.count)
        )

    def shuffled(builder: Any, a: Any, b: Any, places: list[int]) -> Any:
        return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(i32, len(places)), places))

    def zipped(builder: Any, a: Any, b: Any) -> tuple[Any, Any]:
        """a0 b0 a1 b1 ..., its first and its second half."""
        places = [place for k in range(lanes) for place in (k, lanes + k)]
        return shuffled(builder, a, b, places[:lanes]), shuffled(builder, a, b, places[lanes:])

    def fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
        return builder.fadd(builder.fmul(a, b, flags=_FUSED), c, flags=_FUSED)

    def loader(kind: Any, shape: Any, held: Any) -> Any:
        """Of what lies in the array as `held`."""

        @intrinsic
        def load(typing_context: Any, array: Any, at: Any) -> Any:
            def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                start = cgutils.create_struct_proxy(array)(context, builder, value=arguments[0]).data
                lane_kind = held.element if isinstance(held, ir.VectorType) else held
                place = builder.gep(builder.bitcast(start, lane_kind.as_pointer()), [arguments[1]])
                value = builder.load(builder.bitcast(place, held.as_pointer()), align=2 if lane_kind == half else 4)
                return builder.fpext(value, shape) if lane_kind == half else value

            return kind(array, types.intp), generate

        return load

    def storer(kind: Any, shape: Any) -> Any:
        @intrinsic
        def store(typing_context: Any, array: Any, at: Any, value: Any) -> Any:
            def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                place = address(context, builder, array, arguments[0], arguments[1])
                builder.store(arguments[2], builder.bitcast(place, shape.as_pointer()), align=4)
                return context.get_dummy_value()

            return types.none(array, types.intp, kind), generate

        return store

    def splatter(kind: Any, shape: Any) -> Any:
        @intrinsic
        def splat(typing_context: Any, value: Any) -> Any:
            def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                return broadcast(builder, arguments[0], shape)

            return kind(number), generate

        return splat

    def by_lanes(operands: int, emit: Callable[..., Any]) -> Any:
        """An operation on vectors of one kind; the kind is that of the first."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return emit(builder, *arguments)

        if operands == 1:

            @intrinsic
            def one(typing_context: Any, a: Any) -> Any:
                return a(a), generate

            return one
        if operands == 2:

            @intrinsic
            def two(typing_context: Any, a: Any, b: Any) -> Any:
                return a(a, a), generate

            return two

        @intrinsic
        def three(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
            return a(a, a, a), generate

        return three

    def pick(comparison: str) -> Callable[..., Any]:
        return lambda builder, a, b: builder.select(builder.fcmp_ordered(comparison, a, b), a, b)

    def folded(combine: Callable[..., Any]) -> Any:
        """All lanes of a vector made one number, halves on halves."""

        @intrinsic
        def fold(typing_context: Any, a: Any) -> Any:
            def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                value, left = arguments[0], a.number
                while left > 1:
                    left //= 2
                    low, high = (shuffled(builder, value, value, list(range(start, start + left))) for start in (0, left))
                    value = combine(builder, low, high)
                return builder.extract_element(value, i32(0))

            return number(a), generate

        return fold

    def emit_row_sums(builder: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
        # The middle two change places, so that the sums come out in order.
        pairs = [builder.fadd(*zipped(builder, left, right)) for left, right in ((a, c), (b, d))]
        value, left = builder.fadd(*zipped(builder, *pairs)), lanes
        while left > 4:
            left //= 2
            value = builder.fadd(*(shuffled(builder, value, value, list(range(start, start + left))) for start in (0, left)))
        return value

    @intrinsic
    def row_sums(typing_context: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return emit_row_sums(builder, *arguments)

        return quad(vector, vector, vector, vector), generate

    def emit_reciprocal_root(builder: Any, a: Any) -> Any:
        root = builder.module.declare_intrinsic("llvm.sqrt.v4f32", fnty=ir.FunctionType(four, [four]))
        return builder.fdiv(constant(four, 1.0), builder.call(root, [a]))

    @intrinsic
    def lane(typing_context: Any, a: Any, k: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return shuffled(builder, arguments[0], arguments[0], [k.literal_value] * lanes)

        return (vector(quad, k), generate) if isinstance(k, types.IntegerLiteral) else None

    def emit_exp2(builder: Any, x: Any) -> Any:
        low = constant(wide, -126.0)
        tiny = builder.fcmp_ordered("<", x, low)
        x = builder.select(tiny, low, x)
        # Adding 1.5 * 2^23 rounds to a whole number, which then stands in the lowest bits.
        magic = constant(wide, 12582912.0)
        rounded = builder.fadd(x, magic)
        rest = builder.fsub(x, builder.fsub(rounded, magic))
        value = constant(wide, _EXP2[-1])
        for coefficient in _EXP2[-2::-1]:
            value = fused(builder, value, rest, constant(wide, coefficient))
        exponent = builder.shl(builder.bitcast(rounded, wide_ints), constant(wide_ints, 23))
        return builder.select(tiny, constant(wide, 0.0), builder.bitcast(builder.add(builder.bitcast(value, wide_ints), exponent), wide))

    @intrinsic
    def transpose(
        typing_context: Any, source: Any, at: Any, stride: Any, scales: Any, scale_at: Any, target: Any, to: Any, width: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            source_, at_, stride_, scales_, scale_at_, target_, to_, width_ = arguments
            rows = []
            for k in range(lanes):
                place = address(context, builder, source, source_, builder.add(at_, builder.mul(stride_, i64(k))))
                row = builder.load(builder.bitcast(place, wide.as_pointer()), align=4)
                scale = builder.load(address(context, builder, scales, scales_, builder.add(scale_at_, i64(k))))
                rows.append(builder.fmul(row, broadcast(builder, scale, wide)))
            for _ in range(lanes.bit_length() - 1):
                half = lanes // 2
                rows = [part for k in range(half) for part in zipped(builder, rows[k], rows[half + k])]
            for k, row in enumerate(rows):
                place = address(context, builder, target, target_, builder.add(to_, builder.mul(width_, i64(k))))
                builder.store(row, builder.bitcast(place, wide.as_pointer()), align=4)
            return context.get_dummy_value()

        index = types.intp
        return types.none(source, index, index, scales, index, target, index, index), generate

    @functools.cache
    def products(num_rows: int, width: int) -> Any:
        """(rows, at, stride, columns, column_at, depth, scales, scale_at, out, out_at, out_stride): for num_rows rows of `depth` numbers,
        and columns laid out as (depth, width * num_lanes()), all inner products, each row's times its scale.
        """

        @intrinsic
        def block(
            typing_context: Any, rows: Any, at: Any, stride: Any, columns: Any, column_at: Any, depth: Any,
            scales: Any, scale_at: Any, out: Any, out_at: Any, out_stride: Any,
        ) -> Any:  # fmt: skip
            def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                rows_, at_, stride_, columns_, column_at_, depth_, scales_, scale_at_, out_, out_at_, out_stride_ = arguments
                sums = [[cgutils.alloca_once(builder, wide) for _ in range(width)] for _ in range(num_rows)]
                for slot in sum(sums, []):
                    builder.store(constant(wide, 0.0), slot)
                starts = [address(context, builder, rows, rows_, builder.add(at_, builder.mul(stride_, i64(r)))) for r in range(num_rows)]
                column_start = address(context, builder, columns, columns_, column_at_)
                # Several steps at once share their row addresses, which with one step cost as much as the sums.
                with cgutils.for_range(builder, builder.sdiv(depth_, i64(_STEPS))) as loop:
                    first = builder.mul(loop.index, i64(_STEPS))
                    here = builder.gep(column_start, [builder.mul(first, i64(width * lanes))])
                    here = builder.bitcast(here, wide.as_pointer())
                    places = [builder.gep(start, [first]) for start in starts]
                    for step in range(_STEPS):
                        held = [builder.load(builder.gep(here, [i64(step * width + v)]), align=4) for v in range(width)]
                        for r in range(num_rows):
                            value = broadcast(builder, builder.load(builder.gep(places[r], [i64(step)])), wide)
                            for v in range(width):
                                builder.store(fused(builder, value, held[v], builder.load(sums[r][v])), sums[r][v])
                for r in range(num_rows):
                    scale = builder.load(address(context, builder, scales, scales_, builder.add(scale_at_, i64(r))))
                    place = address(context, builder, out, out_, builder.add(out_at_, builder.mul(out_stride_, i64(r))))
                    place = builder.bitcast(place, wide.as_pointer())
                    for v in range(width):
                        value = builder.fmul(builder.load(sums[r][v]), broadcast(builder, scale, wide))
                        builder.store(value, builder.gep(place, [i64(v)]), align=4)
                return context.get_dummy_value()

            index = types.intp
            return types.none(rows, index, index, columns, index, index, scales, index, out, index, index), generate

        return block

    return Vectors(
        load=loader(vector, wide, wide),
        store=storer(vector, wide),
        load4=loader(quad, four, four),
        store4=storer(quad, four),
        half=loader(vector, wide, ir.VectorType(half, lanes)),
        single=loader(vector, wide, wide),
        half1=loader(number, f32, half),
        single1=loader(number, f32, f32),
        splat=splatter(vector, wide),
        splat4=splatter(quad, four),
        lane=lane,
        add=by_lanes(2, lambda builder, a, b: builder.fadd(a, b)),
        subtract=by_lanes(2, lambda builder, a, b: builder.fsub(a, b)),
        multiply=by_lanes(2, lambda builder, a, b: builder.fmul(a, b)),
        divide=by_lanes(2, lambda builder, a, b: builder.fdiv(a, b)),
        larger=by_lanes(2, pick(">")),
        smaller=by_lanes(2, pick("<")),
        multiply_add=by_lanes(3, fused),
        absolute=by_lanes(1, lambda builder, a: builder.select(builder.fcmp_ordered("<", a, constant(a.type, 0.0)), builder.fneg(a), a)),
        reciprocal_root=by_lanes(1, emit_reciprocal_root),
        total=folded(lambda builder, a, b: builder.fadd(a, b)),
        greatest=folded(pick(">")),
        least=folded(pick("<")),
        row_sums=row_sums,
        exp2=by_lanes(1, emit_exp2),
        transpose=transpose,
        products=products,
    )


_STEPS = 4
# 2^x on [-1/2, 1/2], fitted for the least relative error (1e-7), exact at 0.
_EXP2 = (1.0, 0.693147004, 0.240222424, 0.0555073358, 0.00967151299, 0.00132647261)

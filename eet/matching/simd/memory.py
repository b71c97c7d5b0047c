"""Loads and stores. `array` is a flat C-contiguous array, `at` an index into it: the vector starts there, aligned or not."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from eet.matching.simd.vector import FLOAT, FLOATS, FOUR_FLOATS, HALF, HALVES, number, quad, vector


def data_of(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    """The pointer to an array's first entry, as LLVM value. kind: numba's type of the array."""
    return cgutils.create_struct_proxy(kind)(context, builder, value=array).data


def emit_load(builder: Any, start: Any, at: Any, held: Any) -> Any:
    """The numbers that lie in memory as `held` (an LLVM type: float, half, or a vector of them), as float32; here of `<8 x half>`.

    `at` counts numbers of that kind from the pointer `start`, whatever this points to::

        %place = getelementptr half, ptr %start, i64 %at
        %halves = load <8 x half>, ptr %place, align 2
        %r = fpext <8 x half> %halves to <8 x float>

    What is float32 already needs no `fpext`.
    """
    element = held.element if isinstance(held, ir.VectorType) else held
    place = builder.gep(builder.bitcast(start, element.as_pointer()), [at])
    value = builder.load(builder.bitcast(place, held.as_pointer()), align=2 if element == HALF else 4)
    if element != HALF:
        return value
    return builder.fpext(value, ir.VectorType(FLOAT, held.count) if isinstance(held, ir.VectorType) else FLOAT)


def emit_store(builder: Any, start: Any, at: Any, value: Any) -> None:
    """Writes a vector to float32 memory, `at` numbers after the pointer `start`.

    ::

        %place = getelementptr float, ptr %start, i64 %at
        store <8 x float> %value, ptr %place, align 4
    """
    place = builder.gep(start, [at])
    builder.store(value, builder.bitcast(place, value.type.as_pointer()), align=4)


def loader(kind: Any, held: Any) -> Any:
    """The intrinsic (array, at) -> numba's `kind`, of what lies in the array as `held`."""

    @intrinsic
    def load(typing_context: Any, array: Any, at: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return emit_load(builder, data_of(context, builder, array, arguments[0]), arguments[1], held)

        return kind(array, types.intp), generate

    return load


def storer(kind: Any) -> Any:
    """The intrinsic (array, at, value) -> None, of values of numba's `kind`."""

    @intrinsic
    def store(typing_context: Any, array: Any, at: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            emit_store(builder, data_of(context, builder, array, arguments[0]), arguments[1], arguments[2])
            return context.get_dummy_value()

        return types.none(array, types.intp, kind), generate

    return store


# Of float32 arrays.
load, store = loader(vector, FLOATS), storer(vector)
load4, store4 = loader(quad, FOUR_FLOATS), storer(quad)
# Of uint16 arrays that hold float16 (half) or float32 (single), `at` counting those: a vector, and one number.
half, single = loader(vector, HALVES), loader(vector, FLOATS)
half1, single1 = loader(number, HALF), loader(number, FLOAT)

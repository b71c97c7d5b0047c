"""2^x, lane by lane."""

from typing import Any

from llvmlite import ir

from eet.matching.simd.arithmetic import by_lanes, emit_multiply_add
from eet.matching.simd.vector import INT32, constant

# 2^x on [-1/2, 1/2], fitted for the least relative error (1e-7), exact at 0.
_COEFFICIENTS = (1.0, 0.693147004, 0.240222424, 0.0555073358, 0.00967151299, 0.00132647261)
_LOWEST = -126.0  # of the exponents of normal float32
_ROUNDING = 12582912.0  # 1.5 * 2^23: a number added to it is rounded to a whole one, which then stands in the lowest bits


def emit_exp2(builder: Any, x: Any) -> Any:
    """2^x of a vector, relative error 2e-7; 0 below -126.

    x is a whole number n and a rest in [-1/2, 1/2]; 2^rest is a polynomial, and n is added to the exponent in the bits of its value::

        %tiny = fcmp olt <8 x float> %x, splat (float -126.0)
        %x1 = select <8 x i1> %tiny, <8 x float> splat (float -126.0), <8 x float> %x
        %rounded = fadd <8 x float> %x1, splat (float 12582912.0)
        %n = fsub <8 x float> %rounded, splat (float 12582912.0)
        %rest = fsub <8 x float> %x1, %n
        ; five times, from the highest coefficient down: %value = %value * %rest + coefficient
        %product = fmul contract <8 x float> %value, %rest
        %value1 = fadd contract <8 x float> %product, splat (float COEFFICIENT)
        ; the exponent
        %bits = bitcast <8 x float> %rounded to <8 x i32>
        %exponent = shl <8 x i32> %bits, splat (i32 23)
        %valuebits = bitcast <8 x float> %value5 to <8 x i32>
        %sum = add <8 x i32> %valuebits, %exponent
        %power = bitcast <8 x i32> %sum to <8 x float>
        %r = select <8 x i1> %tiny, <8 x float> zeroinitializer, <8 x float> %power
    """
    floats, ints = x.type, ir.VectorType(INT32, x.type.count)
    lowest, rounding = constant(floats, _LOWEST), constant(floats, _ROUNDING)
    tiny = builder.fcmp_ordered("<", x, lowest)
    x = builder.select(tiny, lowest, x)
    rounded = builder.fadd(x, rounding)
    rest = builder.fsub(x, builder.fsub(rounded, rounding))
    value = constant(floats, _COEFFICIENTS[-1])
    for coefficient in _COEFFICIENTS[-2::-1]:
        value = emit_multiply_add(builder, value, rest, constant(floats, coefficient))
    exponent = builder.shl(builder.bitcast(rounded, ints), constant(ints, 23))
    power = builder.bitcast(builder.add(builder.bitcast(value, ints), exponent), floats)
    return builder.select(tiny, constant(floats, 0.0), power)


exp2 = by_lanes(emit_exp2)

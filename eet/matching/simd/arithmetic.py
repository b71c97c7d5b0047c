"""Operations lane by lane: operands and result are vectors of one type, of `LANES` numbers or of four."""

import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.extending import intrinsic

from eet.matching.simd.vector import constant

_FUSED = ("contract",)  # a * b + c in one instruction where there is one; NaN and infinity stay what they are


def emit_add(builder: Any, a: Any, b: Any) -> Any:
    """a + b.

    ::

        %r = fadd <8 x float> %a, %b
    """
    return builder.fadd(a, b)


def emit_subtract(builder: Any, a: Any, b: Any) -> Any:
    """a - b.

    ::

        %r = fsub <8 x float> %a, %b
    """
    return builder.fsub(a, b)


def emit_multiply(builder: Any, a: Any, b: Any) -> Any:
    """a * b.

    ::

        %r = fmul <8 x float> %a, %b
    """
    return builder.fmul(a, b)


def emit_divide(builder: Any, a: Any, b: Any) -> Any:
    """a / b.

    ::

        %r = fdiv <8 x float> %a, %b
    """
    return builder.fdiv(a, b)


def emit_larger(builder: Any, a: Any, b: Any) -> Any:
    """The larger of a and b; b where either is NaN.

    ::

        %above = fcmp ogt <8 x float> %a, %b
        %r = select <8 x i1> %above, <8 x float> %a, <8 x float> %b
    """
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def emit_smaller(builder: Any, a: Any, b: Any) -> Any:
    """The smaller of a and b; b where either is NaN.

    ::

        %below = fcmp olt <8 x float> %a, %b
        %r = select <8 x i1> %below, <8 x float> %a, <8 x float> %b
    """
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


def emit_multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a * b + c, one instruction (FMA) where the CPU has it.

    ::

        %product = fmul contract <8 x float> %a, %b
        %r = fadd contract <8 x float> %product, %c
    """
    return builder.fadd(builder.fmul(a, b, flags=_FUSED), c, flags=_FUSED)


def emit_absolute(builder: Any, a: Any) -> Any:
    """a without its sign; -0 stays -0.

    ::

        %below = fcmp olt <8 x float> %a, zeroinitializer
        %negated = fneg <8 x float> %a
        %r = select <8 x i1> %below, <8 x float> %negated, <8 x float> %a
    """
    return builder.select(builder.fcmp_ordered("<", a, constant(a.type, 0.0)), builder.fneg(a), a)


def emit_reciprocal_root(builder: Any, a: Any) -> Any:
    """1 / sqrt(a) of a quad, each number above 0; exact as sqrt and division are, not the CPU's estimate.

    ::

        %root = call <4 x float> @llvm.sqrt.v4f32(<4 x float> %a)
        %r = fdiv <4 x float> splat (float 1.0), %root
    """
    root = builder.module.declare_intrinsic("llvm.sqrt.v4f32", fnty=ir.FunctionType(a.type, [a.type]))
    return builder.fdiv(constant(a.type, 1.0), builder.call(root, [a]))


def by_lanes(emit: Callable[..., Any]) -> Any:
    """The intrinsic of `emit(builder, *operands)`, of one to three operands; its type is that of the first."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return emit(builder, *arguments)

    @intrinsic
    def one(typing_context: Any, a: Any) -> Any:
        return a(a), generate

    @intrinsic
    def two(typing_context: Any, a: Any, b: Any) -> Any:
        return a(a, a), generate

    @intrinsic
    def three(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
        return a(a, a, a), generate

    return (one, two, three)[len(inspect.signature(emit).parameters) - 2]


add, subtract, multiply, divide = by_lanes(emit_add), by_lanes(emit_subtract), by_lanes(emit_multiply), by_lanes(emit_divide)
larger, smaller, absolute = by_lanes(emit_larger), by_lanes(emit_smaller), by_lanes(emit_absolute)
multiply_add, reciprocal_root = by_lanes(emit_multiply_add), by_lanes(emit_reciprocal_root)

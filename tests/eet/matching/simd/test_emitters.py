"""The instructions in the docstrings are those that are emitted; and compiled code gets the right numbers from them."""

import inspect
import re

import llvmlite.binding
import numpy as np
import pytest
from llvmlite import ir
from numba import njit

from eet.matching.simd import arithmetic, lanes, memory, reduction
from eet.matching.simd.arithmetic import absolute, larger, multiply_add, reciprocal_root, smaller
from eet.matching.simd.exponential import exp2
from eet.matching.simd.lanes import lane, splat
from eet.matching.simd.memory import half, half1, load, load4, single1, store, store4
from eet.matching.simd.product_block import products
from eet.matching.simd.reduction import greatest, least, row_sums, total
from eet.matching.simd.transposition import transpose
from eet.matching.simd.vector import FLOAT, HALF, INT64, LANES

EIGHT, FOUR = ir.VectorType(FLOAT, 8), ir.VectorType(FLOAT, 4)
SQRT = "declare <4 x float> @llvm.sqrt.v4f32(<4 x float>)\n"


EMITTERS = {
    "add": (arithmetic.emit_add, {"a": EIGHT, "b": EIGHT}, ()),
    "subtract": (arithmetic.emit_subtract, {"a": EIGHT, "b": EIGHT}, ()),
    "multiply": (arithmetic.emit_multiply, {"a": EIGHT, "b": EIGHT}, ()),
    "divide": (arithmetic.emit_divide, {"a": EIGHT, "b": EIGHT}, ()),
    "larger": (arithmetic.emit_larger, {"a": EIGHT, "b": EIGHT}, ()),
    "smaller": (arithmetic.emit_smaller, {"a": EIGHT, "b": EIGHT}, ()),
    "multiply_add": (arithmetic.emit_multiply_add, {"a": EIGHT, "b": EIGHT, "c": EIGHT}, ()),
    "absolute": (arithmetic.emit_absolute, {"a": EIGHT}, ()),
    "reciprocal_root": (arithmetic.emit_reciprocal_root, {"a": FOUR}, ()),
    "splat": (lanes.emit_splat, {"value": FLOAT}, (EIGHT,)),
    "shuffle": (lanes.emit_shuffle, {"a": FOUR, "b": FOUR}, ([0, 4, 1, 5],)),
    "zip": (lanes.emit_zip, {"a": FOUR, "b": FOUR}, ()),
    "half": (reduction.emit_half, {"a": FOUR}, (arithmetic.emit_add,)),
    "fold": (reduction.emit_fold, {"a": FOUR}, (arithmetic.emit_add,)),
    "row_sums": (reduction.emit_row_sums, {"a": FOUR, "b": FOUR, "c": FOUR, "d": FOUR}, ()),
    "load": (memory.emit_load, {"start": HALF.as_pointer(), "at": INT64}, (ir.VectorType(HALF, 8),)),
    "store": (memory.emit_store, {"start": FLOAT.as_pointer(), "at": INT64, "value": EIGHT}, ()),
}


@pytest.mark.parametrize("name", EMITTERS)
def test_the_docstring_shows_the_instructions(name: str) -> None:
    emit, operands, more = EMITTERS[name]
    function = ir.Function(ir.Module(), ir.FunctionType(ir.VoidType(), list(operands.values())), name="f")
    for argument, operand in zip(function.args, operands, strict=True):
        argument.name = operand
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    emit(builder, *function.args, *more)
    builder.ret_void()
    shown = [line for line in inspect.getdoc(emit).splitlines() if re.match(r"    (%|store )", line)]
    parameters = ", ".join(f"{re.sub(r'[a-z]+[*]', 'ptr', str(kind))} %{operand}" for operand, kind in operands.items())
    written = f"define void @f({parameters}) {{\nentry:\n" + "\n".join(shown) + "\n  ret void\n}\n"
    assert instructions(written + SQRT) == instructions(str(function.module))


def instructions(text: str) -> list[str]:
    """LLVM's own print of a module's one function, its values numbered in order of appearance; casts of pointers to themselves left out."""
    (block,) = next(f for f in llvmlite.binding.parse_assembly(text).functions if not f.is_declaration).blocks
    lines = [re.sub(r"\s+", " ", str(line)).strip() for line in block.instructions]
    names: dict[str, str] = {}
    for cast in [line for line in lines if re.search(r"bitcast ptr %\S+ to ptr", line)]:
        lines.remove(cast)
        new, old = re.match(r"(%\S+) = bitcast ptr (%\S+) to ptr", cast).groups()
        lines = [re.sub(rf"{re.escape(new)}(?![\w.\"])", old, line) for line in lines]
    return [re.sub(r'%"[^"]*"|%[\w.]+', lambda found: names.setdefault(found[0], f"%{len(names)}"), line) for line in lines]


def test_lane_by_lane_numbers() -> None:
    @njit
    def fill(a, b, c, out):  # type: ignore[no-untyped-def]
        x, y, z = load(a, 0), load(b, 0), load(c, 0)
        store(out, 0 * LANES, multiply_add(x, y, z))
        store(out, 1 * LANES, larger(x, y))
        store(out, 2 * LANES, smaller(x, y))
        store(out, 3 * LANES, absolute(x))
        store(out, 4 * LANES, splat(a[1]))
        store(out, 5 * LANES, lane(load4(b, 0), 2))
        store4(out, 6 * LANES, reciprocal_root(load4(c, 0)))

    a, b, c = drawn(3, LANES)
    c = np.abs(c) + 1
    out = np.zeros((7, LANES), np.float32)
    fill(a, b, c, out.reshape(-1))
    expected = a.astype(np.float64) * b + c
    np.testing.assert_allclose(out[0], expected, atol=1e-6)
    np.testing.assert_array_equal(out[1:6], [np.maximum(a, b), np.minimum(a, b), np.abs(a), np.full(LANES, a[1]), np.full(LANES, b[2])])
    np.testing.assert_allclose(out[6, :4], 1 / np.sqrt(c[:4]), rtol=2e-7)


def test_reductions() -> None:
    @njit
    def fill(rows, out):  # type: ignore[no-untyped-def]
        a, b, c, d = load(rows, 0), load(rows, LANES), load(rows, 2 * LANES), load(rows, 3 * LANES)
        store4(out, 0, row_sums(a, b, c, d))
        out[4], out[5], out[6] = total(a), greatest(b), least(c)

    rows, out = drawn(4, LANES), np.zeros(7, np.float32)
    fill(rows.reshape(-1), out)
    np.testing.assert_allclose(out[:5], [*rows.sum(axis=1), rows[0].sum()], atol=1e-5)
    assert out[5] == rows[1].max() and out[6] == rows[2].min()


def test_float16_is_read_from_any_place() -> None:
    @njit
    def fill(halves, singles, out):  # type: ignore[no-untyped-def]
        store(out, 0, half(halves, 3))
        out[LANES], out[LANES + 1] = half1(halves, 5), single1(singles, 2)

    (values,) = drawn(1, LANES + 3)
    halves, out = values.astype(np.float16), np.zeros(LANES + 2, np.float32)
    fill(halves.view(np.uint16), values.view(np.uint16), out)
    np.testing.assert_array_equal(out, [*halves[3:], halves[5], values[2]])


def test_transpose_is_the_transpose_of_scaled_rows() -> None:
    @njit
    def fill(source, scales, target):  # type: ignore[no-untyped-def]
        transpose(source, 1, LANES + 2, scales, 1, target, 2, LANES + 3)

    source, scales = drawn(LANES + 1, LANES + 2), drawn(1, LANES + 1)[0]
    target = np.zeros((LANES + 1, LANES + 3), np.float32)
    fill(source.reshape(-1), scales, target.reshape(-1))
    square = source.reshape(-1)[1:][: LANES * (LANES + 2)].reshape(LANES, LANES + 2)[:, :LANES]
    np.testing.assert_array_equal(
        target.reshape(-1)[2:][: LANES * (LANES + 3)].reshape(LANES, -1)[:, :LANES], (square * scales[1:, None]).T
    )


@pytest.mark.parametrize(("rows", "width"), [(1, 1), (5, 2), (3, 3)])
def test_a_block_of_products_is_a_matrix_product(rows: int, width: int) -> None:
    block, depth = products(rows, width), 8

    @njit
    def fill(a, columns, scales, out):  # type: ignore[no-untyped-def]
        block(a, 0, depth, columns, 0, depth, scales, 0, out, 0, width * LANES)

    a, columns, (scales,) = drawn(rows, depth), drawn(depth, width * LANES), drawn(1, rows)
    out = np.zeros((rows, width * LANES), np.float32)
    fill(a.reshape(-1), columns.reshape(-1), scales, out.reshape(-1))
    np.testing.assert_allclose(out, (a @ columns) * scales[:, None], atol=1e-5)


def test_exp2_is_close_and_ends_at_zero() -> None:
    @njit
    def fill(values, out):  # type: ignore[no-untyped-def]
        store(out, 0, exp2(load(values, 0)))

    values = np.resize(
        np.float32([0, 1, -1, 0.5, -0.5, 3.3, -17.2, -125.9, -126.5, -1e30, -np.inf, 60.4, 0.499, -0.501, 2.5, -99.9]), LANES
    )
    out = np.empty(LANES, np.float32)
    fill(values, out)
    np.testing.assert_allclose(out, np.where(values < -126, 0, 2.0 ** values.astype(np.float64)), rtol=3e-7)


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)

"""The vector types, as LLVM and as numba know them."""

from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.extending import models, register_model

LANES = 16 if llvmlite.binding.get_host_cpu_features().get("avx512f", False) else 8
"""Numbers of a vector: 16 with AVX-512, else 8 (LLVM pairs up registers that are narrower)."""

FLOAT, HALF, INT32, INT64 = ir.FloatType(), ir.HalfType(), ir.IntType(32), ir.IntType(64)
FLOATS, HALVES, FOUR_FLOATS = ir.VectorType(FLOAT, LANES), ir.VectorType(HALF, LANES), ir.VectorType(FLOAT, 4)


class VectorType(types.Type):  # type: ignore[misc]
    """numba's type of a vector of `number` float32, in LLVM `<number x float>`."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(name=f"float32x{number}")


@register_model(VectorType)
class VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    """How numba holds a vector: as the LLVM value itself."""

    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, ir.VectorType(FLOAT, kind.number))


vector, quad, number = VectorType(LANES), VectorType(4), types.float32


def constant(shape: Any, value: float) -> Any:
    """The LLVM constant of type `shape`, a vector, with `value` in every lane."""
    return ir.Constant(shape, [value] * shape.count)

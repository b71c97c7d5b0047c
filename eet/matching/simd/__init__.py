"""Float32 vectors for loops that numba compiles: `LANES` numbers in one register, and the operations that the matching kernel needs.

numba leaves the choice of vector instructions to LLVM's loop vectoriser, which keeps no block of accumulators in registers across a
loop. Here the instructions are written out, as LLVM's portable vector operations: any CPU that LLVM knows can run them.

One module for each family of operations:

    vector          the types: a vector, a quad (four numbers), and how many lanes a vector has
    memory          load and store, float32 and float16
    lanes           a vector of one number, a lane, and moves between lanes
    arithmetic      add, multiply, multiply_add, larger, ...: lane by lane
    reduction       the lanes of a vector made one number
    exponential     2^x
    transposition   a square of vectors, transposed
    product_block   inner products of several rows with several columns at once

An operation is an `emit_*` function, which writes LLVM instructions through an `IRBuilder`, and an intrinsic of the same name, which
compiled code calls. The docstring of `emit_*` shows the instructions. These modules import numba, and this package imports none of them.
"""

"""Distances of many codes at once, bit by bit.

Plane p holds bit p of every code of a block, so that one instruction adds up as many codes as a register has bits. Ones are counted by
carry-save adders, as in Harley and Seal's population count (Warren, "Hacker's Delight", 5-2); the counts are kept as planes too.

A block holds 64 * LANES codes. Importing this module imports numba; its functions are for code that numba compiles. They take
one-dimensional arrays of 64-bit words and offsets into them: a slice would cost as much as the work on it.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from eet.compiled_loops import compiled

LANES = 16
"""Words of a plane."""

VECTOR = 8
"""Words processed at once; where registers are narrower, the compiler splits them."""

LIMIT_PLANES = 16
"""Most bits of a distance."""

_WORD = ir.IntType(64)
_VECTOR = ir.VectorType(_WORD, VECTOR)
_INDEX = ir.IntType(32)
_CARRIES = LIMIT_PLANES * VECTOR  # where they begin in the scratch, after the counts


@compiled
def scratch_words(num_planes):  # type: ignore[no-untyped-def]
    """Size of the scratch of `codes_within`, in words."""
    return _CARRIES + 2 * num_planes + 32 * VECTOR


@compiled
def transpose(block, rows):  # type: ignore[no-untyped-def]
    """Turns 64 rows of LANES words, or 32 rows of words that hold two codes of 32 bits, into as many planes, in place.

    Bit b of a word in row r becomes bit r of that word in row b (for 32 rows in either half of a word).
    """
    step = rows // 2
    mask = np.uint64(0x00000000FFFFFFFF) if rows == 64 else np.uint64(0x0000FFFF0000FFFF)
    while step > 0:
        shift = np.uint64(step)
        for row in range(0, rows, 2 * step):
            first = block[row * LANES : (row + step) * LANES]
            second = block[(row + step) * LANES : (row + 2 * step) * LANES]
            for i in range(len(first)):
                changed = ((first[i] >> shift) ^ second[i]) & mask
                second[i] ^= changed
                first[i] ^= changed << shift
        step //= 2
        mask ^= mask << np.uint64(step)


@compiled
def codes_within(planes, column, num_planes, flips, query, limit_planes, limit, scratch, near):  # type: ignore[no-untyped-def]
    """Whether any code in the words column .. column + VECTOR of the planes is no farther than a limit; near (VECTOR,): their bits.

    num_planes: a multiple of 8. flips[query :]: for each plane all ones where the query's bit is 1, else 0; the last num_planes words of
    flips are 0. limit_planes[limit :]: the same for each bit of the limit, the least first.
    """
    groups = num_planes // 8
    counted = 0
    carries = _CARRIES
    _add_planes(planes, column, LANES, flips, query, groups, scratch, 0, carries)
    while groups > 1:
        # Each carry counts for 8 of the values added: the carries are added up in turn.
        counted += 3
        padded = -(-groups // 8)
        for i in range(carries + groups * VECTOR, carries + padded * 8 * VECTOR):
            scratch[i] = 0
        following = carries + padded * 8 * VECTOR
        _add_planes(scratch, carries, VECTOR, flips, len(flips) - num_planes, padded, scratch, counted * VECTOR, following)
        carries, groups = following, padded
    counted += 3
    for i in range(VECTOR):
        scratch[counted * VECTOR + i] = scratch[carries + i]
    return _within(scratch, counted + 1, limit_planes, limit, near)


@intrinsic
def _add_planes(typing_context: Any, planes: Any, start: Any, stride: Any, flips: Any, flip: Any, groups: Any, scratch: Any, counts: Any, carries: Any) -> Any:  # fmt: skip # noqa: E501
    """Adds up groups of 8 planes (those of group g begin at start + 8 * g * stride), flipped.

    Writes the lowest three planes of the counts to scratch[counts :], and a carry of 8 for each group to scratch[carries :].
    """
    signature = types.void(planes, types.intp, types.intp, flips, types.intp, types.intp, scratch, types.intp, types.intp)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        planes, start, stride, flips, flip, groups, scratch, counts, carries = arguments
        planes, flips, scratch = (_data(context, builder, signature.args[i], arguments[i]) for i in (0, 3, 6))
        zero = ir.Constant(_VECTOR, [0] * VECTOR)
        before, loop, done = builder.block, builder.append_basic_block(), builder.append_basic_block()
        builder.branch(loop)
        builder.position_at_end(loop)
        group = builder.phi(_WORD)
        ones, twos, fours = (builder.phi(_VECTOR) for _ in range(3))
        bits = []
        for i in range(8):
            plane = builder.add(builder.mul(group, _WORD(8)), _WORD(i))
            words = _load(builder, planes, builder.add(start, builder.mul(plane, stride)))
            flipped = builder.load(builder.gep(flips, [builder.add(flip, plane)]))
            bits.append(builder.xor(words, _broadcast(builder, flipped)))
        one, two_a = _full_adder(builder, ones, bits[0], bits[1])
        one, two_b = _full_adder(builder, one, bits[2], bits[3])
        two, four_a = _full_adder(builder, twos, two_a, two_b)
        one, two_a = _full_adder(builder, one, bits[4], bits[5])
        one, two_b = _full_adder(builder, one, bits[6], bits[7])
        two, four_b = _full_adder(builder, two, two_a, two_b)
        four, eight = _full_adder(builder, fours, four_a, four_b)
        _store(builder, eight, scratch, builder.add(carries, builder.mul(group, _WORD(VECTOR))))
        following = builder.add(group, _WORD(1))
        for phi, first, later in ((group, _WORD(0), following), (ones, zero, one), (twos, zero, two), (fours, zero, four)):
            phi.add_incoming(first, before)
            phi.add_incoming(later, loop)
        builder.cbranch(builder.icmp_signed("<", following, groups), loop, done)
        builder.position_at_end(done)
        for place, plane in enumerate((one, two, four)):
            _store(builder, plane, scratch, builder.add(counts, _WORD(place * VECTOR)))
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def _within(typing_context: Any, scratch: Any, num_counts: Any, limit_planes: Any, limit: Any, near: Any) -> Any:
    """Compares the counts in the first planes of the scratch with a limit, from the lowest bit on: where they differ the limit decides."""
    signature = types.boolean(scratch, types.intp, limit_planes, types.intp, near)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        scratch, limits, near = (_data(context, builder, signature.args[i], arguments[i]) for i in (0, 2, 4))
        num_counts, limit = arguments[1], arguments[3]
        before, loop, done = builder.block, builder.append_basic_block(), builder.append_basic_block()
        builder.branch(loop)
        builder.position_at_end(loop)
        place, least = builder.phi(_WORD), builder.phi(_VECTOR)
        count = _load(builder, scratch, builder.mul(place, _WORD(VECTOR)))
        allowed = _broadcast(builder, builder.load(builder.gep(limits, [builder.add(limit, place)])))
        result = _select(builder, builder.xor(count, allowed), allowed, least)
        following = builder.add(place, _WORD(1))
        for phi, first, later in ((place, _WORD(0), following), (least, ir.Constant(_VECTOR, [-1] * VECTOR), result)):
            phi.add_incoming(first, before)
            phi.add_incoming(later, loop)
        builder.cbranch(builder.icmp_signed("<", following, num_counts), loop, done)
        builder.position_at_end(done)
        _store(builder, result, near, _WORD(0))
        some = builder.extract_element(result, _INDEX(0))
        for i in range(1, VECTOR):
            some = builder.or_(some, builder.extract_element(result, _INDEX(i)))
        return builder.icmp_unsigned("!=", some, _WORD(0))

    return signature, generate


def _data(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    return context.make_array(kind)(context, builder, array).data


def _load(builder: Any, words: Any, place: Any) -> Any:
    return builder.load(builder.bitcast(builder.gep(words, [place]), _VECTOR.as_pointer()), align=8)


def _store(builder: Any, vector: Any, words: Any, place: Any) -> None:
    builder.store(vector, builder.bitcast(builder.gep(words, [place]), _VECTOR.as_pointer()), align=8)


def _broadcast(builder: Any, word: Any) -> Any:
    undefined = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(undefined, word, _INDEX(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_INDEX, VECTOR), [0] * VECTOR))


def _select(builder: Any, chosen: Any, one: Any, other: Any) -> Any:
    """Bit by bit `one` where `chosen` is 1, else `other`: one instruction where the CPU has it."""
    return builder.or_(builder.and_(chosen, one), builder.and_(builder.not_(chosen), other))


def _full_adder(builder: Any, x: Any, y: Any, z: Any) -> tuple[Any, Any]:
    """(sum, carry) of three bits: where the first two differ the third decides the carry."""
    differ = builder.xor(x, y)
    return builder.xor(differ, z), _select(builder, differ, z, x)

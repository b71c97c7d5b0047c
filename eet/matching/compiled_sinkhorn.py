"""The compiled loop of matching on a CPU: one pair after another, from tokens to score, within the CPU cache.

The cosine matrix of a pair has the gallery image's tokens as rows and the query's in the lanes of vectors, padded with zeros. Scratch
arrays are flat and start at a cache line. Importing this module imports numba. A function is compiled when it is first called (some
seconds) and cached on disk next to this file if possible; one that closed over another would be compiled again in each process.

Tokens and centres with NaN or infinite entries count as zeros. Arguments are grouped in named tuples, which numba knows.

Shape suffixes: N images, K tokens (Kq of the query, Kg of the gallery image), D dimensions, P pairs.
"""

import functools
from typing import NamedTuple

import numpy as np

from eet.compiled_loops import compiled as compiled_loop
from eet.matching.simd.arithmetic import absolute, add, divide, larger, multiply, multiply_add, reciprocal_root, smaller, subtract
from eet.matching.simd.exponential import exp2
from eet.matching.simd.lanes import lane, splat, splat4
from eet.matching.simd.memory import half, half1, load, load4, single, single1, store, store4
from eet.matching.simd.product_block import products
from eet.matching.simd.reduction import greatest, least, row_sums, total
from eet.matching.simd.transposition import transpose
from eet.matching.simd.vector import LANES

_WIDEST_KERNEL = 60.0
"""e-folds that exp(cosine / epsilon) may span in plain scaling; beyond, potentials are taken into the exponent from the start."""

_BLOCK_ROWS = {16: (12, 10, 7), 8: (12, 6)}
"""Lanes -> rows of a block of products that is 1, 2, ... vectors wide. As measured: with more rows registers spill, with fewer rows
multiplications wait for each other. 12 tokens, 49 = 5 * 10 - 1 and 196 = 28 * 7 leave few rows over.
"""

_ITERATIONS_AT_ONCE = 32  # between which the scaling vectors of a slow problem are taken into the exponent too
_NO_ENTRY = np.float32(-1e30)  # a potential: the exponents of its row or column are so low that the kernel is 0 there
_FLOOR = 1e-30  # of what is divided by: keeps 0 / 0, for tokens without mass that nothing reaches, at 0

lanes = LANES
block_rows = _BLOCK_ROWS[lanes]
widest = len(block_rows)
rows_1, rows_2, rows_3 = block_rows[0], block_rows[1], block_rows[-1]
products_1, products_2, products_3 = products(rows_1, 1), products(rows_2, 2), products(rows_3, widest)
log2e, log2_floor = float(np.log2(np.e)), float(np.log2(_FLOOR))
# numpy's rule for division: dividing by 0 returns infinity instead of an exception, so that loops have no extra exit.
compiled = functools.partial(compiled_loop, error_model="numpy")


class Tokens(NamedTuple):
    """Tokens of N images.

    numbers: flat uint16, one kind of array to compile for. It holds float16 (N * K * D entries) where `halves` is true, else float32 (twice
    as many). per_image: K. dims: D.
    """

    numbers: np.ndarray
    halves: bool
    per_image: int
    dims: int


class WeightedTokens(NamedTuple):
    """One side of the pairs: tokens, and what each has to send or receive.

    marginal: float32 (rows, K), each row summing to 1. rows: int64 (P,), a pair's row of `marginal`.
    """

    tokens: Tokens
    marginal: np.ndarray
    rows: np.ndarray


class Settings(NamedTuple):
    """epsilon, transported: as in `match_pairs`. tolerance: L1 error of the row sums at which a pair is done. max_iterations: at most."""

    epsilon: float
    transported: float
    tolerance: float
    max_iterations: int


class Answers(NamedTuple):
    """The outputs of `score`, float32 (P,).

    scores: <plan, cosine>. delivered: the mass that the plan moves. errors: bound of the L1 error of the row sums before their last
    update: the tolerance, or infinity where the iterations ended first.
    """

    scores: np.ndarray
    delivered: np.ndarray
    errors: np.ndarray


class Rows(NamedTuple):
    """Scratch: an image's tokens as float32 rows of `stride` numbers, padded with zeros; `scales` normalises each to unit length."""

    numbers: np.ndarray
    stride: int
    scales: np.ndarray


class Kernel(NamedTuple):
    """Scratch: a pair's matrices, flat, `padded_rows` rows of `width` vectors.

    num_rows, num_columns: tokens of the gallery image and of the query. entries: 2^(factor * cosine), the potentials of its row and its
    column added to the exponent.
    """

    num_rows: int
    num_columns: int
    padded_rows: int
    width: int
    cosine: np.ndarray
    entries: np.ndarray
    potentials_r: np.ndarray
    potentials_c: np.ndarray


class Scaling(NamedTuple):
    """Scratch: what the iterations of a pair read and change.

    u, v: marginals of rows and columns. r, c: scaling vectors. sent: mass from rows to columns. border_r, border_c: the kernel's
    entries of the dummy column and of the dummy row. dummies, dummy_potentials: (2,) of the dummy row, of the dummy column.
    """

    u: np.ndarray
    v: np.ndarray
    r: np.ndarray
    c: np.ndarray
    sent: np.ndarray
    border_r: np.ndarray
    border_c: np.ndarray
    dummies: np.ndarray
    dummy_potentials: np.ndarray


@compiled(inline="always")
def zero():  # type: ignore[no-untyped-def]
    """A vector of zeros."""
    return splat(np.float32(0))


@compiled
def aligned(size):  # type: ignore[no-untyped-def]
    """`size` zeros that start at a cache line, and one more line of zeros after them."""
    zeros = np.zeros(size + 32, np.float32)
    start = (-(zeros.ctypes.data // 4)) % 16
    return zeros[start : start + size + 16]


@compiled
def unpack(numbers, halves, image, num_tokens, dims, rows):  # type: ignore[no-untyped-def]
    """Fills the rows with the tokens of an image. Four at once; the last ones may be done twice.

    numbers, halves, dims: as in `Tokens`, and num_tokens its per_image: plain arguments, so that LLVM sees which of them are constant.
    """
    out, stride, scales = rows.numbers, rows.stride, rows.scales
    first = image * num_tokens * dims
    whole = dims // lanes * lanes
    last = num_tokens - 1
    for k in range(0, num_tokens, 4):
        k1, k2, k3 = min(k + 1, last), min(k + 2, last), min(k + 3, last)
        squares_0, squares_1, squares_2, squares_3 = zero(), zero(), zero(), zero()
        for d in range(0, whole, lanes):
            values = half(numbers, first + k * dims + d) if halves else single(numbers, first + k * dims + d)
            store(out, k * stride + d, values)
            squares_0 = multiply_add(values, values, squares_0)
            values = half(numbers, first + k1 * dims + d) if halves else single(numbers, first + k1 * dims + d)
            store(out, k1 * stride + d, values)
            squares_1 = multiply_add(values, values, squares_1)
            values = half(numbers, first + k2 * dims + d) if halves else single(numbers, first + k2 * dims + d)
            store(out, k2 * stride + d, values)
            squares_2 = multiply_add(values, values, squares_2)
            values = half(numbers, first + k3 * dims + d) if halves else single(numbers, first + k3 * dims + d)
            store(out, k3 * stride + d, values)
            squares_3 = multiply_add(values, values, squares_3)
        sums = row_sums(squares_0, squares_1, squares_2, squares_3)
        if whole < dims:
            store4(scales, k, sums)
            for row in range(k, min(k + 4, num_tokens)):
                for d in range(whole, dims):
                    value = half1(numbers, first + row * dims + d) if halves else single1(numbers, first + row * dims + d)
                    out[row * stride + d] = value
                    scales[row] += value * value
            sums = load4(scales, k)
        store4(scales, k, reciprocal_root(sums))
        # Written so that NaN is rescued too.
        if not (greatest(sums) < np.float32(1e30) and least(sums) > np.float32(1e-30)):
            for row in range(k, min(k + 4, num_tokens)):
                scales[row] = rescued(out[row * stride : row * stride + dims])
    for row in range(num_tokens, -(-num_tokens // 4) * 4):
        scales[row] = 0


@compiled
def rescued(token):  # type: ignore[no-untyped-def]
    """The scale of a token whose squares may leave float32: it is divided by its largest entry, or made zeros if that is not finite."""
    largest = np.float32(0)
    for d in range(len(token)):
        if not np.isfinite(token[d]):
            largest = np.float32(np.inf)
        largest = max(largest, abs(token[d]))
    sum_of_squares = np.float32(0)
    for d in range(len(token)):
        token[d] = token[d] / largest if 0 < largest < np.inf else np.float32(0)
        sum_of_squares += token[d] * token[d]
    return np.float32(1) / np.sqrt(sum_of_squares) if sum_of_squares > 0 else np.float32(0)


@compiled
def cosines(rows, columns, kernel):  # type: ignore[no-untyped-def]
    """The cosines of a gallery image's tokens with the query's, panel by panel of `columns`."""
    unpacked, stride, scales = rows.numbers, rows.stride, rows.scales
    num_tokens, width, out = kernel.num_rows, kernel.width, kernel.cosine
    num_panels = -(-width // widest)
    start = 0
    for panel in range(num_panels):
        panel_width = (width - start) // (num_panels - panel)
        at = start * lanes * stride
        to = start * lanes
        if panel_width == 1:
            for k in range(0, num_tokens, rows_1):
                products_1(unpacked, k * stride, stride, columns, at, stride, scales, k, out, k * width * lanes + to, width * lanes)
        elif panel_width == 2:
            for k in range(0, num_tokens, rows_2):
                products_2(unpacked, k * stride, stride, columns, at, stride, scales, k, out, k * width * lanes + to, width * lanes)
        else:
            for k in range(0, num_tokens, rows_3):
                products_3(unpacked, k * stride, stride, columns, at, stride, scales, k, out, k * width * lanes + to, width * lanes)
        start += panel_width


@compiled
def lay_out_columns(rows, width, columns):  # type: ignore[no-untyped-def]
    """The query's tokens of unit length, transposed, in the panels that `cosines` walks through."""
    unpacked, stride, scales = rows.numbers, rows.stride, rows.scales
    num_panels = -(-width // widest)
    start = 0
    for panel in range(num_panels):
        panel_width = (width - start) // (num_panels - panel)
        for v in range(panel_width):
            token = (start + v) * lanes
            for d in range(0, stride, lanes):
                to = (start * stride + d * panel_width + v) * lanes
                transpose(unpacked, token * stride + d, stride, scales, token, columns, to, panel_width * lanes)
        start += panel_width


@compiled
def exponentials(kernel, factor, shift):  # type: ignore[no-untyped-def]
    """The kernel's entries: 2^(factor * cosine - shift + both potentials)."""
    cosine, entries, padded_rows, width = kernel.cosine, kernel.entries, kernel.padded_rows, kernel.width
    potentials_r, potentials_c = kernel.potentials_r, kernel.potentials_c
    by, less = splat(np.float32(factor)), splat(np.float32(-shift))
    for i in range(padded_rows):
        here = add(less, splat(potentials_r[i]))
        for v in range(width):
            at = (i * width + v) * lanes
            exponent = multiply_add(load(cosine, at), by, add(here, load(potentials_c, v * lanes)))
            store(entries, at, exp2(exponent))


@compiled
def iterate(kernel, scaling, slack, tolerance, iterations):  # type: ignore[no-untyped-def]
    """Scaling iterations, at most `iterations`; true once the rows, before their last update, held within the tolerance."""
    entries, padded_rows, width = kernel.entries, kernel.padded_rows, kernel.width
    u, v_, r, c, y = scaling.u, scaling.v, scaling.r, scaling.c, scaling.sent
    border_r, border_c, dummies = scaling.border_r, scaling.border_c, scaling.dummies
    least_sum, least_sum4 = splat(np.float32(_FLOOR)), splat4(np.float32(_FLOOR))
    for _ in range(iterations):
        for v in range(width):
            store(y, v * lanes, zero())
        error4 = splat4(np.float32(0))
        sum4 = splat4(np.float32(0))
        dummy_c4 = splat4(dummies[1])
        for i in range(0, padded_rows, 4):
            first = i * width * lanes
            second = first + width * lanes
            third = second + width * lanes
            fourth = third + width * lanes
            sums_0, sums_1, sums_2, sums_3 = zero(), zero(), zero(), zero()
            for v in range(0, width * lanes, lanes):
                scale = load(c, v)
                sums_0 = multiply_add(load(entries, first + v), scale, sums_0)
                sums_1 = multiply_add(load(entries, second + v), scale, sums_1)
                sums_2 = multiply_add(load(entries, third + v), scale, sums_2)
                sums_3 = multiply_add(load(entries, fourth + v), scale, sums_3)
            border = load4(border_r, i)
            received = multiply_add(border, dummy_c4, row_sums(sums_0, sums_1, sums_2, sums_3))
            wanted = load4(u, i)
            error4 = add(error4, absolute(subtract(multiply(load4(r, i), received), wanted)))
            scales = divide(wanted, larger(received, least_sum4))
            store4(r, i, scales)
            sum4 = multiply_add(scales, border, sum4)
            scale_0, scale_1, scale_2, scale_3 = lane(scales, 0), lane(scales, 1), lane(scales, 2), lane(scales, 3)
            for v in range(0, width * lanes, lanes):
                some = multiply_add(load(entries, first + v), scale_0, multiply(load(entries, second + v), scale_1))
                more = multiply_add(load(entries, third + v), scale_2, multiply(load(entries, fourth + v), scale_3))
                store(y, v, add(load(y, v), add(some, more)))
        error = total(error4)
        dummy_r = np.float32(0)
        if slack > 0:
            received_by_dummy = zero()
            for v in range(0, width * lanes, lanes):
                received_by_dummy = multiply_add(load(c, v), load(border_c, v), received_by_dummy)
            error += abs(dummies[0] * total(received_by_dummy) - slack)
            dummy_r = slack / max(total(received_by_dummy), np.float32(_FLOOR))
            dummies[0] = dummy_r
            dummies[1] = slack / max(total(sum4), np.float32(_FLOOR))
        dummy = splat(dummy_r)
        for v in range(0, width * lanes, lanes):
            sent = multiply_add(load(border_c, v), dummy, load(y, v))
            store(c, v, divide(load(v_, v), larger(sent, least_sum)))
        if error <= tolerance:
            return True
    return False


@compiled
def highest_of(values, number):  # type: ignore[no-untyped-def]
    """The greatest of the first `number` values, at least one."""
    highest = values[0]
    for i in range(1, number):
        highest = max(highest, values[i])
    return highest


@compiled
def balance(kernel, factor, top):  # type: ignore[no-untyped-def]
    """Potentials that make the largest entry of every row, then of every column, 1."""
    cosine, potentials_r, potentials_c, stride = kernel.cosine, kernel.potentials_r, kernel.potentials_c, kernel.width * lanes
    for i in range(kernel.num_rows):
        potentials_r[i] = np.float32(factor * (top - highest_of(cosine[i * stride :], kernel.num_columns)))
    for j in range(kernel.num_columns):
        largest = np.float32(-np.inf)
        for i in range(kernel.num_rows):
            largest = max(largest, np.float32(factor * (cosine[i * stride + j] - top)) + potentials_r[i])
        potentials_c[j] = -largest


@compiled
def absorb(scaling, potentials, number):  # type: ignore[no-untyped-def]
    """Takes scaling vectors, which become 1, into the exponents; tokens without mass, scaled by 0, leave the kernel and stay at 0.

    After an update of the columns, none receives more than its mass: the new entries are at most 1. Entries of tokens without mass have no
    such bound, because only the potentials of the others change.

    Returns:
        Whether a token left.
    """
    left = False
    for i in range(number):
        if scaling[i] > 0:
            potentials[i] += np.float32(np.log2(scaling[i]))
            scaling[i] = 1
        else:
            left |= potentials[i] > _NO_ENTRY
            potentials[i] = _NO_ENTRY
    return left


@compiled
def reach(kernel, scaling, factor, top):  # type: ignore[no-untyped-def]
    """Potentials that make the largest entry 1 in rows, then in columns, where none is above the floor.

    Their largest was that of a token which left. The floor would lift them by 100 binary digits with each `absorb`, of thousands.
    """
    cosine, potentials_r, potentials_c, stride = kernel.cosine, kernel.potentials_r, kernel.potentials_c, kernel.width * lanes
    for i in range(kernel.num_rows):
        largest = potentials_r[i] + scaling.dummy_potentials[1]
        for j in range(kernel.num_columns):
            largest = max(largest, np.float32(factor * (cosine[i * stride + j] - top)) + potentials_r[i] + potentials_c[j])
        if potentials_r[i] > _NO_ENTRY and largest < log2_floor:
            potentials_r[i] -= largest
    for j in range(kernel.num_columns):
        largest = potentials_c[j] + scaling.dummy_potentials[0]
        for i in range(kernel.num_rows):
            largest = max(largest, np.float32(factor * (cosine[i * stride + j] - top)) + potentials_r[i] + potentials_c[j])
        if potentials_c[j] > _NO_ENTRY and largest < log2_floor:
            potentials_c[j] -= largest


@compiled
def draw_borders(kernel, scaling):  # type: ignore[no-untyped-def]
    """Kernel entries of the dummy column (one for each row) and of the dummy row, whose costs are constant."""
    dummy_row, dummy_column = scaling.dummy_potentials[0], scaling.dummy_potentials[1]
    for i in range(0, kernel.padded_rows, lanes):
        store(scaling.border_r, i, exp2(add(load(kernel.potentials_r, i), splat(dummy_column))))
    for j in range(0, kernel.width * lanes, lanes):
        store(scaling.border_c, j, exp2(add(load(kernel.potentials_c, j), splat(dummy_row))))


@compiled
def scratch_for(num_rows, num_columns, dims):  # type: ignore[no-untyped-def]
    """The scratch of a pair: Rows, the query's columns for `cosines`, Kernel and Scaling."""
    width = -(-num_columns // lanes)
    lanes_q = width * lanes
    padded_rows = -(-num_rows // 4) * 4
    scratch_rows = max(padded_rows, num_rows + rows_1, lanes_q)
    stride = -(-dims // lanes) * lanes
    rows = Rows(aligned(scratch_rows * stride), stride, aligned(scratch_rows))
    columns = aligned(lanes_q * stride)
    cosine, entries = aligned(scratch_rows * lanes_q), aligned(scratch_rows * lanes_q)
    u, r, border_r, potentials_r = aligned(scratch_rows), aligned(scratch_rows), aligned(scratch_rows), aligned(scratch_rows)
    v, c, sent, border_c, potentials_c = aligned(lanes_q), aligned(lanes_q), aligned(lanes_q), aligned(lanes_q), aligned(lanes_q)
    dummies, dummy_potentials = np.zeros(2, np.float32), np.full(2, _NO_ENTRY)
    potentials_r[:], potentials_c[:] = _NO_ENTRY, _NO_ENTRY  # of what only pads
    kernel = Kernel(num_rows, num_columns, padded_rows, width, cosine, entries, potentials_r, potentials_c)
    return rows, columns, kernel, Scaling(u, v, r, c, sent, border_r, border_c, dummies, dummy_potentials)


@compiled
def lay_out_query(query, image, rows, columns, kernel):  # type: ignore[no-untyped-def]
    """Lays out the tokens of an image of the query side in the columns, and empties the rows for the gallery side."""
    rows.numbers[:] = 0
    rows.scales[:] = 0
    unpack(query.tokens.numbers, query.tokens.halves, image, query.tokens.per_image, query.tokens.dims, rows)
    lay_out_columns(rows, kernel.width, columns)
    rows.numbers[:] = 0
    rows.scales[:] = 0


@compiled
def score(query, gallery, pairs, settings, answers):  # type: ignore[no-untyped-def]
    """Fills the answers: scores and delivered mass of pairs (P, 2). The result of a pair depends on that pair only.

    Args:
        query, gallery: `WeightedTokens`, of the same dims.
        pairs: int64 (P, 2), image of the query side and of the gallery side. Work is saved if the pairs of a query are adjacent.
        settings: `Settings`.
        answers: `Answers`, filled.
    """
    epsilon, transported, tolerance, max_iterations = settings
    num_query, num_gallery, dims = query.tokens.per_image, gallery.tokens.per_image, query.tokens.dims
    rows, columns, kernel, scaling = scratch_for(num_gallery, num_query, dims)
    lanes_q = kernel.width * lanes
    cosine, entries, potentials_r, potentials_c = kernel.cosine, kernel.entries, kernel.potentials_r, kernel.potentials_c
    u, v, r, c, dummies, dummy_potentials = scaling.u, scaling.v, scaling.r, scaling.c, scaling.dummies, scaling.dummy_potentials
    slack = np.float32(1 - transported)
    factor = log2e / epsilon
    previous = np.int64(-1)
    for p in range(len(pairs)):
        if pairs[p, 0] != previous:
            previous = pairs[p, 0]
            lay_out_query(query, previous, rows, columns, kernel)
        unpack(gallery.tokens.numbers, gallery.tokens.halves, pairs[p, 1], num_gallery, dims, rows)
        cosines(rows, columns, kernel)

        for i in range(num_gallery):
            u[i] = gallery.marginal[gallery.rows[p], i]
        for j in range(num_query):
            v[j] = query.marginal[query.rows[p], j]
        highest, lowest = splat(np.float32(-2)), splat(np.float32(2))
        for at in range(0, kernel.padded_rows * lanes_q, lanes):
            values = load(cosine, at)
            highest, lowest = larger(highest, values), smaller(lowest, values)
        top, bottom = greatest(highest), least(lowest)
        potentials_r[:num_gallery] = 0
        potentials_c[:num_query] = 0
        if (top - bottom) / epsilon > _WIDEST_KERNEL:
            balance(kernel, factor, top)
        exponentials(kernel, factor, factor * top)
        c[:] = 1
        r[:] = 0
        dummies[0] = 0
        if slack > 0:
            dummies[1] = 1
            dummy_potentials[0] = -highest_of(potentials_c, num_query)
            dummy_potentials[1] = -highest_of(potentials_r, num_gallery)
            draw_borders(kernel, scaling)
        done = 0
        while done < max_iterations:
            at_most = min(_ITERATIONS_AT_ONCE, max_iterations - done)
            if iterate(kernel, scaling, slack, tolerance, at_most):
                break
            done += at_most
            if done < max_iterations:
                left_r, left_c = absorb(r, potentials_r, num_gallery), absorb(c, potentials_c, num_query)
                if slack > 0:
                    dummy_potentials += np.log2(dummies)
                    dummies[:] = 1
                if left_r or left_c:
                    reach(kernel, scaling, factor, top)
                exponentials(kernel, factor, factor * top)
                if slack > 0:
                    draw_borders(kernel, scaling)

        sums, moved = zero(), zero()
        for i in range(num_gallery):
            row_sum, row_moved = zero(), zero()
            for at in range(0, lanes_q, lanes):
                mass = multiply(load(entries, i * lanes_q + at), load(c, at))
                row_sum = multiply_add(mass, load(cosine, i * lanes_q + at), row_sum)
                row_moved = add(row_moved, mass)
            sums = multiply_add(splat(r[i]), row_sum, sums)
            moved = multiply_add(splat(r[i]), row_moved, moved)
        answers.scores[p] = total(sums)
        answers.delivered[p] = total(moved)
        answers.errors[p] = tolerance if done < max_iterations else np.inf


@compiled
def correlate(centers, tokens, pairs, out):  # type: ignore[no-untyped-def]
    """Fills out (P, K): the cosine of centre pairs[p, 0] with each token of image pairs[p, 1].

    centers: `Tokens.numbers` of float32 centres. tokens: `Tokens`. pairs: int64 (P, 2).
    """
    num_tokens = tokens.per_image
    stride = -(-tokens.dims // lanes) * lanes
    rows = Rows(aligned(num_tokens * stride), stride, aligned(num_tokens + 4))
    center = Rows(aligned(stride), stride, aligned(4))
    for p in range(len(pairs)):
        unpack(centers, False, pairs[p, 0], 1, tokens.dims, center)
        unpack(tokens.numbers, tokens.halves, pairs[p, 1], num_tokens, tokens.dims, rows)
        for k in range(num_tokens):
            product = zero()
            for d in range(0, stride, lanes):
                product = multiply_add(load(rows.numbers, k * stride + d), load(center.numbers, d), product)
            out[p, k] = total(product) * rows.scales[k] * center.scales[0]

"""The compiled loop of matching on a CPU: one pair after the other, from tokens to score, without leaving the cache.

The cosine matrix of a pair has the gallery image's tokens as rows and the query's in the lanes of vectors, padded with zeros. Scratch
arrays are flat and start at a cache line. Importing this module imports numba. A function is compiled when it is first called (some
seconds) and kept on disk beside this file where that can be written; one that closed over another would be compiled anew in each process.

Tokens and centres are flat arrays of uint16 that hold float16 (where `halves` is true) or float32. Those with NaN or infinite entries count
as zeros.

Shape suffixes: N images, K tokens (Kq of the query, Kg of the gallery image), D dimensions, P pairs.
"""

import numpy as np
from numba import njit

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
"""By lanes: rows of a block of products that is 1, 2, ... vectors wide. As measured: more are not kept in registers, fewer wait for each
other. 12 tokens, 49 = 5 * 10 - 1 and 196 = 28 * 7 leave little over.
"""

_ITERATIONS_AT_ONCE = 32  # between which the scaling vectors of a slow problem are taken into the exponent too
_FLOOR = 1e-30  # of what is divided by: keeps 0 / 0, for tokens without mass that nothing reaches, at 0

# numpy's rule for division: by 0 it gives infinity and no exception, so that loops have no way out.
compiled = njit(nogil=True, cache=True, error_model="numpy")
lanes = LANES
block_rows = _BLOCK_ROWS[lanes]
widest = len(block_rows)
rows_1, rows_2, rows_3 = block_rows[0], block_rows[1], block_rows[-1]
products_1, products_2, products_3 = products(rows_1, 1), products(rows_2, 2), products(rows_3, widest)
log2e = float(np.log2(np.e))


@njit(inline="always")
def zero():  # type: ignore[no-untyped-def]
    return splat(np.float32(0))


@compiled
def aligned(size):  # type: ignore[no-untyped-def]
    """Zeros at a cache line, with a line more behind them."""
    room = np.zeros(size + 32, np.float32)
    start = (-(room.ctypes.data // 4)) % 16
    return room[start : start + size + 16]


@compiled
def unpack(tokens, halves, first, num_tokens, dims, out, stride, scales):  # type: ignore[no-untyped-def]
    """Tokens as float32 rows of `stride`, and what makes each of unit length. Four at once; the last ones may be done twice."""
    whole = dims // lanes * lanes
    last = num_tokens - 1
    for k in range(0, num_tokens, 4):
        k1, k2, k3 = min(k + 1, last), min(k + 2, last), min(k + 3, last)
        squares_0, squares_1, squares_2, squares_3 = zero(), zero(), zero(), zero()
        for d in range(0, whole, lanes):
            values = half(tokens, first + k * dims + d) if halves else single(tokens, first + k * dims + d)
            store(out, k * stride + d, values)
            squares_0 = multiply_add(values, values, squares_0)
            values = half(tokens, first + k1 * dims + d) if halves else single(tokens, first + k1 * dims + d)
            store(out, k1 * stride + d, values)
            squares_1 = multiply_add(values, values, squares_1)
            values = half(tokens, first + k2 * dims + d) if halves else single(tokens, first + k2 * dims + d)
            store(out, k2 * stride + d, values)
            squares_2 = multiply_add(values, values, squares_2)
            values = half(tokens, first + k3 * dims + d) if halves else single(tokens, first + k3 * dims + d)
            store(out, k3 * stride + d, values)
            squares_3 = multiply_add(values, values, squares_3)
        sums = row_sums(squares_0, squares_1, squares_2, squares_3)
        if whole < dims:
            store4(scales, k, sums)
            for row in range(k, min(k + 4, num_tokens)):
                for d in range(whole, dims):
                    value = half1(tokens, first + row * dims + d) if halves else single1(tokens, first + row * dims + d)
                    out[row * stride + d] = value
                    scales[row] += value * value
            sums = load4(scales, k)
        store4(scales, k, reciprocal_root(sums))
        # Written so that a NaN goes there too.
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
def cosines(unpacked, stride, scales, columns, num_tokens, width, out):  # type: ignore[no-untyped-def]
    """Rows of `width` vectors: the cosines of a gallery image's tokens with the query's, panel by panel of `columns`."""
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
def lay_out_columns(unpacked, stride, scales, width, columns):  # type: ignore[no-untyped-def]
    """The query's tokens of unit length, transposed, in the panels that `cosines` walks through."""
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
def exponentials(cosine, padded_rows, width, factor, shift, potentials_r, potentials_c, kernel):  # type: ignore[no-untyped-def]
    """2^(factor * cosine - shift + both potentials)."""
    by, less = splat(np.float32(factor)), splat(np.float32(-shift))
    for i in range(padded_rows):
        here = add(less, splat(potentials_r[i]))
        for v in range(width):
            at = (i * width + v) * lanes
            exponent = multiply_add(load(cosine, at), by, add(here, load(potentials_c, v * lanes)))
            store(kernel, at, exp2(exponent))


@compiled
def iterate(kernel, padded_rows, width, u, v_, r, c, y, border_r, border_c, dummies, slack, tolerance, iterations):  # type: ignore[no-untyped-def]
    """Scaling iterations, at most `iterations`; true once the rows, before their last update, held within the tolerance."""
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
                sums_0 = multiply_add(load(kernel, first + v), scale, sums_0)
                sums_1 = multiply_add(load(kernel, second + v), scale, sums_1)
                sums_2 = multiply_add(load(kernel, third + v), scale, sums_2)
                sums_3 = multiply_add(load(kernel, fourth + v), scale, sums_3)
            border = load4(border_r, i)
            received = multiply_add(border, dummy_c4, row_sums(sums_0, sums_1, sums_2, sums_3))
            wanted = load4(u, i)
            error4 = add(error4, absolute(subtract(multiply(load4(r, i), received), wanted)))
            scales = divide(wanted, larger(received, least_sum4))
            store4(r, i, scales)
            sum4 = multiply_add(scales, border, sum4)
            scale_0, scale_1, scale_2, scale_3 = lane(scales, 0), lane(scales, 1), lane(scales, 2), lane(scales, 3)
            for v in range(0, width * lanes, lanes):
                some = multiply_add(load(kernel, first + v), scale_0, multiply(load(kernel, second + v), scale_1))
                more = multiply_add(load(kernel, third + v), scale_2, multiply(load(kernel, fourth + v), scale_3))
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
    highest = values[0]
    for i in range(1, number):
        highest = max(highest, values[i])
    return highest


@compiled
def balance(cosine, num_gallery, num_query, lanes_q, factor, top, potentials_r, potentials_c):  # type: ignore[no-untyped-def]
    """Potentials that make the largest entry of every row, then of every column, 1."""
    for i in range(num_gallery):
        potentials_r[i] = np.float32(factor * (top - highest_of(cosine[i * lanes_q :], num_query)))
    for j in range(num_query):
        largest = np.float32(-np.inf)
        for i in range(num_gallery):
            largest = max(largest, np.float32(factor * (cosine[i * lanes_q + j] - top)) + potentials_r[i])
        potentials_c[j] = -largest


@compiled
def absorb(marginal, scaling, potentials, number):  # type: ignore[no-untyped-def]
    """Takes scaling vectors, which become 1, into the exponents."""
    for i in range(number):
        if marginal[i] > 0:
            potentials[i] += np.float32(np.log2(scaling[i]))
        scaling[i] = 1


@compiled
def draw_borders(potentials_r, potentials_c, dummy_potentials, padded_rows, lanes_q, border_r, border_c):  # type: ignore[no-untyped-def]
    """Kernel entries of the dummy column (one for each row) and of the dummy row, whose costs are constant."""
    for i in range(0, padded_rows, lanes):
        store(border_r, i, exp2(add(load(potentials_r, i), splat(dummy_potentials[1]))))
    for j in range(0, lanes_q, lanes):
        store(border_c, j, exp2(add(load(potentials_c, j), splat(dummy_potentials[0]))))


@compiled
def score(  # type: ignore[no-untyped-def]
    query, query_halves, gallery, gallery_halves, num_query, num_gallery, dims, pairs,
    query_marginal, query_marginal_rows, gallery_marginal, gallery_marginal_rows,
    epsilon, transported, tolerance, max_iterations, scores, delivered,
):  # fmt: skip
    """Fills scores and delivered (P,): <plan, cosine> of pairs (P, 2), and the mass that the plan moves. What a pair gets depends on
    nothing but the pair. The marginals' rows (P,) say which row of them is a pair's.
    """
    width = -(-num_query // lanes)
    lanes_q = width * lanes
    padded_rows = -(-num_gallery // 4) * 4
    room_rows = max(padded_rows, num_gallery + rows_1, lanes_q)
    stride = -(-dims // lanes) * lanes
    unpacked, scales = aligned(room_rows * stride), aligned(room_rows)
    columns = aligned(lanes_q * stride)
    cosine, kernel = aligned(room_rows * lanes_q), aligned(room_rows * lanes_q)
    u, r, border_r, potentials_r = aligned(room_rows), aligned(room_rows), aligned(room_rows), aligned(room_rows)
    v_, c, y, border_c, potentials_c = aligned(lanes_q), aligned(lanes_q), aligned(lanes_q), aligned(lanes_q), aligned(lanes_q)
    dummies, dummy_potentials = np.zeros(2, np.float32), np.zeros(2, np.float32)  # of the dummy row, of the dummy column
    potentials_r[:], potentials_c[:] = -1e30, -1e30  # what only pads has no entries in the kernel
    slack = np.float32(1 - transported)
    factor = log2e / epsilon
    previous = np.int64(-1)
    for p in range(len(pairs)):
        if pairs[p, 0] != previous:
            previous = pairs[p, 0]
            unpacked[:] = 0
            scales[:] = 0
            unpack(query, query_halves, previous * num_query * dims, num_query, dims, unpacked, stride, scales)
            lay_out_columns(unpacked, stride, scales, width, columns)
            unpacked[:] = 0
            scales[:] = 0
        unpack(gallery, gallery_halves, pairs[p, 1] * num_gallery * dims, num_gallery, dims, unpacked, stride, scales)
        cosines(unpacked, stride, scales, columns, num_gallery, width, cosine)

        for i in range(num_gallery):
            u[i] = gallery_marginal[gallery_marginal_rows[p], i]
        for j in range(num_query):
            v_[j] = query_marginal[query_marginal_rows[p], j]
        highest, lowest = splat(np.float32(-2)), splat(np.float32(2))
        for at in range(0, padded_rows * lanes_q, lanes):
            values = load(cosine, at)
            highest, lowest = larger(highest, values), smaller(lowest, values)
        top, bottom = greatest(highest), least(lowest)
        potentials_r[:num_gallery] = 0
        potentials_c[:num_query] = 0
        if (top - bottom) / epsilon > _WIDEST_KERNEL:
            balance(cosine, num_gallery, num_query, lanes_q, factor, top, potentials_r, potentials_c)
        exponentials(cosine, padded_rows, width, factor, factor * top, potentials_r, potentials_c, kernel)
        c[:] = 1
        r[:] = 0
        dummies[0] = 0
        if slack > 0:
            dummies[1] = 1
            dummy_potentials[0] = -highest_of(potentials_c, num_query)
            dummy_potentials[1] = -highest_of(potentials_r, num_gallery)
            draw_borders(potentials_r, potentials_c, dummy_potentials, padded_rows, lanes_q, border_r, border_c)
        done = 0
        while done < max_iterations:
            at_most = min(_ITERATIONS_AT_ONCE, max_iterations - done)
            if iterate(kernel, padded_rows, width, u, v_, r, c, y, border_r, border_c, dummies, slack, tolerance, at_most):
                break
            done += at_most
            if done < max_iterations:
                absorb(u, r, potentials_r, num_gallery)
                absorb(v_, c, potentials_c, num_query)
                exponentials(cosine, padded_rows, width, factor, factor * top, potentials_r, potentials_c, kernel)
                if slack > 0:
                    dummy_potentials += np.log2(dummies)
                    dummies[:] = 1
                    draw_borders(potentials_r, potentials_c, dummy_potentials, padded_rows, lanes_q, border_r, border_c)

        sums, moved = zero(), zero()
        for i in range(num_gallery):
            row_sum, row_moved = zero(), zero()
            for v in range(0, lanes_q, lanes):
                mass = multiply(load(kernel, i * lanes_q + v), load(c, v))
                row_sum = multiply_add(mass, load(cosine, i * lanes_q + v), row_sum)
                row_moved = add(row_moved, mass)
            sums = multiply_add(splat(r[i]), row_sum, sums)
            moved = multiply_add(splat(r[i]), row_moved, moved)
        scores[p] = total(sums)
        delivered[p] = total(moved)


@compiled
def correlate(centers, tokens, halves, num_tokens, dims, pairs, out):  # type: ignore[no-untyped-def]
    """Fills out (P, K): the cosine of centre pairs[p, 0] with each token of image pairs[p, 1]."""
    stride = -(-dims // lanes) * lanes
    unpacked, scales = aligned(num_tokens * stride), aligned(num_tokens + 4)
    center, center_scale = aligned(stride), aligned(4)
    for p in range(len(pairs)):
        unpack(centers, False, pairs[p, 0] * dims, 1, dims, center, stride, center_scale)
        unpack(tokens, halves, pairs[p, 1] * num_tokens * dims, num_tokens, dims, unpacked, stride, scales)
        for k in range(num_tokens):
            product = zero()
            for d in range(0, stride, lanes):
                product = multiply_add(load(unpacked, k * stride + d), load(center, d), product)
            out[p, k] = total(product) * scales[k] * center_scale[0]

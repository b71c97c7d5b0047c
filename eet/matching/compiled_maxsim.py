"""The compiled loop of MaxSim on a CPU, from tokens to score: see `eet.matching.solvers.maxsim` for the definition.

It computes cosines as `compiled_sinkhorn` does, with the gallery image's tokens as rows and the query's in the lanes. Importing this module
imports numba.
"""

import numpy as np

from eet.matching.compiled_sinkhorn import compiled, cosines, lanes, lay_out_query, scratch_for, unpack
from eet.matching.simd.arithmetic import larger, multiply_add
from eet.matching.simd.lanes import splat
from eet.matching.simd.memory import load
from eet.matching.simd.reduction import total


@compiled
def score(query, gallery, pairs, settings, answers):  # type: ignore[no-untyped-def]
    """Fills the answers, as `compiled_sinkhorn.score` does, with the same arguments. The settings are not read."""
    num_query, num_gallery, dims = query.tokens.per_image, gallery.tokens.per_image, query.tokens.dims
    rows, columns, kernel, scaling = scratch_for(num_gallery, num_query, dims)
    cosine, v, lanes_q = kernel.cosine, scaling.v, kernel.width * lanes
    previous = np.int64(-1)
    for p in range(len(pairs)):
        if pairs[p, 0] != previous:
            previous = pairs[p, 0]
            lay_out_query(query, previous, rows, columns, kernel)
        unpack(gallery.tokens.numbers, gallery.tokens.halves, pairs[p, 1], num_gallery, dims, rows)
        cosines(rows, columns, kernel)

        for j in range(num_query):
            v[j] = query.marginal[query.rows[p], j]
        sums = splat(np.float32(0))
        for at in range(0, lanes_q, lanes):
            best = splat(np.float32(-2))
            for i in range(num_gallery):
                if gallery.marginal[gallery.rows[p], i] > 0:
                    best = larger(best, load(cosine, i * lanes_q + at))
            sums = multiply_add(best, load(v, at), sums)
        answers.scores[p] = total(sums)
        answers.delivered[p] = 1
        answers.errors[p] = 0

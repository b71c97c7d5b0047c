"""Families of binary codes with known distances: extended BCH codes and Kerdock codes.

The words of both are functions on a finite field, evaluated at all of its elements. A bit is 0 or 1 here.

Shapes: n bits of a word, K dimensions of a linear code.

Source: F. J. MacWilliams, N. J. A. Sloane, "The Theory of Error-Correcting Codes", chapters 8 and 9 (BCH), 15 (Kerdock).
"""

from collections.abc import Iterator

import numpy as np


def extended_bch(degree: int) -> Iterator[np.ndarray]:
    """Generators of the extended narrow-sense primitive BCH codes of length 2^degree, from the fewest words to the most.

    Each code holds the one before it. The first is the Reed-Muller code RM(1, degree), whose words are those of a Hadamard matrix and
    their complements: [2^m, m + 1, 2^(m-1)]. The last is the code of all words of even weight.

    A cyclic code of length n = 2^m - 1 whose zeros are the cosets of 1..delta-1 consists of the functions
    ``x -> trace of sum over j of a_j x^(n - j)`` on the field's units, j running over all other cosets (Mattson-Solomon). The added
    parity bit is the function's value at 0. So rows of a generator are the coordinates of ``x^(n - j)``.

    Args:
        degree: m, 2 or more.

    Yields:
        uint8 (K, 2^m) of rank K, its first row all ones.
    """
    powers = _powers(degree)
    order = len(powers)
    bits = np.arange(degree)
    rows = [np.ones(order + 1, dtype=np.uint8)]
    for leader, size in sorted(_cosets(degree).items(), reverse=True):
        values = np.concatenate([[0], powers[np.arange(order) * (order - leader) % order]])
        coordinates = (values >> bits[:, None] & 1).astype(np.uint8)
        # In a field smaller than this one the values have fewer independent coordinates than bits.
        rows.extend(coordinates if size == degree else reduced(coordinates))
        yield np.stack(rows)


def kerdock(degree: int, count: int, random: np.random.Generator) -> np.ndarray:
    """Words of the Kerdock code of length 2^degree: cosets of RM(1, degree), with the largest possible distances between cosets.

    It has 4^m words with distances of 2^(m-1) - 2^(m/2-1) or more: (16, 256, 6) and (64, 4096, 28), where linear codes reach
    (16, 256, 5) and BCH codes (64, 1024, 28). On pairs (x, e) of an element of the field of 2^(m-1) elements and a bit, the functions
    ``sum over i of trace((a x)^(2^i + 1)) + e trace(a x)`` of two elements a differ by a bent function.

    Args:
        degree: m, even, 4 or more.
        count: number of cosets, 1..2^(m-1).
        random: draws the elements a.

    Returns:
        uint8 (count 2^(m+1), 2^m). Rows 2i and 2i + 1 are complements.
    """
    powers = _powers(degree - 1)
    order = len(powers)
    exponents = np.arange(order)
    trace = np.zeros(order, dtype=np.int64)  # of every power of the generator
    for i in range(degree - 1):
        trace ^= powers[exponents * 2**i % order]
    representatives = np.zeros((count, 2, order + 1), dtype=np.uint8)
    for word, element in zip(representatives, random.permutation(order + 1)[:count], strict=True):
        if element == order:  # stands for a = 0
            continue
        products = (exponents + element) % order
        quadratic = np.zeros(order, dtype=np.int64)
        for i in range(1, degree // 2):
            quadratic ^= trace[products * (2**i + 1) % order]
        word[:, powers] = quadratic
        word[1, powers] ^= trace[products].astype(np.uint8)
    # A position is e and the bits of x in one number, so the linear functions are the bits of the position.
    position_bits = (np.arange(2**degree) >> np.arange(degree)[:, None] & 1).astype(np.uint8)
    linear = span(np.concatenate([np.ones((1, 2**degree), dtype=np.uint8), position_bits]))
    return (representatives.reshape(count, 1, -1) ^ linear).reshape(-1, 2**degree)


def span(generator_Kn: np.ndarray) -> np.ndarray:
    """All words of a linear code, (2^K, ...) for generators (K, ...) of bits or packed bits; row i sums the generators at the bits of i."""
    words = np.zeros((1, *generator_Kn.shape[1:]), dtype=np.uint8)
    for row in generator_Kn[::-1]:
        words = np.stack([words, words ^ row], axis=1).reshape(-1, *row.shape)
    return words


def reduced(generator_Kn: np.ndarray) -> np.ndarray:
    """Reduced row echelon form over GF(2), without rows of zeros: row i alone has a 1 at its first 1."""
    rows = generator_Kn.copy()
    rank = 0
    for column in range(rows.shape[1]):
        ones = np.flatnonzero(rows[rank:, column])
        if not len(ones):
            continue
        pivot = rank + ones[0]
        rows[[rank, pivot]] = rows[[pivot, rank]]
        others = np.flatnonzero(rows[:, column])
        rows[others[others != rank]] ^= rows[rank]
        rank += 1
        if rank == len(rows):
            break
    return rows[:rank]


def _powers(degree: int) -> np.ndarray:
    """The powers 0..2^m - 2 of a generator of the field of 2^m elements, each as its m coordinates in one number."""
    order = 2**degree - 1
    for polynomial in range(2**degree + 1, 2 ** (degree + 1), 2):  # by trial: one in every m or so is primitive
        powers = [1]
        while len(powers) < order:
            power = powers[-1] << 1
            power ^= polynomial if power >> degree else 0
            if power <= 1:
                break
            powers.append(power)
        if len(powers) == order:
            return np.array(powers)
    raise AssertionError(f"no primitive polynomial of degree {degree}")


def _cosets(degree: int) -> dict[int, int]:
    """The cyclotomic cosets of 1..2^m - 2, which doubling maps to themselves: their least members and their sizes."""
    order = 2**degree - 1
    sizes: dict[int, int] = {}
    for member in range(1, order):
        coset = {member * 2**i % order for i in range(degree)}
        if min(coset) == member:
            sizes[member] = len(coset)
    return sizes

"""Target codes with large distances: the best of code families with known distances, a greedy selection, and random codes.

If the code of a label is far from all others, it stays the nearest code when several bits of an image are wrong.

Shapes: C labels, b bits of a code, n bits of a word before some are left out, P words of a pool, B bytes, W machine words.
"""

from collections.abc import Iterator
from itertools import islice

import numpy as np

from eet.errors import InputError
from eet.hashing.code_families import extended_bch, kerdock, reduced, span
from eet.hashing.distance import as_words, hamming_distances

BLOCK_DISTANCES = 2**22  # computed at once
GREEDY_LABELS = 2048  # for more labels a greedy selection is slow, and the families are better
MEASURED_LABELS = 8192  # for more labels the guaranteed distance of a family decides, not the measured distances
ENUMERATED_BITS = 16  # for up to this number of bits, the pool of the greedy selection is all codes
POOL_WORDS = 2**15  # size of the pool for more bits
GREEDY_ORDERS = 16  # number of orders in which a small pool is read
# Bounds of the search for the bits that a linear code keeps.
SHORTENED_CODES = 4  # the smallest codes of a length
TRIES = 16
TRIED_POSITIONS = 2**9  # bits that are left out, over all tries
TRIED_BITS = 2**22  # bits of all words of a code, over all its tries
LIGHT_WORDS = 4096  # words compared when a bit is left out
BALANCE_DRAWS = 32  # draws of words that are not taken with their complements


def separated_target_codes(num_labels: int, *, num_bits: int, seed: int) -> np.ndarray:
    """Target codes with the largest minimum Hamming distance that is found within seconds.

    Candidates are extended BCH codes (among them the rows of a Hadamard matrix and their complements), shortened, repeated and
    punctured to the number of bits; Kerdock codes; a greedy selection, which takes a word if it is far enough from all taken; and random
    signs. The candidate with the largest measured minimum distance is used; of several, the one with the largest mean distance to the
    nearest code. Its words are assigned to the labels in random order. Its bits are permuted, and random bits are inverted in all codes.

    If a family allows it, words are taken together with their complements, so that every bit is 1 for half of the labels.

    Args:
        num_labels: C, 1 or more.
        num_bits: b, 1 or more.
        seed: of every random choice. The same seed gives the same codes.

    Returns:
        int8 (C, b) in {-1, +1}. Rows are distinct if 2^b >= C. If not, the numbers of labels of two codes differ by at most one.

    Raises:
        InputError: num_labels or num_bits below 1.
    """
    for name, value in (("num_labels", num_labels), ("num_bits", num_bits)):
        if value < 1:
            raise InputError(f"{name}={value}: give 1 or more.")
    random = np.random.default_rng(seed)
    if num_bits < 63 and 2**num_bits <= num_labels:
        bits_Cb = _shared_evenly(num_labels, num_bits, random)
    else:
        bits_Cb = _best(num_labels, num_bits, random)
    bits_Cb = bits_Cb[random.permutation(num_labels)][:, random.permutation(num_bits)]
    bits_Cb ^= random.integers(0, 2, num_bits, dtype=np.uint8)
    return bits_Cb.astype(np.int8) * np.int8(2) - np.int8(1)


def minimum_distance(codes_Cb: np.ndarray) -> int:
    """The smallest Hamming distance between the codes of two labels; 0 where two labels share a code.

    Distances are computed in blocks, so that there is no (C, C) table in memory.

    Args:
        codes_Cb: real numbers (C, b), C >= 1. A value > 0 is bit 1.

    Returns:
        0..b; b for a single label.

    Raises:
        InputError: not a matrix of real numbers, or no label or bit.
    """
    codes_Cb = np.asarray(codes_Cb)
    if codes_Cb.ndim != 2 or not codes_Cb.size or codes_Cb.dtype.kind not in "biuf":
        raise InputError(f"codes are {codes_Cb.dtype} {codes_Cb.shape}; give real numbers (labels, bits), at least one of each.")
    packed_CB = np.packbits(codes_Cb > 0, axis=1)
    return _smallest_distance(packed_CB, 0) if len(packed_CB) > 1 else codes_Cb.shape[1]


def _smallest_distance(packed_CB: np.ndarray, floor: int) -> int:
    """The minimum distance of two or more codes. If it is below `floor`, the result may be larger, but is also below `floor`."""
    smallest = packed_CB.shape[1] * 8
    block = max(BLOCK_DISTANCES // len(packed_CB), 1)
    for start in range(0, len(packed_CB) - 1, block):
        distances = hamming_distances(packed_CB[start : start + block], packed_CB[start:])
        own = np.arange(len(distances))
        distances[own, own] = smallest
        smallest = min(smallest, int(distances.min()))
        if smallest < floor or smallest == 0:
            break
    return smallest


def _mean_nearest(packed_CB: np.ndarray) -> float:
    """The mean distance of two or more codes to the nearest other code."""
    total = 0
    block = max(BLOCK_DISTANCES // len(packed_CB), 1)
    for start in range(0, len(packed_CB), block):
        distances = hamming_distances(packed_CB[start : start + block], packed_CB)
        own = np.arange(len(distances))
        distances[own, start + own] = packed_CB.shape[1] * 8
        total += int(distances.min(axis=1).sum())
    return total / len(packed_CB)


def _shared_evenly(num_labels: int, num_bits: int, random: np.random.Generator) -> np.ndarray:
    """All codes, each for the same number of labels; the remaining labels get pairs of complements."""
    every_Pb = _all_words(num_bits)
    rounds, left = divmod(num_labels, len(every_Pb))
    # Word i and word P - 1 - i are complements.
    first = random.permutation(len(every_Pb) // 2)
    pairs = np.stack([first, len(every_Pb) - 1 - first], axis=1).ravel()
    return np.concatenate([np.tile(every_Pb, (rounds, 1)), every_Pb[pairs[:left]]])


def _all_words(num_bits: int) -> np.ndarray:
    """(2^b, b): the numbers 0..2^b - 1 in binary."""
    return (np.arange(2**num_bits)[:, None] >> np.arange(num_bits)[::-1] & 1).astype(np.uint8)


def _best(num_labels: int, num_bits: int, random: np.random.Generator) -> np.ndarray:
    """The bits (C, b) of the best candidate, for 2^b > C."""
    if num_labels == 1:
        return np.zeros((1, num_bits), dtype=np.uint8)
    measured = num_labels <= MEASURED_LABELS
    best_Cb: np.ndarray | None = None
    best = (0, 0.0)
    families = [*_linear_candidates(num_labels, num_bits, random), *_kerdock_candidates(num_labels, num_bits, random)]
    for guaranteed, bits_Cb in families:
        reached = _reached(bits_Cb, best[0]) if measured else (guaranteed, 0.0)
        if reached > best:
            best_Cb, best = bits_Cb, reached
    for bits_Cb in _greedy_candidates(num_labels, num_bits, best[0], random) if num_labels <= GREEDY_LABELS else ():
        if (reached := _reached(bits_Cb, best[0])) > best:
            best_Cb, best = bits_Cb, reached
    random_Cb = _random_signs(num_labels, num_bits, random)
    if best_Cb is None:
        return random_Cb
    if measured:
        return random_Cb if _reached(random_Cb, best[0]) > best else best_Cb
    return random_Cb if _smallest_distance(np.packbits(random_Cb, axis=1), best[0] + 1) > best[0] else best_Cb


def _reached(bits_Cb: np.ndarray, floor: int) -> tuple[int, float]:
    """Minimum distance and, unless it is below `floor`, the mean distance to the nearest."""
    packed_CB = np.packbits(bits_Cb, axis=1)
    smallest = _smallest_distance(packed_CB, floor)
    return smallest, _mean_nearest(packed_CB) if smallest >= floor else 0.0


def _linear_candidates(num_labels: int, num_bits: int, random: np.random.Generator) -> Iterator[tuple[int, np.ndarray]]:
    """Words of linear codes made from extended BCH codes, with the distance of the whole code: one with complements, one without.

    2^k words are enough for C labels. A BCH code of K > k dimensions gives a code of k dimensions in two ways: its words that are 0 at
    K - k positions, which are then left out (shortening), or the sums of k - 1 random sums of its generators and the word of all ones. A
    code shorter than num_bits is repeated. Excess positions are left out (puncturing).
    """
    dimensions = (num_labels - 1).bit_length()
    bound = _griesmer_bound(dimensions, num_bits)
    for shortened in (False, True):
        best: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None  # words, repeats of their positions, number of ones in each
        for generator_kn in _generators(dimensions, num_bits, shortened, random):
            words_PB = span(np.packbits(generator_kn, axis=1))
            copies_n, weights_P = _punctured(words_PB, generator_kn.shape[1], num_bits, random)
            if best is None or _defects(weights_P) < _defects(best[2]):
                best = words_PB, copies_n, weights_P
            if _defects(weights_P)[0] == -bound:
                break
        if best is not None:
            words_PB, copies_n, weights_P = best
            if shortened:
                draws = (words_PB[random.choice(len(words_PB), num_labels, replace=False)] for _ in range(BALANCE_DRAWS))
                bits_Cb = min((_columns(words_CB, copies_n) for words_CB in draws), key=_imbalance)
            else:
                bits_Cb = _columns(words_PB[_random_pairs(len(words_PB), num_labels, random)], copies_n)
            yield int(weights_P[1:].min()), bits_Cb


def _griesmer_bound(dimensions: int, num_bits: int) -> int:
    """Griesmer's bound: no linear code with this number of dimensions has a larger distance."""
    distance = num_bits
    while sum(-(-distance // 2**i) for i in range(dimensions)) > num_bits:
        distance -= 1
    return distance


def _generators(dimensions: int, num_bits: int, shortened: bool, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Generators (k, n) of codes to try. If not `shortened`, the first row is all ones."""
    natural = max((num_bits - 1).bit_length(), 2)
    for degree in (natural, natural + 1, *range(natural - 1, 1, -1)):
        length = 2**degree
        smallest = (generator_Kn for generator_Kn in extended_bch(degree) if len(generator_Kn) >= dimensions)
        # Larger codes contain nearer words, so they are useful only for shortening.
        for generator_Kn in islice(smallest, SHORTENED_CODES if shortened else 1):
            spare = len(generator_Kn) - dimensions
            kept = length - spare if shortened else length
            if shortened and (kept < 1 or kept < num_bits and spare > 1):
                break
            excess = -num_bits % kept if kept < num_bits else kept - num_bits
            bounds = TRIED_BITS // (2**dimensions * length), TRIED_POSITIONS // max(excess, 1), TRIES if spare or excess else 1
            if degree > natural and min(bounds) < 2:
                break  # half of the positions would be left out: useful only if several choices can be compared
            for _ in range(max(min(bounds), 1)):
                if shortened:
                    rows_Kn = reduced(generator_Kn[:, random.permutation(length)])
                    kept_n = np.ones(length, dtype=bool)
                    kept_n[rows_Kn[:spare].argmax(axis=1)] = False
                    yield rows_Kn[spare:, kept_n]
                elif spare:
                    sums = random.integers(0, 2, (dimensions - 1, len(generator_Kn)))
                    rows_kn = np.concatenate([generator_Kn[:1], (sums @ generator_Kn & 1).astype(np.uint8)])
                    if len(reduced(rows_kn)) == dimensions:
                        yield rows_kn
                else:
                    yield generator_Kn


def _punctured(words_PB: np.ndarray, length: int, num_bits: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Chooses how often each of the n positions is repeated in num_bits bits, so that the words (2^k, B) have large distances.

    Returns:
        The number of repeats (n,), and the number of ones that each word then has, (2^k,).
    """
    copies_n = np.full(length, -(-num_bits // length))
    weights_P = _weights(words_PB, copies_n)
    _leave_out(words_PB, copies_n, weights_P, int(copies_n.sum()) - num_bits, random)
    return copies_n, weights_P


def _defects(weights_P: np.ndarray) -> tuple[int, int]:
    """Smaller for a better code: minus the distance, and how many words have it."""
    distance = int(weights_P[1:].min())
    return -distance, int((weights_P[1:] == distance).sum())


def _leave_out(words_PB: np.ndarray, copies_n: np.ndarray, weights_P: np.ndarray, count: int, random: np.random.Generator) -> None:
    """Removes `count` positions, those where the fewest of the lightest words have a one, from `copies_n` and `weights_P` in position."""
    while count:
        excess_P = weights_P[1:] - weights_P[1:].min()
        light = np.flatnonzero(excess_P <= 2)[:LIGHT_WORDS] + 1
        ones_Ln = np.unpackbits(words_PB[light], axis=1, count=len(copies_n))
        cost_n = 0.25 ** excess_P[light - 1] @ ones_Ln + 1e-3 * random.random(len(copies_n))
        cost_n[copies_n == 0] = np.inf
        # If many are left out, some are left out at once.
        for position in np.argsort(cost_n, kind="stable")[: max(min(count // 32, int(np.isfinite(cost_n).sum())), 1)]:
            copies_n[position] -= 1
            weights_P -= _bit(words_PB, int(position))
            count -= 1


def _bit(words_PB: np.ndarray, position: int) -> np.ndarray:
    """One bit of every word."""
    return words_PB[:, position // 8] >> (7 - position % 8) & 1


def _weights(words_PB: np.ndarray, copies_n: np.ndarray) -> np.ndarray:
    """int32 (P,): the number of ones in each word, with its positions repeated as in `copies_n`."""
    weights_P = np.zeros(len(words_PB), dtype=np.int32)
    for repeats in range(1, int(copies_n.max()) + 1):
        weights_P += np.bitwise_count(words_PB & np.packbits(copies_n >= repeats)).sum(axis=1, dtype=np.int32)
    return weights_P


def _columns(words_PB: np.ndarray, copies_n: np.ndarray) -> np.ndarray:
    """The bits (P, b) of words, with their positions repeated as in `copies_n`."""
    return np.repeat(np.unpackbits(words_PB, axis=1, count=len(copies_n)), copies_n, axis=1)


def _imbalance(bits_Cb: np.ndarray) -> int:
    """The largest difference between the numbers of ones and zeros of a bit."""
    return int(np.abs(2 * bits_Cb.sum(axis=0, dtype=np.int64) - len(bits_Cb)).max())


def _random_pairs(num_rows: int, count: int, random: np.random.Generator) -> np.ndarray:
    """`count` of the rows 0..num_rows - 1, as random pairs 2i, 2i + 1; if the count is odd, only the first of the last pair."""
    pairs = random.permutation(num_rows // 2)[: -(-count // 2)]
    return np.stack([2 * pairs, 2 * pairs + 1], axis=1).ravel()[:count]


def _kerdock_candidates(num_labels: int, num_bits: int, random: np.random.Generator) -> Iterator[tuple[int, np.ndarray]]:
    """Words of the Kerdock code and its distance, if there is one and RM(1, m) has too few words."""
    degree = num_bits.bit_length() - 1
    if degree < 4 or degree % 2 or num_bits != 2**degree or not 2 * num_bits < num_labels <= num_bits**2:
        return
    words_Pb = kerdock(degree, -(-num_labels // (2 * num_bits)), random)
    yield num_bits // 2 - 2 ** (degree // 2 - 1), words_Pb[_random_pairs(len(words_Pb), num_labels, random)]


def _greedy_candidates(num_labels: int, num_bits: int, least: int, random: np.random.Generator) -> Iterator[np.ndarray]:
    """Words (C, b) of a greedy selection with the largest distance that it reaches; none if that is below `least`."""
    if num_bits <= ENUMERATED_BITS:
        every_Pb = _all_words(num_bits)
        orders = min(max(POOL_WORDS // len(every_Pb), 1), GREEDY_ORDERS)
        pools = [*(random.permutation(every_Pb) for _ in range(orders)), every_Pb]
    else:
        pools = [random.integers(0, 2, (POOL_WORDS, num_bits), dtype=np.uint8)]
    for pool_Pb in pools:
        words_PW = as_words(np.packbits(pool_Pb, axis=1))
        for paired in (True, False):
            count = -(-num_labels // 2) if paired else num_labels
            # In the order of numbers the first words start with zeros, so all fitting words are selected, and some of them drawn.
            most = len(pool_Pb) if num_bits <= ENUMERATED_BITS else count
            even = num_labels + num_labels % 2
            low, high = max(least, 1), num_bits * even // (2 * even - 2)  # Plotkin's bound
            selected: np.ndarray | None = None
            while low <= high:
                distance = (low + high) // 2
                taken = _taken(words_PW, num_bits, distance, paired, most)
                if len(taken) < count:
                    high = distance - 1
                else:
                    low, selected = distance + 1, taken
            if selected is not None:
                if paired:
                    bits = pool_Pb[random.permutation(selected)[:count]]
                    yield np.stack([bits, 1 - bits], axis=1).reshape(-1, num_bits)[:num_labels]
                else:
                    yield min((pool_Pb[random.permutation(selected)[:count]] for _ in range(BALANCE_DRAWS)), key=_imbalance)


def _taken(words_PW: np.ndarray, num_bits: int, distance: int, paired: bool, most: int) -> np.ndarray:
    """Indices of at most `most` rows: the first ones at `distance` or more from all rows taken before (`paired`: and their complements)."""
    alive = np.arange(len(words_PW))
    taken: list[int] = []
    while len(taken) < most and len(alive):
        taken.append(int(alive[0]))
        distances = np.bitwise_count(words_PW ^ words_PW[0]).sum(axis=1, dtype=np.int32)
        far = (distances >= distance) & (distances <= (num_bits - distance if paired else num_bits))
        alive, words_PW = alive[far], words_PW[far]
    return np.array(taken)


def _random_signs(num_labels: int, num_bits: int, random: np.random.Generator) -> np.ndarray:
    """Distinct random words (C, b)."""
    distinct = min(num_bits, 62)  # these bits make the words distinct
    bits_Cb = random.integers(0, 2, (num_labels, num_bits), dtype=np.uint8)
    numbers_C = random.choice(2**distinct, num_labels, replace=False)
    bits_Cb[:, :distinct] = numbers_C[:, None] >> np.arange(distinct) & 1
    return bits_Cb

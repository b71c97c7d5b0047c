"""Hamming distance between packed codes, and the asymmetric score of a real-valued hash against packed codes.

Shape suffixes: Q queries, N items, b bits, B bytes, W machine words.
"""

import numpy as np

from eet.errors import InputError
from eet.hashing.packing import check_packed

_SIGNS_256x8 = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.float32) * 2 - 1


def hamming_distances(packed_QB: np.ndarray, packed_NB: np.ndarray) -> np.ndarray:
    """Hamming distance, in bits, of every query to every item.

    The whole (Q, N) result is held in memory: split large inputs into blocks.

    Args:
        packed_QB: uint8 (Q, B), packed codes of the queries, from `eet.hashing.pack`.
        packed_NB: uint8 (N, B), packed codes of the items.

    Returns:
        int32 (Q, N), in 0 .. 8 B.

    Raises:
        InputError: an argument is not an array of packed codes, or the two have different widths.
    """
    check_packed(packed_QB, "packed_QB")
    check_packed(packed_NB, "packed_NB")
    if packed_QB.shape[1] != packed_NB.shape[1]:
        raise InputError(f"codes are {packed_QB.shape[1]} and {packed_NB.shape[1]} bytes wide; compare codes of one model only.")
    words_QW, words_NW = as_words(packed_QB), as_words(packed_NB)
    distances_QN = np.zeros((len(words_QW), len(words_NW)), dtype=np.int32)
    for w in range(words_QW.shape[1]):
        distances_QN += np.bitwise_count(words_QW[:, None, w] ^ words_NW[None, :, w])
    return distances_QN


def as_words(packed_NB: np.ndarray) -> np.ndarray:
    """View packed codes as the widest unsigned integers, padded with zeros where needed (a zero pad adds no distance).

    Returns:
        (N, W): one uint8, uint16 or uint32 up to 4 bytes, else uint64 words.
    """
    width = packed_NB.shape[1]
    padded = {1: 1, 2: 2, 3: 4, 4: 4}.get(width, -(-width // 8) * 8)
    if padded != width:
        packed_NB = np.pad(packed_NB, ((0, 0), (0, padded - width)))
    return np.ascontiguousarray(packed_NB).view(f"u{min(padded, 8)}")


def asymmetric_tables(hash_Qb: np.ndarray) -> np.ndarray:
    """Tables of the value that each possible byte of a code adds to its asymmetric score.

    A score is a sum of table entries, not a matrix product, so that the score of a query and a code does not depend on the
    rest of the batch. The order of hits then does not depend on shards or block sizes.

    Args:
        hash_Qb: (Q, b) real numbers, the real-valued hashes of the queries.

    Returns:
        float32 (Q, B, 256): the score of a code is the sum over its bytes B of ``tables[query, B, byte]``.

    Raises:
        InputError: the hash is not two-dimensional, has no bits, or is not finite.
    """
    hash_Qb = np.asarray(hash_Qb)
    if hash_Qb.ndim != 2 or hash_Qb.shape[1] < 1 or hash_Qb.dtype.kind not in "iuf":
        raise InputError(f"the query hash is {hash_Qb.dtype} {hash_Qb.shape}; give real numbers (queries, bits).")
    if not np.isfinite(hash_Qb).all():
        raise InputError("the query hash holds NaN or infinity; look for the model or image that made it.")
    num_bits = hash_Qb.shape[1]
    num_bytes = -(-num_bits // 8)
    # Padding bits get weight zero, so that their values do not matter.
    weights = np.zeros((len(hash_Qb), num_bytes * 8), dtype=np.float32)
    weights[:, :num_bits] = hash_Qb
    tables = np.zeros((len(hash_Qb), num_bytes, 256), dtype=np.float32)
    for position in range(8):
        tables += weights[:, position::8, None] * _SIGNS_256x8[:, position]
    return tables


def asymmetric_scores(hash_Qb: np.ndarray, packed_NB: np.ndarray) -> np.ndarray:
    """Agreement of real-valued query hashes with the bits of items: sum over bits of hash_i * (+1 or -1).

    For a hash in {-1, +1} it equals the Hamming distance up to scale and sign. Otherwise it is finer: items at the same distance
    are ordered by how certain the query is of the bits on which they differ. Higher means nearer.

    Args:
        hash_Qb: (Q, b) real numbers, the real-valued hashes of the queries.
        packed_NB: uint8 (N, ceil(b / 8)), packed codes of the items.

    Returns:
        float32 (Q, N).

    Raises:
        InputError: the codes are not packed, or the hash does not fit their number of bits.
    """
    tables = asymmetric_tables(hash_Qb)
    check_packed(packed_NB, "packed_NB")
    if tables.shape[1] != packed_NB.shape[1]:
        raise InputError(
            f"the query hash has {np.asarray(hash_Qb).shape[1]} bits, but the codes are {packed_NB.shape[1]} bytes "
            "wide; use the model that made the codes."
        )
    scores_QN = np.zeros((len(tables), len(packed_NB)), dtype=np.float32)
    for position in range(tables.shape[1]):
        scores_QN += tables[:, position].take(packed_NB[:, position], axis=1)
    return scores_QN

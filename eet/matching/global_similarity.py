"""Global similarities of image pairs, from the columns of a gallery: the global term of re-ranking.

Each measure is float32 in -1 .. 1, and 1 for equal images. It depends on its pair only, to the last bit.
Shape suffixes: P pairs, B bytes of a code, b bits, D dimension.
"""

import numpy as np

from eet.hashing.distance import as_words, asymmetric_tables
from eet.hashing.packing import check_packed


def hamming_similarity(query_PB: np.ndarray, item_PB: np.ndarray, *, num_bits: int) -> np.ndarray:
    """1 - 2 d / num_bits for d differing bits: the cosine of the two codes as vectors of +1 and -1.

    Args:
        query_PB: packed codes, uint8.
        item_PB: packed codes, uint8.
        num_bits: bits of a code.

    Returns:
        float32 (P,).

    Raises:
        InputError: an argument is not packed codes.
    """
    check_packed(query_PB, "query_PB")
    check_packed(item_PB, "item_PB")
    differing_P = np.bitwise_count(as_words(query_PB) ^ as_words(item_PB)).sum(axis=1, dtype=np.int64)
    return (1 - 2 * differing_P / num_bits).astype(np.float32)


def asymmetric_similarity(hash_Qb: np.ndarray, query_P: np.ndarray, item_PB: np.ndarray) -> np.ndarray:
    """Agreement of the query's real-valued hash with the item's bits, divided by its agreement with its own bits.

    Args:
        hash_Qb: real-valued hashes of the queries; a hash of zeros has similarity 0 to every item.
        query_P: integers, row of each pair's query.
        item_PB: packed codes of the items, uint8.

    Returns:
        float32 (P,).

    Raises:
        InputError: the codes are not packed, or the hash is not finite.
    """
    check_packed(item_PB, "item_PB")
    tables_QB256 = asymmetric_tables(hash_Qb)
    scores_P = np.zeros(len(item_PB), np.float32)
    for place in range(item_PB.shape[1]):
        scores_P += tables_QB256[query_P, place, item_PB[:, place]]
    most_Q = np.abs(np.asarray(hash_Qb, np.float32)).sum(axis=1)
    return (scores_P / np.maximum(most_Q, np.finfo(np.float32).tiny)[query_P]).astype(np.float32)


def cosine_similarity(query_PD: np.ndarray, item_PD: np.ndarray) -> np.ndarray:
    """Cosine of two vectors; 0 where one of them is zero or not finite, so that broken vectors do not rank first.

    Args:
        query_PD: any float dtype.
        item_PD: any float dtype.

    Returns:
        float32 (P,).
    """
    query_PD, item_PD = np.asarray(query_PD, np.float64), np.asarray(item_PD, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        length_P = np.sqrt((query_PD * query_PD).sum(axis=1)) * np.sqrt((item_PD * item_PD).sum(axis=1))
        cosine_P = (query_PD * item_PD).sum(axis=1) / np.where(length_P > 0, length_P, 1)
    return np.where(np.isfinite(cosine_P) & (length_P > 0), cosine_P, 0).astype(np.float32)

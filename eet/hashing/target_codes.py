"""Step 1 of two-step hash learning: a target code for each label, from the labels only.

Shapes: C labels, b bits.
"""

from typing import Literal, get_args

import numpy as np

from eet.errors import InputError
from eet.hashing.separated_codes import separated_target_codes

ROUNDS = 15  # published
RECONSTRUCTION_WEIGHT = 1.0  # sigma_c, published
QUANTISATION_WEIGHT = 1e-4  # delta, published

Method = Literal["published", "separated"]


def target_codes(labels: np.ndarray, *, num_bits: int, seed: int, method: Method) -> np.ndarray:
    """Target codes of all labels, by one of two methods.

    Args:
        labels: (N,) integers 0..C-1, each label at least once.
        num_bits: b, 1 or more.
        seed: the same seed gives the same codes.
        method: "published" learns the codes (`learn_target_codes`). "separated" takes codes with large distances
            (`eet.hashing.separated_target_codes`); it depends on the number of labels only, not on their numbers of images.

    Returns:
        int8 (C, b) in {-1, +1}; rows are distinct if 2^b >= C.

    Raises:
        InputError: labels are not 0..C-1, num_bits is below 1, or there is no such method.
    """
    if method not in get_args(Method):
        raise InputError(f"target code method {method!r}: use {' or '.join(map(repr, get_args(Method)))}")
    if method == "published":
        return learn_target_codes(labels, num_bits=num_bits, seed=seed)
    return separated_target_codes(len(_images_per_label(labels)), num_bits=num_bits, seed=seed)


def learn_target_codes(labels: np.ndarray, *, num_bits: int, seed: int) -> np.ndarray:
    """Learns the target codes of all labels; in step 2 the hash of the network is trained towards them.

    Alternates the published updates of  sigma_c ||L - U V||^2 + delta ||B - R V||^2  over U, V, an orthogonal R and binary B, where L is
    the one-hot matrix (C, N) of the labels. All images of a label have the same column of V and B, so L is never built: the problem is
    solved per label, with the numbers of images as weights. A round takes O(C b^2), for any N. (The published code works on N columns; at
    64 bits some of its labels share a code.)

    Source: EET, two-step hash learning, and its published code.

    Args:
        labels: (N,) integers 0..C-1, each label at least once.
        num_bits: b, 1 or more.
        seed: of the random V and B. The same seed gives the same codes.

    Returns:
        int8 (C, b) in {-1, +1}; rows are distinct if 2^b >= C. If not, every code is used, and some labels share one; `shared_codes`
        counts them.

    Raises:
        InputError: labels are not 0..C-1, or num_bits is below 1.
    """
    if num_bits < 1:
        raise InputError(f"{num_bits} bits: a code needs at least 1")
    counts_C = _images_per_label(labels).astype(np.float64)
    margins_Cb = _alternate(counts_C, num_bits, np.random.default_rng(seed))
    codes_Cb = np.where(margins_Cb >= 0, 1, -1).astype(np.int8)
    return _separate(codes_Cb, margins_Cb)


def _images_per_label(labels: np.ndarray) -> np.ndarray:
    """(C,), the number of images of each label. InputError where labels are not 0..C-1."""
    labels = np.asarray(labels)
    if labels.ndim != 1 or not len(labels) or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"labels must be one or more integers in one row, got {labels.dtype} of shape {labels.shape}")
    if labels.min() < 0:
        raise InputError(f"label {labels.min()} is below 0; labels are 0..C-1 (drop unlabelled images first)")
    counts_C = np.bincount(labels)
    if not counts_C.all():
        missing = np.flatnonzero(counts_C == 0)
        raise InputError(
            f"labels must be 0..{len(counts_C) - 1} without a gap; {len(missing)} are missing, for example {missing[:5].tolist()}"
        )
    return counts_C


def shared_codes(codes_Cb: np.ndarray) -> int:
    """Number of labels (rows of codes_Cb) whose code another label has too; 0 if all codes are distinct."""
    _, counts = np.unique(codes_Cb, axis=0, return_counts=True)
    return int(counts[counts > 1].sum())


def _alternate(counts_C: np.ndarray, num_bits: int, random: np.random.Generator) -> np.ndarray:
    """R V of the last round, transposed: (C, b). Its signs are the codes."""
    num_labels = len(counts_C)
    v_bC = random.standard_normal((num_bits, num_labels))
    b_bC = np.where(random.standard_normal((num_bits, num_labels)) >= 0, 1.0, -1.0)
    rotation_bb = _procrustes(b_bC, v_bC, counts_C)
    for _ in range(ROUNDS):
        b_bC = np.where(rotation_bb @ v_bC >= 0, 1.0, -1.0)
        weighted_bC = v_bC * counts_C
        u_Cb = weighted_bC.T @ np.linalg.pinv(weighted_bC @ v_bC.T, hermitian=True)
        gram_bb = RECONSTRUCTION_WEIGHT * u_Cb.T @ u_Cb + QUANTISATION_WEIGHT * rotation_bb.T @ rotation_bb
        v_bC = np.linalg.pinv(gram_bb, hermitian=True) @ (RECONSTRUCTION_WEIGHT * u_Cb.T + QUANTISATION_WEIGHT * rotation_bb.T @ b_bC)
        rotation_bb = _procrustes(b_bC, v_bC, counts_C)
    return (rotation_bb @ v_bC).T


def _procrustes(b_bC: np.ndarray, v_bC: np.ndarray, counts_C: np.ndarray) -> np.ndarray:
    """The orthogonal R that minimises ||B - R V|| over all images: U W^T of svd(B V^T) = U S W^T."""
    left_bb, _, right_bb = np.linalg.svd((b_bC * counts_C) @ v_bC.T)
    return left_bb @ right_bb


def _separate(codes_Cb: np.ndarray, margins_Cb: np.ndarray) -> np.ndarray:
    """Changes equal codes into distinct ones, as far as 2^b allows. The least certain bits are flipped first."""
    num_labels, num_bits = codes_Cb.shape
    if shared_codes(codes_Cb) == 0:
        return codes_Cb
    codes_Cb = codes_Cb.copy()
    taken = {row.tobytes() for row in codes_Cb}
    seen: set[bytes] = set()
    for label in range(num_labels):
        key = codes_Cb[label].tobytes()
        if key not in seen:
            seen.add(key)
            continue
        if num_bits < 63 and len(taken) >= 2**num_bits:
            break
        codes_Cb[label] = nearest_free(codes_Cb[label], np.argsort(np.abs(margins_Cb[label]), kind="stable"), taken)
        taken.add(codes_Cb[label].tobytes())
        seen.add(codes_Cb[label].tobytes())
    return codes_Cb


def nearest_free(code_b: np.ndarray, uncertain_first_b: np.ndarray, taken: set[bytes]) -> np.ndarray:
    """Finds a code that is not taken, by counting in binary over the bits: the least certain bit is flipped first and most often.

    Args:
        code_b: int8 (b,) in {-1, +1}, where the search starts.
        uncertain_first_b: indices (b,) of the bits, the least certain one first.
        taken: bytes of the codes that are taken.

    Returns:
        int8 (b,) in {-1, +1}.
    """
    flips = 0
    while True:
        flips += 1
        candidate_b = code_b.copy()
        for digit, bit in enumerate(uncertain_first_b):
            if flips >> digit & 1:
                candidate_b[bit] = -candidate_b[bit]
        if candidate_b.tobytes() not in taken:
            return candidate_b

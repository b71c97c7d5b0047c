"""Drawing a share of the images of every label, the same on every machine."""

import hashlib
from collections.abc import Sequence

import numpy as np


def draw_stratified(paths: Sequence[str], labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Draws nearly the same share of the images of each label.

    round(share * N) images are drawn, at least one if share > 0: of each label the integer part of its share, and one more of the labels
    with the largest remainders. At least one image of each label is not drawn, so fewer are drawn if labels are very small. The images
    with the smallest digests of (path, label, seed) are drawn, so the order of the rows does not matter.

    Args:
        paths: N paths.
        labels: integers (N,).
        share: in 0 .. 1.
        seed: of the draw.

    Returns:
        bool (N,), True for drawn images.
    """
    rows_of: dict[int, list[int]] = {}
    for row, label in enumerate(labels.tolist()):
        rows_of.setdefault(label, []).append(row)
    wanted = {label: share * len(rows) for label, rows in rows_of.items()}
    counts = {label: min(int(amount), len(rows_of[label]) - 1) for label, amount in wanted.items()}
    total = max(round(share * len(paths)), 1) if share > 0 else 0
    by_remainder = sorted(wanted, key=lambda label: (counts[label] - wanted[label], _digest("", label, seed)))
    for label in by_remainder:
        if sum(counts.values()) >= total:
            break
        if counts[label] < len(rows_of[label]) - 1:
            counts[label] += 1
    drawn = np.zeros(len(paths), dtype=bool)
    for label, rows in rows_of.items():
        ordered = sorted(rows, key=lambda row: (_digest(paths[row], label, seed), paths[row]))
        drawn[ordered[: counts[label]]] = True
    return drawn


def _digest(path: str, label: int, seed: int) -> bytes:
    # A name that is not UTF-8 has lone surrogates, as from os.fsdecode: its digest is that of its bytes.
    return hashlib.blake2b(f"{seed}\0{label}\0{path}".encode("utf-8", "surrogateescape"), digest_size=8).digest()

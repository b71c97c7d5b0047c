"""A gallery whose distances are mostly ties, for tests of search."""

from pathlib import Path

import numpy as np
from search_by_loop import BITS, hand_made

from eet.gallery import Gallery


def tied_bits() -> np.ndarray:
    """Of 60 items on 12 codes (60, BITS), so that most distances are ties."""
    random = np.random.default_rng(0)
    return random.integers(0, 2, (12, BITS), np.uint8)[random.integers(0, 12, 60)]


def tied_gallery(path: Path) -> Gallery:
    """Of those items, 58 with a code; some have no label."""
    return hand_made(path, tied_bits(), [None if row % 7 == 0 else row % 3 for row in range(60)], bad=(5, 17))

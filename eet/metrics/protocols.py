"""The two ways to evaluate hash codes (EET): against the target codes of labels, and with both sides encoded by the network."""

from collections.abc import Sequence

import numpy as np

from eet.metrics.ranked_metrics import ranked_metrics
from eet.options.choices import Ties


def published_gallery(target_codes_Cb: np.ndarray, label_counts_C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The gallery of the published protocol: every training image with the target code of its label.

    Args:
        target_codes_Cb: (C, b) in {-1, +1}, the target code of each label.
        label_counts_C: integers (C,), the number n_c of training images of each label; n is their sum.

    Returns:
        Packed codes, uint8 (n, ceil(b/8)), and labels, int64 (n,) in 0..C-1, in label order.
    """
    labels_n = np.repeat(np.arange(len(label_counts_C)), label_counts_C)
    return np.packbits(np.asarray(target_codes_Cb) > 0, axis=1)[labels_n], labels_n


def published_protocol(
    query_codes: np.ndarray,
    query_labels: np.ndarray,
    target_codes_Cb: np.ndarray,
    label_counts_C: np.ndarray,
    *,
    ks: Sequence[int] = (1, 10),
    recall_ks: Sequence[int] = (1, 2, 4, 8),
    count_query: bool = False,
    ties: Ties = "expected",
) -> dict[str, float]:
    """Evaluates test images encoded by the network against the training images with their target codes of step 1.

    Args:
        query_codes: uint8 (Q, ceil(b/8)), packed as `eet.hashing.pack` does.
        query_labels: integers (Q,).
        target_codes_Cb: (C, b) in {-1, +1}, the target code of each label.
        label_counts_C: integers (C,), the number of training images of each label.
        ks: ranks k, from 1, for precision.
        recall_ks: ranks k, from 1, for recall.
        count_query: R-precision and MAP@R with R + 1 for R (see `eet.metrics.r_precision`).
        ties: "stable" adds each measure with ties in the order of gallery rows.

    Returns:
        The measures of `rank_gallery`.

    Raises:
        InputError: as of `rank_gallery`.
    """
    gallery_codes, gallery_labels = published_gallery(target_codes_Cb, label_counts_C)
    return ranked_metrics(
        query_codes,
        query_labels,
        gallery_codes,
        gallery_labels,
        num_bits=target_codes_Cb.shape[1],
        ks=ks,
        recall_ks=recall_ks,
        count_query=count_query,
        ties=ties,
    )


def encoded_protocol(
    codes: np.ndarray,
    labels: np.ndarray,
    *,
    num_bits: int,
    ks: Sequence[int] = (1, 10),
    recall_ks: Sequence[int] = (1, 2, 4, 8),
    count_query: bool = False,
    ties: Ties = "expected",
) -> dict[str, float]:
    """Evaluates a set of encoded images as its own gallery; a query is never its own hit.

    This is what a search in a gallery without labels reaches, because the network encodes both sides.

    Args:
        codes: uint8 (N, ceil(b/8)), packed as `eet.hashing.pack` does.
        labels: integers (N,).
        num_bits: b, bits of a code.
        ks: ranks k, from 1, for precision.
        recall_ks: ranks k, from 1, for recall.
        count_query: R-precision and MAP@R with R + 1 for R (see `eet.metrics.r_precision`).
        ties: "stable" adds each measure with ties in the order of gallery rows.

    Returns:
        The measures of `rank_gallery`.

    Raises:
        InputError: as of `rank_gallery`.
    """
    return ranked_metrics(
        codes,
        labels,
        codes,
        labels,
        num_bits=num_bits,
        query_rows=np.arange(len(codes)),
        ks=ks,
        recall_ks=recall_ks,
        count_query=count_query,
        ties=ties,
    )

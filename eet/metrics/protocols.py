"""The two ways to judge hash codes (specs of EET): against label-derived codes, and encoded on both sides."""

from collections.abc import Sequence

import numpy as np

from eet.metrics.query_measures import Ties
from eet.metrics.ranked_metrics import ranked_metrics


def published_gallery(target_codes_Cb: np.ndarray, label_counts_C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The database of the published protocol: every training image with its label's target code.

    target_codes_Cb: (C, b) in {-1, +1}. label_counts_C: (C,) training images of each label.
    Returns packed codes uint8 (n, ceil(b/8)) and labels (n,), in label order.
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
    """Test images encoded by the network, against the training images with their step-1 target codes.

    query_codes: uint8 (Q, ceil(b/8)) packed. Returns the measures of `ranked_metrics`.
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
    """A set of encoded images as its own gallery, each query excluded from its own hits: what a gallery without labels gets.

    codes: uint8 (N, ceil(b/8)) packed. Returns the measures of `ranked_metrics`.
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

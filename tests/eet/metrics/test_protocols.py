import numpy as np
import pytest

from eet.metrics import encoded_protocol, published_gallery, published_protocol

# Labels 0, 1 and 2 with 2, 1 and 3 training images; the code of label 2 is that of label 0 with one bit changed.
TARGETS = np.array([[1, 1, 1, 1, -1, -1, -1, -1, 1], [-1, -1, -1, -1, 1, 1, 1, 1, -1], [-1, 1, 1, 1, -1, -1, -1, -1, 1]], np.int8)
COUNTS = np.array([2, 1, 3])


def packed(*rows: list[int]) -> np.ndarray:
    return np.packbits(np.array(rows) > 0, axis=1)


def test_the_published_gallery_is_every_training_image_with_the_code_of_its_label():
    codes, labels = published_gallery(TARGETS, COUNTS)
    assert labels.tolist() == [0, 0, 1, 2, 2, 2]
    assert codes.shape == (6, 2) and codes.dtype == np.uint8
    assert np.array_equal(np.unpackbits(codes, axis=1, count=9) * 2.0 - 1, TARGETS[labels])


def test_a_label_without_training_images_is_not_in_the_published_gallery():
    codes, labels = published_gallery(TARGETS, np.array([2, 0, 1]))
    assert labels.tolist() == [0, 0, 2] and len(codes) == 3


def test_published_protocol_by_hand():
    # The first query has the code of its label (0): 2 matches at distance 0, 3 other images at 1, 1 at 9. The second has label 2
    # and also the code of label 0: 2 other images at distance 0, its 3 matches at 1.
    measures = published_protocol(
        packed(TARGETS[0], TARGETS[0]), np.array([0, 2]), TARGETS, COUNTS, ks=(1, 2), recall_ks=(1, 4), ties="stable"
    )
    second = (1 / 3 + 2 / 4 + 3 / 5) / 3
    assert measures["mAP"] == pytest.approx((1 + second) / 2)
    assert measures["mAP_stable"] == pytest.approx((1 + second) / 2)
    assert measures["P@1"] == 0.5 and measures["P@2"] == 0.5
    assert measures["recall@1"] == 0.5 and measures["recall@4"] == 1
    assert measures["R-precision"] == pytest.approx((1 + 1 / 3) / 2)
    assert measures["queries"] == 2


def test_encoded_protocol_leaves_each_query_out_of_its_own_hits():
    # a, b of label 0 share a code; c of label 1 is one bit off; d of label 1 is far. The only image of a label has no match.
    codes = packed([1] * 8, [1] * 8, [1] * 7 + [0], [0] * 8, [0] * 4 + [1] * 4)
    measures = encoded_protocol(codes, np.array([0, 0, 1, 1, 2]), num_bits=8, ks=(1,), recall_ks=(1,), ties="stable")
    assert measures["mAP_stable"] == pytest.approx(measures["mAP"])  # no ties where the order matters
    # a, b: 1. c: ranks a, b (1), e (3), d (7): AP 1/4. d: distances e 4, c 7, a and b 8: AP 1/2.
    assert measures["mAP"] == pytest.approx((1 + 1 + 1 / 4 + 1 / 2) / 4)
    assert measures["P@1"] == 0.5
    assert measures["queries"] == 4 and measures["queries_without_relevant"] == 1


def test_count_query_reaches_r_precision():
    codes = packed([1] * 8, [1] * 8, [0] * 8)
    plain = encoded_protocol(codes, np.array([0, 0, 1]), num_bits=8)
    counted = encoded_protocol(codes, np.array([0, 0, 1]), num_bits=8, count_query=True)
    assert plain["R-precision"] == 1 and counted["R-precision"] == 0.5

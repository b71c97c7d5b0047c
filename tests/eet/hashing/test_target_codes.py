import numpy as np
import pytest

from eet.hashing import learn_target_codes, minimum_distance, separated_target_codes, shared_codes, target_codes
from eet.hashing.target_codes import nearest_free


def labels_of(num_labels: int, per_label: int = 3) -> np.ndarray:
    return np.random.default_rng(0).permutation(np.arange(num_labels).repeat(per_label))


@pytest.mark.parametrize(("num_labels", "bits"), [(40, 64), (40, 16), (200, 16), (256, 8), (5, 3), (8, 3), (1, 1), (2, 1), (3, 70)])
@pytest.mark.parametrize("seed", [0, 42])
def test_labels_get_distinct_codes(num_labels: int, bits: int, seed: int) -> None:
    codes = learn_target_codes(labels_of(num_labels), num_bits=bits, seed=seed)
    assert codes.shape == (num_labels, bits) and codes.dtype == np.int8
    assert set(np.unique(codes).tolist()) <= {-1, 1}
    assert len({tuple(row) for row in codes.tolist()}) == num_labels
    assert shared_codes(codes) == 0


@pytest.mark.parametrize(("num_labels", "bits"), [(10, 2), (3, 1), (300, 8)])
def test_labels_share_codes_only_when_every_code_is_taken(num_labels: int, bits: int) -> None:
    codes = learn_target_codes(labels_of(num_labels), num_bits=bits, seed=0)
    counts = np.unique(codes, axis=0, return_counts=True)[1]
    assert len(counts) == 2**bits
    assert shared_codes(codes) == counts[counts > 1].sum() > 0


def test_shared_codes_counts_labels() -> None:
    assert shared_codes(np.array([[1, 1], [1, -1], [1, 1], [-1, -1], [-1, -1], [-1, -1]])) == 5


def test_codes_depend_on_the_seed_and_the_counts_but_not_on_the_order_of_images() -> None:
    labels = labels_of(30)
    codes = learn_target_codes(labels, num_bits=32, seed=5)
    np.testing.assert_array_equal(learn_target_codes(labels[::-1].astype(np.int32), num_bits=32, seed=5), codes)
    assert not np.array_equal(learn_target_codes(labels, num_bits=32, seed=6), codes)
    uneven = np.concatenate([labels, np.zeros(500, dtype=np.int64)])
    assert not np.array_equal(learn_target_codes(uneven, num_bits=32, seed=5), codes)


def test_global_random_state_is_not_used_or_changed() -> None:
    np.random.seed(0)
    before = np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    first = learn_target_codes(labels_of(10), num_bits=16, seed=0)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # type: ignore[index]
    np.random.seed(1)
    np.testing.assert_array_equal(learn_target_codes(labels_of(10), num_bits=16, seed=0), first)


def dense_codes(labels: np.ndarray, bits: int, seed: int) -> np.ndarray:
    """The published updates on one column for each image, with the dense one-hot matrix; images of a label start with equal values."""
    num_labels, num_images = int(labels.max()) + 1, len(labels)
    random = np.random.default_rng(seed)
    v = random.standard_normal((bits, num_labels))[:, labels]
    b = np.where(random.standard_normal((bits, num_labels))[:, labels] >= 0, 1.0, -1.0)
    one_hot = np.zeros((num_labels, num_images))
    for image, label in enumerate(labels):
        one_hot[label, image] = 1
    sigma, delta = 1.0, 1e-4

    def procrustes() -> np.ndarray:
        s1, _, s2 = np.linalg.svd(b @ v.T)
        return s1 @ s2

    rotation = procrustes()
    for _ in range(15):
        b = np.where(rotation @ v >= 0, 1.0, -1.0)
        u = one_hot @ v.T @ np.linalg.pinv(v @ v.T)
        v = np.linalg.pinv(sigma * u.T @ u + delta * rotation.T @ rotation) @ (sigma * u.T @ one_hot + delta * rotation.T @ b)
        rotation = procrustes()
    b = np.where(rotation @ v >= 0, 1.0, -1.0)
    codes = np.zeros((num_labels, bits))
    for image, label in enumerate(labels):
        codes[label] = b[:, image]
    assert all((codes[label] == b[:, image]).all() for image, label in enumerate(labels)), "images of a label have different codes"
    return codes


@pytest.mark.parametrize(("num_labels", "bits", "seed"), [(9, 8, 0), (12, 6, 1), (20, 16, 2), (7, 12, 3), (60, 24, 5)])
def test_solving_per_label_equals_the_published_updates_per_image(num_labels: int, bits: int, seed: int) -> None:
    # (60, 24, 5) still changes in the last rounds, so 14 or 16 rounds would give another result than 15.
    random = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(num_labels), random.integers(0, num_labels, 60) // 2])  # uneven counts
    random.shuffle(labels)
    expected = dense_codes(labels, bits, seed)
    codes = learn_target_codes(labels, num_bits=bits, seed=seed)
    firsts = np.sort(np.unique(expected, axis=0, return_index=True)[1])  # a label gets another code only if its code is taken
    assert len(firsts) >= 5
    np.testing.assert_array_equal(codes[firsts], expected[firsts])
    assert shared_codes(codes) == 0


def test_free_codes_are_found_by_flipping_the_least_certain_bits_first() -> None:
    code = np.array([1, -1, 1, 1], dtype=np.int8)
    least_certain_first = np.array([2, 0, 3, 1])
    taken = {code.tobytes()}
    found = []
    for _ in range(4):
        free = nearest_free(code, least_certain_first, taken)
        taken.add(free.tobytes())
        found.append(free.tolist())
    assert found == [[1, -1, -1, 1], [-1, -1, 1, 1], [-1, -1, -1, 1], [1, -1, 1, -1]]


def test_the_published_method_learns_and_the_separated_one_ignores_counts() -> None:
    labels = np.concatenate([labels_of(30), np.zeros(100, dtype=np.int64)])
    published = target_codes(labels, num_bits=24, seed=5, method="published")
    np.testing.assert_array_equal(published, learn_target_codes(labels, num_bits=24, seed=5))
    separated = target_codes(labels, num_bits=24, seed=5, method="separated")
    np.testing.assert_array_equal(separated, separated_target_codes(30, num_bits=24, seed=5))
    assert minimum_distance(separated) > minimum_distance(published)


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match="'best': use 'published' or 'separated'"):
        target_codes(labels_of(3), num_bits=8, seed=0, method="best")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("labels", "bits", "message"),
    [
        (np.array([0, 1, 3, 5]), 8, r"2 are missing, for example \[2, 4\]"),
        (np.array([1, 2]), 8, r"missing, for example \[0\]"),
        (np.array([0, -1]), 8, "below 0"),
        (np.array([0.0, 1.0]), 8, "integers"),
        (np.array([[0, 1]]), 8, "in one row"),
        (np.array([], dtype=np.int64), 8, "one or more"),
        (np.array([0, 1]), 0, "at least 1"),
    ],
)
def test_invalid_labels_are_refused(labels: np.ndarray, bits: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        learn_target_codes(labels, num_bits=bits, seed=0)
    for method in ("published", "separated"):
        with pytest.raises(ValueError, match=message if bits else "bits"):
            target_codes(labels, num_bits=bits, seed=0, method=method)

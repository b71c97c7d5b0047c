import numpy as np
import pytest

from eet.hashing import Projection, fit_itq, hamming_distances, pack


def clustered(*, clusters: int = 30, per_cluster: int = 20, dimensions: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Clusters along directions of unequal variance, off the origin; vectors and the cluster of each."""
    random = np.random.default_rng(seed)
    scale = np.linspace(3, 0.3, dimensions)
    centres = random.normal(size=(clusters, dimensions)) * scale
    cluster = np.arange(clusters).repeat(per_cluster)
    mixing = np.linalg.qr(random.normal(size=(dimensions, dimensions)))[0]
    vectors = (centres[cluster] + 0.5 * random.normal(size=(len(cluster), dimensions)) * scale) @ mixing + 7
    return vectors.astype(np.float32), cluster


def hashes(projection: Projection, vectors: np.ndarray) -> np.ndarray:
    return vectors.astype(np.float64) @ projection.weight_bD.astype(np.float64).T + projection.bias_b


def quantisation_error(projection: Projection, vectors: np.ndarray) -> float:
    values = hashes(projection, vectors)
    return float(((np.where(values > 0, 1, -1) - values) ** 2).sum())


def plain_itq(vectors: np.ndarray, bits: int, rounds: int, seed: int) -> np.ndarray:
    """The hash of every vector, by the steps of the paper on whole matrices."""
    centred = vectors.astype(np.float64) - vectors.astype(np.float64).mean(axis=0)
    directions = np.linalg.svd(centred, full_matrices=False)[2]
    directions = directions[np.linalg.svd(centred, compute_uv=False) > 1e-6][:bits]
    for row in directions:
        if row[np.abs(row).argmax()] < 0:
            row *= -1
    v = centred @ directions.T
    q, triangle = np.linalg.qr(np.random.default_rng(seed).standard_normal((bits, v.shape[1])))
    for i in range(v.shape[1]):
        if triangle[i, i] < 0:
            q[:, i] *= -1
    rotation = q.T
    for _ in range(rounds):
        b = np.where(v @ rotation > 0, 1.0, -1.0)
        left, _, right = np.linalg.svd(v.T @ b, full_matrices=False)
        rotation = left @ right
    return v @ rotation


@pytest.mark.parametrize(("bits", "rounds"), [(1, 3), (8, 0), (8, 1), (8, 50), (24, 7), (24, 50), (40, 5)])
def test_the_hash_equals_a_plain_reference(bits: int, rounds: int) -> None:
    vectors, _ = clustered()
    projection = fit_itq(vectors, num_bits=bits, rounds=rounds, seed=3)
    assert projection.weight_bD.shape == (bits, 24) and projection.weight_bD.dtype == np.float32
    assert projection.bias_b.shape == (bits,) and projection.bias_b.dtype == np.float32
    np.testing.assert_allclose(hashes(projection, vectors), plain_itq(vectors, bits, rounds, seed=3), atol=2e-5)


def test_several_blocks_of_vectors_equal_the_reference() -> None:
    vectors, _ = clustered(clusters=100, per_cluster=90)  # 9,000 rows: three blocks, the last one partial
    projection = fit_itq(vectors, num_bits=12, rounds=4)
    np.testing.assert_allclose(hashes(projection, vectors), plain_itq(vectors, 12, 4, seed=0), atol=5e-5)


@pytest.mark.parametrize("bits", [6, 24])
def test_bits_are_orthonormal_directions_up_to_the_number_of_dimensions(bits: int) -> None:
    weight = fit_itq(clustered()[0], num_bits=bits).weight_bD
    np.testing.assert_allclose(weight @ weight.T, np.eye(bits), atol=1e-5)


def test_more_bits_than_dimensions_keep_lengths_and_no_bit_is_constant() -> None:
    vectors, _ = clustered()
    projection = fit_itq(vectors, num_bits=100)
    np.testing.assert_allclose(projection.weight_bD.T @ projection.weight_bD, np.eye(24), atol=1e-5)
    ones = (hashes(projection, vectors) > 0).sum(axis=0)
    assert (ones > 0).all() and (ones < len(vectors)).all()
    assert len(np.unique(hashes(projection, vectors) > 0, axis=1).T) > 90  # nearly all bits differ from each other


@pytest.mark.parametrize("bits", [8, 24, 60])
def test_the_quantisation_error_does_not_grow_over_rounds(bits: int) -> None:
    vectors, _ = clustered()
    errors = np.array([quantisation_error(fit_itq(vectors, num_bits=bits, rounds=rounds), vectors) for rounds in range(12)])
    assert (np.diff(errors) <= 1e-6 * errors[0]).all()
    assert errors[-1] < errors[0]


@pytest.mark.parametrize("bits", [12, 24, 48])
def test_nearest_codes_agree_with_clusters_more_often_than_random_projections(bits: int) -> None:
    vectors, cluster = clustered()

    def agreement(values: np.ndarray) -> float:
        packed = pack(values)
        distances = hamming_distances(packed, packed).astype(np.float64)
        np.fill_diagonal(distances, np.inf)
        tied = distances == distances.min(axis=1, keepdims=True)
        return float(((tied & (cluster[:, None] == cluster)).sum(axis=1) / tied.sum(axis=1)).mean())

    centred = vectors - vectors.mean(axis=0)
    by_chance = [agreement(centred @ np.random.default_rng(seed).normal(size=(24, bits))) for seed in range(3)]
    assert agreement(hashes(fit_itq(vectors, num_bits=bits), vectors)) > max(by_chance) + 0.02


def test_the_bias_removes_the_mean() -> None:
    vectors, _ = clustered()
    there = fit_itq(vectors, num_bits=16)
    np.testing.assert_allclose(hashes(there, vectors).mean(axis=0), 0, atol=1e-5)
    moved = vectors + np.float32(64)
    here = fit_itq(moved, num_bits=16)
    np.testing.assert_allclose(hashes(here, moved), hashes(there, vectors), atol=1e-3)
    assert np.abs(here.bias_b - there.bias_b).max() > 1


def test_directions_without_variance_are_left_out() -> None:
    vectors, _ = clustered(dimensions=6)
    # Two constant columns, one of a value that float sums do not hit exactly, and a copy of a column: rank 6 of 9.
    constant = np.full((len(vectors), 1), 0.1, dtype=np.float32)
    wide = np.concatenate([constant, vectors, vectors[:, :1], 1e4 * constant], axis=1)
    projection = fit_itq(wide, num_bits=9, rounds=10)
    np.testing.assert_allclose(projection.weight_bD[:, [0, 8]], 0, atol=1e-6)
    np.testing.assert_allclose(projection.weight_bD[:, 1], projection.weight_bD[:, 7], atol=1e-5)
    np.testing.assert_allclose(np.linalg.svd(projection.weight_bD, compute_uv=False), [1] * 6 + [0] * 3, atol=1e-5)
    ones = (hashes(projection, wide) > 0).sum(axis=0)
    assert (ones > 0).all() and (ones < len(wide)).all()


def test_two_vectors_are_enough() -> None:
    vectors = np.array([[1, 2, 3], [1, 5, 3]])
    projection = fit_itq(vectors, num_bits=4)
    codes = hashes(projection, vectors) > 0
    np.testing.assert_array_equal(codes[0], ~codes[1])
    np.testing.assert_allclose(np.abs(hashes(projection, vectors)), np.abs(projection.weight_bD[:, 1]) * np.full((2, 1), 1.5), rtol=1e-5)


def test_only_the_seed_matters_not_the_global_random_state() -> None:
    vectors, _ = clustered()
    np.random.seed(0)
    first = fit_itq(vectors, num_bits=12, rounds=3, seed=1)
    np.random.seed(1)
    again = fit_itq(vectors.astype(np.float64), num_bits=12, rounds=3, seed=1)
    np.testing.assert_array_equal(first.weight_bD, again.weight_bD)
    np.testing.assert_array_equal(first.bias_b, again.bias_b)
    assert not np.allclose(first.weight_bD, fit_itq(vectors, num_bits=12, rounds=3, seed=2).weight_bD)


def test_at_most_max_samples_rows_are_used() -> None:
    vectors, _ = clustered()
    fitted = fit_itq(vectors, num_bits=8, max_samples=50, seed=4)
    rows = np.sort(np.random.default_rng(4).choice(len(vectors), 50, replace=False))
    np.testing.assert_allclose(hashes(fitted, vectors[rows]).mean(axis=0), 0, atol=1e-5)
    spoilt = np.full_like(vectors, np.nan)
    spoilt[rows] = vectors[rows]
    np.testing.assert_array_equal(fit_itq(spoilt, num_bits=8, max_samples=50, seed=4).weight_bD, fitted.weight_bD)
    exact = fit_itq(vectors, num_bits=8, max_samples=len(vectors))
    np.testing.assert_array_equal(exact.weight_bD, fit_itq(vectors, num_bits=8).weight_bD)


VECTORS = np.arange(12.0).reshape(4, 3)


@pytest.mark.parametrize(
    ("vectors", "options", "message"),
    [
        (np.zeros((0, 3)), {}, "at least 2"),
        (np.ones((1, 3)), {}, "at least 2"),
        (np.zeros((4, 0)), {}, "real numbers"),
        (np.zeros(4), {}, "real numbers"),
        (VECTORS.astype(complex), {}, "real numbers"),
        (np.array([["a", "b"], ["c", "d"]]), {}, "real numbers"),
        (np.array([[1.0, np.nan], [0, 1]]), {}, "NaN"),
        (np.array([[1.0, -np.inf], [0, 1]]), {}, "NaN"),
        (np.array([[1.0, 1e39], [0, 1]]), {}, "outside float32"),
        (np.full((5000, 3), 0.1), {}, "all 5000 vectors used are equal"),
        (np.zeros((4, 3)), {}, "are equal"),
        (VECTORS, {"num_bits": 0}, "num_bits=0: give 1 or more"),
        (VECTORS, {"rounds": -1}, "rounds=-1: give 0 or more"),
        (VECTORS, {"max_samples": 1}, "max_samples=1: give 2 or more"),
    ],
)
def test_invalid_vectors_and_options_are_refused(vectors: np.ndarray, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_itq(vectors, **{"num_bits": 4, **options})

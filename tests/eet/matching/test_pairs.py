"""Scores of pairs against a plain float64 loop and POT, for every shape, dtype, marginal, solver and thread count."""

import subprocess
import sys

import numpy as np
import ot
import pytest
import torch

from eet.matching import MARGINALS, SOLVERS, TokenSet, match_pairs
from eet.matching.pairs import COMPILED_SOLVERS, match_compiled
from eet.matching.published_marginals import importance
from eet.matching.token_set import checked


def draw(seed: int, images: int, tokens: int, dims: int, mean_cosine: float = 0.3) -> TokenSet:
    """float16 tokens round one direction, the same for all seeds; masses and centres."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.ones(dims) / dims**0.5
    noise = torch.nn.functional.normalize(torch.randn(images, tokens, dims, generator=generator), dim=2)
    drawn = mean_cosine**0.5 * direction + (1 - mean_cosine) ** 0.5 * noise
    mass = torch.rand(images, tokens, generator=generator)
    return TokenSet((drawn * 3).half(), mass, torch.randn(images, dims, generator=generator) + direction * dims**0.5)


def every_pair(queries: TokenSet, gallery: TokenSet) -> np.ndarray:
    return np.array([(q, g) for q in range(len(queries.tokens_NKD)) for g in range(len(gallery.tokens_NKD))])


def unit(rows: torch.Tensor) -> np.ndarray:
    rows = rows.double().numpy()
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def slow_scores(queries, gallery, pairs, *, marginal="importance", epsilon=0.05, transported=1.0, iterations=1000):  # type: ignore[no-untyped-def]
    """The published form, pair by pair in float64, converged."""
    scores = []
    for q, g in pairs:
        query, item = unit(queries.tokens_NKD[q]), unit(gallery.tokens_NKD[g])
        cosine = query @ item.T
        if MARGINALS[marginal].reads == "correlation":
            given = query @ unit(gallery.center_ND[g]), item @ unit(queries.center_ND[q])
        else:
            given = queries.mass_NK[q].numpy(), gallery.mass_NK[g].numpy()
        u, v = (MARGINALS[marginal].weigh(torch.as_tensor(numbers)).double().numpy() for numbers in given)
        kernel = np.exp((cosine - cosine.max()) / epsilon)
        if transported < 1:
            kernel = np.pad(kernel, ((0, 1), (0, 1)), constant_values=1 - transported)
            kernel[-1, -1] = 0
            u, v = np.append(u, 1 - transported), np.append(v, 1 - transported)
        c = np.ones(len(v))
        for _ in range(iterations):
            r = u / (kernel @ c)
            c = v / (kernel.T @ r)
        plan = (r[:, None] * kernel * c)[: len(cosine), : cosine.shape[1]]
        scores.append((plan * cosine).sum())
    return np.array(scores)


@pytest.mark.parametrize("transported", [1.0, 0.4])
@pytest.mark.parametrize(
    ("query_tokens", "gallery_tokens", "dims"), [(12, 12, 192), (1, 1, 3), (5, 33, 7), (49, 20, 40), (17, 49, 64), (70, 13, 33)]
)
def test_scores_equal_the_slow_loop(query_tokens: int, gallery_tokens: int, dims: int, transported: float) -> None:
    queries, gallery = draw(0, 2, query_tokens, dims), draw(1, 3, gallery_tokens, dims)
    pairs = every_pair(queries, gallery)
    scores = match_pairs(queries, gallery, pairs, transported=transported)
    assert scores.dtype == torch.float32
    np.testing.assert_allclose(scores.numpy(), slow_scores(queries, gallery, pairs, transported=transported), atol=1e-4)


@pytest.mark.parametrize("marginal", list(MARGINALS))
def test_every_marginal_scores_as_in_the_slow_loop(marginal: str) -> None:
    queries, gallery = draw(2, 3, 9, 20, 0.9), draw(3, 4, 11, 20, 0.9)
    pairs = every_pair(queries, gallery)
    options = {"marginal": marginal, "transported": 0.6}
    expected = slow_scores(queries, gallery, pairs, **options)
    for solver in ("sinkhorn", "pot"):
        np.testing.assert_allclose(match_pairs(queries, gallery, pairs, solver=solver, **options).numpy(), expected, atol=1e-4)


def test_without_centres_the_mean_of_unit_tokens_is_one() -> None:
    queries, gallery = draw(4, 2, 6, 16), draw(5, 2, 6, 16)
    pairs = every_pair(queries, gallery)
    means = [torch.from_numpy(unit(side.tokens_NKD).mean(axis=1)).float() for side in (queries, gallery)]
    given = [side._replace(center_ND=mean) for side, mean in zip((queries, gallery), means, strict=True)]
    bare = [side._replace(center_ND=None, mass_NK=None) for side in (queries, gallery)]
    expected = match_pairs(*given, pairs, marginal="cross_correlation")
    torch.testing.assert_close(match_pairs(*bare, pairs, marginal="cross_correlation"), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("solver", COMPILED_SOLVERS)
def test_a_score_depends_on_its_pair_alone_to_the_last_bit(solver: str) -> None:
    queries, gallery = draw(6, 5, 12, 30), draw(7, 40, 12, 30)
    pairs = every_pair(queries, gallery)
    options = {"epsilon": 0.02, "transported": 0.7, "solver": solver}
    scores = match_pairs(queries, gallery, pairs, threads=1, **options)
    shuffled = np.random.default_rng(0).permutation(len(pairs))
    assert torch.equal(match_pairs(queries, gallery, pairs[shuffled], threads=3, **options), scores[torch.from_numpy(shuffled)])
    for p in (0, 57, 199):
        assert match_pairs(queries, gallery, pairs[p : p + 1], threads=2, **options)[0] == scores[p]


def test_float32_and_arrays_give_the_same_as_float16_and_tensors() -> None:
    queries, gallery = draw(8, 2, 10, 24), draw(9, 3, 8, 24)
    pairs = every_pair(queries, gallery)
    scores = match_pairs(queries, gallery, pairs)
    singles = [side._replace(tokens_NKD=side.tokens_NKD.float()) for side in (queries, gallery)]
    assert torch.equal(match_pairs(*singles, pairs), scores)
    assert torch.equal(match_pairs(singles[0], gallery, torch.from_numpy(pairs)), scores)
    arrays = [TokenSet(*(values.numpy() for values in side)) for side in (queries, gallery)]
    arrays[0].tokens_NKD.flags.writeable = False
    assert torch.equal(match_pairs(*arrays, pairs), scores)


@pytest.mark.parametrize("epsilon", [0.01, 0.003])
@pytest.mark.parametrize("transported", [1.0, 0.3])
def test_small_epsilon_is_stable_and_leads_to_the_exact_answer(epsilon: float, transported: float) -> None:
    """Plain scaling in float32 breaks down here: kernel entries reach e^-600."""
    queries, gallery = draw(10, 2, 12, 16), draw(11, 3, 9, 16)
    pairs = every_pair(queries, gallery)
    scores = match_pairs(queries, gallery, pairs, epsilon=epsilon, transported=transported)
    exact = match_pairs(queries, gallery, pairs, solver="exact", transported=transported)
    peer = match_pairs(queries, gallery, pairs, epsilon=epsilon, transported=transported, solver="pot")
    np.testing.assert_allclose(scores.numpy(), peer.numpy(), atol=2e-4)
    # The plan of the cost 1 - cosine that moves the same mass is the best by definition.
    assert (scores <= exact + 1e-4).all()
    np.testing.assert_allclose(scores.numpy(), exact.numpy(), atol=0.4 * epsilon)


def test_exact_is_the_linear_programme() -> None:
    queries, gallery = draw(12, 1, 7, 16), draw(13, 2, 5, 16)
    for transported in (1.0, 0.5):
        scores = match_pairs(queries, gallery, [[0, 0], [0, 1]], solver="exact", transported=transported)
        for g in range(2):
            cosine = unit(queries.tokens_NKD[0]) @ unit(gallery.tokens_NKD[g]).T
            u, v = (importance(mass).double().numpy() for mass in (queries.mass_NK[0], gallery.mass_NK[g]))
            plan = ot.partial.partial_wasserstein(u / u.sum(), v / v.sum(), 1 - cosine, m=transported, nb_dummies=3)
            assert float(scores[g]) == pytest.approx((plan * cosine).sum(), abs=1e-5)


def slow_maxsim(queries: TokenSet, gallery: TokenSet, pairs: np.ndarray, weights: list[np.ndarray]) -> list[float]:
    """Token by token; weights: of the tokens of each pair's query."""
    scores = []
    for (q, g), weight in zip(pairs, weights, strict=True):
        query, item = unit(queries.tokens_NKD[q]), unit(gallery.tokens_NKD[g])
        scores.append(sum(w * max(float(token @ other) for other in item) for w, token in zip(weight, query, strict=True)))
    return scores


@pytest.mark.parametrize(
    ("query_tokens", "gallery_tokens", "dims"), [(12, 12, 192), (1, 1, 3), (5, 33, 7), (49, 20, 40), (17, 49, 64), (70, 13, 33)]
)
def test_maxsim_is_the_weighted_mean_of_each_query_token_s_greatest_cosine(query_tokens: int, gallery_tokens: int, dims: int) -> None:
    queries, gallery = draw(0, 2, query_tokens, dims), draw(1, 3, gallery_tokens, dims)
    pairs = every_pair(queries, gallery)
    plain = match_pairs(queries, gallery, pairs, solver="maxsim", marginal="uniform")
    even = [np.full(query_tokens, 1 / query_tokens)] * len(pairs)
    np.testing.assert_allclose(plain.numpy(), slow_maxsim(queries, gallery, pairs, even), atol=2e-6)
    scores = match_pairs(queries, gallery, pairs, solver="maxsim")
    masses = [importance(queries.mass_NK[q]).numpy() for q in pairs[:, 0]]
    np.testing.assert_allclose(scores.numpy(), slow_maxsim(queries, gallery, pairs, masses), atol=2e-6)
    # The constraints of transport can only lower a score.
    assert (scores >= match_pairs(queries, gallery, pairs, solver="exact") - 1e-5).all()
    assert torch.equal(match_pairs(queries, gallery, pairs, solver="maxsim", epsilon=0.3, transported=0.2), scores)


@pytest.mark.parametrize("marginal", list(MARGINALS))
def test_the_compiled_maxsim_is_the_solver_s_for_every_marginal(marginal: str) -> None:
    queries, gallery = draw(2, 3, 9, 20, 0.0), weightless(draw(3, 4, 11, 20, 0.0), 4)
    pairs = every_pair(queries, gallery)
    compiled = match_pairs(queries, gallery, pairs, marginal=marginal, solver="maxsim")
    for p, (q, g) in enumerate(pairs):
        mine, other = queries.tokens_NKD[q], gallery.tokens_NKD[g]
        if MARGINALS[marginal].reads == "correlation":
            given = unit(mine) @ unit(gallery.center_ND[g]), unit(other) @ unit(queries.center_ND[q])
        else:
            given = queries.mass_NK[q].numpy(), gallery.mass_NK[g].numpy()
        u, v = (MARGINALS[marginal].weigh(torch.as_tensor(numbers)).float() for numbers in given)
        cosine = torch.from_numpy(unit(mine) @ unit(other).T)
        plan = SOLVERS["maxsim"](1 - cosine[None], u[None], v[None], epsilon=0.05, transported=1.0)
        assert float(compiled[p]) == pytest.approx(float((plan[0] * cosine).sum()), abs=2e-6)


@pytest.mark.parametrize("tokens", [12, 49])
def test_partial_transport_delivers_the_share_that_was_asked_for(tokens: int) -> None:
    """Where the published early stop delivers 0 to 90 % of it."""
    for mean_cosine in (0.0, 0.4, 0.9):
        sides = [checked(draw(seed, 3, tokens, 64, mean_cosine), "side", "mass") for seed in (14, 15)]
        for transported in (0.1, 0.5, 0.9):
            matches = match_compiled(*sides, every_pair(*sides), importance, epsilon=0.05, transported=transported, threads=1)
            np.testing.assert_allclose(matches.delivered_P.numpy(), transported, atol=1e-3)


def test_broken_tokens_and_masses_never_give_nan_and_harm_no_other_pair() -> None:
    queries, gallery = draw(16, 1, 10, 24), draw(17, 8, 10, 24)
    pairs = every_pair(queries, gallery)
    good = match_pairs(queries, gallery, pairs)
    tokens, mass = gallery.tokens_NKD.float(), gallery.mass_NK.clone()
    tokens[0], tokens[1, 3], tokens[2] = float("nan"), float("inf"), 0
    tokens[5] *= 1e25
    tokens[6] *= 1e-25
    mass[3], mass[4] = 0, float("nan")
    mass[7, 2:] = 0
    broken = TokenSet(tokens, mass, torch.full((8, 24), float("nan")))
    for options in ({}, {"transported": 0.3}, {"epsilon": 0.001}, {"epsilon": 0.001, "transported": 0.6}):
        for marginal in MARGINALS:
            for solver in ("sinkhorn",) if options else SOLVERS:
                assert torch.isfinite(match_pairs(queries, broken, pairs, marginal=marginal, solver=solver, **options)).all()
    nearest = match_pairs(queries, broken, pairs, solver="maxsim")
    assert nearest[0] == nearest[2] == 0
    scores = match_pairs(queries, broken, pairs)
    assert scores[0] == scores[2] == 0 and scores[1] < good[1]
    torch.testing.assert_close(scores[5:7], good[5:7], atol=1e-5, rtol=0)
    np.testing.assert_allclose(scores[7:].numpy(), slow_scores(queries, gallery._replace(mass_NK=mass), [(0, 7)]), atol=1e-4)


@pytest.mark.parametrize("tokens", [(17, 49, 64), (49, 20, 40), (70, 13, 33)])
@pytest.mark.parametrize("transported", [1.0, 0.6])
def test_correlations_that_leave_tokens_without_mass_score_as_in_the_slow_loop(tokens: tuple[int, int, int], transported: float) -> None:
    """Some pairs need hundreds of iterations; what tokens without mass have in the kernel would grow beyond float32."""
    queries, gallery = draw(0, 2, tokens[0], tokens[2], 0.0), draw(1, 3, tokens[1], tokens[2], 0.0)
    pairs = every_pair(queries, gallery)
    for epsilon, iterations in ((0.02, 2000), (0.003, 5000)):
        options = {"marginal": "cross_correlation", "epsilon": epsilon, "transported": transported}
        expected = slow_scores(queries, gallery, pairs, iterations=iterations, **options)
        np.testing.assert_allclose(match_pairs(queries, gallery, pairs, **options).numpy(), expected, atol=1e-4)


def weightless(side: TokenSet, number: int) -> TokenSet:
    """The first tokens of every image have no mass."""
    return side._replace(mass_NK=torch.cat([torch.zeros(len(side.mass_NK), number), side.mass_NK[:, number:]], dim=1))


def without_first(side: TokenSet, number: int) -> TokenSet:
    return side._replace(tokens_NKD=side.tokens_NKD[:, number:], mass_NK=side.mass_NK[:, number:])


@pytest.mark.parametrize("epsilon", [0.05, 0.003, 0.001])
@pytest.mark.parametrize("transported", [1.0, 0.6])
@pytest.mark.parametrize("solver", COMPILED_SOLVERS)
def test_tokens_without_mass_count_as_if_they_were_not_there(epsilon: float, transported: float, solver: str) -> None:
    queries, gallery = draw(25, 2, 12, 24), draw(26, 4, 33, 24)
    pairs = every_pair(queries, gallery)
    options = {"epsilon": epsilon, "transported": transported, "solver": solver}
    scores = match_pairs(weightless(queries, 5), weightless(gallery, 14), pairs, **options)
    expected = match_pairs(without_first(queries, 5), without_first(gallery, 14), pairs, **options)
    torch.testing.assert_close(scores, expected, atol=2e-4, rtol=0)


def test_tokens_whose_likeness_has_no_mass_send_to_others() -> None:
    """Every query token has its copy in the gallery image. All else is then 0 in a float32 kernel whose largest entry of a row is 1."""
    queries, others = draw(27, 1, 8, 24, 0.0), draw(28, 3, 1, 24, 0.0)
    tokens = torch.cat([queries.tokens_NKD.expand(3, -1, -1), others.tokens_NKD], dim=1)
    gallery = TokenSet(tokens, torch.cat([torch.zeros(3, 8), others.mass_NK], dim=1), others.center_ND)
    pairs = every_pair(queries, gallery)
    # One token takes all: the plan is known.
    expected = match_pairs(queries, others, pairs, epsilon=1e-4)
    torch.testing.assert_close(match_pairs(queries, gallery, pairs, epsilon=1e-4), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(match_pairs(gallery, queries, pairs[:, ::-1], epsilon=1e-4), expected, atol=1e-5, rtol=0)


def test_no_pairs_give_no_scores() -> None:
    queries, gallery = draw(18, 1, 4, 8), draw(19, 2, 4, 8)
    for solver in SOLVERS:
        assert match_pairs(queries, gallery, np.empty((0, 2), np.int64), solver=solver).shape == (0,)


def test_wrong_arguments_are_refused() -> None:
    queries, gallery = draw(20, 1, 4, 8), draw(21, 2, 4, 8)
    pairs = np.array([[0, 1]])
    for options, message in (
        ({"marginal": "even"}, "marginal 'even' is unknown; choose one of uniform"),
        ({"solver": "emd"}, "choose one of sinkhorn, exact, pot"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"transported": 1.5}, "transported"),
        ({"threads": 0}, "threads=0"),
    ):
        with pytest.raises(ValueError, match=message):
            match_pairs(queries, gallery, pairs, **options)
    with pytest.raises(ValueError, match="queries have no token mass"):
        match_pairs(queries._replace(mass_NK=None), gallery, pairs)
    with pytest.raises(ValueError, match="gallery items masses"):
        match_pairs(queries, gallery._replace(mass_NK=torch.ones(2, 3)), pairs)
    with pytest.raises(ValueError, match="centers"):
        match_pairs(queries._replace(center_ND=torch.ones(1, 3)), gallery, pairs, marginal="inverse")
    with pytest.raises(ValueError, match="one model"):
        match_pairs(queries, draw(22, 2, 4, 9), pairs)
    with pytest.raises(ValueError, match="encode with tokens"):
        match_pairs(queries, gallery._replace(tokens_NKD=torch.ones(2, 0, 8)), pairs)
    with pytest.raises(ValueError, match="query row, gallery row"):
        match_pairs(queries, gallery, [0, 1])
    for wrong in ([[0, 2]], [[1, 0]], [[0, -1]]):
        with pytest.raises(ValueError, match="1 queries and 2 items"):
            match_pairs(queries, gallery, wrong)


def test_compiled_loops_close_over_nothing() -> None:
    """A function that closes over another is compiled again in each process: its cache on disk is never found again."""
    from eet.matching import compiled_maxsim, compiled_sinkhorn

    loops = [*vars(compiled_sinkhorn).values(), compiled_maxsim.score]
    kept = [value for value in loops if getattr(getattr(value, "_cache", None), "cache_path", None)]
    assert {"score", "correlate", "unpack"} <= {function.py_func.__name__ for function in kept} and len(kept) >= 12
    assert all(function.py_func.__closure__ is None for function in kept)


SECOND_PROCESS = """
import numpy as np
from eet.matching import TokenSet, compiled_maxsim, compiled_sinkhorn, match_pairs
tokens = TokenSet(np.ones((1, 2, 8), np.float16), np.ones((1, 2), np.float32), np.ones((1, 8), np.float32))
for marginal in ("importance", "inverse"):
    for solver in ("sinkhorn", "maxsim"):
        match_pairs(tokens, tokens, [[0, 0]], marginal=marginal, solver=solver)
kernels = compiled_sinkhorn.score, compiled_sinkhorn.correlate, compiled_maxsim.score
print([sum(kernel.stats.cache_misses.values()) for kernel in kernels])
"""


@pytest.mark.slow
def test_a_second_process_compiles_nothing() -> None:
    """Its arguments, named tuples, are found on disk by what they are."""
    runs = [subprocess.run([sys.executable, "-c", SECOND_PROCESS], capture_output=True, text=True, check=True) for _ in range(2)]
    assert runs[1].stdout.strip() == "[0, 0, 0]"


@pytest.mark.gpu
@pytest.mark.parametrize("tokens", [12, 49, 100])
@pytest.mark.parametrize("transported", [1.0, 0.4])
def test_a_gpu_gives_the_scores_of_the_cpu(tokens: int, transported: float) -> None:
    queries, gallery = draw(23, 2, tokens, 64), draw(24, 5, tokens - 3, 64)
    pairs = every_pair(queries, gallery)
    for marginal, solver in (("importance", "sinkhorn"), ("inverse", "sinkhorn"), ("importance", "maxsim"), ("inverse", "maxsim")):
        options = {"marginal": marginal, "transported": transported, "solver": solver}
        expected = match_pairs(queries, gallery, pairs, **options)
        torch.testing.assert_close(match_pairs(queries, gallery, pairs, device="cuda", **options), expected, atol=2e-4, rtol=0)

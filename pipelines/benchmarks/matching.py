"""`eet benchmark matching`: scores of pairs, compared with POT and torch in one process, interleaved, checked against converged float64."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from eet.matching import TokenSet, match_pairs, structural_similarity
from pipelines.benchmarks.record import Column, Machine, print_rows
from pipelines.benchmarks.setup import Benchmark, Setup
from pipelines.configs.benchmark import MatchingBenchmarkOptions
from pipelines.costs.interleaved import median_ratio

LARGEST_ERROR = 1e-4
PRODUCTS = {"cpu": 1_200_000, "cuda": 60_000_000}
MOST_LOOPED = 256
"""Most pairs of the loop over POT, so that its time does not grow with the pairs of the other methods."""
EET, ONE_QUERY = "EET", "EET, a query at a time"
POT_LOOP, POT_STOPPED, POT_BATCH, TORCH = "ot.sinkhorn, 100 iterations", "ot.sinkhorn, stopped", "ot.batch", "torch batch"


@dataclass(frozen=True)
class MatchingTiming:
    """Results of one method in one case.

    pairs_per_s, pairs_per_cpu_s: by the clock and by the CPU time of the process, medians. ratio, cpu_ratio: EET's speed to the method's by
    either, medians over rounds. error: largest |score - converged float64 POT|.
    """

    method: str
    tokens: int
    dims: int
    mean_cosine: float
    pairs_per_s: float
    pairs_per_cpu_s: float
    ratio: float
    cpu_ratio: float
    error: float


COLUMNS = (
    Column("method", "method"),
    Column("tokens", "tokens", "d"),
    Column("dims", "dims", "d"),
    Column("mean cosine", "mean_cosine", ".1f"),
    Column("pairs/s", "pairs_per_s", ",.0f"),
    Column("pairs/CPU s", "pairs_per_cpu_s", ",.0f"),
    Column("EET x", "ratio", ",.1f"),
    Column("by CPU time", "cpu_ratio", ",.1f"),
    Column("error", "error", ".0e"),
)


def measure(options: MatchingBenchmarkOptions, setup: Setup) -> list[MatchingTiming]:
    """Measures every case in turn. RuntimeError where a method is farther than 1e-4 from the converged scores.

    On a GPU, the loops over POT stay on the CPU. EET's method copies its tokens to the GPU each time, as in re-ranking; the two batched
    methods have them there already.
    """
    timings: list[MatchingTiming] = []
    for tokens, dims in zip(options.tokens, options.dims, strict=True):
        for mean_cosine in options.mean_cosines:
            case = _case(options, tokens, dims, mean_cosine, setup)
            print_rows(COLUMNS, case, heading=not timings)
            timings += case
    return timings


def _case(
    options: MatchingBenchmarkOptions,
    tokens: int,
    dims: int,
    mean_cosine: float,
    setup: Setup,
) -> list[MatchingTiming]:
    device = setup.device.torch_device
    rng = np.random.default_rng(0)
    most = max(8, (options.products or PRODUCTS[device.type]) // tokens**2)
    # Each query has its own 100 images, as in re-ranking; no image is seen twice.
    queries, gallery = (_draw(rng, number, tokens, dims, mean_cosine) for number in (-(-most // 100), most))
    pairs = np.stack([np.arange(most) // 100, np.arange(most)], axis=1)
    few = pairs[: min(max(4, most // 256), MOST_LOOPED)]
    units = _unit(queries), _unit(gallery[: len(few)])
    methods = {POT_LOOP: _pot_loop(*units, options.epsilon, 100, 0.0)}
    expected = _pot_loop(*units, options.epsilon, 20_000, 1e-10)(few)
    for stop in (10.0**-exponent for exponent in range(1, 12)):
        methods[POT_STOPPED] = _pot_loop(*units, options.epsilon, 20_000, stop)
        if np.abs(methods[POT_STOPPED](few) - expected).max() <= LARGEST_ERROR:
            break
    methods[POT_BATCH] = _pot_batch(queries, gallery, options.epsilon, device)
    methods[TORCH] = _torch_batch(queries, gallery, options.epsilon, device)
    methods[EET] = _eet(queries, gallery, options.epsilon, device, setup.threads)
    methods[ONE_QUERY] = _one_query(queries, gallery, options.epsilon, device, setup.threads)
    parts = {EET: pairs, ONE_QUERY: pairs, POT_BATCH: pairs[: max(8, most // 16)], TORCH: pairs[: max(8, most // 16)]}

    errors = {name: float(np.abs(method(parts.get(name, few))[: len(few)] - expected).max()) for name, method in methods.items()}
    for name, error in errors.items():
        if not error <= LARGEST_ERROR:
            raise RuntimeError(f"{name} at {tokens} tokens of {dims}, mean cosine {mean_cosine}: a score is off by {error:.1e}")
    clock: dict[str, list[float]] = {name: [] for name in methods}
    cpu: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(setup.repeats):
        for name, method in methods.items():
            part = parts.get(name, few)
            start = time.perf_counter(), time.process_time()
            method(part)
            clock[name].append((time.perf_counter() - start[0]) / len(part))
            cpu[name].append((time.process_time() - start[1]) / len(part))

    return [
        MatchingTiming(
            method=name,
            tokens=tokens,
            dims=dims,
            mean_cosine=mean_cosine,
            pairs_per_s=1 / statistics.median(clock[name]),
            pairs_per_cpu_s=1 / statistics.median(cpu[name]),
            ratio=median_ratio(clock[name], clock[EET]),
            cpu_ratio=median_ratio(cpu[name], cpu[EET]),
            error=errors[name],
        )
        for name in (EET, ONE_QUERY, POT_LOOP, POT_STOPPED, POT_BATCH, TORCH)
    ]


def _draw(rng: np.random.Generator, images: int, tokens: int, dims: int, mean_cosine: float) -> np.ndarray:
    """float16 tokens, nearly of unit length, around a direction that all draws share."""
    noise = rng.standard_normal((images, tokens, dims), dtype=np.float32)
    noise *= (1 - mean_cosine) ** 0.5 / np.linalg.norm(noise, axis=2, keepdims=True)
    return (noise + (mean_cosine / dims) ** 0.5).astype(np.float16)


def _unit(tokens: np.ndarray) -> np.ndarray:
    tokens = tokens.astype(np.float64)
    return tokens / np.linalg.norm(tokens, axis=-1, keepdims=True)


def _pot_loop(queries: np.ndarray, gallery: np.ndarray, epsilon: float, iterations: int, stop: float) -> Callable[[np.ndarray], np.ndarray]:
    """numpy in float64, one pair after another; includes the cosine matrices, not the scaling of tokens to unit length."""
    import ot

    even = np.full(queries.shape[1], 1 / queries.shape[1])

    def scores(pairs: np.ndarray) -> np.ndarray:
        found = np.empty(len(pairs))
        for p, (q, g) in enumerate(pairs):
            cosine = queries[q] @ gallery[g].T
            plan = ot.sinkhorn(even, even, 1 - cosine, epsilon, numItermax=iterations, stopThr=stop, warn=False)
            found[p] = (plan * cosine).sum()
        return found

    return scores


def _pot_batch(queries: np.ndarray, gallery: np.ndarray, epsilon: float, device: torch.device) -> Callable[[np.ndarray], np.ndarray]:
    """torch in float32, all pairs at once; the tokens are already on the device."""
    from ot.batch import solve_batch

    unit_queries, unit_gallery = (
        torch.nn.functional.normalize(torch.from_numpy(side).to(device).float(), dim=2) for side in (queries, gallery)
    )

    def scores(pairs: np.ndarray) -> np.ndarray:
        rows = torch.from_numpy(pairs).to(device)
        cosine = unit_queries[rows[:, 0]] @ unit_gallery[rows[:, 1]].mT
        even = torch.full(cosine.shape[:2], 1 / cosine.shape[1], device=device)
        plan = solve_batch(1 - cosine, epsilon, even, even, method="sinkhorn", grad="detach").plan
        return (plan * cosine).sum(dim=(1, 2)).cpu().numpy()

    return scores


def _torch_batch(queries: np.ndarray, gallery: np.ndarray, epsilon: float, device: torch.device) -> Callable[[np.ndarray], np.ndarray]:
    """The scaling loop of EET in torch, all images of a query at once; the tokens are already on the device."""
    return _by_query(queries, gallery, epsilon, device, plans=True)


def _one_query(
    queries: np.ndarray, gallery: np.ndarray, epsilon: float, device: torch.device, threads: int
) -> Callable[[np.ndarray], np.ndarray]:
    """EET's matching through `structural_similarity`, without plans; the tokens are already on the device."""
    return _by_query(queries, gallery, epsilon, device, plans=False, threads=threads)


def _by_query(
    queries: np.ndarray, gallery: np.ndarray, epsilon: float, device: torch.device, *, plans: bool, threads: int | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    query_tokens, gallery_tokens = (torch.from_numpy(side).to(device) for side in (queries, gallery))

    def scores(pairs: np.ndarray) -> np.ndarray:
        found = np.empty(len(pairs), np.float32)
        for query in np.unique(pairs[:, 0]):
            places = np.flatnonzero(pairs[:, 0] == query)
            images = gallery_tokens[pairs[places, 1]]
            ones = torch.ones(images.shape[:2], device=device)
            matched = structural_similarity(query_tokens[query], images, ones[0], ones, epsilon=epsilon, plans=plans, threads=threads)
            found[places] = matched[0].cpu().numpy()
        return found

    return scores


def _eet(
    queries: np.ndarray, gallery: np.ndarray, epsilon: float, device: torch.device, threads: int
) -> Callable[[np.ndarray], np.ndarray]:
    """EET's matching of pairs; the tokens are in main memory."""
    query_tokens, gallery_tokens = TokenSet(torch.from_numpy(queries)), TokenSet(torch.from_numpy(gallery))

    def scores(pairs: np.ndarray) -> np.ndarray:
        return match_pairs(
            query_tokens, gallery_tokens, pairs, marginal="uniform", epsilon=epsilon, device=str(device), threads=threads
        ).numpy()

    return scores


def _planned(options: MatchingBenchmarkOptions, setup: Setup) -> str:
    return f"{len(options.tokens) * len(options.mean_cosines)} cases, {setup.repeats} repeats"


def _versions(setup: Setup) -> Machine:
    import numba
    import ot

    return {"numba": numba.__version__, "pot": ot.__version__}


BENCHMARK = Benchmark(COLUMNS, measure, _planned, _versions)

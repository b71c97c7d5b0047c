"""`eet benchmark search`: backends of exact search, approximate indexes and FAISS alone in one process, interleaved, checked."""

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from eet.errors import InputError
from eet.figures import save_png, search_time_figure
from eet.gallery import open_gallery
from eet.options.defaults import MOST_ON_GPU
from eet.search import HammingIndex, Index, build_index, with_backend
from eet.search.faiss_index import flat_index, imported_faiss
from pipelines.benchmarks.code_draws import Clusters, draw_uniform
from pipelines.benchmarks.record import Column, Machine, print_rows
from pipelines.benchmarks.setup import Benchmark, Setup
from pipelines.configs.benchmark import SearchBenchmarkOptions
from pipelines.costs.interleaved import interleaved_seconds, median_ratio


@dataclass(frozen=True)
class SearchTiming:
    """Results of one method in one case.

    method: exact, or an approximate kind of index with its probes. recall: of the k nearest, found at most as far as the last exact hit.
    ms: of a query, median; ours_ms is of the native backend, or of the approximate index. backend: the backend faiss, which has the same
    distinct codes and gives the same hits. faiss: FAISS's flat index of all codes, without an order inside ties; None where it has no
    such search: on a GPU, more than 2,048 items for a query. ratio: its time to ours_ms, median over rounds. memory: bytes of the index to
    those of codes and 8-byte ids.
    """

    bits: int
    draw: str
    size: int
    distinct: int
    method: str
    recall: float
    ours_ms: float
    backend_ms: float | None
    faiss_ms: float | None
    ratio: float | None
    build_s: float
    faiss_build_s: float | None
    memory: float
    peak_gb: float


EXACT = "exact"
COLUMNS = (
    Column("bits", "bits", "d"),
    Column("draw", "draw"),
    Column("codes", "size", ",d"),
    Column("searched", "distinct", ",d"),
    Column("method", "method"),
    Column("recall", "recall", ".4f"),
    Column("EET, ms a query", "ours_ms", ".3f"),
    Column("EET with FAISS", "backend_ms", ".3f"),
    Column("FAISS, ms a query", "faiss_ms", ".3f"),
    Column("FAISS / EET", "ratio", ",.1f"),
    Column("build, s", "build_s", ".2f"),
    Column("FAISS, s", "faiss_build_s", ".2f"),
    Column("memory", "memory", ".2f"),
    Column("peak, GB", "peak_gb", ".1f"),
)


def measure(options: SearchBenchmarkOptions, setup: Setup) -> list[SearchTiming]:
    """Measures every case in turn.

    InputError where the gallery to follow has other bits, FAISS cannot be imported, or does not support the GPU. RuntimeError where two
    disagree on a distance or a hit.
    """
    clusters = _followed(options)
    imported_faiss().omp_set_num_threads(setup.threads)
    timings: list[SearchTiming] = []
    for size in options.sizes:
        for bits in options.bits:
            for draw in options.draws:
                rows = _case(options, size, bits, draw, clusters, setup)
                print_rows(COLUMNS, rows, heading=not timings)
                timings += rows
    if options.plot is not None:
        save_png(search_time_figure(time_plots(timings), title=f"the {options.k} nearest codes"), options.plot)
    return timings


def _followed(options: SearchBenchmarkOptions) -> Clusters | None:
    if options.gallery is None:
        return None
    gallery = open_gallery(options.gallery)
    if set(options.bits) != {gallery.manifest.num_bits}:
        raise InputError(
            f"--search.gallery {options.gallery} has {gallery.manifest.num_bits} bits, not {list(options.bits)}: measure those"
        )
    clusters = Clusters.of_gallery(gallery)
    print(f"clustered codes follow {options.gallery}: {len(clusters.weight_C)} clusters, {clusters.flip_share:.3f} of the bits flipped")
    return clusters


def time_plots(timings: list[SearchTiming]) -> dict[str, dict[str, tuple[list[int], list[float], list[float]]]]:
    """The timings in the form of `search_time_figure`: a plot for each length of code, a name for each draw."""
    plots: dict[str, dict[str, tuple[list[int], list[float], list[float]]]] = {}
    exact = [timing for timing in timings if timing.method == EXACT]
    for timing in sorted(exact, key=lambda timing: (timing.bits, timing.size)):
        sizes, ours_ms, faiss_ms = plots.setdefault(f"{timing.bits} bits", {}).setdefault(timing.draw, ([], [], []))
        assert timing.faiss_ms is not None
        sizes.append(timing.size)
        ours_ms.append(timing.ours_ms)
        faiss_ms.append(timing.faiss_ms)
    return plots


def _case(
    options: SearchBenchmarkOptions,
    size: int,
    bits: int,
    draw: str,
    clusters: Clusters | None,
    setup: Setup,
) -> list[SearchTiming]:
    device, threads = setup.device.torch_device, setup.threads
    rng = np.random.default_rng(0)
    if draw == "uniform":
        codes, queries = (draw_uniform(rng, number, bits) for number in (size, options.queries))
    else:
        clusters = clusters or Clusters.around_targets(rng, bits, options.flip_share)
        codes, queries = (clusters.draw(rng, number) for number in (size, options.queries))
    started = time.perf_counter()
    index = HammingIndex.build(codes, num_bits=bits)
    built = time.perf_counter()
    with_faiss = device.type == "cpu" or options.k <= MOST_ON_GPU
    faiss_index = flat_index(bits, str(device) if with_faiss else "cpu")
    faiss_index.add(codes)
    added = time.perf_counter()
    backends = {"eet": index, "backend": with_backend(index, "faiss", str(device))}
    searches: dict[Any, Callable[[], Any]] = {
        name: partial(own.search, queries, options.k, device=str(device), threads=threads) for name, own in backends.items()
    }
    if with_faiss:
        searches["faiss"] = lambda: faiss_index.search(queries, options.k)
    index.search(queries[:1], options.k, device=str(device))  # compiles
    found, by_backend = searches["eet"](), searches["backend"]()
    if not all(np.array_equal(one, other) for one, other in zip(found, by_backend, strict=True)):
        raise RuntimeError(f"{size} {draw} codes of {bits} bits: hits of the backend faiss differ from the native ones")
    if not np.array_equal(np.sort(faiss_index.search(queries, options.k)[0], axis=1), found[0]):
        raise RuntimeError(f"{size} {draw} codes of {bits} bits: distances differ from FAISS's")
    approximate, built_s = _approximate(options, codes, bits)
    for name, other in approximate.items():
        searches[name] = partial(other.search, queries, options.k, threads=threads)
    recalls = {name: _recall(searches[name]()[0], found[0]) for name in approximate}
    # All have run once. They return results on the CPU, so a call is complete when it returns.
    seconds = interleaved_seconds(searches, repeats=setup.repeats, warm_ups=0)
    per_query = {name: statistics.median(values) / options.queries * 1e3 for name, values in seconds.items()}

    def timing(name: Any, method: str, index: Index, build_s: float, *, recall: float, backend_ms: float | None) -> SearchTiming:
        return SearchTiming(
            bits=bits,
            draw=draw,
            size=size,
            distinct=index.num_codes,
            method=method,
            recall=recall,
            ours_ms=per_query[name],
            backend_ms=backend_ms,
            faiss_ms=per_query.get("faiss"),
            ratio=median_ratio(seconds["faiss"], seconds[name]) if with_faiss else None,
            build_s=build_s,
            faiss_build_s=added - built if with_faiss else None,
            memory=index.nbytes / (size * (bits // 8 + 8)),
            peak_gb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        )

    rows = [timing("eet", EXACT, index, built - started, recall=1.0, backend_ms=per_query["backend"])]
    for name, other in approximate.items():
        kind, probes = name
        rows.append(timing(name, f"{kind}, {probes} probes", other, built_s[kind], recall=recalls[name], backend_ms=None))
    return rows


def _approximate(options: SearchBenchmarkOptions, codes: np.ndarray, bits: int) -> tuple[dict[tuple[str, int], Index], dict[str, float]]:
    """The approximate indexes, by kind and probes, and the seconds in which each kind was built."""
    indexes: dict[tuple[str, int], Index] = {}
    built_s: dict[str, float] = {}
    for kind in options.approximate:
        started = time.perf_counter()
        index = build_index(kind, codes, num_bits=bits)
        built_s[kind] = time.perf_counter() - started
        indexes |= {(kind, probes): index.with_probes(probes) for probes in options.probes}
    return indexes, built_s


def _recall(found_Qk: np.ndarray, exact_Qk: np.ndarray) -> float:
    return float(((found_Qk >= 0) & (found_Qk <= exact_Qk[:, -1:])).mean())


def _planned(options: SearchBenchmarkOptions, setup: Setup) -> str:
    cases = len(options.sizes) * len(options.bits) * len(options.draws)
    return f"{cases} cases of {1 + len(options.approximate) * len(options.probes)} methods, {setup.repeats} repeats"


def _versions(setup: Setup) -> Machine:
    import faiss
    import numba

    return {"numba": numba.__version__, "faiss": faiss.__version__}


BENCHMARK = Benchmark(COLUMNS, measure, _planned, _versions)

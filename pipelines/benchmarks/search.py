"""`eet benchmark search`: exact Hamming search and FAISS's flat index in one process with the same threads, interleaved, checked."""

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from eet.errors import InputError
from eet.figures import save_png, search_time_figure
from eet.gallery import open_gallery
from eet.search import HammingIndex
from pipelines.benchmarks.code_draws import Clusters, draw_uniform
from pipelines.benchmarks.record import Column, Machine, print_rows
from pipelines.benchmarks.setup import Benchmark, Setup
from pipelines.costs.interleaved import interleaved_seconds, median_ratio
from pipelines.job.location import LOCATION


@dataclass(kw_only=True)
class SearchBenchmarkOptions:
    """Cases of the benchmark.

    Attributes:
        sizes: Numbers of codes.
        bits: Lengths of codes.
        draws: clustered: codes like those of trained networks (one of 200 target codes, with some bits flipped); uniform: any code.
        flip_share: Share of a target code's bits that a clustered code has flipped, on average.
        gallery: Gallery that clustered codes follow instead: the sizes of its labels, and how often each bit is 1 in each label.
        queries: Queries of a search, drawn like the codes.
        k: Items for each query.
        plot: PNG file for a figure of the time of a query over the number of codes, for EET and FAISS.
    """

    sizes: tuple[int, ...] = (1_000_000,)
    bits: tuple[int, ...] = (16, 32, 48, 64)
    draws: tuple[Literal["clustered", "uniform"], ...] = ("clustered", "uniform")
    flip_share: float = 0.15
    gallery: str | None = field(default=None, metadata=LOCATION)
    queries: int = 64
    k: int = 100
    plot: str | None = field(default=None, metadata=LOCATION)

    def problems(self) -> list[str]:
        found = [f"--search.{name} {value}: use 1 or more" for name in ("queries", "k") if (value := getattr(self, name)) < 1]
        if min((*self.sizes, *self.bits), default=0) < 1:
            found.append(f"--search.sizes {list(self.sizes)}, --search.bits {list(self.bits)}: give one or more of each, all at least 1")
        if any(bits % 8 for bits in self.bits):
            found.append(f"--search.bits {list(self.bits)}: FAISS takes multiples of 8 only")
        if not 0 <= self.flip_share <= 0.5:
            found.append(f"--search.flip_share {self.flip_share}: use 0 to 0.5")
        if self.plot is not None and ("://" in self.plot or not self.plot.endswith(".png")):
            found.append(f"--search.plot {self.plot}: give a local path that ends in .png")
        return found


@dataclass(frozen=True)
class SearchTiming:
    """Results of one case.

    ms: of a query, median. ratio: FAISS's time to EET's, median over rounds. memory: bytes of the index to those of codes and 8-byte ids.
    FAISS's time is None where it has no such search: on a GPU, more than 2,048 items for a query.
    """

    bits: int
    draw: str
    size: int
    distinct: int
    ours_ms: float
    faiss_ms: float | None
    ratio: float | None
    build_s: float
    faiss_build_s: float | None
    memory: float
    peak_gb: float


COLUMNS = (
    Column("bits", "bits", "d"),
    Column("draw", "draw"),
    Column("codes", "size", ",d"),
    Column("searched", "distinct", ",d"),
    Column("EET, ms a query", "ours_ms", ".3f"),
    Column("FAISS, ms a query", "faiss_ms", ".3f"),
    Column("FAISS / EET", "ratio", ",.1f"),
    Column("build, s", "build_s", ".2f"),
    Column("FAISS, s", "faiss_build_s", ".2f"),
    Column("memory", "memory", ".2f"),
    Column("peak, GB", "peak_gb", ".1f"),
)

FAISS_MOST_ON_GPU = 2048
"""Most items that FAISS's GPU index finds for a query."""


def measure(options: SearchBenchmarkOptions, setup: Setup) -> list[SearchTiming]:
    """Measures every case in turn.

    InputError where the gallery to follow has other bits, and for a GPU that FAISS does not support. RuntimeError where the two disagree on
    a distance.
    """
    import faiss

    if setup.device.on_gpu and not hasattr(faiss, "GpuIndexBinaryFlat"):
        raise InputError("the faiss that is installed has no GPU indexes (faiss-cpu): install faiss-gpu, or use --device cpu")
    clusters = _followed(options)
    faiss.omp_set_num_threads(setup.threads)
    timings: list[SearchTiming] = []
    for size in options.sizes:
        for bits in options.bits:
            for draw in options.draws:
                timing = _case(options, size, bits, draw, clusters, setup, faiss=faiss)
                print_rows(COLUMNS, [timing], heading=not timings)
                timings.append(timing)
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
    for timing in sorted(timings, key=lambda timing: (timing.bits, timing.size)):
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
    *,
    faiss: Any,
) -> SearchTiming:
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
    with_faiss = device.type == "cpu" or options.k <= FAISS_MOST_ON_GPU
    faiss_index = _faiss_index(faiss, bits, device if with_faiss else torch.device("cpu"))
    faiss_index.add(codes)
    added = time.perf_counter()
    searches: dict[str, Callable[[], Any]] = {"eet": lambda: index.search(queries, options.k, device=str(device), threads=threads)}
    if with_faiss:
        searches["faiss"] = lambda: faiss_index.search(queries, options.k)
    index.search(queries[:1], options.k, device=str(device))  # compiles
    if not np.array_equal(np.sort(faiss_index.search(queries, options.k)[0], axis=1), searches["eet"]()[0]):
        raise RuntimeError(f"{size} {draw} codes of {bits} bits: distances differ from FAISS's")
    # Both have run once. They return results on the CPU, so a call is complete when it returns.
    seconds = interleaved_seconds(searches, repeats=setup.repeats, warm_ups=0)
    per_query = {name: statistics.median(values) / options.queries * 1e3 for name, values in seconds.items()}
    return SearchTiming(
        bits=bits,
        draw=draw,
        size=size,
        distinct=index.num_codes,
        ours_ms=per_query["eet"],
        faiss_ms=per_query.get("faiss"),
        ratio=median_ratio(seconds["faiss"], seconds["eet"]) if with_faiss else None,
        build_s=built - started,
        faiss_build_s=added - built if with_faiss else None,
        memory=index.nbytes / (size * (bits // 8 + 8)),
        peak_gb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    )


def _faiss_index(faiss: Any, bits: int, device: torch.device) -> Any:
    """FAISS's flat index; on a GPU it keeps a reference to its resources."""
    if device.type == "cpu":
        return faiss.IndexBinaryFlat(bits)
    resources = faiss.StandardGpuResources()
    index = faiss.GpuIndexBinaryFlat(resources, bits)
    index.referenced_objects = [resources]
    return index


def _problems(options: SearchBenchmarkOptions, setup: Setup) -> list[str]:
    if options.plot is None or not setup.device.on_gpu or options.k <= FAISS_MOST_ON_GPU:
        return []
    return [f"--search.plot: FAISS's GPU index finds no more than {FAISS_MOST_ON_GPU} items of a query, so there is nothing to draw"]


def _planned(options: SearchBenchmarkOptions, setup: Setup) -> str:
    return f"{len(options.sizes) * len(options.bits) * len(options.draws)} cases, {setup.repeats} repeats"


def _versions(setup: Setup) -> Machine:
    import faiss
    import numba

    return {"numba": numba.__version__, "faiss": faiss.__version__}


BENCHMARK = Benchmark(COLUMNS, measure, _planned, _versions, _problems)

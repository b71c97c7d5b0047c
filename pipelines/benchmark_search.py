"""`eet benchmark search`: exact Hamming search beside FAISS's flat index, in one process with the same threads, interleaved, checked."""

import resource
import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from eet.search import HammingIndex

LABELS = 200


@dataclass(kw_only=True)
class SearchBenchmarkOptions:
    """What is searched.

    Attributes:
        sizes: Numbers of codes.
        bits: Lengths of codes.
        draws: clustered draws a code as trained ones are (one of 200 target codes with a share of its bits flipped), uniform anything.
        flip_share: Share of a target code's bits that a clustered code has flipped, on average.
        queries: Queries in a search, drawn as the codes are.
        k: Items wanted.
    """

    sizes: tuple[int, ...] = (1_000_000,)
    bits: tuple[int, ...] = (16, 32, 48, 64)
    draws: tuple[Literal["clustered", "uniform"], ...] = ("clustered", "uniform")
    flip_share: float = 0.15
    queries: int = 64
    k: int = 100

    def problems(self) -> list[str]:
        found = [f"--search.{name} {value}: use 1 or more" for name in ("queries", "k") if (value := getattr(self, name)) < 1]
        if min((*self.sizes, *self.bits), default=0) < 1:
            found.append(f"--search.sizes {list(self.sizes)}, --search.bits {list(self.bits)}: give one or more of each, all at least 1")
        if any(bits % 8 for bits in self.bits):
            found.append(f"--search.bits {list(self.bits)}: FAISS takes multiples of 8 only")
        if not 0 <= self.flip_share <= 0.5:
            found.append(f"--search.flip_share {self.flip_share}: use 0 to 0.5")
        return found


@dataclass(frozen=True)
class SearchTiming:
    """One case. ms: of a query, median. ratio: FAISS's time to ours, median over rounds. memory: bytes that the index holds to those of
    codes and 8-byte ids.
    """

    bits: int
    draw: str
    size: int
    distinct: int
    ours_ms: float
    faiss_ms: float
    ratio: float
    build_s: float
    faiss_build_s: float
    memory: float
    peak_gb: float


def measure(options: SearchBenchmarkOptions, *, threads: int, repeats: int) -> list[SearchTiming]:
    """Every case in turn. RuntimeError where the two disagree on a distance."""
    import faiss

    faiss.omp_set_num_threads(threads)
    timings = []
    for size in options.sizes:
        for bits in options.bits:
            for draw in options.draws:
                timings.append(_case(options, size, bits, draw, threads=threads, repeats=repeats, faiss=faiss))
                _print(timings[-1], heading=len(timings) == 1)
    return timings


def _case(options: SearchBenchmarkOptions, size: int, bits: int, draw: str, *, threads: int, repeats: int, faiss: Any) -> SearchTiming:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, (LABELS, bits), dtype=np.uint8)
    codes, queries = (_draw(rng, number, bits, draw, targets, options.flip_share) for number in (size, options.queries))
    started = time.perf_counter()
    ours = HammingIndex.build(codes, num_bits=bits)
    built = time.perf_counter()
    theirs = faiss.IndexBinaryFlat(bits)
    theirs.add(codes)
    added = time.perf_counter()
    ours.search(queries[:1], options.k)  # compiles
    seconds: dict[str, list[float]] = {"ours": [], "faiss": []}
    for repeat in range(-1, repeats):
        for name in seconds:
            begun = time.perf_counter()
            found = ours.search(queries, options.k, threads=threads) if name == "ours" else theirs.search(queries, options.k)
            if repeat >= 0:
                seconds[name].append(time.perf_counter() - begun)
            elif name == "ours":
                expected = found[0]
            elif not np.array_equal(np.sort(found[0], axis=1), expected):
                raise RuntimeError(f"{size} {draw} codes of {bits} bits: distances differ from FAISS's")
    per_query = {name: statistics.median(values) / options.queries * 1e3 for name, values in seconds.items()}
    return SearchTiming(
        bits=bits,
        draw=draw,
        size=size,
        distinct=ours.num_codes,
        ours_ms=per_query["ours"],
        faiss_ms=per_query["faiss"],
        ratio=statistics.median(theirs / mine for mine, theirs in zip(seconds["ours"], seconds["faiss"], strict=True)),
        build_s=built - started,
        faiss_build_s=added - built,
        memory=ours.nbytes / (size * (bits // 8 + 8)),
        peak_gb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    )


def _draw(rng: np.random.Generator, number: int, bits: int, draw: str, targets: np.ndarray, flip_share: float) -> np.ndarray:
    if draw == "uniform":
        return rng.integers(0, 256, (number, bits // 8), dtype=np.uint8)
    packed = np.empty((number, bits // 8), np.uint8)
    step = 1 << 18
    for start in range(0, number, step):
        part = packed[start : start + step]
        flips = rng.random((len(part), bits), dtype=np.float32) < flip_share
        part[:] = np.packbits(targets[rng.integers(0, LABELS, len(part))] ^ flips, axis=1)
    return packed


def _print(timing: SearchTiming, *, heading: bool) -> None:
    """A line of the table as soon as it is known: a case of 100 million codes takes a while."""
    values = asdict(timing)
    if heading:
        print("  ".join(f"{name:>13}" for name in values), flush=True)
    shown = (f"{value:.3f}" if isinstance(value, float) else str(value) for value in values.values())
    print("  ".join(f"{value:>13}" for value in shown), flush=True)

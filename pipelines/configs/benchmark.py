"""Options of `eet benchmark`: those of all benchmarks, and a group for each."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from eet.errors import InputError
from eet.options.choices import Precision, VectorForm
from eet.options.defaults import MOST_ON_GPU
from eet.options.schedule import PruningSchedule
from pipelines.job.location import LOCATION
from pipelines.job.options import JobOptions

Mode = Literal["eager", "compiled", "graphed"]
"""How a network is run."""


def stages_of(text: str) -> tuple[PruningSchedule, int]:
    """'4:0.7,7:0.7,10:0.7' -> after block 4 a share of 0.7 stays, and so on; with '/8' at the end, tokens are kept in multiples of 8.

    InputError for other text.
    """
    stages, slash, multiple = text.partition("/")
    pairs = [stage.split(":") for stage in stages.split(",")]
    try:
        schedule = PruningSchedule(tuple(int(block) for block, _ in pairs), tuple(float(ratio) for _, ratio in pairs))
        if slash and int(multiple) < 1:
            raise ValueError(f"multiple {multiple} is below 1")
        return schedule, int(multiple) if slash else 1
    except ValueError as error:
        raise InputError(
            f"schedule {text!r}: write block:ratio for each stage, such as 4:0.7,7:0.7,10:0.7 or 4:0.5,8:0.5/8 ({error})"
        ) from error


@dataclass(kw_only=True)
class EncoderBenchmarkOptions:
    """Cases of the benchmark.

    Attributes:
        batch_sizes: Images in a batch.
        modes: How every network is run: eager; compiled (torch.compile); graphed (compiled, and replayed as a CUDA graph).
        schedules: More students besides that of --keep_ratios, each as block:ratio of its stages, such as
            4:0.7,7:0.7,10:0.7; with /8 at the end, tokens are kept in multiples of 8.
        clock: wall, or cpu: the CPU time of the process, for CPUs that other processes use too.
    """

    batch_sizes: tuple[int, ...] = (1, 8, 32)
    modes: tuple[Mode, ...] = ("eager",)
    schedules: tuple[str, ...] = ()
    clock: Literal["wall", "cpu"] = "wall"

    def problems(self) -> list[str]:
        found = []
        if min(self.batch_sizes, default=0) < 1:
            found.append(f"--encoder.batch_sizes {list(self.batch_sizes)}: give one or more, each at least 1")
        if not self.modes:
            found.append("--encoder.modes []: give one or more of eager, compiled, graphed")
        for text in self.schedules:
            try:
                stages_of(text)
            except InputError as error:
                found.append(f"--encoder.schedules: {error}")
        return found


@dataclass(kw_only=True)
class BackbonesBenchmarkOptions:
    """Families of the benchmark.

    Attributes:
        families: Names of families, such as vit_dinov3; * stands for any characters.
    """

    families: tuple[str, ...] = ("*",)

    def problems(self) -> list[str]:
        return [] if self.families else ["--backbones.families []: give one or more; * is all"]


@dataclass(kw_only=True)
class TrainBenchmarkOptions:
    """Options of the benchmark. Images are random and on the device, so that reading is not timed.

    Attributes:
        batch_size: Images of a step; a CPU processes a few at a time, as in a training.
        compile: Run all objectives, including timm's, through torch.compile.
    """

    batch_size: int = 64
    compile: bool = False

    def problems(self) -> list[str]:
        return [] if self.batch_size >= 1 else [f"--train.batch_size {self.batch_size}: use 1 or more"]


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
        approximate: Kinds of approximate index that are measured too, next to exact search: ivf, faiss-ivf, faiss-hnsw.
        probes: How much of an approximate index a query searches, one row for each, see `eet search --probes`.
        plot: PNG file for a figure of the time of a query over the number of codes, for EET and FAISS.
    """

    sizes: tuple[int, ...] = (1_000_000,)
    bits: tuple[int, ...] = (16, 32, 48, 64)
    draws: tuple[Literal["clustered", "uniform"], ...] = ("clustered", "uniform")
    flip_share: float = 0.15
    gallery: str | None = field(default=None, metadata=LOCATION)
    queries: int = 64
    k: int = 100
    approximate: tuple[Literal["ivf", "faiss-ivf", "faiss-hnsw"], ...] = ()
    probes: tuple[int, ...] = (16, 64)
    plot: str | None = field(default=None, metadata=LOCATION)

    def problems(self) -> list[str]:
        found = [f"--search.{name} {value}: use 1 or more" for name in ("queries", "k") if (value := getattr(self, name)) < 1]
        if min((*self.sizes, *self.bits), default=0) < 1:
            found.append(f"--search.sizes {list(self.sizes)}, --search.bits {list(self.bits)}: give one or more of each, all at least 1")
        if any(bits % 8 for bits in self.bits):
            found.append(f"--search.bits {list(self.bits)}: FAISS takes multiples of 8 only")
        if self.approximate and min(self.probes, default=0) < 1:
            found.append(f"--search.probes {list(self.probes)}: give one or more, all at least 1")
        if not 0 <= self.flip_share <= 0.5:
            found.append(f"--search.flip_share {self.flip_share}: use 0 to 0.5")
        if self.plot is not None and ("://" in self.plot or not self.plot.endswith(".png")):
            found.append(f"--search.plot {self.plot}: give a local path that ends in .png")
        return found


METHODS = ("eet encode", "part encoder", "data loader")


ON_DEVICE = "JPEGs on device"


@dataclass(kw_only=True)
class EncodeBenchmarkOptions:
    """Images, model and repetitions of the benchmark.

    Attributes:
        images: As in `eet encode --images`.
        model: Bundle; default random weights of --backbone at --keep_ratios.
        rows: The images are repeated to this many, each with its own id.
        rows_per_part: The rate is measured from the first finished part to the last.
        batch_size: Images in a batch; default 32 on a CPU, 256 on a GPU.
        rounds: Runs of each method, in turn; medians are reported.
        jpegs_on_device: Also measure the part encoder with ordinary JPEGs decoded on the network's device (nvJPEG on a GPU), at full size.
    """

    images: str | None = field(default=None, metadata=LOCATION)
    model: str | None = field(default=None, metadata=LOCATION)
    rows: int = 20_000
    rows_per_part: int = 2048
    batch_size: int | None = None
    rounds: int = 1
    jpegs_on_device: bool = False

    @property
    def methods(self) -> tuple[str, ...]:
        return (*METHODS, ON_DEVICE) if self.jpegs_on_device else METHODS

    def problems(self) -> list[str]:
        found = []
        for name in ("rows", "rows_per_part", "batch_size", "rounds"):
            if (value := getattr(self, name)) is not None and value < 1:
                found.append(f"--encode.{name} {value}: use 1 or more")
        if self.rows < 2 * self.rows_per_part:
            found.append(
                f"--encode.rows {self.rows}, --encode.rows_per_part {self.rows_per_part}: a steady rate wants two parts or more, better ten"
            )
        return found


@dataclass(kw_only=True)
class MatchingBenchmarkOptions:
    """Cases of the benchmark: drawn float16 tokens, uniform marginals, full transport.

    Attributes:
        tokens: Tokens of an image, on both sides.
        dims: Dimensions of a token, one for each of --tokens.
        mean_cosines: Mean cosine of two tokens of a draw; 0, random directions, converges the slowest.
        epsilon: Strength of the entropy.
        products: Entries of all cosine matrices that EET's method computes in a run; the others do a share of it. Default 1.2 million on
            a CPU, 60 million on a GPU.
    """

    tokens: tuple[int, ...] = (12, 12, 12, 49, 49, 49, 196, 196, 196, 196)
    dims: tuple[int, ...] = (128, 192, 384, 128, 192, 384, 64, 128, 192, 384)
    mean_cosines: tuple[float, ...] = (0.0, 0.6)
    epsilon: float = 0.05
    products: int | None = None

    def problems(self) -> list[str]:
        found = []
        if len(self.tokens) != len(self.dims) or min((*self.tokens, *self.dims), default=0) < 1:
            found.append(f"--matching.tokens {list(self.tokens)}, --matching.dims {list(self.dims)}: give as many of each, all at least 1")
        if not all(0 <= mean < 1 for mean in self.mean_cosines):
            found.append(f"--matching.mean_cosines {list(self.mean_cosines)}: use 0 to below 1")
        if not 0.04 <= self.epsilon <= 10:
            found.append(f"--matching.epsilon {self.epsilon}: use 0.04 to 10, where POT's scaling converges")
        if self.products is not None and self.products < 1:
            found.append(f"--matching.products {self.products}: use 1 or more")
        return found


@dataclass(kw_only=True)
class ServeBenchmarkOptions:
    """Cases of the benchmark.

    Attributes:
        items: Items of the gallery. Their codes are clustered, as of a trained network; their tokens are those of drawn images.
        tokens_as: How tokens are stored, as `eet encode --tokens-as` takes it.
        rerank: Numbers of hits that are re-ranked; 0 for none.
        clients: Numbers of searches at once.
        requests: Searches of each case. Each sends an image, and then asks for its hits.
        folder: Folder for the gallery; one that is already there is used again. Default a temporary one.
    """

    items: int = 1_000_000
    tokens_as: VectorForm = "int4"
    rerank: tuple[int, ...] = (0, 100)
    clients: tuple[int, ...] = (1, 8)
    requests: int = 1000
    folder: str | None = field(default=None, metadata=LOCATION)

    def problems(self) -> list[str]:
        found = [f"--serve.{name} {value}: use 1 or more" for name in ("items", "requests") if (value := getattr(self, name)) < 1]
        if min(self.clients, default=0) < 1:
            found.append(f"--serve.clients {list(self.clients)}: give one or more, all at least 1")
        if min(self.rerank, default=-1) < 0:
            found.append(f"--serve.rerank {list(self.rerank)}: give one or more, none below 0")
        if self.folder is not None and "://" in self.folder:
            found.append(f"--serve.folder {self.folder}: give a local folder")
        return found


@dataclass(kw_only=True)
class BenchmarkConfig(JobOptions):
    """Measures the speed of EET on this machine, next to other libraries.

    Attributes:
        what: backbones: which families of timm's transformers can be students, and their multiply-adds with and without pruning, without
            weights. encoder: latency of timm's ViT (fused attention), EET's teacher, and EET's student at --keep_ratios. train: a training
            step of these, timm's ViT on labels alone. search: Hamming search, compared with FAISS. encode: images/s of `eet encode` on
            Ray, of the same encoder without Ray and of a plain loop over torch's DataLoader. matching: scores of pairs by optimal
            transport, compared with POT and torch. serve: latency of searches of `eet serve` over HTTP. tables: the contents of their
            --json files as Markdown, with command and machine.
        device: auto takes CUDA where there is one.
        backbone: timm ViT, with random weights.
        keep_ratios: Keep ratios of the student.
        repeats: Timed runs of each method (for encode see --encode.rounds); the median is reported.
        precision: auto is bf16 on CUDA and fp32 on a CPU.
        threads: CPU threads; default all.
        json: File for the figures.
        results: Files that `eet benchmark tables` prints.
        backbones: Options of `eet benchmark backbones`.
        encoder: Options of `eet benchmark encoder`.
        train: Options of `eet benchmark train`.
        search: Options of `eet benchmark search`.
        encode: Options of `eet benchmark encode`.
        matching: Options of `eet benchmark matching`.
        serve: Options of `eet benchmark serve`.
    """

    examples: ClassVar[tuple[str, ...]] = (
        "eet benchmark encoder",
        "eet benchmark search --search.sizes '[1000000]' --json search.json",
    )
    unused: ClassVar[tuple[str, ...]] = ("tracking_uri", "seed")

    positional: ClassVar[str] = "what"

    what: Literal["backbones", "encoder", "train", "search", "encode", "matching", "serve", "tables"] = "encoder"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    backbone: str = "vit_small_patch16_224"
    keep_ratios: tuple[float, ...] = (0.5, 0.5, 0.25)
    repeats: int = 15
    precision: Precision = "auto"
    threads: int | None = None
    json: str | None = field(default=None, metadata=LOCATION)
    results: tuple[str, ...] = field(default=(), metadata=LOCATION)
    backbones: BackbonesBenchmarkOptions = field(default_factory=BackbonesBenchmarkOptions)
    encoder: EncoderBenchmarkOptions = field(default_factory=EncoderBenchmarkOptions)
    train: TrainBenchmarkOptions = field(default_factory=TrainBenchmarkOptions)
    search: SearchBenchmarkOptions = field(default_factory=SearchBenchmarkOptions)
    encode: EncodeBenchmarkOptions = field(default_factory=EncodeBenchmarkOptions)
    matching: MatchingBenchmarkOptions = field(default_factory=MatchingBenchmarkOptions)
    serve: ServeBenchmarkOptions = field(default_factory=ServeBenchmarkOptions)

    def problems(self) -> list[str]:
        found = super().problems()
        for name in ("repeats", "threads"):
            if (value := getattr(self, name)) is not None and value < 1:
                found.append(f"--{name} {value}: use 1 or more")
        if self.device == "cuda" and not self.on_gpu:
            found.append("--device cuda: torch finds no CUDA device here")
        if self.what == "encode" and self.device != "auto":
            found.append(f"--device {self.device}: `eet encode` takes CUDA where there is one; leave it out")
        if self.what == "encode" and self.encode.images is None:
            found.append("--encode.images is missing: give a folder or a table of images")
        if self.what == "encoder" and "graphed" in self.encoder.modes and not self.on_gpu:
            found.append("--encoder.modes graphed: CUDA graphs need a CUDA device")
        if self.what == "search" and self.search.plot is not None and self.search.k > MOST_ON_GPU and self.on_gpu:
            found.append(f"--search.plot: FAISS's GPU index finds no more than {MOST_ON_GPU} items of a query, so there is nothing to draw")
        if self.what == "tables" and not self.results:
            found.append("--results is missing: give files that benchmarks wrote (--json), such as '[a.json, b.json]'")
        return found

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU is measured; False where torch finds none."""
        if self.device == "cpu":
            return False
        import torch

        return torch.cuda.is_available()

"""Options of `eet encode`."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from eet.options.choices import SUBTASKS, Mode, Precision, Role, TokenMass, VectorForm
from eet.options.columns import Columns
from eet.options.defaults import ADAPTED_TO
from pipelines.job.engine import Engine
from pipelines.job.location import LOCATION
from pipelines.job.options import DataOptions, JobOptions
from pipelines.job.worker_need import WorkerNeed


@dataclass(kw_only=True)
class EncodeConfig(JobOptions):
    """Encodes images into a gallery of hash codes. An interrupted job continues where it stopped when the same command is run again.

    Attributes:
        model: Folder or URI (hf://OWNER/NAME) of a bundle that `eet distill`, `eet train-teacher`, `eet train-base` or `eet fit-base`
            wrote; a base model's code is the signs of its embedding, or of a hash that `eet fit-base` fitted.
        out: Folder of the gallery.
        adapt: Folder of a new model: --model with its joint codes fitted to these images, without labels, so that codes of labels that were
            never trained improve. The gallery is encoded with it, and so must be its queries (`eet search --model ADAPTED`). If
            a model is there already, it is used unchanged.
        adapt_images: Number of images that --adapt uses, drawn by --seed.
        images: What to encode, local or any URI; it may stand first, without its flag. A folder of images (recursive), one image, a table
            of paths (.csv, .tsv, .parquet, .arrow, .jsonl), a list of paths (.txt), a Parquet or Arrow file with the images' bytes, a COCO
            or iNaturalist list (.json), a tar shard (webdataset; .tar, or .tar.gz, .tgz, .tar.bz2, .tar.xz and .tar.zst, which are slower),
            a glob or braces of these in quotes. Or give --data.*.
        columns: Names of a table's columns. Give path or image, not both; without either, the columns path and image are tried. label is
            also the key of the label in the KEY.json of a tar shard.
        images_root: Folder that paths of a table or list are relative to; default the folder of the file.
        split: With --data.*: train, val, test or all.
        role: With --data.* of places: encode only the query images, or only the database images (the gallery); default both.
        subtask: With --data.name msls: the images of a subtask, such as d2n for queries by day and a database by night; default all.
        tokens: Store the kept patch tokens, their positions and mass (for re-ranking).
        mass: Source of the tokens' mass: importance (from pruning) or rollout (of attention; slower; not for a base model).
        tokens_as: How tokens are stored: float16, or their directions in int8, int4, int2 or bits (1) a dimension.
        embedding: Store the final CLS vector, by which `eet search --rescore` and `eet rerank` order hits more finely.
        embedding_as: How the CLS vector is stored, as --tokens-as: 2 bytes a dimension, or 1, 1/2, 1/4 or 1/8.
        hash: Store the real-valued hash, whose signs are the code: queries with it order hits more finely (two bytes per bit).
        mode: resume continues an interrupted job; append adds images that the gallery lacks, by item_id; overwrite starts again.
        take_over: Write into --out even if another job is writing it; that job stops before its next part. A job that is known to have
            ended is replaced without this flag.
        engine: ray runs on the cluster; local runs in this process; auto is local for up to 10,000 images, unless a cluster, workers or
            several GPUs are given.
        rows_per_part: Images in one Parquet file, the unit of work and of resuming.
        batch_size: Images in a batch; default 32 on a CPU, 256 on a GPU.
        threads: Threads of a worker that read and decode; default its CPUs.
        workers: Largest number of encoding actors; default one per GPU, or one on a machine without GPU. On a cluster the job requests more
            nodes while there is work: up to this number of actors, by default up to the maximum of the cluster's configuration.
        cpus_per_worker: CPUs of an encoding actor; default all of its node, or its GPU's share of them.
        gpus_per_worker: GPUs of an encoding actor: 0, 1 or a share of one; default 1 where the cluster has any when the job starts. A
            cluster without nodes first gets a request for one. Set it if the cluster has node groups with and without GPUs.
        precision: auto is bf16 on CUDA and fp32 on a CPU. On a CPU with AVX512_BF16 or AMX bf16 is faster too, but about 1 % of the bits
            of the codes differ. Query images of a search are encoded in the precision of the gallery.
        jpegs_on: gpu decodes ordinary JPEGs on the GPU (nvJPEG), at full size. cpu decodes all JPEGs on the CPU, large ones at
            reduced scale; query images are always decoded this way. A code can differ by a bit or two between gpu and cpu.
        max_pixels: An image with more pixels becomes a row with an error. So does an image that takes more than 8 bytes for each of these
            pixels to decode (large WebP, AVIF, JPEG 2000 and progressive JPEG). Each thread may use that much memory.
        max_error_ratio: Above this share of failed images the job fails at its end; the rows are kept.
        data: Labelled images.
    """

    examples: ClassVar[tuple[str, ...]] = (
        "eet encode photos --model runs/model --out runs/gallery",
        "eet encode s3://bucket/photos --model runs/model --tokens --embedding --out s3://bucket/gallery",
    )
    unused: ClassVar[tuple[str, ...]] = ("tracking_uri",)

    positional: ClassVar[str] = "images"

    model: str = field(metadata=LOCATION)
    out: str = field(metadata=LOCATION)
    adapt: str | None = field(default=None, metadata=LOCATION)
    adapt_images: int = ADAPTED_TO
    images: str | None = field(default=None, metadata=LOCATION)
    columns: Columns = field(default_factory=Columns)
    images_root: str | None = field(default=None, metadata=LOCATION)
    split: Literal["train", "val", "test", "all"] = "all"
    role: Role | None = None
    subtask: str | None = None
    tokens: bool = False
    mass: TokenMass = "importance"
    tokens_as: VectorForm = "float16"
    embedding: bool = False
    embedding_as: VectorForm = "float16"
    hash: bool = False
    mode: Mode = "resume"
    take_over: bool = False
    engine: Engine = "auto"
    rows_per_part: int = 2048
    batch_size: int | None = None
    threads: int | None = None
    workers: int | None = None
    cpus_per_worker: int | None = None
    gpus_per_worker: float | None = None
    precision: Precision = "auto"
    jpegs_on: Literal["cpu", "gpu"] = "cpu"
    max_pixels: int = 200_000_000
    max_error_ratio: float = 0.1
    data: DataOptions = field(default_factory=DataOptions)

    def problems(self) -> list[str]:
        found = self.group_problems(unused=() if self.images is None else ("data",))
        if self.images is not None and self.data != DataOptions():
            found.append("--images and --data.* are both given: choose one")
        if self.images is not None and self.role is not None:
            found.append("--role needs --data.*: --images have no roles")
        if self.subtask is not None and (self.images is not None or self.data.name != "msls"):
            found.append(f"--subtask {self.subtask} needs --data.name msls")
        elif self.subtask is not None and self.subtask not in SUBTASKS:
            found.append(f"--subtask {self.subtask}: allowed are {', '.join(SUBTASKS)}")
        found += self.local_only("adapt")
        for name in ("adapt_images", "rows_per_part", "batch_size", "threads", "workers", "max_pixels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                found.append(f"--{name} {value}: use 1 or more")
        if self.mass == "rollout" and not self.tokens:
            found.append("--mass rollout needs tokens: give --tokens too")
        for form, column in (("tokens_as", "tokens"), ("embedding_as", "embedding")):
            if getattr(self, form) != "float16" and not getattr(self, column):
                found.append(f"--{form} {getattr(self, form)} stores none: give --{column} too")
        if not 0 <= self.max_error_ratio <= 1:
            found.append(f"--max_error_ratio {self.max_error_ratio}: use 0 to 1")
        return found + self.worker_need.problems()

    @property
    def worker_need(self) -> WorkerNeed:
        return WorkerNeed(self.cpus_per_worker, self.gpus_per_worker)

"""Options of `eet fit-base`."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from eet.options.choices import SUBTASKS, Fit, Precision, Role
from eet.options.columns import Columns
from eet.options.defaults import ADAPTED_TO
from eet.options.image_size import ImageSize, image_size_problems
from eet.options.registered import registered
from pipelines.job.location import LOCATION, WEIGHTS
from pipelines.job.options import MOST_BITS, DataOptions, JobOptions


@dataclass(kw_only=True)
class FitBaseConfig(JobOptions):
    """Makes a base model of a pretrained backbone and fits it to images, without labels and without training.

    The default is a VLAD: patches of a middle block belong to the nearest of a few words, which are the k-means of the images' own
    patches; an image is the sum of the differences to its words. The result is made shorter by PCA, and a linear hash makes codes of it.

    Attributes:
        out: Folder of the bundle, which `eet encode --model` takes.
        images: What to fit to, as of `eet encode`: best the images of the gallery. Or give --data.*.
        columns: Names of a table's columns, as of `eet encode`.
        images_root: Folder that paths of a table or list are relative to; default the folder of the file.
        split: With --data.*: train, val, test or all.
        role: With --data.* of places: database (or query); default both.
        subtask: With --data.name msls, as of `eet encode`.
        most_images: Images that are drawn, by --seed, if there are more.
        backbone: deit_*, vit_* (with a CLS token), swin_*, resnet*, vgg* of timm; cvt_13, cvt_21 of transformers (extra cvt).
        backbone_options: Further arguments of the backbone's constructor.
        image_size: Side of the input in pixels, or height and width such as '[480,640]'; default the backbone's own.
        fit: squash shows the whole image, squeezed to the input's shape; crop cuts off the edges.
        weights: Backbone weights: a file, timm (downloads its own; transformers does for cvt), or none (random).
        tokens_from_block: Block of a ViT that patches and tokens are taken from; default the last. For places, a middle one.
        aggregation: vlad or netvlad (their words are fitted), gem, or vector (the backbone's own).
        aggregation_options: Arguments of the aggregation, such as '{words: 64, centred: true}' for vlad.
        width: Width of the embedding, fewer than the images; default that of the aggregation, without a PCA.
        whitening: 0 is PCA alone, which keeps distances; 1 gives all directions the same weight, and needs many more images than --width.
        bits: Length of the codes, by a rotation that is fitted to the images; default the signs of the embedding.
        threads: Threads that read images; default all CPUs.
        precision: auto is bf16 on CUDA and fp32 on a CPU.
        data: The images, as a dataset.
    """

    examples: ClassVar[tuple[str, ...]] = ("eet fit-base --images photos --tokens-from-block 7 --width 64 --bits 128 --out runs/vlad",)
    unused: ClassVar[tuple[str, ...]] = ("address", "tracking_uri")

    out: str = field(metadata=LOCATION)
    images: str | None = field(default=None, metadata=LOCATION)
    columns: Columns = field(default_factory=Columns)
    images_root: str | None = field(default=None, metadata=LOCATION)
    split: Literal["train", "val", "test", "all"] = "all"
    role: Role | None = None
    subtask: str | None = None
    most_images: int = ADAPTED_TO
    backbone: str = "deit_small_patch16_224"
    backbone_options: dict[str, Any] = field(default_factory=dict)
    image_size: ImageSize | None = None
    fit: Fit = "squash"
    weights: str = field(default="timm", metadata=WEIGHTS)
    tokens_from_block: int | None = None
    aggregation: str = "vlad"
    aggregation_options: dict[str, Any] = field(default_factory=dict)
    width: int | None = None
    whitening: float = 0.0
    bits: int | None = None
    threads: int | None = None
    precision: Precision = "auto"
    data: DataOptions = field(default_factory=DataOptions)

    def problems(self) -> list[str]:
        found = self.group_problems(unused=() if self.images is None else ("data",)) + self.local_only("out", "weights")
        if self.images is not None and self.data != DataOptions():
            found.append("--images and --data.* are both given: choose one")
        if self.images is not None and self.role is not None:
            found.append("--role is of --data.*: --images have no roles")
        if self.subtask is not None and (self.images is not None or self.data.name != "msls" or self.subtask not in SUBTASKS):
            found.append(f"--subtask {self.subtask}: one of {', '.join(SUBTASKS)}, with --data.name msls")
        allowed = [name for name in registered("eet.embedding.aggregations", "AGGREGATIONS") if name != "salad"]
        if self.aggregation not in allowed:
            found.append(f"--aggregation {self.aggregation}: allowed are {', '.join(allowed)}; salad needs training (eet train-base)")
        found += image_size_problems("--image_size", self.image_size)
        for name in ("width", "bits"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= MOST_BITS:
                found.append(f"--{name} {value}: use 1 to {MOST_BITS}")
        for name in ("most_images", "threads", "tokens_from_block"):
            value = getattr(self, name)
            if value is not None and value < 1:
                found.append(f"--{name} {value}: use 1 or more")
        if not 0 <= self.whitening <= 1:
            found.append(f"--whitening {self.whitening}: use 0 (PCA alone) to 1 (all directions alike)")
        if self.whitening and self.width is None:
            found.append(f"--whitening {self.whitening} whitens nothing: give --width too")
        return found

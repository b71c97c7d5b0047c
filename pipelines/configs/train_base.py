"""Options of `eet train-base`."""

import dataclasses
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from eet.options.choices import Fit, Precision
from eet.options.defaults import PUBLISHED_BOUNDARY, PUBLISHED_BOUNDARY_LEARNING_RATE, PUBLISHED_MARGIN, PUBLISHED_WIDTH
from eet.options.image_size import ImageSize, image_size_problems
from eet.options.registered import registered
from pipelines.job.location import LOCATION, WEIGHTS
from pipelines.job.options import MOST_BITS, DataOptions, JobOptions, LoopOptions

if TYPE_CHECKING:
    from eet.training.settings import FitSettings


MARGIN_FLAGS = ("margin", "beta", "beta_learning_rate", "structural", "marginal")
"""Options of the loss margin alone."""


@dataclass(kw_only=True)
class EmbeddingLossOptions:
    """The loss and its batches. Defaults are the published ones.

    Attributes:
        name: The loss: margin; multi_similarity, for places with four or more images each; triplet, for places by position (--places.*
            mines its batches); or one that was added to `eet.embedding.LOSSES`.
        options: Arguments of a loss other than margin, for example '{scale: 32}'. The flags below are of margin, except images_per_label.
        margin: How far a positive must be inside the boundary of its label, and a negative outside.
        beta: Initial boundary of every label, a distance between unit vectors (0 to 2).
        beta_learning_rate: Learning rate of the boundaries.
        images_per_label: Images of each label in a batch.
        structural: Share of the structural distance in the distance of a pair, 0 to 1: the mean distance of the 7 x 7 tokens that optimal
            transport matches. It trains the tokens for re-ranking. DIML's is 0.5.
        marginal: How much mass each token sends or receives in the structural distance: one of those of `eet rerank`. DIML's is
            cross_correlation.
    """

    name: str = "margin"
    options: dict[str, Any] = field(default_factory=dict)
    margin: float = PUBLISHED_MARGIN
    beta: float = PUBLISHED_BOUNDARY
    beta_learning_rate: float = PUBLISHED_BOUNDARY_LEARNING_RATE
    images_per_label: int = 2
    structural: float = 0.0
    marginal: str = "uniform"

    def arguments(self) -> dict[str, Any]:
        """The arguments of the loss."""
        return {name: getattr(self, name) for name in MARGIN_FLAGS} if self.name == "margin" else self.options

    def problems(self) -> list[str]:
        found = []
        if self.name not in (allowed := registered("eet.embedding.losses", "LOSSES")):
            found.append(f"--loss.name {self.name}: allowed are {', '.join(allowed)}")
        if self.name == "margin" and self.options:
            found.append("--loss.options are those of another loss: margin has flags of its own, such as --loss.beta")
        given = [name for name in MARGIN_FLAGS if getattr(self, name) != getattr(type(self), name)]
        if self.name != "margin" and given:
            flags = ", ".join(f"--loss.{name}" for name in given)
            found.append(f"{flags}: only the loss margin has these; the options of {self.name} are given by --loss.options")
        if not 0 <= self.margin < inf:
            found.append(f"--loss.margin {self.margin}: use 0 or more")
        if not 0 <= self.beta <= 2:
            found.append(f"--loss.beta {self.beta}: a distance between unit vectors is 0 to 2")
        if not 0 <= self.beta_learning_rate < inf:
            found.append(f"--loss.beta_learning_rate {self.beta_learning_rate}: use 0 (boundaries stay) or more")
        if self.images_per_label < 2:
            found.append(f"--loss.images_per_label {self.images_per_label}: an image needs a positive, so use 2 or more")
        if not 0 <= self.structural <= 1:
            found.append(f"--loss.structural {self.structural}: a share of the distance is 0 (none) to 1, DIML's 0.5")
        if self.marginal not in (allowed := registered("eet.matching.marginals", "MARGINALS")):
            found.append(f"--loss.marginal {self.marginal}: allowed are {', '.join(allowed)}")
        return found


@dataclass(kw_only=True)
class PlaceOptions:
    """How batches of places are made from positions.

    Attributes:
        positive_metres: Loss triplet: the positive is the most similar database image within this distance of the query.
        negative_metres: Loss triplet: negatives are farther away than this.
        candidates: Loss triplet: database images among which the hardest negatives are searched.
        queries_per_round: Loss triplet: after this many queries, images are embedded and negatives mined again.
        cell_metres: Other losses: make labels of the training images from positions, cells of this side; 10 in CosPlace. Default: the
            labels of the dataset.
        cell_degrees: Width of a cell of the heading; CosPlace has 30. 0: cells without heading.
        cell_groups: Cells of a batch are this many cells apart, in each direction, so that no neighbour is a negative.
        cell_heading_groups: The same for cells of the heading.
        cell_images: Cells with fewer training images are left out.
    """

    positive_metres: float = 10.0
    negative_metres: float = 25.0
    candidates: int = 1000
    queries_per_round: int = 1000
    cell_metres: float | None = None
    cell_degrees: float = 0.0
    cell_groups: int = 5
    cell_heading_groups: int = 2
    cell_images: int = 10

    def problems(self) -> list[str]:
        found = []
        if not 0 < self.positive_metres <= self.negative_metres < inf:
            found.append(
                f"--places.positive_metres {self.positive_metres}, --places.negative_metres {self.negative_metres}: use radii above 0, the "
                "first at most the second"
            )
        if self.cell_metres is not None and not 0 < self.cell_metres < inf:
            found.append(f"--places.cell_metres {self.cell_metres}: use a side above 0")
        if self.cell_degrees and (not 0 < self.cell_degrees <= 360 or 360 / self.cell_degrees % max(1, self.cell_heading_groups)):
            found.append(
                f"--places.cell_degrees {self.cell_degrees}: use 0, or degrees that divide 360 into a multiple of "
                f"--places.cell_heading_groups {self.cell_heading_groups}"
            )
        for name in ("candidates", "queries_per_round", "cell_groups", "cell_heading_groups", "cell_images"):
            if getattr(self, name) < 1:
                found.append(f"--places.{name} {getattr(self, name)}: use 1 or more")
        return found


@dataclass(kw_only=True)
class FollowOptions:
    """Weights of the losses that make a student's embeddings like those of --teacher.

    Attributes:
        embedding: Smooth L1 between embeddings of the same width; published with 1 to 100.
        cosine: 1 - cosine between embeddings of the same width.
        distance: Distances of all pairs (RKD); published with 1.
        angle: Angles of all triples (RKD); published with 0 or 1.
        similarity: Softmax of the similarities to all other images of the batch, at temperature 0.1.
        loss: Weight of --loss.*; 0 follows the teacher alone.
    """

    embedding: float = 0.0
    cosine: float = 0.0
    distance: float = 0.0
    angle: float = 0.0
    similarity: float = 0.0
    loss: float = 1.0

    @property
    def weights(self) -> dict[str, float]:
        """The weights of the losses that are used."""
        return {name: weight for name, weight in vars(self).items() if name != "loss" and weight}

    def problems(self) -> list[str]:
        values = vars(self).items()
        return [f"--follow.{name} {weight}: a weight is 0 or more" for name, weight in values if not 0 <= weight < inf]


@dataclass(kw_only=True)
class BaseTrainOptions(LoopOptions):
    """Training options. Defaults are the published ones.

    Attributes:
        optimizer: adam (weight decay as part of the gradient), adamw or sgd.
        schedule: constant, or a cosine to 0.
        validation_share: Share of the training labels held out, with all their images, to choose the checkpoint, if the dataset has no val
            split with separate labels; 0 trains on all and takes the last epoch.
        micro_batch_size: Images that a worker runs at once. If they are fewer than its share of a step, all are run a second time for the
            gradient, because pairs are formed over the whole batch. Default: all at once on a GPU, 16 on a CPU.
        compile: Not supported for base models: mining has another shape for each batch.
    """

    epochs: int = 150
    batch_size: int = 112
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"  # type: ignore[assignment]
    learning_rate: float = 1e-5
    weight_decay: float = 4e-4
    warmup_steps: int | None = 0
    schedule: Literal["constant", "cosine"] = "constant"
    precision: Precision = "fp32"
    validation_share: float = 0.0

    def settings(self, seed: int, *, num_images: int) -> "FitSettings":
        return dataclasses.replace(super().settings(seed, num_images=num_images), constant_rate=self.schedule == "constant")


@dataclass(kw_only=True)
class TrainBaseConfig(JobOptions):
    """Trains a backbone with a head for search by cosine and re-ranking by transport.

    Labels of training and test are disjoint: the dataset's own splits if they are disjoint (sop), else the first half of the labels is
    for training and the rest for the test. With --loss.name triplet or --places.cell-metres images match by position: splits are the
    dataset's own, and the test is recall within 25 metres.

    Attributes:
        out: Folder for the bundle, checkpoints, curves, measures and the split.
        backbone: A ViT of one resolution (deit_*, vit_*, eva02_*), swin_*, resnet* or vgg* of timm; cvt_13, cvt_21 of transformers (extra
            cvt).
        backbone_options: Further arguments of the backbone's constructor.
        embedding_width: Outputs of the head, for the image, and with --aggregation vector for patches.
        aggregation: What makes one vector of the backbone's output: vector (its own, published for re-ranking), gem, netvlad (its words
            start from k-means of the training images), or salad.
        aggregation_options: Arguments of the aggregation, such as '{words: 64}'.
        tokens_from_block: Block of a ViT that patches and tokens are taken from; default the last.
        image_size: Side of the input in pixels, or height and width such as '[480,640]'; default the backbone's own.
        fit: crop cuts off the edges (published); squash shows the whole image, squeezed to the input's shape, which is better for places.
        weights: Backbone weights: a file, timm (downloads its own; transformers does for cvt), or none (random).
        teacher: Bundle of a base model that the new one follows, with a weight of --follow.*. It sees the student's images, scaled to its
            own size.
        resume: Continue an interrupted run in --out.
        data: Labelled images.
        loss: The objective.
        places: Batches of places.
        follow: What --teacher teaches.
        train: The training.
    """

    examples: ClassVar[tuple[str, ...]] = ("eet train-base --data.root photos --backbone resnet50 --out runs/base",)

    out: str = field(metadata=LOCATION)
    backbone: str = "deit_small_patch16_224"
    backbone_options: dict[str, object] = field(default_factory=dict)
    embedding_width: int = PUBLISHED_WIDTH
    aggregation: str = "vector"
    aggregation_options: dict[str, Any] = field(default_factory=dict)
    tokens_from_block: int | None = None
    image_size: ImageSize | None = None
    fit: Fit = "crop"
    weights: str = field(default="timm", metadata=WEIGHTS)
    teacher: str | None = field(default=None, metadata=LOCATION)
    resume: bool = False
    data: DataOptions = field(default_factory=DataOptions)
    loss: EmbeddingLossOptions = field(default_factory=EmbeddingLossOptions)
    places: PlaceOptions = field(default_factory=PlaceOptions)
    follow: FollowOptions = field(default_factory=FollowOptions)
    train: BaseTrainOptions = field(default_factory=BaseTrainOptions)

    @property
    def of_places(self) -> bool:
        """Whether images match by position."""
        return self.loss.name == "triplet" or self.places.cell_metres is not None

    def problems(self) -> list[str]:
        found = super().problems() + self.local_only("out", "weights", "teacher")
        if self.data.unseen_share or self.data.unseen:
            found.append(
                "--data.unseen, --data.unseen_share: a base model is always tested on labels that were not trained; leave them out"
            )
        if (self.teacher is None) != (not self.follow.weights):
            found.append("--teacher and a weight of --follow.*, such as --follow.embedding 10, belong together: give both or none")
        if self.teacher is None and self.follow.loss != 1:
            found.append(f"--follow.loss {self.follow.loss}: without a --teacher the loss has weight 1")
        if not 1 <= self.embedding_width <= MOST_BITS:
            found.append(f"--embedding_width {self.embedding_width}: use 1 to {MOST_BITS}")
        allowed = [name for name in registered("eet.embedding.aggregations", "AGGREGATIONS") if name != "vlad"]
        if self.aggregation not in allowed:
            found.append(
                f"--aggregation {self.aggregation}: allowed are {', '.join(allowed)}; the words of vlad are not trained (eet fit-base)"
            )
        if self.aggregation != "vector" and self.loss.structural:
            found.append(f"--loss.structural {self.loss.structural}: tokens of --aggregation {self.aggregation} are not trained; use 0")
        if self.tokens_from_block is not None and self.tokens_from_block < 1:
            found.append(f"--tokens_from_block {self.tokens_from_block}: use 1 or more")
        found += image_size_problems("--image_size", self.image_size)
        if self.loss.name == "triplet" and self.places.cell_metres is not None:
            found.append("--places.cell_metres makes labels, and --loss.name triplet reads none: choose one")
        if self.of_places and self.train.validation_share:
            found.append(
                f"--train.validation_share {self.train.validation_share}: places are held out by a split val of the dataset; leave it out"
            )
        per_label, batch = self.loss.images_per_label, self.train.batch_size
        if self.loss.name != "triplet" and per_label >= 2 and batch >= 1 and (batch % per_label or batch < 2 * per_label):
            found.append(
                f"--train.batch_size {batch}: use a multiple of --loss.images_per_label {per_label}, of two labels at least, so that every "
                "image has a positive and a negative"
            )
        if self.train.compile:
            found.append("--train.compile: a base model is not compiled; leave it out")
        return found

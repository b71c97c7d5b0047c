"""The training of base models: metric learning over the pairs of a whole batch."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from eet.distillation import StepLosses
from eet.embedding import FOLLOWING, BaseModel, EmbeddingLoss, build_loss, save_base
from eet.metrics import cosine_metrics
from eet.storage import naming_file
from eet.training.samplers import LabelSampler, StepSampler
from eet.training.settings import CPU_MICRO_BATCH, FitSettings
from eet.training.task import Embed, TrainingTask

SPLIT_FILE = "split.csv"
START_IMAGES, START_DESCRIPTORS = 500, 100
"""Images, and local descriptors of each, from which an aggregation starts: NetVLAD's published numbers."""


class WholeBatchObjective(nn.Module):
    """A loss over the images of all workers together, so that it does not depend on the number of workers.

    Each worker embeds its share, receives all embeddings (and all tokens, if the loss reads them), and computes the same loss; its gradient
    reaches its own share only. The first worker draws the random numbers of the loss for all.
    """

    def __init__(
        self,
        model: BaseModel,
        criterion: EmbeddingLoss,
        settings: FitSettings,
        *,
        teacher: BaseModel | None = None,
        following: Mapping[str, float] = MappingProxyType({}),
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.model, self.criterion, self.settings = model, criterion, settings
        self.teacher = None if teacher is None else teacher.requires_grad_(False).eval()
        self.following, self.loss_weight = following, loss_weight

    def train(self, mode: bool = True) -> "WholeBatchObjective":
        """Sets the mode; the teacher stays in evaluation mode."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def forward(self, images_B3HW: Tensor, labels_B: Tensor) -> StepLosses:
        parts = self._represented(images_B3HW)
        with torch.autocast(images_B3HW.device.type, enabled=False):
            embeddings_BE, *tokens = (_of_all_workers(part.float()) for part in parts)
            labels_B = _of_all_workers(labels_B)
            random_B2 = torch.rand(len(labels_B), 2).to(labels_B.device)
            if dist.is_initialized():
                dist.broadcast(random_B2, src=0)
            total, terms = self.criterion(embeddings_BE, labels_B, random_B2, *tokens)
            if self.teacher is None:
                return StepLosses(total, terms)
            taught_BF = _of_all_workers(self._taught(images_B3HW))
            follow = {name: FOLLOWING[name](embeddings_BE, taught_BF) for name in self.following}
            total = self.loss_weight * total + sum(weight * follow[name] for name, weight in self.following.items())
            return StepLosses(total, {**terms, **{f"follow_{name}": value.detach() for name, value in follow.items()}})

    @torch.no_grad()
    def _taught(self, images_B3HW: Tensor) -> Tensor:
        """The teacher's embeddings of the student's images, scaled to the teacher's size and normalised as it wants them."""
        assert self.teacher is not None
        own, other = self.model.preprocessing, self.teacher.preprocessing
        mean, std, other_mean, other_std = (
            torch.tensor(values, device=images_B3HW.device).view(3, 1, 1) for values in (own.mean, own.std, other.mean, other.std)
        )
        images_B3HW = (images_B3HW * std + mean - other_mean) / other_std
        if images_B3HW.shape[-2:] != other.image_size:
            images_B3HW = F.interpolate(images_B3HW, other.image_size, mode="bilinear", antialias=True)
        size = self.settings.micro_batch(len(images_B3HW), images_B3HW.device.type)
        return torch.cat([self.teacher.embed(part).float() for part in images_B3HW.split(size)])

    def _represented(self, images_B3HW: Tensor) -> tuple[Tensor, ...]:
        """What the loss reads of the images: embeddings, and tokens and their mass if the loss reads them."""
        size = self.settings.micro_batch(len(images_B3HW), images_B3HW.device.type)
        represent = self._with_tokens if self.criterion.reads_tokens else self._without_tokens
        if len(images_B3HW) <= size:
            return represent(images_B3HW)
        # Only the activations of one part are in memory; each part is run again when its gradient is known.
        parts = [checkpoint(represent, part, use_reentrant=False) for part in images_B3HW.split(size)]
        return tuple(torch.cat(rows) for rows in zip(*parts, strict=True))

    def _without_tokens(self, images_B3HW: Tensor) -> tuple[Tensor]:
        return (self.model.embed(images_B3HW),)

    def _with_tokens(self, images_B3HW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out = self.model(images_B3HW)
        return out.embedding, out.tokens, out.token_mass


def _of_all_workers(rows_B: Tensor) -> Tensor:
    """The rows of all workers, in the order of the batch. Only the rows of this worker get a gradient."""
    if not dist.is_initialized():
        return rows_B
    world, rank = dist.get_world_size(), dist.get_rank()
    own = rows_B.detach().contiguous()
    gathered = [torch.empty_like(own) for _ in range(world)]
    dist.all_gather(gathered, own)
    if rows_B.requires_grad:
        # DDP averages the workers' gradients, but these are parts of one sum: multiply by their number.
        gathered[rank] = own + world * (rows_B - own)
    # Worker r has images r, r + world, ... of the batch.
    return torch.stack(gathered, dim=1).flatten(0, 1)


@dataclass(frozen=True, kw_only=True)
class MetricLearningTask(TrainingTask):
    """Trains a base model with a loss over the images of a whole batch.

    Attributes:
        networks: the base model, as "base", and as "teacher" a base model that it follows, if there is one.
        train: images with labels 0 .. C-1, which do not occur in val and test.
        images_per_label: images of each label in a batch, 2 or more.
        loss: a name in `eet.embedding.LOSSES`.
        loss_options: arguments of the loss.
        loss_weight: of the loss, where there is a teacher.
        following: weights of losses of `eet.embedding.FOLLOWING`, by name.
        label_groups: group of each label (C,), if the labels of a batch are to be of one group; see `eet.datasets.with_cell_labels`.
    """

    networks: dict[str, BaseModel]
    images_per_label: int = 2
    loss: str = "margin"
    loss_options: Mapping[str, Any] = field(default_factory=dict)
    loss_weight: float = 1.0
    following: Mapping[str, float] = field(default_factory=dict)
    label_groups: np.ndarray | None = None

    quality: ClassVar[str] = "val_MAP@R"

    @property
    def chosen(self) -> str:
        return "base"

    @property
    def trained(self) -> tuple[str, ...]:
        return ("base",)

    @property
    def learning_rates(self) -> Mapping[str, float]:
        return {f"criterion.{name}": rate for name, rate in self._criterion().learning_rates.items()}

    def timed_images(self, settings: FitSettings) -> int:
        """More images than a CPU runs at once, so that the estimate includes the second run of each part."""
        return min(2 * (settings.micro_batch_size or CPU_MICRO_BATCH), settings.batch_size)

    def objective(self, settings: FitSettings) -> WholeBatchObjective:
        model, teacher = self.networks["base"], self.networks.get("teacher")
        if teacher is not None:  # widths that do not fit are refused at the start
            for name in self.following:
                FOLLOWING[name](*(F.normalize(torch.ones(2, network.embedding_width), dim=1) for network in (model, teacher)))
        return WholeBatchObjective(
            model, self._criterion(), settings, teacher=teacher, following=self.following, loss_weight=self.loss_weight
        )

    def _criterion(self) -> EmbeddingLoss:
        return build_loss(self.loss, self.train.num_labels, **self.loss_options)

    def start(self, embed: Embed) -> dict[str, np.ndarray] | None:
        """The first weights of an aggregation that starts from local descriptors of training images; None for one that does not."""
        layer = self.networks["base"].aggregation
        if not layer.starts:
            return None
        rows = np.sort(np.random.default_rng(0).permutation(len(self.train))[:START_IMAGES])
        descriptors = embed("base", self.train.take(rows))
        if descriptors is None:
            return None
        layer.start(torch.from_numpy(descriptors.reshape(-1, self.networks["base"].backbone.width)), seed=0)
        return {name: value.cpu().numpy().copy() for name, value in layer.state_dict().items()}  # training changes the weights in place

    def set_fitted(self, fitted: dict[str, np.ndarray] | None) -> None:
        if fitted:
            self.networks["base"].aggregation.load_state_dict({name: torch.from_numpy(value) for name, value in fitted.items()})

    def embed(self, network: BaseModel, images_B3HW: Tensor) -> np.ndarray:
        """Local descriptors of each image in one row, float32 (b, n * D) with n = 100 or fewer, at the same random patches of each."""
        descriptors_BND = network.descriptors(images_B3HW)
        drawn = np.sort(np.random.default_rng(0).permutation(descriptors_BND.shape[1])[:START_DESCRIPTORS])
        return descriptors_BND[:, torch.from_numpy(drawn)].flatten(1).cpu().numpy()

    def sampler(self, settings: FitSettings, *, rank: int, world: int, micro_batch_size: int) -> StepSampler:
        """Batches by label. A worker's share is not split further, because the objective forms pairs over all of it."""
        return LabelSampler(
            self.train.labels,
            images_per_label=self.images_per_label,
            batch_size=settings.batch_size,
            rank=rank,
            world=world,
            seed=settings.seed,
            groups_C=self.label_groups,
        )

    def represent(self, network: BaseModel, images_B3HW: Tensor) -> np.ndarray:
        """Embeddings (b, E) float32."""
        return network.embed(images_B3HW).float().cpu().numpy()

    def validate(self, rows: np.ndarray) -> dict[str, float]:
        assert self.val is not None
        measures = cosine_metrics(rows, self.val.labels)
        return {"val_P@1": measures["P@1"], self.quality: measures["MAP@R"]}

    def evaluate(self, network: BaseModel, rows: np.ndarray) -> dict[str, dict[str, float]]:
        """Each test image against all others by cosine, R without the query (standard) and with it (published)."""
        assert self.test is not None
        return {
            "standard": cosine_metrics(rows, self.test.labels),
            "published": cosine_metrics(rows, self.test.labels, count_query=True),
        }

    def describe(self, network: BaseModel) -> str:
        rows, columns = network.backbone.grid
        return f"{network.backbone_name}, embedding {network.embedding_width} wide, {rows} x {columns} patches"

    def save(self, name: str, folder: Path, training: dict[str, Any]) -> None:
        """Writes the bundle, and the split of each image as a table that the dataset 'table' reads."""
        with naming_file(folder / SPLIT_FILE), (folder / SPLIT_FILE).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("path", "label", "split"))
            for table in (self.train, self.val, self.test):
                if table is not None:
                    names = (table.label_names[label] for label in table.labels)
                    writer.writerows(zip(table.paths, names, table.splits, strict=True))
        save_base(self.networks[name], folder, label_names=self.train.label_names, training=training)

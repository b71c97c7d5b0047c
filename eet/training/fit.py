"""The training loop: the steps of every epoch, validation, the weights of the best epoch, and the test split once at the end.

It runs in one process, or in several that torch.distributed connects. The caller decides where checkpoints are stored.
"""

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Subset

from eet.datasets import ImageTable
from eet.device import Device
from eet.distillation import StepLosses
from eet.training.images import AugmentedImages, EvaluationImages, step_loader
from eet.training.mined_groups import MinedSampler
from eet.training.samplers import StepSampler
from eet.training.settings import CPU_MICRO_BATCH, FitSettings, learning_rate_factor
from eet.training.task import TrainingTask

EVALUATION_BATCH = 64
STEP_REPORTS = 50
"""Number of reports of the mean losses in an epoch."""


class StepReport(NamedTuple):
    """A report after an optimizer step.

    Attributes:
        epoch: from 0.
        step: of the epoch, from 0.
        steps: number of steps of an epoch.
        losses: mean loss terms of the epoch up to this step, by name.
        rate: images/s of all workers since the start of the epoch.
    """

    epoch: int
    step: int
    steps: int
    losses: dict[str, float]
    rate: float


@dataclass(frozen=True)
class Fitted:
    """The result of a training.

    Attributes:
        weights: {network: {name: tensor}}, the weights of each trained network after the chosen epoch.
        epoch: the chosen epoch, from 1; 0 if the initial weights were chosen.
        history: one record per epoch: "epoch", mean loss terms, "learning_rate", "images_per_s", validation measures.
        test: {network: {protocol: {measure: value}}}; {} without a test split.
        fitted: the values that the task fitted after the last epoch, for its `set_fitted`.
    """

    weights: dict[str, dict[str, Tensor]]
    epoch: int
    history: list[dict[str, float]]
    test: dict[str, dict[str, dict[str, float]]]
    fitted: Any = None


class Diverged(Exception):
    """The loss is not finite. It is so on every worker, and a restart from the checkpoint would end in the same way."""


def fit(
    task: TrainingTask,
    settings: FitSettings,
    *,
    rank: int = 0,
    world: int = 1,
    device: torch.device | str = "cpu",
    on_step: Callable[[StepReport], object] | None = None,
    report: Callable[[dict[str, float], Callable[[], dict[str, Any]]], object] | None = None,
    checkpoint: Mapping[str, Any] | None = None,
) -> Fitted | None:
    """Trains the networks of a task. Afterwards the networks on rank 0 have the weights of the chosen epoch.

    The same task, settings and seed give the same weights on any number of workers that divides the batch, except for the order of sums,
    which depends on the number of CPU threads too. They also give the same weights after any number of restarts from a checkpoint.

    Args:
        task: networks, images, objective and evaluation.
        settings: of the training.
        rank, world: rank of this process and number of processes that torch.distributed connects; 0 and 1 need no process group.
        device: where the networks run.
        on_step: called on rank 0, about 50 times per epoch.
        report: called on every rank after each epoch, with the record of the epoch and a function that returns the state to resume from
            (plain values and tensors; it is complete only on rank 0).
        checkpoint: such a state; training continues after its epoch.

    Returns:
        The result on rank 0; None on the other ranks.

    Raises:
        InputError: the networks do not fit each other, or an image cannot be read.
        Diverged: the loss is not finite.
    """
    return _Fit(task, settings, rank, world, Device.of(device, settings.precision), on_step, report).run(checkpoint)


def optimizer_of(objective: nn.Module, settings: FitSettings, learning_rates: Mapping[str, float] | None = None) -> torch.optim.Optimizer:
    """The optimizer of an objective, with parameter groups for backbones, heads, and parameters with their own learning rate.

    Args:
        objective: its trainable parameters are optimised.
        settings: optimizer, learning rates of backbones and heads, momentum, weight decay.
        learning_rates: parameter name -> learning rate of this parameter.
    """
    rates = learning_rates or {}
    heads: list[nn.Parameter] = []
    backbones: list[nn.Parameter] = []
    own: list[dict[str, Any]] = []
    for name, parameter in objective.named_parameters():
        if name in rates:
            own.append({"params": [parameter], "lr": rates[name]})
        elif parameter.requires_grad:
            (heads if ".head_hash." in name or ".head." in name else backbones).append(parameter)
    groups = [
        {"params": backbones, "lr": settings.learning_rate},
        {"params": heads, "lr": settings.head_learning_rate or settings.learning_rate},
        *own,
    ]
    if settings.optimizer == "adam":
        return torch.optim.Adam(groups, weight_decay=settings.weight_decay)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
    return torch.optim.SGD(groups, momentum=settings.momentum, weight_decay=settings.weight_decay)


class _Fit:
    def __init__(
        self,
        task: TrainingTask,
        settings: FitSettings,
        rank: int,
        world: int,
        device: Device,
        on_step: Callable[[StepReport], object] | None,
        report: Callable[[dict[str, float], Callable[[], dict[str, Any]]], object] | None,
    ) -> None:
        self.task, self.settings = task, settings
        self.rank, self.world, self.device = rank, world, device
        self.on_step, self.report = on_step, report
        torch.manual_seed(settings.seed)
        self.objective = task.objective(settings).to(device.torch_device)
        self.optimizer = optimizer_of(self.objective, settings, task.learning_rates)
        num_images = task.images_per_epoch
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda step: learning_rate_factor(
                step,
                warmup_steps=settings.warmup(num_images),
                total_steps=settings.total_steps(num_images),
                constant=settings.constant_rate,
            ),
        )
        self.first_epoch = 0
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] | None = None
        self.baseline: dict[str, dict[str, dict[str, float]]] = {}

    def run(self, checkpoint: Mapping[str, Any] | None) -> Fitted | None:
        if checkpoint is not None:
            self._restore(checkpoint)
        else:
            self._start()
        share = self.settings.batch_size // self.world
        sampler = self.task.sampler(
            self.settings, rank=self.rank, world=self.world, micro_batch_size=self.settings.micro_batch(share, self.device.type)
        )
        preprocessing = self.task.networks[self.task.chosen].preprocessing
        loader = step_loader(
            AugmentedImages(
                self.task.train, preprocessing, self.settings.seed, min_crop_area=self.settings.min_crop_area, flip=self.task.flips
            ),
            sampler,
            processes=self._loader_processes(),
            pin=self.device.on_gpu,
        )
        replicated: DistributedDataParallel | None = None
        if self.world > 1:
            replicated = DistributedDataParallel(self.objective, device_ids=[self.device.torch_device] if self.device.on_gpu else None)
        module: nn.Module = replicated or self.objective
        forward = torch.compile(module) if self.settings.compile else module
        for epoch in range(self.first_epoch, self.settings.epochs):
            sampler.epoch = epoch
            # In every epoch the random numbers of the networks (dropout, if a backbone has it) start from (seed, epoch, rank), so that a
            # resumed epoch equals an uninterrupted one, and checkpoints need no generator states of the workers.
            torch.manual_seed(int(np.random.SeedSequence((self.settings.seed, epoch, self.rank)).generate_state(1)[0]))
            metrics = self._train_epoch(epoch, forward, replicated, loader, sampler)
            self._finish_epoch(epoch, metrics)
        self._load_best()
        fitted = self._shared(self.task.finish(self._embed))
        self.task.set_fitted(fitted)
        test = self._test()
        if self.rank != 0:
            return None
        assert self.best is not None
        return Fitted(self.best["weights"], self.best["epoch"], self.history, {**self.baseline, **test}, fitted)

    def _start(self) -> None:
        """Fits the heads before the first epoch, and evaluates them if there is a baseline; these weights are the best so far."""
        embed = lru_cache(maxsize=None)(self._embed)  # the trunks do not change here, so images are embedded only once
        started = self._shared(self.task.start(embed))
        self.task.set_fitted(started)
        quality = -math.inf
        if self.task.baseline is not None:
            quality = self._validate().get(self.task.quality, quality)
            first = _copied(self.objective.state_dict())
            self.task.set_fitted(self._shared(self.task.finish(embed)))
            measures = self._test()
            self.baseline = {f"{name}, {self.task.baseline}": measures[name] for name in self.task.trained if name in measures}
            self.task.set_fitted(started)  # also what no state_dict holds, and without layers that were only fitted to be measured
            self.objective.load_state_dict(first)
        if self.rank == 0:
            self.best = {"quality": quality, "epoch": 0, "weights": self._weights()}

    def _validate(self) -> dict[str, float]:
        """Measures of the validation images on rank 0; {} on the other ranks, and without such images."""
        if self.task.val is None:
            return {}
        rows = self.represent(self.task.networks[self.task.chosen], self.task.val, self.task.represent_for_validation)
        return {} if rows is None else self.task.validate(rows)

    def _embed(self, name: str, table: ImageTable) -> np.ndarray | None:
        return self.represent(self.task.networks[name], table, self.task.embed)

    def _shared(self, value: Any) -> Any:
        """The value of rank 0, on every worker."""
        if self.world == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def _weights(self) -> dict[str, dict[str, Tensor]]:
        return {name: _copied(self.task.networks[name].state_dict()) for name in self.task.trained}

    def _load_best(self) -> None:
        for name, weights in self._shared(self.best["weights"] if self.best else None).items():
            self.task.networks[name].load_state_dict(weights)

    def _loader_processes(self) -> int:
        if self.settings.loader_workers is not None:
            return self.settings.loader_workers
        return min(8, max(1, (os.cpu_count() or 1) // max(1, torch.cuda.device_count()))) if self.device.on_gpu else 0

    def _train_epoch(
        self,
        epoch: int,
        forward: Any,
        replicated: DistributedDataParallel | None,
        loader: Iterable[tuple[Tensor, Tensor]],
        sampler: StepSampler,
    ) -> dict[str, float]:
        """Trains one epoch. Returns its mean loss terms, learning rate and images/s."""
        self.objective.train()
        sizes = sampler.micro_batches()
        share = sum(sizes)
        sums: dict[str, Tensor] = {}
        batches: Iterator[tuple[Tensor, Tensor]] = iter(())
        started = time.monotonic()
        for step in range(sampler.steps):
            if step % sampler.steps_per_round == 0:
                self._start_round(sampler, step)
                batches = iter(loader)
            for number, size in enumerate(sizes):
                images, labels = next(batches)
                images, labels = (batch.to(self.device.torch_device, non_blocking=True) for batch in (images, labels))
                with ExitStack() as stack:
                    if replicated is not None and number + 1 < len(sizes):
                        stack.enter_context(replicated.no_sync())
                    with self.device.autocast():
                        losses: StepLosses = forward(images, labels)
                    (losses.total * (size / share)).backward()
                for name, value in {"total": losses.total.detach(), **losses.terms}.items():
                    sums[name] = sums.get(name, torch.zeros((), device=self.device.torch_device)) + value * (size / share)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.schedule.step()
            reported = step + 1 == sampler.steps or step % max(1, sampler.steps // STEP_REPORTS) == 0
            if self.on_step is not None and self.rank == 0 and reported:
                rate = (step + 1) * self.settings.batch_size / (time.monotonic() - started)
                losses_so_far = {name: value.item() / (step + 1) for name, value in sums.items()}
                self.on_step(StepReport(epoch, step, sampler.steps, losses_so_far, rate))
        values = torch.stack([sums[name] for name in sums]) / sampler.steps
        if self.world > 1:
            dist.all_reduce(values)
            values /= self.world
        seconds = time.monotonic() - started
        means = dict(zip(sums, values.tolist(), strict=True))
        if not math.isfinite(means["total"]):
            raise Diverged(f"the loss is {means['total']} in epoch {epoch + 1}: lower learning_rate or raise warmup_steps")
        rate = sampler.steps * self.settings.batch_size / seconds
        return {**means, "learning_rate": self.optimizer.param_groups[0]["lr"], "images_per_s": rate}

    def _start_round(self, sampler: StepSampler, step: int) -> None:
        """Lets a sampler that mines choose the images of the next steps by the embeddings of this moment."""
        if isinstance(sampler, MinedSampler):
            rows = sampler.wanted(step)
            embeddings = self.represent(self.task.networks[self.task.chosen], self.task.train.take(rows), self.task.represent)
            sampler.start_round(step, self._shared(None if embeddings is None else sampler.mine(step, embeddings)))

    def _finish_epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Validates, keeps the best weights, and reports."""
        metrics |= self._validate()
        if self.rank == 0:
            self.history.append({"epoch": epoch + 1, **metrics})
            quality = metrics.get(self.task.quality, float(epoch))  # without a val split the last epoch is chosen
            if self.best is None or quality > self.best["quality"]:
                self.best = {"quality": quality, "epoch": epoch + 1, "weights": self._weights()}
        if self.report is not None:
            self.report({"epoch": epoch + 1, **metrics}, lambda: self._state(epoch))

    def _state(self, epoch: int) -> dict[str, Any]:
        return {
            "epoch": epoch,
            "networks": {name: self.task.networks[name].state_dict() for name in self.task.trained},
            "own": {name: parameter.detach() for name, parameter in self._own_parameters().items()},
            "optimizer": self.optimizer.state_dict(),
            "schedule": {"last_epoch": self.schedule.last_epoch},
            "history": self.history,
            "best": self.best,
            "baseline": self.baseline,
        }

    def _own_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters of the objective that do not belong to its networks."""
        of_networks = {id(parameter) for network in self.task.networks.values() for parameter in network.parameters()}
        return {name: parameter for name, parameter in self.objective.named_parameters() if id(parameter) not in of_networks}

    def _restore(self, state: Mapping[str, Any]) -> None:
        for name, weights in state["networks"].items():
            self.task.networks[name].load_state_dict(weights)
        for name, parameter in self._own_parameters().items():
            parameter.data.copy_(state["own"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.last_epoch = state["schedule"]["last_epoch"]
        self.history, self.best, self.first_epoch = list(state["history"]), state["best"], state["epoch"] + 1
        self.baseline = state.get("baseline", {})  # a checkpoint of an earlier version has none
        for group, rate in zip(self.optimizer.param_groups, self.schedule.base_lrs, strict=True):
            group["lr"] = rate * self.schedule.lr_lambdas[0](self.schedule.last_epoch)

    def _test(self) -> dict[str, dict[str, dict[str, float]]]:
        """{network: {protocol: measures}} of the test images, with the current weights. They are not used to choose anything."""
        measures: dict[str, dict[str, dict[str, float]]] = {}
        for name, network in self.task.networks.items():
            for table, evaluate in self.task.evaluations:
                rows = None if table is None else self.represent(network, table, self.task.represent)
                if rows is not None:
                    measures.setdefault(name, {}).update(evaluate(network, rows))
        return measures

    @torch.inference_mode()
    def represent(self, network: Any, table: ImageTable, rows_of: Callable[[Any, Tensor], np.ndarray]) -> np.ndarray | None:
        """Representations of the images of a table; all workers compute a part of them.

        Args:
            network: in any mode; it runs in evaluation mode.
            table: the images.
            rows_of: called with the network and a batch of images (b, 3, H, W); returns one row for each.

        Returns:
            One row for each image on rank 0; None on the other ranks.
        """
        training = network.training
        network.eval()
        shard = list(range(self.rank, len(table), self.world))
        images = DataLoader(
            Subset(EvaluationImages(table, network.preprocessing), shard),
            batch_size=EVALUATION_BATCH if self.device.on_gpu else CPU_MICRO_BATCH,
            num_workers=self._loader_processes(),
        )
        parts = []
        for batch in images:
            with self.device.autocast():
                parts.append(rows_of(network, batch.to(self.device.torch_device)))
        network.train(training)
        own = np.concatenate(parts) if parts else None
        by_rank = [own]
        if self.world > 1:
            by_rank = [None] * self.world
            dist.all_gather_object(by_rank, own)
        if self.rank != 0:
            return None
        assert own is not None  # rank 0 has the first image
        rows = np.empty((len(table), *own.shape[1:]), own.dtype)
        for rank, part in enumerate(by_rank):
            if part is not None:
                rows[rank :: self.world] = part
        return rows


def _copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in state.items()}

"""What each Ray Train worker does: the steps of every epoch, the checkpoint behind it, the test split once at the end."""

import math
import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import ray.util
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Subset

from eet.datasets import ImageTable
from eet.distillation import StepLosses
from eet.training.images import AugmentedImages, EvaluationImages, step_loader
from eet.training.samplers import StepSampler
from pipelines.job.options import TrainOptions
from pipelines.job.progress import EpochDone, StepDone
from pipelines.training.plan import CPU_MICRO_BATCH, TrainingPlan, micro_batch_size

CHECKPOINT_FILE = "training.pt"
EVALUATION_BATCH = 64


def objective_of(plan: TrainingPlan, device: torch.device | str = "cpu") -> nn.Module:
    """The module whose forward gives the losses of a micro-batch, on `device`."""
    return plan.objective().to(device)


def optimizer_of(objective: nn.Module, options: TrainOptions, learning_rates: Mapping[str, float] | None = None) -> torch.optim.Optimizer:
    """The optimizer over backbones, heads, and each parameter that has one of the `learning_rates` by its name."""
    rates = learning_rates or {}
    heads, backbones, own = [], [], []
    for name, parameter in objective.named_parameters():
        if name in rates:
            own.append({"params": [parameter], "lr": rates[name]})
        elif parameter.requires_grad:
            (heads if ".head_hash." in name or ".head." in name else backbones).append(parameter)
    groups = [
        {"params": backbones, "lr": options.learning_rate},
        {"params": heads, "lr": options.head_learning_rate or options.learning_rate},
        *own,
    ]
    if options.optimizer == "adam":
        return torch.optim.Adam(groups, weight_decay=options.weight_decay)
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, weight_decay=options.weight_decay)
    return torch.optim.SGD(groups, momentum=options.momentum, weight_decay=options.weight_decay)


def learning_rate_factor(step: int, *, warmup_steps: int, total_steps: int, constant: bool = False) -> float:
    """Linear from 1/warmup to 1 over the warm-up, then a cosine to 0 at `total_steps` (EET's published schedule), or constant.

    Stepped per batch.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if constant:
        return 1.0
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def train_worker(config: dict[str, Any]) -> dict[str, Any] | None:
    """The loop that TorchTrainer runs in every worker.

    config: {"plan": reference to a TrainingPlan in the object store}.
    Returns on rank 0 the weights of each trained network (of the chosen epoch), the history and the test measures; or {"failure": why}.
    """
    try:
        return _Worker(ray.get(config["plan"])).run()
    except Diverged as error:
        return {"failure": str(error)}  # raised, it would be retried like a lost worker


class Diverged(Exception):
    """The loss is no number any more, on every worker alike: training again from the checkpoint would end the same way."""


class _Worker:
    def __init__(self, plan: TrainingPlan) -> None:
        context = ray.train.get_context()
        self.plan = plan
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        torch.set_num_threads(plan.threads)
        torch.manual_seed(plan.seed)
        self.objective = objective_of(plan, self.device)
        options = plan.options
        self.optimizer = optimizer_of(self.objective, options, plan.learning_rates)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda step: learning_rate_factor(
                step, warmup_steps=plan.warmup_steps, total_steps=plan.total_steps, constant=plan.constant_rate
            ),
        )
        self.bf16 = options.precision == "bf16" or (options.precision == "auto" and self.device.type == "cuda")
        self.first_epoch = 0
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Any] | None = None

    def run(self) -> dict[str, Any] | None:
        self._restore()
        share = self.plan.options.batch_size // self.world
        sampler = self.plan.sampler(
            rank=self.rank, world=self.world, micro_batch_size=micro_batch_size(self.plan.options, share, self.device.type)
        )
        preprocessing = self.plan.networks[self.plan.chosen].preprocessing
        loader = step_loader(
            AugmentedImages(self.plan.train, preprocessing, self.plan.seed, min_crop_area=self.plan.options.min_crop_area),
            sampler,
            processes=self._loader_processes(),
            pin=self.device.type == "cuda",
        )
        distributed = self.world > 1
        module: nn.Module = self.objective
        if distributed:
            module = DistributedDataParallel(self.objective, device_ids=[self.device] if self.device.type == "cuda" else None)
        forward = torch.compile(module) if self.plan.options.compile else module
        for epoch in range(self.first_epoch, self.plan.options.epochs):
            sampler.epoch = epoch
            # Chance inside the networks (dropout, where a backbone has it) starts anew from (seed, epoch, rank), so a resumed
            # epoch repeats an uninterrupted one without carrying generator states of every worker.
            torch.manual_seed(int(np.random.SeedSequence((self.plan.seed, epoch, self.rank)).generate_state(1)[0]))
            metrics = self._train_epoch(epoch, forward, module if distributed else None, loader, sampler)
            self._finish_epoch(epoch, metrics)
        test = self._test()
        if self.rank != 0:
            return None
        assert self.best is not None
        # Ray Train returns no tensors from a worker, but arrays it does.
        weights = {name: {key: value.numpy() for key, value in state.items()} for name, state in self.best["weights"].items()}
        return {"weights": weights, "epoch": self.best["epoch"], "history": self.history, "test": test}

    def _loader_processes(self) -> int:
        asked = self.plan.options.loader_workers
        if asked is not None:
            return asked
        return 0 if self.device.type == "cpu" else min(8, max(1, (os.cpu_count() or 1) // max(1, torch.cuda.device_count())))

    def _train_epoch(
        self,
        epoch: int,
        forward: Any,
        replicated: DistributedDataParallel | None,
        loader: Iterable[tuple[Tensor, Tensor]],
        sampler: StepSampler,
    ) -> dict[str, float]:
        """One pass; returns the epoch's mean loss terms, learning rate and images/s."""
        self.objective.train()
        sizes = sampler.micro_batches()
        share = sum(sizes)
        sums: dict[str, Tensor] = {}
        batches = iter(loader)
        started = time.monotonic()
        for step in range(sampler.steps):
            for number, size in enumerate(sizes):
                images, labels = next(batches)
                images, labels = images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)
                with ExitStack() as stack:
                    if replicated is not None and number + 1 < len(sizes):
                        stack.enter_context(replicated.no_sync())
                    with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                        losses: StepLosses = forward(images, labels)
                    (losses.total * (size / share)).backward()
                for name, value in {"total": losses.total.detach(), **losses.terms}.items():
                    sums[name] = sums.get(name, torch.zeros((), device=self.device)) + value * (size / share)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.schedule.step()
            if self.rank == 0 and (step + 1 == sampler.steps or step % max(1, sampler.steps // 50) == 0):
                rate = (step + 1) * self.plan.options.batch_size / (time.monotonic() - started)
                losses_so_far = {name: value.item() / (step + 1) for name, value in sums.items()}
                self.plan.board.put.remote(StepDone(epoch, step, sampler.steps, losses_so_far, rate))
        values = torch.stack([sums[name] for name in sums]) / sampler.steps
        if self.world > 1:
            dist.all_reduce(values)
            values /= self.world
        seconds = time.monotonic() - started
        means = dict(zip(sums, values.tolist(), strict=True))
        if not math.isfinite(means["total"]):
            raise Diverged(
                f"the loss is {means['total']} in epoch {epoch + 1}: lower --train.learning_rate or lengthen --train.warmup_steps"
            )
        rate = sampler.steps * self.plan.options.batch_size / seconds
        return {**means, "learning_rate": self.optimizer.param_groups[0]["lr"], "images_per_s": rate}

    def _finish_epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Validates, keeps the best weights, writes the checkpoint."""
        if self.plan.val is not None:
            rows = self.represent(self.plan.networks[self.plan.chosen], self.plan.val)
            if rows is not None:
                metrics |= self.plan.validate(rows)
        checkpoint = None
        if self.rank == 0:
            self.history.append({"epoch": epoch + 1, **metrics})
            quality = metrics.get(self.plan.quality, float(epoch))  # without a val split the last epoch is taken
            if self.best is None or quality > self.best["quality"]:
                weights = {name: _copied(self.plan.networks[name].state_dict()) for name in self.plan.trained}
                self.best = {"quality": quality, "epoch": epoch + 1, "weights": weights}
            self.plan.board.put.remote(EpochDone(epoch, self.plan.options.epochs, metrics))
        with tempfile.TemporaryDirectory() as folder:
            if self.rank == 0:
                torch.save(self._state(epoch), Path(folder) / CHECKPOINT_FILE)
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            # Whoever ends this training from outside gives its room back by this name: with its controller gone, nothing else does.
            room = ray.util.get_current_placement_group()
            told = {} if room is None else {"placement_group": room.id.hex()}
            ray.train.report({"epoch": epoch + 1, **metrics, **told}, checkpoint=checkpoint)

    def _state(self, epoch: int) -> dict[str, Any]:
        return {
            "epoch": epoch,
            "networks": {name: self.plan.networks[name].state_dict() for name in self.plan.trained},
            "own": {name: parameter.detach() for name, parameter in self._own_parameters().items()},
            "optimizer": self.optimizer.state_dict(),
            "schedule": {"last_epoch": self.schedule.last_epoch},
            "history": self.history,
            "best": self.best,
        }

    def _own_parameters(self) -> dict[str, nn.Parameter]:
        """What the objective learns beside its networks."""
        of_networks = {id(parameter) for network in self.plan.networks.values() for parameter in network.parameters()}
        return {name: parameter for name, parameter in self.objective.named_parameters() if id(parameter) not in of_networks}

    def _restore(self) -> None:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return
        with checkpoint.as_directory() as folder:
            state = torch.load(Path(folder) / CHECKPOINT_FILE, map_location="cpu", weights_only=True)
        for name, weights in state["networks"].items():
            self.plan.networks[name].load_state_dict(weights)
        for name, parameter in self._own_parameters().items():
            parameter.data.copy_(state["own"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.last_epoch = state["schedule"]["last_epoch"]
        self.history, self.best, self.first_epoch = state["history"], state["best"], state["epoch"] + 1
        for group, rate in zip(self.optimizer.param_groups, self.schedule.base_lrs, strict=True):
            group["lr"] = rate * self.schedule.lr_lambdas[0](self.schedule.last_epoch)

    def _test(self) -> dict[str, dict[str, dict[str, float]]]:
        """The test split, with the chosen weights: the one time it is touched. {network: {protocol: measures}}."""
        if self.plan.test is None:
            return {}
        chosen = [self.best["weights"] if self.best else None]
        if self.world > 1:
            dist.broadcast_object_list(chosen, src=0)
        measures = {}
        for name, network in self.plan.networks.items():
            if chosen[0] is not None and name in chosen[0]:
                network.load_state_dict(chosen[0][name])
            rows = self.represent(network, self.plan.test)
            if rows is not None:
                measures[name] = self.plan.evaluate(network, rows)
        return measures

    @torch.inference_mode()
    def represent(self, network: Any, table: ImageTable) -> np.ndarray | None:
        """What `network` makes of a table's images, a row each, by all workers together; None but on rank 0."""
        training = network.training
        network.eval()
        mine = list(range(self.rank, len(table), self.world))
        images = DataLoader(
            Subset(EvaluationImages(table, network.preprocessing), mine),
            batch_size=EVALUATION_BATCH if self.device.type == "cuda" else CPU_MICRO_BATCH,
            num_workers=self._loader_processes(),
        )
        parts = []
        for batch in images:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                parts.append(self.plan.represent(network, batch.to(self.device)))
        network.train(training)
        ours = np.concatenate(parts) if parts else None
        of_ranks = [ours]
        if self.world > 1:
            of_ranks = [None] * self.world
            dist.all_gather_object(of_ranks, ours)
        if self.rank != 0:
            return None
        assert ours is not None  # rank 0 takes the first image
        rows = np.empty((len(table), *ours.shape[1:]), ours.dtype)
        for rank, part in enumerate(of_ranks):
            if part is not None:
                rows[rank :: self.world] = part
        return rows


def _copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in state.items()}

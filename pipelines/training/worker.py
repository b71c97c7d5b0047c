"""The function of each Ray Train worker: `eet.training.fit`, with checkpoints to Ray Train and progress to the board of the driver."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import ray.util
import torch

from eet.training import Diverged, fit
from pipelines.job.progress import EpochDone

CHECKPOINT_FILE = "training.pt"


def train_worker(config: dict[Any, Any]) -> Any:
    """The loop that TorchTrainer runs in every worker.

    Args:
        config: "task", a reference to a TrainingTask in the object store; "settings", a FitSettings; "threads", CPU threads of a worker;
            "board", the board for progress.

    Returns:
        On rank 0 the weights of each trained network (of the chosen epoch), the history and the test measures; or {"failure": why}.
    """
    context, settings, board = ray.train.get_context(), config["settings"], config["board"]
    torch.set_num_threads(config["threads"])

    def report(record: dict[str, float], state: Callable[[], dict[str, Any]]) -> None:
        rank_0 = context.get_world_rank() == 0
        if rank_0:
            metrics = {name: value for name, value in record.items() if name != "epoch"}
            board.put.remote(EpochDone(int(record["epoch"]) - 1, settings.epochs, metrics))
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if rank_0:
                torch.save(state(), Path(folder) / CHECKPOINT_FILE)
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            # If this training is ended from outside, its placement group is removed by this id; nothing else would do it.
            group = ray.util.get_current_placement_group()
            ray.train.report({**record, **({} if group is None else {"placement_group": group.id.hex()})}, checkpoint=checkpoint)

    try:
        fitted = fit(
            ray.get(config["task"]),
            settings,
            rank=context.get_world_rank(),
            world=context.get_world_size(),
            device=ray.train.torch.get_device(),
            on_step=lambda step: board.put.remote(tuple(step)),  # a plain tuple: the board's process imports no torch
            report=report,
            checkpoint=_last_checkpoint(),
        )
    except Diverged as error:
        return {"failure": str(error)}  # an exception would be retried, like a lost worker
    if fitted is None:
        return None
    # Ray Train can return arrays from a worker, but not tensors.
    weights = {name: {key: value.numpy() for key, value in state.items()} for name, state in fitted.weights.items()}
    return {"weights": weights, "epoch": fitted.epoch, "history": fitted.history, "test": fitted.test, "fitted": fitted.fitted}


def _last_checkpoint() -> dict[str, Any] | None:
    """The state of the last reported epoch, of this run or of the resumed one."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return torch.load(Path(folder) / CHECKPOINT_FILE, map_location="cpu", weights_only=True)

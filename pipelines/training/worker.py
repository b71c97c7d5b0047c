"""The function of each Ray Train worker: `eet.training.fit`, with checkpoints to Ray Train and progress to the board of the driver."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import ray.util
import torch

from eet.storage import Claim, TakenOverError, held_folder, hidden_beside, naming_file, remove_leftovers
from eet.training import Diverged, fit
from pipelines.job.progress import EpochDone

CHECKPOINT_FILE = "training.pt"


def train_worker(config: dict[Any, Any]) -> Any:
    """The loop that TorchTrainer runs in every worker.

    Args:
        config: "task", a reference to a TrainingTask in the object store; "settings", a FitSettings; "threads", CPU threads of a worker;
            "board", the board for progress; "new_checkpoint", location for which checkpoints are written (under a hidden name beside it)
            before Ray Train copies them, see `eet.storage.leftovers`; "claim", the job's claim on its output folder.

    Returns:
        On rank 0 the weights of each trained network (of the chosen epoch), the history and the test measures; or {"failure": why}.
    """
    context, settings, board = ray.train.get_context(), config["settings"], config["board"]
    torch.set_num_threads(config["threads"])
    claim: Claim = config["claim"]
    try:
        claim.check()  # also in a worker that replaces the one which found that the folder is lost: the job ends now
    except TakenOverError as error:
        return {"failure": str(error)}

    def report(record: dict[str, float], state: Callable[[], dict[str, Any]]) -> None:
        rank_0 = context.get_world_rank() == 0
        if rank_0:
            metrics = {name: value for name, value in record.items() if name != "epoch"}
            board.put.remote(EpochDone(int(record["epoch"]) - 1, settings.epochs, metrics))
        # If this training is ended from outside, its placement group is removed by this id; nothing else would do it.
        group = ray.util.get_current_placement_group()
        reported = {**record, **({} if group is None else {"placement_group": group.id.hex()})}
        if rank_0:
            _report_with_checkpoint(reported, state(), config["new_checkpoint"], claim)
        else:
            ray.train.report(reported)

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


def write_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Writes a state to resume from. OSError, which names the file, where the disk is full: torch itself raises a RuntimeError then."""
    with naming_file(path), path.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, OSError):
                cause = cause.__cause__ or cause.__context__
            raise cause or error from None


def _report_with_checkpoint(record: dict[str, Any], state: dict[str, Any], location: str, claim: Claim) -> None:
    remove_leftovers(location)
    folder = hidden_beside(location)
    with held_folder(folder):
        try:
            write_checkpoint(state, Path(folder) / CHECKPOINT_FILE)
            claim.check()
            ray.train.report(record, checkpoint=ray.train.Checkpoint.from_directory(folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _last_checkpoint() -> dict[str, Any] | None:
    """The state of the last reported epoch, of this run or of the resumed one."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return torch.load(Path(folder) / CHECKPOINT_FILE, map_location="cpu", weights_only=True)

"""Ray Train's local mode: a training job runs its worker function in this process, for tests of what a training does, not of its workers.

It has one worker, keeps no checkpoint, and starts none of the five processes of a training on a cluster.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import ray.train
import torch
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.train_fn_utils import set_train_fn_utils


@contextmanager
def trained_here() -> Iterator[None]:
    """Jobs that train in this block do so in this process. A Ray session is needed for the board of their progress."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray.train, "ScalingConfig", lambda **_: ScalingConfig(num_workers=0))
        try:
            yield
        finally:
            set_train_fn_utils(None)  # otherwise Ray Train takes this process for a worker
            torch.set_num_threads(threads)

"""Where a job does its work."""

import pytest
import torch

from pipelines.job import engine as engines
from pipelines.job.engine import uses_ray
from pipelines.job.worker_need import WorkerNeed


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """One GPU at most, and no connection to a cluster (see conftest.py)."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)


def chosen(engine="auto", *, address="local", work=10, workers=None, **need) -> bool:
    return uses_ray(engine, address=address, work=work, most_here=100, workers=workers, need=WorkerNeed(**need))


def test_little_work_on_one_machine_does_not_start_ray():
    assert not chosen() and not chosen(work=100)
    assert chosen(work=101)


@pytest.mark.parametrize("given", [{"address": "head:6379"}, {"workers": 1}, {"cpus": 2}, {"gpus": 0.5}])
def test_a_cluster_or_described_workers_mean_ray(given):
    assert chosen(**given)


def test_several_gpus_or_a_connection_mean_ray(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert chosen()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert not chosen()
    monkeypatch.setattr(engines, "is_connected", lambda: True)
    assert chosen()


def test_what_the_user_says_wins():
    assert chosen("ray") and not chosen("local", address="head:6379", work=1000, workers=4)

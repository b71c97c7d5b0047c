"""The size of a pool of workers, from the running nodes, the nodes that may start, and the numbers that the user requests."""

import pytest

from pipelines.job.cluster import ActorPool, ClusterResources, Node, actor_pool, shard_memory
from pipelines.job.worker_need import WorkerNeed

GiB = 2**30
GPU_NODE = Node(16, 1, 64 * GiB)
CPU_NODE = Node(4, 0, 10 * GiB)


def pool_of(nodes, *, grows, tasks=100, requested=None, need=WorkerNeed(), memory=2 * GiB) -> ActorPool:  # noqa: B008 - frozen
    return actor_pool(ClusterResources(tuple(nodes), grows), tasks, requested, need, memory=memory)


def test_a_fixed_cluster_gets_one_worker_per_gpu_or_per_node():
    assert pool_of([GPU_NODE, GPU_NODE], grows=False) == ActorPool(2, 2, 15, 16, 1, 2 * GiB)
    assert pool_of([CPU_NODE, CPU_NODE], grows=False) == ActorPool(2, 2, 3, 4, 0, 2 * GiB)
    assert pool_of([CPU_NODE], grows=False, tasks=1, requested=4) == ActorPool(1, 1, 3, 4, 0, 2 * GiB)


def test_one_gpu_node_of_a_cluster_that_grows_is_the_first_of_many():
    """The former fault: it was the whole pool, and no more nodes were requested, although the cluster may grow."""
    assert pool_of([GPU_NODE], grows=True) == ActorPool(100, 1, 16, 16, 1, 0)
    assert pool_of([GPU_NODE], grows=True, requested=4)[:3] == (4, 1, 15)
    assert pool_of([GPU_NODE] * 4, grows=True, requested=4)[:3] == (4, 4, 15)


def test_a_node_without_gpu_holds_only_one_worker_of_an_open_ended_pool():
    for cpus in (1, 2, 3, 16):
        assert pool_of([Node(cpus, 0)], grows=True).cpus * 2 > cpus


def test_a_requested_worker_size_needs_no_running_node():
    need = WorkerNeed(cpus=15, gpus=1)
    assert pool_of([], grows=True, need=need) == ActorPool(100, 1, 15, 15, 1, 0)
    assert pool_of([], grows=True, need=need, requested=4).workers == 4
    assert pool_of([CPU_NODE], grows=True, need=need).gpus == 1


def test_a_requested_worker_size_is_used_instead_of_the_default_of_the_nodes():
    assert pool_of([GPU_NODE], grows=False, need=WorkerNeed(gpus=0.5)) == ActorPool(2, 2, 7, 8, 0.5, 2 * GiB)
    assert pool_of([GPU_NODE], grows=False, need=WorkerNeed(gpus=0)) == ActorPool(1, 1, 15, 16, 0, 2 * GiB)
    assert pool_of([CPU_NODE], grows=False, need=WorkerNeed(cpus=1)) == ActorPool(1, 1, 1, 1, 0, 2 * GiB)


def test_workers_that_never_fit_are_refused():
    with pytest.raises(ValueError, match="3 workers do not fit the cluster of 1 nodes with 4 CPUs and 0 GPUs: 2 of 2 CPUs and 0 GPUs do"):
        pool_of([CPU_NODE], grows=False, need=WorkerNeed(cpus=2), requested=3)
    with pytest.raises(ValueError, match="0 of 3 CPUs and 1 GPUs do"):
        pool_of([CPU_NODE], grows=False, need=WorkerNeed(cpus=3, gpus=1))
    with pytest.raises(ValueError, match="no node that accepts work"):
        pool_of([], grows=False)


@pytest.mark.parametrize(("need", "message"), [(WorkerNeed(cpus=0), "--cpus_per_worker 0"), (WorkerNeed(gpus=2), "--gpus_per_worker 2")])
def test_impossible_needs_are_reported(need, message):
    assert [problem.startswith(message) for problem in need.problems()] == [True]


def test_memory_never_prevents_a_worker_on_a_node_with_enough_cpus():
    assert pool_of([Node(4, 0, GiB)], grows=False, memory=2 * GiB).memory == GiB * 9 // 10
    assert pool_of([Node(4, 0, 3 * GiB)], grows=False, requested=4, memory=2 * GiB).memory == 3 * GiB * 9 // 10 // 4
    assert pool_of([Node(4, 0, 0)], grows=False, memory=2 * GiB).memory == 2 * GiB


def test_no_memory_is_requested_if_nodes_are_still_to_start():
    """Ray starts no node for memory that the configuration of its node type does not declare."""
    assert pool_of([CPU_NODE], grows=True).memory == 0
    assert pool_of([CPU_NODE], grows=True, requested=9).memory == 0
    assert pool_of([CPU_NODE], grows=True, requested=2).memory == 2 * GiB


def test_shards_still_fit_when_a_node_of_several_is_lost():
    nodes = [Node(4, 0, 8 * GiB)] * 2
    assert shard_memory(nodes, GiB // 10, 4) == GiB // 10
    capped = shard_memory(nodes, 100 * GiB, 4)
    assert capped * 4 <= 8 * GiB
    assert shard_memory([], GiB, 4) == 0

"""Tasks over actors that are lost, that fail, and that become more."""

import os
import signal
from pathlib import Path

import pytest
import ray
from ray.exceptions import RayActorError

from pipelines.actors.pool import MOST_LOSSES, run_on_actors
from pipelines.job.cluster import ActorPool

pytestmark = pytest.mark.timeout(120)


class Doubler:
    """Doubles numbers; leaves a file for each time that it began one, and dies once for each of `deadly`, or always."""

    def __init__(self, folder: Path, *, deadly: tuple[int, ...] = (), again: bool = False, broken: bool = False) -> None:
        self.folder, self.deadly, self.again = folder, deadly, again
        (folder / f"actor-{os.getpid()}").touch()
        if broken:
            raise ValueError("no such model")

    def run(self, number: int) -> int:
        earlier = len(list(self.folder.glob(f"begun-{number}-*")))
        (self.folder / f"begun-{number}-{earlier}").touch()
        if number in self.deadly and (self.again or not earlier):
            os.kill(os.getpid(), signal.SIGKILL)
        if number < 0:
            raise ValueError(f"{number} is negative")
        return 2 * number


def doubled(folder: Path, numbers, *, workers: int = 2, initial: int = 2, **behaviour) -> list[int]:
    kind = ray.remote(num_cpus=1)(Doubler)
    return list(run_on_actors(lambda: kind.remote(folder, **behaviour), numbers, ActorPool(workers, initial, 1, 0, 0)))


def actors(folder: Path) -> int:
    return len(list(folder.glob("actor-*")))


def test_every_task_is_done_once_by_no_more_actors_than_allowed(ray_session, tmp_path):
    assert sorted(doubled(tmp_path, range(20))) == list(range(0, 40, 2))
    assert 1 <= actors(tmp_path) <= 2 and len(list(tmp_path.glob("begun-*"))) == 20


def test_without_tasks_no_actor_is_started(ray_session, tmp_path):
    assert doubled(tmp_path, []) == [] and actors(tmp_path) == 0


def test_the_task_of_a_lost_actor_comes_again_and_the_actor_is_replaced(ray_session, tmp_path):
    assert sorted(doubled(tmp_path, range(6), workers=1, initial=1, deadly=(2,))) == list(range(0, 12, 2))
    assert len(list(tmp_path.glob("begun-2-*"))) == 2 and actors(tmp_path) == 2


def test_a_task_that_loses_every_actor_ends_the_work(ray_session, tmp_path):
    with pytest.raises(RayActorError):
        doubled(tmp_path, [1], workers=1, initial=1, deadly=(1,), again=True)
    assert len(list(tmp_path.glob("begun-1-*"))) == MOST_LOSSES + 1


def test_what_a_task_or_a_constructor_raises_is_raised(ray_session, tmp_path):
    with pytest.raises(ValueError, match="-3 is negative"):
        doubled(tmp_path, [1, -3, 5])
    with pytest.raises(RayActorError, match="no such model"):
        doubled(tmp_path, [1], broken=True)


def test_a_pool_that_may_grow_asks_for_more_while_tasks_wait(ray_session, tmp_path):
    kind = ray.remote(num_cpus=0)(Doubler)
    started = []

    def start():
        started.append(len(given))
        return kind.remote(tmp_path)

    given: list[int] = []
    for result in run_on_actors(start, range(200), ActorPool(workers=3, initial=1, cpus=1, gpus=0, memory=0)):
        given.append(result)
    assert sorted(given) == list(range(0, 400, 2))
    assert started[0] == 0 and started[1] >= 1, "the second actor is asked for when the first has done a task"
    assert len(started) <= 3

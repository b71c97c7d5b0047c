"""Tasks handed to a pool of Ray actors: one at a time to each, and again to another where an actor was lost.

Ray Data has such pools too, but gives every actor of one its arguments through the object store and restarts it there, which Ray itself
warns of (ray#53727, ray#57733): an actor whose arguments are gone cannot be restarted. Here an actor is never restarted. Its task goes
back to the queue, and a new actor is started.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ray
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError

from pipelines.job.cluster import ActorPool

MOST_LOSSES = 5
"""So many actors may be lost with one task in hand, or one after another while they start. More is no accident."""

LOST = (RayActorError, NodeDiedError, OutOfMemoryError, ObjectLostError)


def run_on_actors(start: Callable[[], Any], tasks: Iterable[Any], pool: ActorPool) -> Iterator[Any]:
    """What the actors' method `run` returns for each task, in the order in which they finish.

    The pool begins with `pool.initial` actors. When all of them run and tasks still wait, as many again are asked for, up to
    `pool.workers`: on a cluster that grows each is a demand for a node. An actor that is lost is replaced.

    start: starts one actor and returns its handle. tasks: each must give the same when it is done twice.
    Raises what a task or the constructor of an actor raised, and a `RayActorError` or the like where actors are lost again and again.
    """
    queue = deque(enumerate(tasks))
    if not queue:
        return
    starting: dict[Any, Any] = {}
    working: dict[Any, tuple[Any, tuple[int, Any]]] = {}
    losses: Counter[int | None] = Counter()  # by task; None: while starting
    wanted = pool.initial

    def lose(actor: Any, error: Exception, number: int | None) -> None:
        ray.kill(actor)  # it may be out of reach only, and go on
        losses[number] += not getattr(error, "preempted", False)
        if getattr(error, "actor_init_failed", False) or losses[number] > MOST_LOSSES:
            raise error

    try:
        while queue or working:
            for _ in range(min(wanted - len(working), len(queue)) - len(starting)):
                actor = start()
                starting[actor.__ray_ready__.remote()] = actor
            (done,), _ = ray.wait([*working, *starting], num_returns=1)
            if done in starting:
                actor = starting.pop(done)
                try:
                    ray.get(done)
                except LOST as error:
                    lose(actor, error, None)
                    continue
                losses[None] = 0
            else:
                actor, (number, task) = working.pop(done)
                try:
                    result = ray.get(done)
                except LOST as error:
                    queue.appendleft((number, task))
                    lose(actor, error, number)
                    continue
                yield result
                if queue and not starting:
                    wanted = min(pool.workers, 2 * wanted)
            if queue:
                working[actor.run.remote(queue[0][1])] = actor, queue[0]
                queue.popleft()
    except BaseException:
        for actor in (*starting.values(), *(actor for actor, _ in working.values())):
            ray.kill(actor)
        raise

"""How an algorithm ends: soon, whatever its processes are doing, and for good."""

from __future__ import annotations

import atexit
from typing import NoReturn
from weakref import WeakSet

import ray
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from rllib_ppg import ray_private

# How long env runners may take to finish what they are doing.
_PATIENCE_S = 3.0

_open_groups: WeakSet[LearnerGroup] = WeakSet()


class Stopped:
    """In place of what an algorithm has stopped: every use of it is a ValueError."""

    def __getattr__(self, name: str) -> NoReturn:
        raise ValueError(
            "the algorithm has been stopped: build another one, or restore a checkpoint with "
            "PPG.from_checkpoint(path)"
        )


def kill_busy_env_runners(*groups: EnvRunnerGroup | None) -> None:
    """Kills env runners that are in the middle of something.

    RLlib waits for them without a limit, and an evaluation of episodes that never end has none.
    """
    managers = [ray_private.env_runner_manager(group) for group in groups if group is not None]
    calls = {
        actor.ping.remote(): (manager, i)
        for manager in managers
        for i, actor in manager.actors().items()
    }
    if calls:
        _, busy = ray.wait([*calls], num_returns=len(calls), timeout=_PATIENCE_S)
        for manager, i in map(calls.__getitem__, busy):
            ray.kill(manager.remove_actor(i))


def leave_to_ray(group: LearnerGroup) -> None:
    """Lets a script end without `stop()`: Ray then ends the learners.

    A group whose learners are remote calls them when Python deletes it, after Ray has gone. That
    would start another Ray.
    """
    _open_groups.add(group)


@atexit.register  # after Ray's own, so it runs before
def _leave_all_to_ray() -> None:
    for group in _open_groups:
        ray_private.mark_as_shut_down(group)

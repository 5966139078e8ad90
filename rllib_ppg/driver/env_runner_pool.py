"""The run's env runners as the driver calls them: all at once, without the ones that have died."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.typing import ModuleID

from rllib_ppg import ray_private
from rllib_ppg.config import PPGConfig
from rllib_ppg.data.rollout import SampledRollout
from rllib_ppg.driver.learner_pool import LearnerPool

logger = logging.getLogger(__name__)

_RESTART_POLL_S = 1.0


class EnvRunnerPool:
    """Samples rollouts from all healthy env runners.

    Args:
        group: RLlib's group of env runners.
        config: Settings of the run.
        learners: The learners that train on the rollouts.
        module_ids: The modules in training.
        restore: RLlib's function that restarts the group's dead env runners.
    """

    def __init__(
        self,
        group: EnvRunnerGroup,
        config: PPGConfig,
        learners: LearnerPool,
        module_ids: Sequence[ModuleID],
        restore: Callable[[EnvRunnerGroup], Any],
    ):
        self._group = group
        self._config = config
        self._learners = learners
        self._module_ids = list(module_ids)
        self._restore = restore

    def sample(self, env_steps: int) -> list[SampledRollout]:
        """One rollout of every healthy env runner, with a shard for each module and learner.

        Waits while all env runners are dead: an iteration without a rollout would train nothing,
        but would count.

        Args:
            env_steps: Env steps of the run so far.

        Raises:
            Exception: What an env runner raised, such as an env's error or a NaN observation. An
                env runner that died is restarted, or not, as RLlib's settings say.
            RuntimeError: All env runners have died, and none are restarted.
        """
        while True:
            rollouts = self._fetch(self._sample(env_steps))
            if rollouts:
                return rollouts
            self._wait_for_restart()

    def _sample(self, env_steps: int) -> list[SampledRollout]:
        n, ids = len(self._learners), self._module_ids
        results = self.call("sample_rollout", n, env_steps, ids, num_objects=n * len(ids))
        return [
            SampledRollout(summary, {m: shards[n * i :][:n] for i, m in enumerate(ids)})
            for summary, shards in results
        ]

    def _fetch(self, rollouts: list[SampledRollout]) -> list[SampledRollout]:
        """Brings each learner its shards, and leaves out rollouts that were lost with their node.

        This comes before any learner starts on them: one that has started needs all the others.
        """
        if self._group.num_remote_env_runners() == 0:
            return rollouts
        ids = self._module_ids
        calls = [
            ([r.shards[m][k] for r in rollouts for m in ids],) for k in range(len(self._learners))
        ]
        results = self._learners.retry_on_learner_loss(self._learners.call, "fetch", calls)
        lost = {i // len(ids) for missing, _ in results for i in missing}
        if lost:
            logger.warning(
                "%d of %d rollouts were lost with their env runners' node; this iteration "
                "continues with the others",
                len(lost),
                len(rollouts),
            )
        return [rollout for i, rollout in enumerate(rollouts) if i not in lost]

    def _wait_for_restart(self) -> None:
        if not self._config.restart_failed_env_runners:
            raise RuntimeError("all env runners have died, and restart_failed_env_runners is off")
        if self._group.num_healthy_remote_workers() == 0:
            logger.warning("all env runners have died; waiting until one is back")
        while self._group.num_healthy_remote_workers() == 0:
            self._restore(self._group)
            time.sleep(_RESTART_POLL_S)

    def call(self, method: str, *args: Any, num_objects: int = 0) -> list[tuple[Any, list[Any]]]:
        """Calls all healthy env runners at once and waits for them.

        Args:
            method: Method of the env runner.
            *args: Its arguments.
            num_objects: Number of objects that it returns in addition to its result.

        Returns:
            (result, objects) of each env runner that is still alive. The objects are references,
            or the objects themselves if the env runner is in this process.

        Raises:
            Exception: What an env runner raised.
            TimeoutError: None answered within `sample_timeout_s`.
        """
        group = self._group
        if group.num_remote_env_runners() == 0:
            out = getattr(group.local_env_runner, method)(*args)
            return [(out[0], list(out[1:])) if num_objects else (out, [])]
        manager = ray_private.env_runner_manager(group)
        actors = {i: manager.actors()[i] for i in manager.healthy_actor_ids()}
        # Not through the manager. It makes one object of a call's result, but each learner's rows
        # must be an object that outlives the env runner; and it would report what an env raised
        # as a dead actor.
        calls = {
            i: getattr(actor, method).options(num_returns=1 + num_objects).remote(*args)
            for i, actor in actors.items()
        }
        calls = {i: refs if num_objects else [refs] for i, refs in calls.items()}
        heads = [head for head, *_ in calls.values()]
        timeout = self._config.sample_timeout_s
        late = ray.wait(heads, num_returns=len(heads), timeout=timeout)[1] if heads else []
        results: list[tuple[Any, list[Any]]] = []
        for i, (head, *objects) in calls.items():
            if head in late:
                # Out of service until it answers again: it is still busy with this call.
                manager.set_actor_state(i, healthy=False)
                continue
            try:
                results.append((ray.get(head), objects))
            except RayTaskError as e:
                raise e.cause from e
            except RayError:  # it died
                if not ray_private.ignores_dead_env_runners(group):
                    raise
                manager.set_actor_state(i, healthy=False)
        if late and not results:
            raise TimeoutError(f"no env runner answered within sample_timeout_s={timeout:g}")
        return results

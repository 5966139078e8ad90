"""The run's learners as the driver calls them: all at once, and rebuilt if some die."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.rllib.core.learner.learner_group import LearnerGroup

from rllib_ppg import ray_private
from rllib_ppg.data.replay import ReplayBlock
from rllib_ppg.learning.collectives import CollectiveError

logger = logging.getLogger(__name__)

T = TypeVar("T")

# How long the other learners may take to report, after one has failed, before they count as stuck.
_FAILURE_REPORT_TIMEOUT_S = 5.0
# How long it may take until the resources of dead learners (CPUs, GPUs) are free for new ones.
_RESOURCE_RELEASE_TIMEOUT_S = 30.0


class LearnerLostError(RuntimeError):
    """A learner has died, and the others can't continue without it."""


class LearnerPool:
    """Runs phases on all learners, and runs a phase again on new learners if some die in it.

    The recovery point makes that possible: a reference to the learners' state at the end of the
    last phase, which lies in the object store. A repeated phase starts from it with the same
    rollouts and seeds, so its result is that of a run in which no learner died.

    Args:
        group: RLlib's group of learners.
        build: Builds another such group and returns it.
    """

    def __init__(self, group: LearnerGroup, build: Callable[[], LearnerGroup]):
        self._group = group
        self._build = build
        # The whole state of the first learner, and what each of the others has of its own.
        self._recovery_point: list[ray.ObjectRef] | None = None
        self._nodes: set[str] = set()
        self._ended = False
        self._is_retrying = False

    def __len__(self) -> int:
        return 1 if self._group.is_local else len(ray_private.learner_actors(self._group))

    def call_all(self, method: str, *args: Any) -> list[Any]:
        """Calls a method of all learners with the same arguments; returns their results."""
        return [result for result, _ in self.call(method, [args] * len(self))]

    def call(
        self, method: str, calls: list[tuple], num_objects: Sequence[int] | None = None
    ) -> list[tuple[Any, list[ray.ObjectRef]]]:
        """Calls a method of all learners at once and waits for it.

        Args:
            method: Method of the learner.
            calls: Its arguments, one tuple for each learner.
            num_objects: Number of objects that each learner returns in addition to its result.

        Returns:
            (result, references to the objects) of each learner.

        Raises:
            Exception: What a learner raised. Learners that wait for it are killed.
            LearnerLostError: A learner died, or is `collective_timeout_s` behind another one.
        """
        if self._ended:
            raise LearnerLostError("learners of this algorithm have died")
        counts = num_objects or [0] * len(calls)
        if self._group.is_local:
            args = [ray.get(a) if isinstance(a, ray.ObjectRef) else a for a in calls[0]]
            out = getattr(ray_private.local_learner(self._group), method)(*args)
            head, *blocks = out if counts[0] else (out,)
            # In the object store, like a remote learner's, where Ray may spill them to disk.
            return [(head, [ray.put(block) for block in blocks])]
        refs: list[list[ray.ObjectRef]] = []
        actors = ray_private.learner_actors(self._group)
        for learner, call, count in zip(actors, calls, counts, strict=True):
            returned = getattr(learner, method).options(num_returns=1 + count).remote(*call)
            refs.append(returned if count else [returned])
        heads = [head for head, *_ in refs]
        pending, timeout = heads, None
        while pending:  # one at a time, to see the first failure at once
            done, pending = ray.wait(pending, timeout=timeout)
            if not done:
                self._end()
                raise LearnerLostError(
                    f"learner {heads.index(pending[0])} of {len(heads)} hangs in {method}(): it is "
                    f"collective_timeout_s={timeout:g} behind the others"
                )
            if failure_of(done[0]) is not None:
                self._fail(method, heads)
            timeout = self._group.config.collective_timeout_s  # between the first and the last
        return [(ray.get(head), blocks) for head, *blocks in refs]

    def store_block(self, block: ReplayBlock, learner: int) -> ray.ObjectRef:
        """Puts a replay block into the object store of a learner's node."""
        if self._group.is_local:
            return ray.put(block)
        # What an actor returns lies on its node, and belongs to this process.
        return ray_private.learner_actors(self._group)[learner].store_block.remote(block)

    # -- Recovery ------------------------------------------------------------------------------

    def save_recovery_point(self) -> None:
        """Saves the current state for new learners to start from.

        A learner in this process needs none: it dies with the driver.
        """
        if self._group.is_remote:
            n = len(self)
            saved = self.call("get_recovery_state", [(k == 0,) for k in range(n)], [1] * n)
            self._recovery_point = [state for _, [state] in saved]
            self._nodes = {node for node, _ in saved}

    def discard_recovery_point(self) -> None:
        """Drops the recovery point, because another state is being restored."""
        self._recovery_point = None

    def run_phase(self, work: Callable[..., T], *args: Any) -> T:
        """Runs `work(*args)`, which changes the learners' state; retries it if some die."""

        def and_save() -> T:
            result = work(*args)
            self.save_recovery_point()
            return result

        return self.retry_on_learner_loss(and_save)

    def retry_on_learner_loss(self, work: Callable[..., T], *args: Any) -> T:
        """Runs `work(*args)`, which calls learners, and once more on new ones if some die in it.

        Raises:
            LearnerLostError: They died again, or there is no room for new ones.
            CollectiveError: One did not answer the others within `collective_timeout_s`, twice.
        """
        if self._is_retrying:  # an outer call repeats all of its work
            return work(*args)
        if self._recovery_point is None:
            self.save_recovery_point()
        self._is_retrying = True
        try:
            return work(*args)
        except (LearnerLostError, CollectiveError, RayActorError) as e:
            # RLlib's own calls raise the death of an actor, which need not be a learner.
            of_others = isinstance(e, RayActorError) and e.actor_id not in self._actor_ids()
            if of_others or self._recovery_point is None or not self._rebuild(e):
                raise
            return work(*args)
        finally:
            self._is_retrying = False

    def _rebuild(self, why: Exception) -> bool:
        """Builds new learners from the recovery point; False if there is no room for them."""
        assert self._recovery_point
        self._end()
        if not self._has_room():
            return False
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        if not self._nodes <= alive:  # a node took its part of the replay list with it
            return False
        logger.warning("%s; new learners resume from the end of the last phase", why)
        try:
            self._group = self._build()
            self._ended = False
            first = self._recovery_point[0]
            self.call("set_recovery_state", [(first, own) for own in self._recovery_point])
        except RayError as e:
            self._end()
            raise LearnerLostError(f"{why}, and one of the new ones while it started") from e
        return True

    def _actor_ids(self) -> set[str]:
        return {ray_private.actor_id(actor) for actor in ray_private.learner_actors(self._group)}

    def _has_room(self) -> bool:
        """Whether that many actors with a learner's resources can start; Ray would wait for it."""
        needs = ray_private.learner_resources(self._group)
        cpus, gpus = needs.pop("CPU"), needs.pop("GPU")
        actor = ray.remote(num_cpus=cpus, num_gpus=gpus, resources=needs)(_Placeholder)
        placeholders = [actor.remote() for _ in range(len(self))]
        starts = [p.ready.remote() for p in placeholders]
        timeout = _RESOURCE_RELEASE_TIMEOUT_S
        _, waiting = ray.wait(starts, num_returns=len(starts), timeout=timeout)
        for placeholder in placeholders:
            ray.kill(placeholder)
        return not waiting

    def _fail(self, method: str, heads: list[ray.ObjectRef]) -> NoReturn:
        """Raises the reason why a call failed on one learner.

        Learners that wait for it in a collective would do so until the collective times out.
        """
        timeout = _FAILURE_REPORT_TIMEOUT_S
        _, stuck = ray.wait(heads, num_returns=len(heads), timeout=timeout)
        failures = [(k, failure_of(h)) for k, h in enumerate(heads) if h not in stuck]
        # The error of a learner that merely lost another one does not say why.
        (k, cause), *_ = sorted(
            ((k, e) for k, e in failures if e), key=lambda f: isinstance(f[1], CollectiveError)
        )
        died = isinstance(cause, RayError) and not isinstance(cause, RayTaskError)
        if stuck or died:
            self._end()
        if died:
            raise LearnerLostError(f"learner {k} of {len(heads)} died in {method}()") from cause
        raise cause

    def _end(self) -> None:
        """Kills all learners, including one that is alive but out of reach."""
        self._ended = True
        for learner in ray_private.learner_actors(self._group):
            ray.kill(learner)
        ray_private.mark_as_shut_down(self._group)


class _Placeholder:
    def ready(self) -> None:
        pass


def failure_of(ref: ray.ObjectRef) -> Exception | None:
    """What the call that returns `ref` raised, or None; `ref` must be available.

    An error of Ray's that is not a RayTaskError means that the actor died: by itself, with its
    node, or for lack of memory.
    """
    try:
        ray.get(ref)
    except RayTaskError as e:
        # A live actor can raise Ray's own errors, too: for a lost object, for example.
        return e if isinstance(e.cause, RayError) else e.cause
    except RayError as e:
        return e
    return None

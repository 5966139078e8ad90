"""The run's learners as the driver calls them: all at once, and built anew if some die."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.rllib.core.learner.learner_group import LearnerGroup

from rllib_ppg.learning.collectives import CollectiveError

logger = logging.getLogger(__name__)

T = TypeVar("T")

# How long learners may take to follow one that has failed, before they count as stuck.
_FAILURE_REPORT_TIMEOUT_S = 5.0
# How long what the dead ones had (CPUs, GPUs) may take to be free for new ones.
_RESOURCE_RELEASE_TIMEOUT_S = 30.0


class LearnerLostError(RuntimeError):
    """A learner has died, and the others can't go on without it."""


class LearnerPool:
    """Calls a phase on all learners, and does a phase again by new ones if some die in it.

    For that, this process has a reference to the state of the last phase's end, which lies in the
    object store. A phase begins from it again, with the same rollouts and seeds: the result is
    that of a run in which nobody had died.

    Args:
        group: RLlib's group of learners.
        build: builds another such group, and returns it.
    """

    def __init__(self, group: LearnerGroup, build: Callable[[], LearnerGroup]):
        self._group = group
        self._build = build
        # The whole state of the first, and of each what is its own.
        self._kept: list[ray.ObjectRef] | None = None
        self._nodes: set[str] = set()
        self._ended = False
        self._inside = False

    def __len__(self) -> int:
        return 1 if self._group.is_local else len(self._group._workers)

    def call(
        self, method: str, calls: list[tuple], num_objects: Sequence[int] | None = None
    ) -> list[tuple[Any, list[ray.ObjectRef]]]:
        """Calls a method of all learners at once, and waits for it.

        Args:
            method: the learner's method.
            calls: its arguments, one tuple a learner.
            num_objects: number of objects that each learner returns beside its result.

        Returns:
            (result, references to the objects) of each learner.

        Raises:
            Exception: What a learner has raised. The others are ended, if they wait for it.
            LearnerLostError: A learner has died, or is `collective_timeout_s` behind another one.
        """
        if self._ended:
            raise LearnerLostError("learners of this algorithm have died")
        counts = num_objects or [0] * len(calls)
        if self._group.is_local:
            args = [ray.get(a) if isinstance(a, ray.ObjectRef) else a for a in calls[0]]
            out = getattr(self._group._learner, method)(*args)
            head, *blocks = out if counts[0] else (out,)
            # In the object store, as a remote learner's are: there Ray may spill them to disk.
            return [(head, [ray.put(block) for block in blocks])]
        refs: list[list[ray.ObjectRef]] = []
        for learner, call, count in zip(self._group._workers, calls, counts, strict=True):
            returned = getattr(learner, method).options(num_returns=1 + count).remote(*call)
            refs.append(returned if count else [returned])
        heads = [head for head, *_ in refs]
        pending, timeout = heads, None
        while pending:  # one at a time, so that the first failure is seen at once
            done, pending = ray.wait(pending, timeout=timeout)
            if not done:
                self._end()
                raise LearnerLostError(
                    f"learner {heads.index(pending[0])} of {len(heads)} hangs in {method}(): it is "
                    f"collective_timeout_s={timeout:g} behind the others"
                )
            if failure_of(done[0]) is not None:
                self._fail(method, heads)
            timeout = self._group.config.collective_timeout_s  # that they may be apart
        return [(ray.get(head), blocks) for head, *blocks in refs]

    def save_recovery_point(self, if_none: bool = False) -> None:
        """Keeps the state of now, for new learners to begin from.

        A learner in this process needs none: it ends with the driver.

        Args:
            if_none: Only if there is none, as at the start and after a restore.
        """
        if self._group.is_remote and not (if_none and self._kept):
            n = len(self)
            kept = self.call("get_recovery_state", [(k == 0,) for k in range(n)], [1] * n)
            self._kept = [state for _, [state] in kept]
            self._nodes = {node for node, _ in kept}

    def discard_recovery_point(self) -> None:
        """Lets the kept state go, as another one has been restored."""
        self._kept = None

    def run_phase(self, work: Callable[[], T]) -> T:
        """Does `work`, which changes what learners hold; as `retry_on_learner_loss`."""

        def and_keep() -> T:
            result = work()
            self.save_recovery_point()
            return result

        return self.retry_on_learner_loss(and_keep)

    def retry_on_learner_loss(self, work: Callable[[], T]) -> T:
        """Does `work`, which calls learners; once more by new ones, if some die meanwhile.

        Raises:
            LearnerLostError: They died again, or there is no place for new ones.
            CollectiveError: One did not answer the others within `collective_timeout_s`, twice.
        """
        if self._inside:  # of another one, whose work has to begin again as a whole
            return work()
        self._inside = True
        try:
            return work()
        except (LearnerLostError, CollectiveError, RayActorError) as e:
            # RLlib's own calls raise an actor's death, a learner's or another's.
            of_others = isinstance(e, RayActorError) and e.actor_id not in self._actor_ids()
            if of_others or self._kept is None or not self._replace(e):
                raise
            return work()
        finally:
            self._inside = False

    def _replace(self, why: Exception) -> bool:
        """Builds new learners from the kept state; False if there is no place for them."""
        assert self._kept
        self._end()
        if not self._has_room():
            return False
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        if not self._nodes <= alive:  # with a node went its part of the replay list
            return False
        logger.warning("%s; new learners go on from the end of the last phase", why)
        try:
            self._group = self._build()
            self._ended = False
            self.call("set_recovery_state", [(self._kept[0], own) for own in self._kept])
        except RayError as e:
            self._end()
            raise LearnerLostError(f"{why}, and one of the new ones while it started") from e
        return True

    def _actor_ids(self) -> set[str]:
        return {learner._actor_id.hex() for learner in self._group._workers or ()}

    def _has_room(self) -> bool:
        """Whether as many actors of a learner's needs can start, which Ray would wait for."""
        needs = dict(self._group._backend_executor._resources_per_worker)
        cpus, gpus = needs.pop("CPU"), needs.pop("GPU")
        actor = ray.remote(num_cpus=cpus, num_gpus=gpus, resources=needs)(_Placeholder)
        placeholders = [actor.remote() for _ in range(len(self))]
        starts = [p.ready.remote() for p in placeholders]
        _, waiting = ray.wait(starts, num_returns=len(starts), timeout=_RESOURCE_RELEASE_TIMEOUT_S)
        for placeholder in placeholders:
            ray.kill(placeholder)
        return not waiting

    def _fail(self, method: str, heads: list[ray.ObjectRef]) -> NoReturn:
        """Raises why a call has failed on one learner.

        Learners that wait for the failed one in a collective would do so until it times out.
        """
        _, stuck = ray.wait(heads, num_returns=len(heads), timeout=_FAILURE_REPORT_TIMEOUT_S)
        failures = [(k, failure_of(h)) for k, h in enumerate(heads) if h not in stuck]
        # That of a learner that only lost another one says nothing of why.
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
        """Ends all learners, also one that is only out of reach, and lives on."""
        self._ended = True
        for learner in self._group._workers:
            ray.kill(learner)
        self._group._is_shut_down = True  # nothing is left for it to end


class _Placeholder:
    def ready(self) -> None:
        pass


def failure_of(ref: ray.ObjectRef) -> Exception | None:
    """What the call that returns `ref` has raised, or None; `ref` is there already.

    An error of Ray's own that is no RayTaskError says that the actor died: of itself, its node,
    lack of memory.
    """
    try:
        ray.get(ref)
    except RayTaskError as e:
        # Ray's own errors may be raised in an actor that lives, for an object that is lost, say.
        return e if isinstance(e.cause, RayError) else e.cause
    except RayError as e:
        return e
    return None

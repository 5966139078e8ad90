"""What an env runner returns: T steps of N envs, and a summary for the driver.

Arrays are `[N, T, ...]`, one contiguous row for each env. Minibatches are made of rows and each
learner gets a range of rows, so both are slices and need no copy. A row has K segments.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from ray.rllib.utils.typing import ModuleID, ResultDict

from rllib_ppg.data.episodes import Episode
from rllib_ppg.data.running_moments import Moments


@dataclass
class Rollout:
    """T consecutive steps of N envs.

    Every field but the `final_` ones is a column with one row for each env: `split` moves whatever
    columns there are.

    Attributes:
        obs: Observation that was acted on, `[N, T, ...]`, in the env's dtype.
        actions: Actions as the policy drew them, neither clipped nor unsquashed, `[N, T, ...]`.
        logp: Log-probability of the actions under the policy that drew them, `[N, T]` float32.
        rewards: Raw rewards, `[N, T]` float32.
        terminated: Whether the step ended the episode, `[N, T]` bool. Nothing is bootstrapped.
        truncated: Whether an outside limit ended the episode with this step, `[N, T]` bool.
        valid: False where a NEXT_STEP env used the step to reset, `[N, T]` bool. Such a step is
            no transition: it has no loss and no advantage, and does not count as an env step.
        state_in: State of the policy at each segment's start, `[N, K, D]` float32; D is 0 for
            policies without a memory.
        begins: Whether the first step is also the first of its episode, `[N]` bool.
        stream: (env runner, env, number of the env runner's rollout), `[N, 3]` int. The rows of an
            env follow each other if their numbers do.
        last_obs: Observation after the last step, `[N, ...]`.
        final_obs: Observations that truncated episodes ended on, `[M, ...]`, if the env's next
            observation already belongs to the next episode (SAME_STEP).
        final_index: (row, step) of each of them, `[M, 2]` int.
    """

    obs: np.ndarray
    actions: np.ndarray
    logp: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    valid: np.ndarray
    state_in: np.ndarray
    begins: np.ndarray
    stream: np.ndarray
    last_obs: np.ndarray
    final_obs: np.ndarray
    final_index: np.ndarray

    def __len__(self) -> int:
        """Number of rows, N."""
        return len(self.obs)

    def env_steps(self) -> int:
        """Number of transitions, by the name that RLlib calls it."""
        return int(self.valid.sum())

    def agent_steps(self) -> int:
        """Number of transitions of the one agent, by the name that RLlib calls it."""
        return self.env_steps()

    def first(self) -> np.ndarray:
        """Whether each step is the first of its episode, `[N, T]` bool."""
        return first_steps(self.begins, self.terminated | self.truncated, self.valid)

    def split(self, cuts: Sequence[int]) -> list[Rollout]:
        """The rows between each two neighbouring `cuts`, as views."""
        return [self._rows(*range_) for range_ in pairwise(cuts)]

    def _rows(self, start: int, stop: int) -> Rollout:
        row = self.final_index[:, 0]
        mine = (start <= row) & (row < stop)
        columns: dict[str, Any] = {
            f.name: getattr(self, f.name)[start:stop]
            for f in dataclasses.fields(self)
            if not f.name.startswith("final_")
        }
        return Rollout(
            **columns,
            final_obs=self.final_obs[mine],
            final_index=self.final_index[mine] - np.array([start, 0]),
        )


@dataclass
class ModuleSummary:
    """What the driver reads of a module's rollout.

    Attributes:
        rows: Number of rows for each learner.
        returns: Moments of the discounted returns, for the reward normaliser.
        obs: Moments of the observations, for the observation filter; None without a filter.
    """

    rows: list[int]
    returns: Moments
    obs: Moments | None = None


@dataclass
class RolloutSummary:
    """What the driver reads of what an env runner sampled. The states never enter its memory.

    Attributes:
        metrics: Reduced metrics of the env runner.
        episodes: Episodes that ended during the rollout.
        modules: What it reads of each module's rollout, by the module's id.
    """

    metrics: ResultDict
    episodes: list[Episode]
    modules: dict[ModuleID, ModuleSummary]


@dataclass
class SampledRollout:
    """What one env runner sampled, as the driver holds it.

    Attributes:
        summary: What the driver reads.
        shards: Of each module, the rows of each learner: references to `Rollout`s, or the
            `Rollout`s themselves if the env runner is in this process.
    """

    summary: RolloutSummary
    shards: dict[ModuleID, list[Any]]


def first_steps(begins: np.ndarray, ended: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Whether each step is the first of its episode, `[N, T]` bool.

    After an episode's end a NEXT_STEP env has a step that is not valid, in which it resets.

    Args:
        begins: Whether the first one of each row is, `[N]` bool.
        ended: Whether the step ended its episode, `[N, T]` bool.
        valid: Whether the step is a transition, `[N, T]` bool.
    """
    after = (ended[:, :-1] & valid[:, 1:]) | ~valid[:, :-1]
    return np.concatenate([begins[:, None], after], axis=1)


def as_states(rows: np.ndarray) -> np.ndarray:
    """Rows `[n, T, ...]` as states `[n * T, ...]`; a view."""
    return rows.reshape(-1, *rows.shape[2:])

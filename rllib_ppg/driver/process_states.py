"""States of a run's processes in a checkpoint, besides weights and counters.

For each env runner: its envs, their current observations, and the sums of their unfinished
episodes. For every process: its random numbers. Each has its own file, without pickle.
"""

from __future__ import annotations

import logging
import pathlib

import ray

from rllib_ppg.checkpoint import plain_data, rng_state
from rllib_ppg.driver.env_runner_pool import EnvRunnerPool
from rllib_ppg.driver.learner_pool import LearnerPool

logger = logging.getLogger(__name__)

_DRIVER = "driver.npz"


def save_process_states(
    folder: pathlib.Path, env_runners: EnvRunnerPool, learners: LearnerPool
) -> None:
    """Writes the state of each process into a new folder, one at a time."""
    folder.mkdir()
    plain_data.save(folder / _DRIVER, rng_state.get_state())
    for k, state in enumerate(learners.call_all("get_exact_state")):
        plain_data.save(folder / _learner(k), state)
    for index, [state] in env_runners.call("get_exact_state", num_objects=1):
        state = ray.get(state) if isinstance(state, ray.ObjectRef) else state
        plain_data.save(folder / _env_runner(index), state)


def restore_process_states(
    folder: pathlib.Path,
    env_runners: EnvRunnerPool,
    learners: LearnerPool,
    *,
    num_env_runners: int,
    env_steps: int,
) -> None:
    """Restores what `save_process_states` wrote, for the processes that exist now.

    Env runners without a saved state, or whose envs can't be restored, begin new episodes.

    Args:
        folder: The folder.
        env_runners: Env runners of the run.
        learners: Learners of the run.
        num_env_runners: Number of env runners; 0 for one in this process.
        env_steps: Env steps of the run so far.
    """
    # One state at a time in this process's memory.
    states = {
        index: ray.put(plain_data.load(folder / _env_runner(index)))
        for index in range(1, max(num_env_runners, 1) + 1)
        if (folder / _env_runner(index)).exists()
    }
    restarted = env_runners.call("set_exact_state", states, env_steps)
    reasons = [reason for reason, _ in restarted if reason]
    if reasons:
        logger.warning("%d of %d env runners %s", len(reasons), len(restarted), reasons[0])
    saved = [plain_data.load(file) for file in sorted(folder.glob("learner_*.npz"))]
    # Recurrent states of all rows, whichever learner trains on them now.
    vf_states = [state["vf_states"] for state in saved]
    calls = [(saved[k] if k < len(saved) else None, vf_states) for k in range(len(learners))]
    learners.call("set_exact_state", calls)
    rng_state.set_state(plain_data.load(folder / _DRIVER))


def _learner(k: int) -> str:
    return f"learner_{k:04d}.npz"


def _env_runner(index: int) -> str:
    """`index` starts at 1; an env runner in the driver's process is the first one."""
    return f"env_runner_{index:04d}.npz"

"""What makes a restored run go on as if it had not been stopped, beside weights and counters.

Of each env runner: its envs, what they show, and the sums of their unfinished episodes. Of every
process: its random numbers. Each has a file of its own in the checkpoint, without pickle.
"""

from __future__ import annotations

import logging
import pathlib
from typing import TYPE_CHECKING

import ray

from rllib_ppg.checkpoint import plain_data, rng_state
from rllib_ppg.checkpoint.folder import EXACT

if TYPE_CHECKING:
    from rllib_ppg.ppg import PPG

logger = logging.getLogger(__name__)

_DRIVER = "driver.npz"


def save_exact(algorithm: PPG, checkpoint: pathlib.Path) -> None:
    """Writes the state of each process into the checkpoint's folder, one at a time."""
    folder = checkpoint / EXACT
    folder.mkdir()
    plain_data.save(folder / _DRIVER, rng_state.get_state())
    learners = algorithm._learners.call("get_exact_state", [()] * algorithm._num_learners)
    for k, (state, _) in enumerate(learners):
        plain_data.save(folder / _learner(k), state)
    for index, [state] in algorithm._call_env_runners("get_exact_state", num_objects=1):
        state = ray.get(state) if isinstance(state, ray.ObjectRef) else state
        plain_data.save(folder / _env_runner(index), state)


def load_exact(algorithm: PPG, checkpoint: pathlib.Path) -> None:
    """Restores what `save_exact` wrote, of as many processes as there are now.

    Env runners that it has nothing for, or whose envs can't be restored, begin new episodes.
    """
    folder = checkpoint / EXACT
    # One at a time through this process's memory.
    states = {
        index: ray.put(plain_data.load(folder / _env_runner(index)))
        for index in range(1, max(algorithm.config.num_env_runners, 1) + 1)
        if (folder / _env_runner(index)).exists()
    }
    anew = algorithm._call_env_runners("set_exact_state", states, algorithm._env_steps())
    reasons = [reason for reason, _ in anew if reason]
    if reasons:
        logger.warning("%d of %d env runners %s", len(reasons), len(anew), reasons[0])
    learners = range(algorithm._num_learners)
    files = [folder / _learner(k) for k in learners]
    random_states = [plain_data.load(file) if file.exists() else None for file in files]
    algorithm._learners.call("set_exact_state", [(state,) for state in random_states])
    rng_state.set_state(plain_data.load(folder / _DRIVER))


def _learner(k: int) -> str:
    return f"learner_{k:04d}.npz"


def _env_runner(index: int) -> str:
    """`index` counts from 1; one in the driver's own process is the first."""
    return f"env_runner_{index:04d}.npz"

"""Saves and restores a run: what RLlib saves, the processes' states, and the replay lists."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Callable, Iterable
from typing import Any

from pyarrow import fs

from rllib_ppg.aux_losses.setting import build_aux_losses, replay_columns
from rllib_ppg.checkpoint.folder import (
    EXACT,
    REPLAY,
    check_contents,
    check_networks,
    draft,
    local_copy,
)
from rllib_ppg.checkpoint.replay_files import load_replay, save_replay
from rllib_ppg.config import PPGConfig
from rllib_ppg.data.replay import ReplayList
from rllib_ppg.driver.env_runner_pool import EnvRunnerPool
from rllib_ppg.driver.learner_pool import LearnerPool
from rllib_ppg.driver.module_state import ModuleState
from rllib_ppg.driver.process_states import restore_process_states, save_process_states
from rllib_ppg.networks.rl_module import AUX_HEADS

logger = logging.getLogger(__name__)

Shapes = dict[str, list[int]]  # of parameters and buffers, by name


def save_checkpoint(
    filesystem: fs.FileSystem,
    root: str,
    save_rllib_state: Callable[[pathlib.Path], Any],
    *,
    config: PPGConfig,
    env_runners: EnvRunnerPool,
    learners: LearnerPool,
    modules: Iterable[ModuleState],
) -> None:
    """Writes a checkpoint, which appears at `root` when it is complete.

    Args:
        filesystem: File system of `root`.
        root: Folder of the checkpoint.
        save_rllib_state: Writes RLlib's files into a local folder.
        config: Settings of the run.
        env_runners: Env runners of the run.
        learners: Learners of the run.
        modules: Modules of the run.
    """
    modules = list(modules)
    with draft(filesystem, root) as new:
        save_rllib_state(new.folder)
        learners.call_all("check_saved")
        save_process_states(new.folder / EXACT, env_runners, learners)
        replay = None
        if config.checkpoint_replay:
            replay = {module.id: save_replay(module.replay, new, module.id) for module in modules}
        new.finish(
            replay=replay,
            networks=learners.call_all("network_shapes")[0],
            replay_columns={module.id: _replay_columns(module.config) for module in modules},
            policy_iteration=max(len(module.replay) for module in modules),
            rollout_fragment_length=config.rollout_fragment_length,
        )


def restore_checkpoint(
    filesystem: fs.FileSystem,
    root: str,
    restore_rllib_state: Callable[[str], Any],
    *,
    config: PPGConfig,
    env_runners: EnvRunnerPool,
    learners: LearnerPool,
    modules: Iterable[ModuleState],
    env_steps: Callable[[], int],
) -> None:
    """Restores what `save_checkpoint` wrote.

    Args:
        filesystem: File system of `root`.
        root: Folder of the checkpoint.
        restore_rllib_state: Restores RLlib's files from a local folder, weights included.
        config: Settings of the run.
        env_runners: Env runners of the run.
        learners: Learners of the run.
        modules: Modules of the run.
        env_steps: Returns the env steps of the run, once RLlib's state is restored.

    Raises:
        ValueError: There is no checkpoint at `root`, it is damaged, or it does not fit the run's
            settings. Nothing has changed then.
    """
    modules = list(modules)
    has_aux_phase = any(module.config.has_aux_phase for module in modules)
    wanted = config.checkpoint_replay and has_aux_phase
    manifest = check_contents(filesystem, root, replay=wanted)
    shapes = learners.retry_on_learner_loss(learners.call_all, "network_shapes")[0]
    for module in modules:
        there = manifest["networks"].get(module.id)
        if there is not None:  # not of a module that older checkpoints of it did not train
            check_networks(root, *_without_other_aux_heads(there, shapes[module.id]))
    replays = {module.id: ReplayList(config.n_pi) for module in modules}
    if _has_usable_replay(manifest, config, modules):
        for module_id, replay in replays.items():
            load_replay(
                replay,
                manifest["replay"].get(module_id, []),
                filesystem,
                root,
                manifest["files"],
                len(learners),
                put=learners.store_block,
                compress=config.replay_compression is not None,
            )
    with local_copy(filesystem, root, without=REPLAY) as local:
        restore_rllib_state(local)
        for module in modules:
            module.replay = replays[module.id]
        restore_process_states(
            pathlib.Path(local, EXACT),
            env_runners,
            learners,
            num_env_runners=config.num_env_runners,
            env_steps=env_steps(),
        )


def _replay_columns(config: PPGConfig) -> list[str]:
    return replay_columns(build_aux_losses(config.aux_losses)) if config.has_aux_phase else []


def _without_other_aux_heads(there: Shapes, here: Shapes) -> tuple[Shapes, Shapes]:
    """The shapes of a checkpoint's networks and of the run's, without heads that only one has.

    Heads of auxiliary losses may come and go; the warning says which do.
    """
    differ = {name for name in there.keys() ^ here.keys() if name.split(".")[0] in AUX_HEADS}
    if differ:
        changes = [f"{n} is {'left out' if n in there else 'new'}" for n in sorted(differ)]
        logger.warning("the checkpoint has other aux_losses: %s", ", ".join(changes))
    in_both_or_not_a_head = [
        {name: shape for name, shape in shapes.items() if name not in differ}
        for shapes in (there, here)
    ]
    return in_both_or_not_a_head[0], in_both_or_not_a_head[1]


def _has_usable_replay(
    manifest: dict[str, Any], config: PPGConfig, modules: Iterable[ModuleState]
) -> bool:
    """Whether to restore the replay lists; warns if the states of an open phase are left out."""
    stored = manifest["policy_iteration"]
    if not any(module.config.has_aux_phase for module in modules):
        if stored:
            logger.warning(
                "resuming without the stored states of the checkpoint's phase: these settings have "
                "no auxiliary phases"
            )
        return False
    if manifest["replay"] is None or not config.checkpoint_replay:
        if stored:
            logger.warning(
                "resuming without the stored states of this phase (checkpoint_replay=False): its "
                "%d of n_pi=%d iterations start over",
                stored,
                config.n_pi,
            )
        return False
    lacking = {
        column
        for module in modules
        if module.id in manifest["replay"]  # one that was not trained begins its phase
        for column in _replay_columns(module.config)
        if column not in manifest["replay_columns"].get(module.id, [])
    }
    if lacking:
        if stored:
            logger.warning(
                "resuming without the stored states of this phase, which lack %r for aux_losses: "
                "its %d of n_pi=%d iterations start over",
                min(lacking),
                stored,
                config.n_pi,
            )
        return False
    T = manifest["rollout_fragment_length"]
    if stored and config.rollout_fragment_length != T:
        raise ValueError(
            f"the checkpoint's replay list has rows of {T} steps: resume with "
            f"rollout_fragment_length={T}, not {config.rollout_fragment_length}"
        )
    return True

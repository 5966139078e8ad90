"""A checkpoint with a policy and nothing of its training: what `load_policy` reads."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import ray.cloudpickle as pickle
from pyarrow import fs
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import COMPONENT_ENV_RUNNER
from ray.rllib.core.rl_module.rl_module import RLModule

from rllib_ppg.checkpoint.folder import draft, resolve
from rllib_ppg.evaluation.trained_policy import MODULES, TrainedPolicy

# As a trial's first checkpoint is called, so that `load_policy` finds it in the published folder.
CHECKPOINT = "checkpoint_000000"


def module_folder(policy: TrainedPolicy) -> str:
    """Where RLlib finds the module, in the published folder."""
    return "/".join((CHECKPOINT, *MODULES, policy.module_id))


def write_policy_checkpoint(policy: TrainedPolicy, folder: Path) -> None:
    """Writes the checkpoint into a folder.

    Optimizers, replay lists and states of envs stay out, and so do the callbacks of the training,
    which may know paths of this machine. Of a multi-agent run, all policies are in it.
    """
    filesystem, root = resolve(policy.checkpoint)
    config = policy.config.copy(copy_frozen=False)
    config._env_file = None
    with draft(fs.LocalFileSystem(), str(folder / CHECKPOINT)) as new:
        for info in filesystem.get_file_info(fs.FileSelector(root, recursive=True)):
            name = PurePosixPath(info.path).relative_to(root)
            if info.type == fs.FileType.File and _is_needed(name):
                (new.folder / name.parent).mkdir(parents=True, exist_ok=True)
                with filesystem.open_input_stream(info.path) as source:
                    (new.folder / name).write_bytes(source.read())
        arguments = {"class": config.algo_class, "ctor_args_and_kwargs": ([config.get_state()], {})}
        file = new.folder / Algorithm.CLASS_AND_CTOR_ARGS_FILE_NAME
        file.write_bytes(pickle.dumps(arguments))
        new.finish(replay=None, networks={}, policy_only=True)


def _is_needed(name: PurePosixPath) -> bool:
    if name.parent == PurePosixPath(COMPONENT_ENV_RUNNER):
        return name.name != RLModule.CLASS_AND_CTOR_ARGS_FILE_NAME
    return (
        name.is_relative_to("/".join(MODULES))
        or name.is_relative_to(COMPONENT_ENV_RUNNER)
        or str(name) in (Algorithm.METADATA_FILE_NAME, f"{Algorithm.STATE_FILE_NAME}.pkl")
    )

"""The folder of a published policy.

policy.onnx           the policy as a model that draws actions
play.py               plays the env with it (or act.py, where that needs Ray)
README.md             the model card
config.yaml           the experiment that trains the policy
checkpoint_000000/    the policy for RLlib and `load_policy`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME

from rllib_ppg._version import versions
from rllib_ppg.checkpoint.folder import draft, resolve, versions_of
from rllib_ppg.evaluation.trained_policy import TrainedPolicy
from rllib_ppg.experiments.experiment import Experiment
from rllib_ppg.publishing.model_card import env_name, model_card
from rllib_ppg.publishing.play_script import play_script
from rllib_ppg.publishing.policy_checkpoint import write_policy_checkpoint
from rllib_ppg.publishing.returns import Returns

_PACKAGES = ("ray", "torch", "gymnasium", "numpy", "onnx", "onnxruntime")


def check_folder(folder: Path) -> None:
    """Raises ValueError if there is something at the path of a folder that is to be written."""
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"--out {folder}: there is a folder with files in it; give another name")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder}: there is a file of that name; give another one")


def folder_texts(policy: TrainedPolicy, returns: Sequence[Returns]) -> dict[str, str]:
    """The text files of the folder by name.

    Args:
        policy: The policy.
        returns: What is known of its returns.

    Raises:
        ValueError: The policy can't be played by a script.
    """
    script = play_script(policy)
    # Training may have been done with other versions than the export.
    found = versions(*_PACKAGES) | versions_of(policy.checkpoint)
    return {
        script.name: script.text,
        "README.md": model_card(policy, script, returns, found),
        "config.yaml": _experiment(policy),
    }


def write_policy_folder(
    folder: Path, policy: TrainedPolicy, model: bytes, texts: Mapping[str, str]
) -> None:
    """Writes the folder, which appears when it is complete.

    Args:
        folder: Path of the folder.
        policy: The policy.
        model: The policy as ONNX.
        texts: The text files, from `folder_texts`.
    """
    with draft(*resolve(folder)) as new:
        for name, text in texts.items():
            (new.folder / name).write_text(text)
        (new.folder / "policy.onnx").write_bytes(model)
        write_policy_checkpoint(policy, new.folder)


def _experiment(policy: TrainedPolicy) -> str:
    experiment = Experiment.from_config(
        policy.config,
        name=f"{policy.config.algo_class.__name__}-{env_name(policy)}".replace("/", "_"),
        stop={NUM_ENV_STEPS_SAMPLED_LIFETIME: policy.env_steps} if policy.env_steps else {},
        checkpoint_config={"checkpoint_at_end": True},
    )
    config = {key: x for key, x in experiment.config.items() if not _is_filled_in(key, x, policy)}
    if isinstance(env := config.get("env"), type):
        config["env"] = f"{env.__module__}:{env.__qualname__}"
    _, not_data = replace(experiment, config=config).to_yaml()
    left_out = sorted({name.split(".")[1] for name in not_data})
    kept = {key: value for key, value in config.items() if key not in left_out}
    head = [f"# left out, because they are not data: {', '.join(left_out)}\n"] if left_out else []
    return "".join([*head, replace(experiment, config=kept).to_yaml()[0]])


def _is_filled_in(key: str, value: Any, policy: TrainedPolicy) -> bool:
    """Whether a setting of a checkpoint is one that RLlib, PPG or `load_policy` filled in."""
    if key == "policies":
        return not policy.config.is_multi_agent
    if key == "env_runner_cls":
        return getattr(value, "__module__", "").split(".")[0] in ("ray", "rllib_ppg")
    return key in ("class", "callbacks_class", "simple_optimizer")

"""The model card of a published policy, in the form that the Hugging Face Hub reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import Any

from rllib_ppg.evaluation.scores import Mean
from rllib_ppg.evaluation.trained_policy import TrainedPolicy
from rllib_ppg.experiments.experiment_file import dump_yaml
from rllib_ppg.publishing.play_script import PLAY, Script
from rllib_ppg.publishing.policy_checkpoint import CHECKPOINT, module_folder
from rllib_ppg.publishing.returns import TRAINING_RUN, Returns

_PLAY = """    python play.py                    # samples actions, as in training
    python play.py --deterministic    # takes the most probable actions

The script needs the env, numpy and onnxruntime, and neither Ray nor torch."""
_ACT = """`act.py` has a function `act` that chooses actions with numpy and onnxruntime, and without
Ray and torch. It does not play the env: its first lines say why."""
_UNKNOWN = """They are not known. The checkpoint was not in the folder of its run's results, and no
episodes were played for this card, as `rllib export --episodes N` does."""


def model_card(
    policy: TrainedPolicy,
    script: Script,
    returns: Sequence[Returns],
    versions: Mapping[str, str],
) -> str:
    """The card's text.

    Args:
        policy: The policy.
        script: Its script.
        returns: What is known of its returns.
        versions: Versions of the packages that it was trained or exported with.
    """
    algorithm, env = policy.config.algo_class.__name__, env_name(policy)
    steps = f" for {policy.env_steps:,} env steps" if policy.env_steps else ""
    seed, several = policy.config.seed, policy.config.is_multi_agent
    text = (files(__package__) / "templates" / "README.md").read_text()
    return Template(text).substitute(
        front_matter=dump_yaml(_front_matter(algorithm, env, returns)),
        algorithm=algorithm,
        env=env,
        policy=f"The policy `{policy.module_id}`" if several else "A policy",
        arguments=f'".", module_id="{policy.module_id}"' if several else '"."',
        trained=f"{steps}, {'without a seed' if seed is None else f'with seed {seed}'}",
        returns=_table(returns, several) if returns else _UNKNOWN,
        play=_PLAY if script.name == PLAY else _ACT,
        checkpoint=CHECKPOINT,
        module=module_folder(policy),
        versions="\n".join(f"| {name} | {version} |" for name, version in versions.items()),
    )


def env_name(policy: TrainedPolicy) -> str:
    """The id of the policy's env, or the name of its class."""
    env = policy.config.env
    return env if isinstance(env, str) else str(env.__name__)


def _front_matter(algorithm: str, env: str, returns: Sequence[Returns]) -> dict[str, Any]:
    about = {
        "library_name": "rllib-ppg",
        "pipeline_tag": "reinforcement-learning",
        "tags": [
            env,
            "reinforcement-learning",
            "deep-reinforcement-learning",
            "rllib",
            algorithm.lower(),
            "onnx",
        ],
    }
    if not returns:
        return about
    metrics = [
        {
            "type": "mean_reward",
            "value": _with_deviation(row),
            "name": f"mean return in {row.of}",
            "verified": False,
        }
        for row in returns
    ]
    task = {"type": "reinforcement-learning", "name": "reinforcement-learning"}
    result = {"task": task, "dataset": {"name": env, "type": env}, "metrics": metrics}
    return {**about, "model-index": [{"name": algorithm, "results": [result]}]}


def _table(returns: Sequence[Returns], several: bool) -> str:
    lines = [
        "| episodes of | number | mean return | normalised | seed | actions |",
        "|---" * 6 + "|",
    ]
    for row in returns:
        cells = [
            row.of,
            str(row.episodes),
            _text(row.mean),
            _text(row.normalized) if row.normalized else "",
            "none" if row.seed is None else str(row.seed),
            "sampled" if row.explore else "most probable",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if not any(row.normalized for row in returns):
        lines = [_without_cell(line, 4) for line in lines]
    return "\n".join([*lines, *_notes(returns, several)])


def _notes(returns: Sequence[Returns], several: bool) -> list[str]:
    notes = ["All policies play, and returns are sums over the agents."] if several else []
    if any(row.of == TRAINING_RUN for row in returns):
        notes.append("Those of training are the last ones before the policy was saved.")
    if any(row.mean.std_error is not None for row in returns):
        notes.append("After ± is the mean's standard error.")
    return ["", " ".join(notes)] if notes else []


def _without_cell(line: str, number: int) -> str:
    cells = line.split("|")
    return "|".join(cells[:number] + cells[number + 1 :])


def _text(mean: Mean) -> str:
    return f"{mean.mean:.2f}" + ("" if mean.std_error is None else f" ± {mean.std_error:.2f}")


def _with_deviation(row: Returns) -> str | float:
    """Mean and standard deviation, as the cards of Stable-Baselines3's agents have them."""
    if row.mean.std_error is None:
        return round(row.mean.mean, 2)
    return f"{row.mean.mean:.2f} +/- {row.mean.std_error * math.sqrt(row.episodes):.2f}"

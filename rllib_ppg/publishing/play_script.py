"""Writes the script that plays an exported policy with numpy and onnxruntime.

The networks, the observation filter, masks, and the scaling and clipping of actions are in the
model. What is left to the script depends on the policy's spaces and its env, so each policy gets a
script of its own, with nothing in it that it does not need.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from itertools import count
from string import Template
from textwrap import indent
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from ray.rllib.core.columns import Columns

from rllib_ppg.envs.packed_observations import VECTOR, packing_of, part_spaces
from rllib_ppg.envs.spaces import is_flat
from rllib_ppg.evaluation.onnx import NOISE, state_inputs, state_output
from rllib_ppg.evaluation.onnx_actions import action_heads
from rllib_ppg.evaluation.trained_policy import TrainedPolicy
from rllib_ppg.publishing.script_env import NotPlayable, call, script_env

PLAY, ACT = "play.py", "act.py"


class Script(NamedTuple):
    """A script.

    Attributes:
        name: `PLAY`, or `ACT` if the env can't be played without Ray.
        text: Its text.
    """

    name: str
    text: str


def play_script(policy: TrainedPolicy) -> Script:
    """The script for a policy that was exported with `to_onnx(policy, draws=True)`.

    Raises:
        ValueError: The script can't give the model its observations or states.
    """
    states = _initial_states(policy)
    heads = action_heads(policy.module, policy.config)
    assert heads is not None
    inputs = {**_observation_inputs(policy), NOISE: _noise(heads)}
    names = [*heads.heads, *map(state_output, states)]
    lines = [
        call("inputs = {", [f'"{name}": {code}' for name, code in inputs.items()], "}"),
        f"outputs = policy.run({_names(names)}, inputs{' | state' if states else ''})",
        f"action = {_action(policy.action_space)}",
    ]
    if states:
        lines.append(f"state = dict(zip(state, outputs[{len(heads.heads)}:]))")
    initial = [f'"{n}": np.zeros({s.shape}, "float32")' for n, s in states.items()]
    filled = {"act": indent("\n".join(lines), "    ")}
    try:
        env = script_env(policy)
    except NotPlayable as e:
        filled |= {
            "reason": f"{e}"[:1].upper() + f"{e}"[1:],
            "initial": call("initial_state = {", initial, "}") + "\n" if states else "",
            "arguments": "obs, state=initial_state" if states else "obs",
            "returns": "The action for an observation" + ", and the next state" * bool(states),
            "result": "action, state" if states else "action",
        }
        return Script(ACT, _fill("act", filled))
    filled |= {
        "name": env.name,
        "env": env.code,
        "imports": env.imports,
        "initial": call("state = {", initial, "}") + "\n" if states else "",
    }
    return Script(PLAY, _fill(env.template, filled))


def _fill(template: str, filled: Mapping[str, str]) -> str:
    text = (files(__package__) / "templates" / f"{template}.txt").read_text()
    return Template(text).substitute(filled)


def _names(names: list[str]) -> str:
    return "[" + ", ".join(f'"{name}"' for name in names) + "]"


def _observation_inputs(policy: TrainedPolicy) -> dict[str, str]:
    """Expressions for the model's inputs `[1, ...]`, made of `obs`, by name."""
    space, packing = policy.observation_space, packing_of(policy.module.observation_space)
    if packing is None:
        if is_flat(space):
            return {Columns.OBS: f'np.asarray(obs, "{space.dtype}")[None]'}
        return {Columns.OBS: _vector([(_at(path), part) for path, part in part_spaces(space)])}
    of_path = dict(part_spaces(space))
    inputs = {}
    for name, paths in packing.paths.items():
        if name == VECTOR:
            inputs[name] = _vector([(_at(path), of_path[path]) for path in paths])
        else:
            part = packing.images.get(name) or packing.mask
            assert part is not None
            inputs[name] = f'np.asarray({_at(paths[0])}, "{part.dtype}")[None]'
    return inputs


def _at(path: tuple[Any, ...]) -> str:
    return "obs" + "".join(f"[{json.dumps(key)}]" for key in path)


def _vector(parts: list[tuple[str, gym.Space]]) -> str:
    """Parts of an observation as one vector `[1, d]`, flattened as gymnasium does."""
    flat = [code for at, space in parts for code in _flat(at, space)]
    joined = flat[0] if len(flat) == 1 else f"np.concatenate([{', '.join(flat)}])"
    return f'np.asarray({joined}, "float32")[None]'


def _flat(at: str, space: gym.Space) -> list[str]:
    if isinstance(space, spaces.Discrete):
        return [_one_hot(at, space.n, space.start)]
    if isinstance(space, spaces.MultiDiscrete):
        each = zip(space.nvec.ravel(), space.start.ravel(), strict=True)
        at = at if space.nvec.ndim == 1 else f"np.ravel({at})"
        return [_one_hot(f"{at}[{i}]", n, start) for i, (n, start) in enumerate(each)]
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        return [at if len(space.shape) == 1 else f"np.ravel({at})"]
    raise ValueError(
        f"the script of a folder can't flatten observations of {space}: export the networks as a "
        "file with a name in .onnx"
    )


def _one_hot(at: str, n: int, start: int) -> str:
    return f"np.eye({n})[{at}{f' - {start}' if start else ''}]"


def _initial_states(policy: TrainedPolicy) -> dict[str, np.ndarray]:
    initial = policy.policy_for(policy.config, 0).initial_state
    if initial.any():
        raise ValueError(
            "an exported policy begins an episode with a state of zeros, and this one does not"
        )
    return state_inputs(policy.module, initial[None])


def _noise(heads: Any) -> str:
    draws: list[list[Any]] = []  # of neighbours together
    for head in heads.heads.values():
        if draws and draws[-1][0] == head.noise:
            draws[-1][1] += head.num_noise
        else:
            draws.append([head.noise, head.num_noise])
    codes = [f"rng.{kind}(size=(1, {n}))" for kind, n in draws]
    joined = codes[0] if len(codes) == 1 else f"np.concatenate([{', '.join(codes)}], axis=1)"
    return f'np.asarray(scale * {joined}, "float32")'


def _action(space: gym.Space) -> str:
    """The action that the env takes, made of the model's `outputs`."""
    numbers = count()

    def code(part: gym.Space) -> str:
        if isinstance(part, spaces.Tuple):
            return f"({''.join(f'{code(one)}, ' for one in part.spaces).rstrip(' ')})"
        if isinstance(part, spaces.Dict):  # dm-tree's order
            each = {key: code(part[key]) for key in sorted(part.keys())}
            return f"{{{', '.join(f'{key!r}: {one}' for key, one in each.items())}}}"
        return f"outputs[{next(numbers)}][0]"

    return code(space)

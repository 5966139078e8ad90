"""Methods of RLlib's old API stack that many scripts still call, and what takes their place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

_PREDICT = "load_policy(path).predict(obs), with the path of a checkpoint, chooses actions"
_MODULE = "get_module() returns the networks"
_EXPORT = "`rllib export CHECKPOINT --out model.onnx` writes the networks as an ONNX model"
_INSTEAD = {
    "compute_single_action": _PREDICT,
    "compute_actions": _PREDICT,
    "get_policy": _MODULE,
    "add_policy": "name all policies in .multi_agent(policies=...) before the algorithm is built",
    "remove_policy": "name the policies to train in .multi_agent(policies_to_train=...)",
    "export_policy_model": _EXPORT,
    "export_policy_checkpoint": "save_to_path() writes a checkpoint, and load_policy() reads it",
}


def _method(name: str, instead: str) -> Callable[..., NoReturn]:
    def method(self: object, *args: Any, **kwargs: Any) -> NoReturn:
        raise ValueError(f"{name}() is of RLlib's old API stack: {instead}")

    method.__name__ = name
    method.__doc__ = f"Raises ValueError: {instead}."
    return method


class OldAPI:
    """Says for each of the old methods what to call instead; comes before RLlib's `Algorithm`."""

    @property
    def workers(self) -> NoReturn:
        """Raises AttributeError: `env_runner_group` has the env runners."""
        raise AttributeError("workers is now env_runner_group")

    @property
    def evaluation_workers(self) -> NoReturn:
        """Raises AttributeError: `eval_env_runner_group` has the env runners of evaluations."""
        raise AttributeError("evaluation_workers is now eval_env_runner_group")


for _name, _instead in _INSTEAD.items():
    setattr(OldAPI, _name, _method(_name, _instead))

"""Exports a policy as an ONNX model, and checks that the model computes what the policy does.

The model's input is `obs` `[B, ...]`: observations of the env, flattened if PPG flattens them. If
PPG packs them, their parts are the inputs: images by their names, all else as `vector`, and
`action_mask`. The outputs are `action_dist_inputs` `[B, A]` and, for Discrete and Box actions,
`actions` `[B, ...]`: the most probable actions, as the env takes them. A recurrent policy has its
states as further inputs, `state_in_NAME` `[B, ...]`, and outputs, `state_out_NAME`: for an LSTM `h`
and `c` `[B, 1, H]`. An episode starts from zeros.

A model that draws takes `noise` `[B, ...]` in addition (see `onnx_actions.py`), and has `actions`
of all spaces: `actions_KEY` for each part of a Tuple or Dict.
"""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
import tree
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.rl_module import RLModule
from torch import Tensor, nn

from rllib_ppg import ray_private
from rllib_ppg.envs.packed_observations import MASK, packing_of
from rllib_ppg.evaluation.onnx_actions import ActionHeads, DiscreteHead, action_heads
from rllib_ppg.evaluation.trained_policy import TrainedPolicy
from rllib_ppg.inference.policy import Policy
from rllib_ppg.networks.action_mask import FORBIDDEN
from rllib_ppg.networks.recurrent_state import STATE_IN, STATE_OUT, state_layouts

# More than float32 rounding over a few layers, relative to the largest number or 1.
TOLERANCE = 1e-4
NOISE = "noise"
_LARGEST_BOUND = 1e9  # of observations; a larger one says that there is none
_BATCH_SIZES = (1, 2, 7, 64)


class Parity(NamedTuple):
    """The largest differences between model and policy, relative to the largest number or 1.

    Attributes:
        action_dist_inputs: Difference of the distribution's inputs and of recurrent states.
        actions: Difference of Box actions. For Discrete actions: difference of the logits of the
            policy's action and the model's. None if the model has no actions.
    """

    action_dist_inputs: float
    actions: float | None

    @property
    def is_rounding(self) -> bool:
        """Whether both are below `TOLERANCE`; False for NaN."""
        return all(d <= TOLERANCE for d in self if d is not None)


def to_onnx(policy: TrainedPolicy, *, draws: bool = False) -> bytes:
    """Exports the policy as a serialised ONNX model with a dynamic batch size.

    Args:
        policy: The policy.
        draws: Whether the model draws actions with the noise that it is given.

    Raises:
        ValueError: A package is not installed, or the policy can't be expressed as one network.
    """
    _check_packages()
    _check_policy(policy)
    network = _Network(policy, draws).eval()
    # Traced with a batch of 2, because torch would treat a batch size of 1 as a constant.
    inputs = network.named_inputs(_random_observations(policy.module.observation_space, 2))
    states = state_inputs(policy.module, _random_states(policy.policy_for(policy.config, 0), 2))
    batch = {0: torch.export.Dim("batch")}
    outputs = [Columns.ACTION_DIST_INPUTS, *(network.heads.heads if network.heads else [])]
    outputs += [state_output(name) for name in states]
    inputs |= states
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The tensor attributes")  # of torch's LSTM
        program = torch.onnx.export(
            network,
            tuple(map(torch.from_numpy, inputs.values())),
            input_names=[*inputs],
            output_names=outputs,
            dynamic_shapes={"parts": (batch,) * len(inputs)},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model_proto.SerializeToString()


def compare(model: bytes, policy: TrainedPolicy) -> Parity:
    """Compares the model in onnxruntime with the policy, on random observations without noise."""
    import onnxruntime

    module, acting = policy.module, policy.policy_for(policy.config, seed=0)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    network = _Network(policy, NOISE in [given.name for given in session.get_inputs()])
    of_inputs, of_actions = [], []
    for B in _BATCH_SIZES:
        obs, states = _random_observations(module.observation_space, B), _random_states(acting, B)
        given = network.named_inputs(obs) | state_inputs(module, states)
        of_model = dict(zip(names, session.run(None, given), strict=True))
        with torch.no_grad():
            inputs, states = acting.action_dist_inputs(obs, states, explore=False)
        of_inputs.append(_difference(of_model[Columns.ACTION_DIST_INPUTS], inputs.numpy()))
        for name, state in state_inputs(module, states).items():
            of_inputs.append(_difference(of_model[state_output(name)], state))
        if network.heads is None:
            continue
        most_probable, _ = acting.draw(inputs, explore=False)
        for (name, head), of_head, expected in zip(
            network.heads.heads.items(),
            network.heads.split(inputs.numpy()),
            tree.flatten(acting.for_env(most_probable)),
            strict=True,
        ):
            if isinstance(head, DiscreteHead):
                of_actions.append(_logits_missed(head, of_head, of_model[name]))
            else:
                of_actions.append(_difference(of_model[name], expected))
    return Parity(float(np.max(of_inputs)), float(np.max(of_actions)) if of_actions else None)


class _Network(nn.Module):
    """From observations to actions with operations of torch only, so that it can be traced."""

    def __init__(self, policy: TrainedPolicy, draws: bool):
        super().__init__()
        self.module = module = policy.module
        self.heads: ActionHeads | None = None
        if draws or isinstance(module.action_space, gym.spaces.Discrete | gym.spaces.Box):
            self.heads = action_heads(module, policy.config)
        if draws and self.heads is None:
            name = module.get_inference_action_dist_cls().__name__
            raise ValueError(
                f"a folder's model draws actions, and can't draw from {name}: export the networks "
                "as a file with a name in .onnx"
            )
        self.draws = draws

    def named_inputs(self, obs: np.ndarray) -> dict[str, np.ndarray]:
        """The network's inputs by name, apart from states, without noise."""
        inputs = _parts(self.module, obs)
        if self.draws:
            assert self.heads is not None
            inputs[NOISE] = np.zeros((len(obs), self.heads.num_noise), np.float32)
        return inputs

    def forward(self, *parts: Tensor) -> tuple[Tensor, ...]:
        names = _part_names(self.module)
        parts, rest = parts[: len(names) or 1], parts[len(names) or 1 :]
        noise, states = (rest[0], rest[1:]) if self.draws else (None, rest)
        if not states:
            obs: Any = dict(zip(names, parts, strict=True)) if names else parts[0]
            out = ray_private.forward_inference(self.module, {Columns.OBS: obs})
            return self._outputs(out[Columns.ACTION_DIST_INPUTS], noise)
        parts = tuple(part[:, None] for part in parts)  # sequences of one step
        batch = {
            Columns.OBS: dict(zip(names, parts, strict=True)) if names else parts[0],
            STATE_IN: tree.unflatten_as(self.module.get_initial_state(), states),
        }
        out = ray_private.forward_inference(self.module, batch)
        outputs = self._outputs(out[Columns.ACTION_DIST_INPUTS][:, 0], noise)
        return *outputs, *tree.flatten(out[STATE_OUT])

    def _outputs(self, inputs: Tensor, noise: Tensor | None) -> tuple[Tensor, ...]:
        return inputs, *([] if self.heads is None else self.heads(inputs, noise))


def _random_observations(space: gym.Space, B: int) -> np.ndarray:
    packing = packing_of(space)
    space = _sampled(space if packing is None else packing.space)
    space.seed(B)
    samples = [space.sample() for _ in range(B)]
    if packing is None:
        return np.stack(samples)
    if packing.mask is not None:  # a sample of a Box is none
        n = packing.mask.shape[0]
        for i, sample in enumerate(samples):
            sample[MASK] = (np.arange(n) != i % n).astype(int)
    return np.concatenate([packing.pack(sample, 1) for sample in samples])


def _sampled(space: gym.Space) -> gym.Space:
    """The space without the bounds that are too large to draw between them."""
    if isinstance(space, gym.spaces.Dict):
        return gym.spaces.Dict([(key, _sampled(part)) for key, part in space.items()])
    if isinstance(space, gym.spaces.Tuple):
        return gym.spaces.Tuple([_sampled(part) for part in space])
    if not isinstance(space, gym.spaces.Box) or space.dtype.kind != "f":
        return space
    low = np.where(space.low < -_LARGEST_BOUND, -np.inf, space.low)
    high = np.where(space.high > _LARGEST_BOUND, np.inf, space.high)
    return gym.spaces.Box(low, high, dtype=space.dtype)


def _random_states(policy: Policy, B: int) -> np.ndarray:
    shape = (B, len(policy.initial_state))
    return np.random.default_rng(B).normal(size=shape).astype(np.float32)


def state_inputs(module: RLModule, states: np.ndarray) -> dict[str, np.ndarray]:
    """Recurrent states `[B, D]` as inputs of the model by name; none of other modules."""
    if STATE_IN not in (layouts := state_layouts(module)):
        return {}
    leaves = tree.flatten_with_path(layouts[STATE_IN].unflatten(torch.from_numpy(states)))
    return {"_".join((STATE_IN, *map(str, path))): leaf.numpy() for path, leaf in leaves}


def state_output(name: str) -> str:
    """The model's output that is its input `name` in the next step."""
    return name.replace(STATE_IN, STATE_OUT, 1)


def _parts(module: RLModule, obs: np.ndarray) -> dict[str, np.ndarray]:
    """The model's inputs by name, of observations as the networks get them."""
    packing = packing_of(module.observation_space)
    if packing is None:
        return {Columns.OBS: obs}
    return {
        name: np.ascontiguousarray(part.numpy())
        for name, part in packing.unpack(torch.from_numpy(obs)).items()
    }


def _part_names(module: RLModule) -> list[str]:
    packing = packing_of(module.observation_space)
    return [] if packing is None else packing.names


def _logits_missed(head: DiscreteHead, logits: np.ndarray, actions: np.ndarray) -> float:
    """By how much the logits of actions differ from the largest ones.

    Where two actions are equally good, rounding may decide.
    """
    chosen = np.reshape(actions - head.start.numpy(), (len(logits), -1))
    of_parts = np.split(logits, np.cumsum(head.sizes)[:-1], axis=1)
    rows = np.arange(len(logits))
    return max(
        _difference(part[rows, chosen[:, i]], part.max(1)) for i, part in enumerate(of_parts)
    )


def _difference(a: np.ndarray, b: np.ndarray) -> float:
    forbidden = b <= FORBIDDEN / 2
    if not np.array_equal(a <= FORBIDDEN / 2, forbidden):
        return float("inf")
    a, b = a[~forbidden], b[~forbidden]  # next to forbidden ones, all other logits would be small
    if not a.size:
        return 0.0
    return float(np.abs(a - b).max() / max(1.0, np.abs(b).max()))


def _check_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as e:
        raise ValueError(
            f"the export needs the package {e.name}: pip install 'rllib-ppg[onnx]'"
        ) from e


def _check_policy(policy: TrainedPolicy) -> None:
    module = policy.module
    if not isinstance(module.observation_space, gym.spaces.Box):
        raise ValueError(
            "a policy can be exported if its networks take vectors or images, not observations of "
            f"{module.observation_space}"
        )
    policy.check_networks_suffice()
    acting = policy.policy_for(policy.config, 0)
    obs = _random_observations(module.observation_space, 1)
    with torch.no_grad():
        try:
            acting.action_dist_inputs(obs, acting.initial_state[None], explore=False)
        except KeyError as e:
            name = type(module).__name__
            raise ValueError(f"{name} has no distribution of actions to export") from e

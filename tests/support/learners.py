"""A learner without Ray, rollouts for it, and its two phases called by hand."""

from itertools import pairwise

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.tune.utils import flatten_dict

from rllib_ppg import PPGConfig
from rllib_ppg.data.phase_specs import AuxPhase, PolicyPhase
from rllib_ppg.data.rollout import Rollout
from rllib_ppg.learner import PPGTorchLearner
from rllib_ppg.networks.rl_module import PPGTorchRLModule

OBS, ACT = gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(4)
IMAGES = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)
REAL = gym.spaces.Box(-1, 1, (2,))
LOG_STD = -3.0  # of real actions, as of policies that have trained for long
N, T = 6, 8


def inverted(images, u):
    """An augmentation whose result is easy to compute."""
    return 255 - images


class Float64Module(PPGTorchRLModule):
    """The networks in float64, in which sums hardly depend on their order."""

    def setup(self):
        super().setup()
        self.double()


class SGDLearner(PPGTorchLearner):
    """Every optimiser is SGD with learning rate 1."""

    def configure_optimizers_for_module(self, module_id, config=None):
        super().configure_optimizers_for_module(module_id, config)
        for name, adam in list(self._named_optimizers.items()):
            sgd = torch.optim.SGD(adam.param_groups[0]["params"], lr=1.0)
            self._named_optimizers[name] = sgd
            self._optimizer_parameters[sgd] = self._optimizer_parameters.pop(adam)
            self._optimizer_lr_schedules.pop(adam)


def make_learner(
    cls=PPGTorchLearner,
    obs=OBS,
    act=ACT,
    seed=0,
    gpus=0,
    env_runners=None,
    double=False,
    module_class=None,
    model_config=None,
    **training,
):
    """A learner with small networks.

    Args:
        double: Whether networks, losses and gradients are float64. Only the columns of a rollout,
            advantages and value targets stay float32.
        module_class: Class of the module; None: PPG's own.
        model_config: Further entries of the networks' settings.
    """
    torch.manual_seed(seed)
    settings = {"num_minibatches": 1, "num_aux_minibatches": 1, "gamma": 0.9, "lambda_": 0.8}
    config = (
        PPGConfig()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=1, num_envs_per_env_runner=N, rollout_fragment_length=T)
        .env_runners(**env_runners or {})
        .learners(num_gpus_per_learner=gpus)
        .rl_module(
            model_config={
                "fcnet_hiddens": [16, 16],
                "impala_channels": (4,),
                "impala_dense": 16,
                "free_log_std": act is REAL,
            }
            | (model_config or {})
        )
        .training(**settings | training)
    )
    module_class = Float64Module if double else module_class
    if module_class:
        config.rl_module(rl_module_spec=RLModuleSpec(module_class=module_class))
    spec = config.get_multi_rl_module_spec(spaces={DEFAULT_MODULE_ID: (obs, act)})
    learner = cls(config=config, module_spec=spec)
    learner.build()
    if act is REAL:
        torch.nn.init.constant_(learner.module[DEFAULT_MODULE_ID].pi.log_std, LOG_STD)
    return learner


def without_memory(rows):
    """The columns of a rollout that only recurrent policies need."""
    return {
        "state_in": np.empty((rows, 1, 0), np.float32),
        "begins": np.zeros(rows, bool),
        "stream": np.array([(1, n, 1) for n in range(rows)], np.int64).reshape(-1, 3),
    }


def make_rollout(seed=0, rows=N, obs=OBS, act=ACT):
    """Random steps with episode ends of both kinds, and steps lost to resets."""
    rng = np.random.default_rng(seed)
    terminated = rng.random((rows, T)) < 0.15
    truncated = (rng.random((rows, T)) < 0.15) & ~terminated
    final_index = np.argwhere(truncated)

    def observations(*shape):
        if obs.dtype == np.uint8:
            return rng.integers(0, 256, (*shape, *obs.shape), np.uint8)
        return rng.normal(size=(*shape, *obs.shape)).astype(np.float32)

    if act is ACT:
        actions = rng.integers(0, 4, (rows, T))
        logp = rng.normal(-1.4, 0.2, (rows, T))
    else:  # of a policy whose mean is about 0
        noise = rng.normal(size=(rows, T, 2))
        actions = (noise * np.exp(LOG_STD)).astype(np.float32)
        logp = -0.5 * (noise**2).sum(-1) - np.log(2 * np.pi) - 2 * LOG_STD
        logp += rng.normal(0, 0.2, (rows, T))

    return Rollout(
        obs=observations(rows, T),
        actions=actions,
        logp=logp.astype(np.float32),
        rewards=rng.normal(size=(rows, T)).astype(np.float32),
        terminated=terminated,
        truncated=truncated,
        valid=rng.random((rows, T)) < 0.9,
        **without_memory(rows),
        last_obs=observations(rows),
        final_obs=observations(len(final_index)),
        final_index=final_index,
    )


def policy_phase(learner, *rollouts, reward_scale=None, before=0, env_steps=0, seed=1):
    first = np.cumsum([0, *map(len, rollouts)])
    rows = [np.arange(a, b) for a, b in pairwise(first)]
    phase = PolicyPhase(
        DEFAULT_MODULE_ID,
        seed,
        rows,
        int(first[-1]),
        env_steps_before=before,
        env_steps=env_steps,
        reward_scale=reward_scale,
        rows_per_block=N,
    )
    (metrics, infos), *blocks = learner.policy_phase(phase, *rollouts)
    return peek(metrics), infos, blocks


def aux_phase(learner, infos_and_blocks, epochs=None, rows=None):
    """A whole auxiliary phase over (info, block) pairs, each an iteration of its own.

    With `rows`, `[number of rows]`, all are of one iteration.
    """
    import rllib_ppg.data.replay as replay

    blocks = [(b, 0 if rows else i, info) for i, (info, b) in enumerate(infos_and_blocks)]
    rows = rows or [len(info.rows) for info, _ in infos_and_blocks]
    get, replay.ray.get = (
        replay.ray.get,
        lambda block, timeout=None: block,
    )  # no cluster: blocks by value
    try:
        learner.presleep(AuxPhase(DEFAULT_MODULE_ID, 2, blocks, rows_per_iteration=rows))
        return [
            peek(learner.aux_epoch(DEFAULT_MODULE_ID, e))
            for e in range(epochs or learner.config.e_aux)
        ]
    finally:
        replay.ray.get = get


def phases(learner, *rollouts):
    """A policy phase and an auxiliary phase; all parameters and metrics after them."""
    metrics, infos, blocks = policy_phase(learner, *rollouts)
    rows = [sum(map(len, rollouts))]
    out = aux_phase(learner, list(zip(infos, blocks, strict=True)), rows=rows)
    return parameters(learner), metrics, out


def peek(metrics):
    flat = flatten_dict(metrics[DEFAULT_MODULE_ID], delimiter="/")
    return {key: value.peek() for key, value in flat.items()}


def parameters(learner):
    module = learner.module[DEFAULT_MODULE_ID]
    return {name: p.detach().clone() for name, p in module.named_parameters()}

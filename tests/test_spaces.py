"""All observation and action spaces that PPG takes, in training and in evaluation."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.utils.test_utils import check_train_results_new_api_stack

from rllib_ppg import PPG, PPGConfig
from rllib_ppg.envs.spaces import Actions
from tests.support.envs import AnySpaces

COMPOSITE = Dict(
    move=Discrete(3, start=5),
    aim=Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32)),
    more=Tuple((MultiDiscrete([2, 4]), Discrete(2))),
)


def config_for(observation_space=None, action_space=None, **env_config):
    spaces = {"observation_space": observation_space, "action_space": action_space}
    env_config |= {name: space for name, space in spaces.items() if space is not None}
    return (
        PPGConfig()
        .environment(AnySpaces, env_config=env_config)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=3, rollout_fragment_length=8)
        .rl_module(model_config={"fcnet_hiddens": [8], "impala_channels": (2,), "impala_dense": 8})
        .training(n_pi=1, e_aux=1, num_minibatches=3, num_aux_minibatches=3)
        .evaluation(evaluation_interval=1, evaluation_duration=2)
        .debugging(seed=0)
    )


OBSERVATIONS = {
    "vector": (Box(-1, 1, (3,), np.float64), (3,), np.float64),
    "image": (Box(0, 255, (21, 13, 2), np.uint8), (21, 13, 2), np.uint8),
    "float image": (Box(0, 1, (10, 10, 4), np.float32), (10, 10, 4), np.float32),
    "matrix": (Box(-1, 1, (2, 3), np.float32), (6,), np.float32),
    "number": (Box(-1, 1, (), np.float32), (1,), np.float32),
    "Discrete": (Discrete(7), (7,), np.float32),
    "MultiDiscrete": (MultiDiscrete([3, 4]), (7,), np.float32),
    "MultiBinary": (MultiBinary(5), (5,), np.float32),
    "Dict": (Dict(b=Discrete(3), a=Box(0, 255, (2, 2), np.uint8)), (7,), np.float32),
    "Tuple": (Tuple((Dict(x=Discrete(2)), Box(-1, 1, (3,)))), (5,), np.float32),
}


@pytest.mark.parametrize("name", OBSERVATIONS)
def test_observations(build, tmp_path, name):
    """Train, evaluate, checkpoint, restore: as RLlib tests PPO."""
    space, shape, dtype = OBSERVATIONS[name]
    algo = build(config_for(observation_space=space))
    check_train_results_new_api_stack(algo.train())
    assert algo.get_module().observation_space.shape == shape
    (rollout,) = algo.env_runner.sample(num_timesteps=8)
    assert rollout.obs.shape[2:] == shape and rollout.obs.dtype == dtype
    assert algo.evaluate()["env_runners"]["episode_len_mean"] == 5
    restored = PPG.from_checkpoint(algo.save_to_path(tmp_path / "checkpoint"))
    restored.train()
    restored.stop()


ACTIONS = {
    "Discrete from 5": Discrete(3, start=5),
    "MultiDiscrete": MultiDiscrete([2, 3], start=[4, -1]),
    "Box": Box(np.array([-3.0, 0.0], np.float32), np.array([1.0, 9.0], np.float32)),
    "unbounded Box": Box(-np.inf, np.inf, (2,)),
    "one bound, none, equal ones": Box(
        np.array([0, -np.inf, -1e10, 2]), np.array([np.inf, 3, 1e10, 2]), dtype=np.float64
    ),
    "Tuple": Tuple((Discrete(2), MultiDiscrete([2, 1]), Discrete(1))),
    "Dict": COMPOSITE,
}


@pytest.mark.parametrize("explore", [True, False])
@pytest.mark.parametrize("name", ACTIONS)
def test_actions(build, name, explore):
    """The env refuses what is not of its space: both env runners must give it what is."""
    config = config_for(action_space=ACTIONS[name])
    algo = build(config.evaluation(evaluation_config={"explore": explore}))
    result = algo.train()
    check_train_results_new_api_stack(result)
    assert result["evaluation"]["env_runners"]["episode_len_mean"] == 5


def test_observations_are_flattened_as_gymnasium_flattens_them():
    space, shape, _ = OBSERVATIONS["Dict"]
    from rllib_ppg.envs.vector_env import make_vector_env

    env = make_vector_env(config_for(observation_space=space))
    raw = AnySpaces({"observation_space": space})
    seen, _ = env.reset(seed=3)
    for row, seed in zip(seen, (3, 4, 5), strict=True):  # gymnasium seeds its sub-envs like this
        obs, _ = raw.reset(seed=seed)
        one_hot = np.eye(3)[obs["b"]]
        np.testing.assert_array_equal(row, [*one_hot, *obs["a"].ravel()])
    assert env.single_observation_space.shape == shape


def draw(space, logits):
    """Samples of the policy, as arrays `[B, ...]`, and the distribution."""
    module = config_for(action_space=space).get_rl_module_spec(
        spaces={DEFAULT_MODULE_ID: (Box(-1, 1, (3,)), space)}
    )
    dist = module.build().get_train_action_dist_cls().from_logits(logits)
    sample = dist.sample()
    return sample, dist


def test_logp_and_kl_of_composite_actions_sum_over_components():
    """Against torch's own distributions, taken one by one."""
    torch.manual_seed(0)
    B = 6
    # In the order of sorted keys: aim (mean, log std of 2), more (2 + 4, 2), move (3).
    logits, other = torch.randn(B, 4 + 6 + 2 + 3), torch.randn(B, 4 + 6 + 2 + 3)

    def parts(x):
        mean, log_std, a, b, c, d = x.split([2, 2, 2, 4, 2, 3], dim=1)
        normal = torch.distributions.Normal(mean, log_std.exp())
        return [torch.distributions.Independent(normal, 1)] + [
            torch.distributions.Categorical(logits=logits) for logits in (a, b, c, d)
        ]

    sample, dist = draw(COMPOSITE, logits)
    _, other_dist = draw(COMPOSITE, other)
    aim, (more, last), move = sample["aim"], sample["more"], sample["move"]
    components = [aim, more[:, 0], more[:, 1], last, move]
    expected = sum(p.log_prob(c) for p, c in zip(parts(logits), components, strict=True))

    actions = Actions(COMPOSITE)
    arrays = {"aim": aim.numpy(), "more": (more.numpy(), last.numpy()), "move": move.numpy()}
    packed = actions.pack(arrays)
    assert packed.shape == (B, *actions.shape) == (B, 6)
    torch.testing.assert_close(dist.logp(actions.unpack(torch.from_numpy(packed))), expected)
    kl = sum(
        torch.distributions.kl_divergence(p, q)
        for p, q in zip(parts(logits), parts(other), strict=True)
    )
    torch.testing.assert_close(dist.kl(other_dist), kl)


@pytest.mark.parametrize(
    ("normalized", "clip", "aim"),
    [
        (True, True, [[2.0, 0.25], [-2.0, 1.0]]),  # from [-1, 1] to the bounds
        (False, True, [[2.0, 0.0], [-1.0, 1.0]]),
        (False, False, [[5.0, -0.5], [-1.0, 3.0]]),
    ],
)
def test_actions_for_the_env(normalized, clip, aim):
    drawn = {
        "aim": np.array([[5.0, -0.5], [-1.0, 3.0]], np.float32),
        "more": (np.array([[1, 3], [0, 2]]), np.array([0, 1])),
        "move": np.array([0, 2]),
    }
    out = Actions(COMPOSITE).for_env(drawn, normalized=normalized, clip=clip)
    expected = [[-2.0, 1.0] if normalized else [-1.0, 1.0]]
    np.testing.assert_allclose(out["aim"][:1], aim[:1])
    np.testing.assert_allclose(out["aim"][1:], expected if clip else aim[1:])
    np.testing.assert_array_equal(out["move"], [5, 7])
    np.testing.assert_array_equal(out["more"][0], [[1, 3], [0, 2]])


def test_the_recorded_logp_is_that_of_the_mode_without_exploration(build):
    algo = build(config_for(action_space=COMPOSITE).env_runners(explore=False))
    (rollout,) = algo.env_runner.sample(num_timesteps=8)
    obs = torch.from_numpy(rollout.obs.reshape(-1, 3))
    logits = algo.env_runner.module.forward_inference({Columns.OBS: obs})["action_dist_inputs"]
    packed = rollout.actions.reshape(-1, 6)
    mean, log_std, a, b, c, d = logits.split([2, 2, 2, 4, 2, 3], dim=1)
    mode = torch.stack([*mean.T, *(x.argmax(1) for x in (a, b, c, d))], 1).numpy()
    # Other batch sizes add in another order: up to 64 float32 products of 0.1 or less are summed,
    # so that 64 x 0.1 x 6e-8 = 4e-7 may differ, and in the five terms of logp, of up to 3, a few
    # times 6e-8 x 3.
    np.testing.assert_allclose(packed, mode, rtol=1e-5, atol=1e-6)
    logp = torch.distributions.Normal(mean, log_std.exp()).log_prob(mean).sum(1)
    logp = logp + sum(torch.log_softmax(x, 1).max(1).values for x in (a, b, c, d))
    np.testing.assert_allclose(rollout.logp.ravel(), logp.numpy(), rtol=0, atol=1e-5)
    algo.train()


def test_actions_are_kept_as_the_policy_drew_them():
    """For a Box of float16, too: or the first ratio pi / pi_old would not be 1."""
    drawn = np.array([[0.123456789, -1.1]], np.float32)
    actions = Actions(Box(-2, 2, (2,), np.float16))
    kept = np.empty((1, *actions.shape), actions.dtype)
    kept[:] = actions.pack(drawn)
    np.testing.assert_array_equal(kept, drawn)


def test_an_observation_filter_is_none_for_images():
    """Also where the env, whose observations the config would check, is not looked at."""
    config = config_for().env_runners(observation_filter="MeanStdFilter")
    spec = config.environment(disable_env_checking=True).get_rl_module_spec(
        spaces={DEFAULT_MODULE_ID: (Box(0, 255, (8, 8, 3), np.uint8), Discrete(2))}
    )
    with pytest.raises(ValueError, match="for vectors"):
        spec.build()


def test_gym_registry_envs_with_discrete_observations(build):
    config = config_for().environment(gym.spec("FrozenLake-v1").id, env_config={})
    algo = build(config)
    assert algo.get_module().observation_space.shape == (16,)
    check_train_results_new_api_stack(algo.train())

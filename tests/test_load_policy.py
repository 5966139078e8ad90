"""`load_policy`: it acts as the env runner did, for observations as the env gives them."""

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
import tree
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from ray.rllib.connectors.env_to_module import MeanStdFilter

from rllib_ppg import PPGConfig, load_policy
from rllib_ppg.inference.observations import as_batch
from tests.support.checkpoints import SMALL_CNN, ppo
from tests.support.envs import AnySpaces

COMPOSITE = Dict(
    move=Discrete(3, start=5),
    aim=Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32)),
    more=Tuple((MultiDiscrete([2, 4]), Discrete(2))),
)
CLIPPED = {"normalize_actions": False, "clip_actions": True}
VECTOR = Box(-1, 1, (3,), np.float32)
BOX = Box(np.array([-3.0, 0.0], np.float32), np.array([1.0, 9.0], np.float32))


class Remembers(AnySpaces):
    """Keeps all that it has shown, and the actions that it got."""

    def reset(self, **kwargs):
        obs, info = super().reset(**kwargs)
        self.shown, self.actions = [obs], []
        return obs, info

    def step(self, action):
        obs, *rest = super().step(action)
        self.actions.append(action)
        self.shown.append(obs)
        return obs, *rest


def batched(space, items):
    """Observations or actions of a space as a vector env has them."""
    out = gym.vector.utils.create_empty_array(space, len(items))
    return gym.vector.utils.concatenate(space, items, out)


def assert_equal(a, b):
    tree.map_structure(np.testing.assert_array_equal, a, b)


CASES = {
    "vector": (VECTOR, BOX, {}),
    "float64 and clipped": (Box(-1, 1, (3,), np.float64), BOX, CLIPPED),
    "filter": (
        Box(90, 110, (3,), np.float32),
        Discrete(4),
        {"observation_filter": "MeanStdFilter"},
    ),
    "image": (Box(0, 255, (21, 13, 2), np.uint8), Discrete(3, start=5), {}),
    "matrix": (Box(-1, 1, (2, 3), np.float32), Box(-1, 1, (2,), np.float64), {}),
    "Discrete": (Discrete(7, start=2), MultiDiscrete([2, 3], start=[4, -1]), {}),
    "Dict": (
        Dict(b=Discrete(3), a=Box(0, 255, (2, 2), np.uint8), c=Tuple((VECTOR, MultiBinary(2)))),
        Tuple((Discrete(2), MultiDiscrete([2, 2]))),
        {},
    ),
    "Tuple": (Tuple((MultiDiscrete([3, 4]), Box(-1, 1, (), np.float32))), COMPOSITE, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_it_acts_as_the_env_runner_does(build, tmp_path, case):
    observations, actions, settings = CASES[case]
    config = (
        PPGConfig()
        .environment(Remembers, env_config={"length": 10**6})
        .env_runners(num_env_runners=0, num_envs_per_env_runner=2, rollout_fragment_length=8)
        .rl_module(model_config={"fcnet_hiddens": [8], **SMALL_CNN})
        .training(num_minibatches=1, num_aux_minibatches=1)
        .debugging(seed=0)
    )
    config.env_config |= {"observation_space": observations, "action_space": actions}
    config.update_from_dict(settings)
    algo = build(config)
    algo.train()
    algo.env_runner.sample(num_timesteps=32, explore=False, force_reset=True)
    env = algo.env_runner.env.unwrapped.envs[1].unwrapped
    shown, taken = env.shown[:16], env.actions
    assert len(taken) == 16

    policy = load_policy(algo.save_to_path(str(tmp_path / "checkpoint")))
    assert (policy.observation_space, policy.action_space) == (observations, actions)
    found = [policy.predict(obs, deterministic=True) for obs in shown]
    assert all(actions.contains(action) for action, _ in found)
    assert all(state is None for _, state in found)
    batch, _ = policy.predict(batched(observations, shown), deterministic=True)
    for i, (action, _) in enumerate(found):
        # One row and many may be multiplied in another order.
        tree.map_structure(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), action, taken[i]
        )
        row = tree.map_structure(lambda x, i=i: x[i], batch)
        tree.map_structure(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), row, taken[i])
    sampled, _ = policy.predict(batched(observations, shown))
    rows = gym.vector.utils.iterate(gym.vector.utils.batch_space(actions, 16), sampled)
    assert all(actions.contains(row) for row in rows)


def test_sampled_actions_have_the_policys_probabilities(checkpoint):
    pi = np.array([0.2, 0.5, 0.3])
    spaces = {"action_space": Discrete(3, start=5)}
    policy = load_policy(checkpoint(AnySpaces, spaces, inputs=np.log(pi)))
    N = 20_000
    actions, _ = policy.predict(np.zeros((N, 3), np.float32))
    np.testing.assert_allclose(np.bincount(actions - 5) / N, pi, atol=5 * np.sqrt(0.25 / N))
    actions, _ = policy.predict(np.zeros((N, 3), np.float32), deterministic=True)
    assert set(actions) == {6}
    seen = {int(policy.predict(np.zeros(3))[0]) for _ in range(100)}
    assert seen == {5, 6, 7}


def test_global_seeds_repeat_sampled_actions(checkpoint):
    path = checkpoint("CartPole-v1")

    def sampled():
        np.random.seed(3)
        policy = load_policy(path)
        return policy.predict(np.zeros((50, 4)))[0].tolist()

    assert sampled() == sampled()


def test_without_ray_and_within_a_second(checkpoint):
    """In CPU time, beyond the import of RLlib."""
    path = checkpoint("CartPole-v1")
    code = (
        "import time, ray, ray.rllib\n"
        "start = time.process_time()\n"
        "import rllib_ppg\n"
        f"policy = rllib_ppg.load_policy({path!r})\n"
        "action, state = policy.predict([0.0, 0.1, 0.2, 0.3])\n"
        "print(time.process_time() - start)\n"
        "assert action in (0, 1) and state is None\n"
        "assert not ray.is_initialized()"
    )
    out = subprocess.check_output([sys.executable, "-c", code], text=True, timeout=200)
    assert float(out.split()[-1]) < 1.0


@pytest.mark.parametrize(
    ("space", "obs", "words"),
    [
        (VECTOR, np.zeros(4), ["shape (4,)", "expects (3,), or (B, 3)"]),
        (VECTOR, np.zeros((2, 2, 3)), ["shape (2, 2, 3)"]),
        (VECTOR, np.zeros((0, 3)), ["no observations"]),
        (VECTOR, [[0.0], [0.0, 0.0]], ["dtype object", "float32"]),
        (VECTOR, "left", ["float32"]),
        (VECTOR, None, ["dtype object"]),
        (VECTOR, [0.0, np.nan, 0.0], ["NaN or infinite"]),
        (Box(0, 255, (2, 2, 1), np.uint8), np.zeros((2, 2, 1)), ["float64", "uint8"]),
        (Discrete(3), 3, ["no observation of Discrete(3)"]),
        (Discrete(3), 0.5, ["float64", "int64"]),
        (Dict(a=VECTOR), {"b": np.zeros(3)}, ["keys ['a'], not ['b']"]),
        (Dict(a=VECTOR), np.zeros(3), ["keys ['a'], not ndarray"]),
        (Dict(a=VECTOR), {"a": np.zeros(2)}, ["the observation['a'] has shape (2,)"]),
        (Tuple((VECTOR, Discrete(2))), (np.zeros(3),), ["tuple of 2 parts, not 1"]),
        (
            Tuple((VECTOR, Discrete(2))),
            (np.zeros((2, 3)), 1),
            ["[0] is a batch of 2", "[1] is a single one"],
        ),
    ],
)
def test_other_observations_are_an_error_in_one_sentence(space, obs, words):
    with pytest.raises(ValueError) as e:
        as_batch(space, obs)
    assert "\n" not in str(e.value)
    for word in words:
        assert word in str(e.value), e.value


def test_rllibs_own_policies(checkpoint):
    policy = load_policy(checkpoint("CartPole-v1", config=ppo, inputs=[0.0, 9.0]))
    assert policy.predict(np.zeros(4), deterministic=True)[0] == 1
    with_connector = checkpoint(
        "CartPole-v1",
        config=lambda: ppo().env_runners(
            env_to_module_connector=lambda env, spaces, device: MeanStdFilter()
        ),
    )
    with pytest.raises(ValueError, match="env_to_module_connector"):
        load_policy(with_connector).predict(np.zeros(4))

"""Envs that break gymnasium's contract, and settings of any type: one sentence each.

A sentence names the env runner, the env and what was expected; then the env runner goes on.
"""

import inspect
import warnings

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rllib_ppg import PPGConfig
from rllib_ppg.sampling.env_contract import EnvStepError
from rllib_ppg.sampling.env_runner import BatchedEnvRunner
from tests.support.envs import Counting, NextStepCounting, SameStepCounting

pytestmark = pytest.mark.unit

WRONG_AT = 4  # the step, of an env's life, that the hostile envs go wrong at


def make_runner(env, N=2, **env_config):
    config = (
        PPGConfig()
        .environment(env, env_config=env_config)
        .env_runners(num_env_runners=1, num_envs_per_env_runner=N, rollout_fragment_length=12)
        .training(num_minibatches=1, num_aux_minibatches=1)
        .debugging(seed=0)
    )
    return BatchedEnvRunner(config=config, worker_index=1, num_workers=1)


def sentence_of(runner, error=(ValueError, EnvStepError)):
    """The one sentence in which a fragment ends, the weights as they were."""
    before = runner.module.get_state()
    with pytest.raises(error) as e:
        runner.sample_rollout(1)
    after = runner.module.get_state()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    sentence = str(e.value)
    assert "\n" not in sentence and len(sentence) < 500, sentence
    assert "env runner 1" in sentence and str(runner.config.env) in sentence, sentence
    return sentence


def goes_on(runner):
    """Whether the next fragment is one of new episodes, whole."""
    _, r = runner.sample_rollout(1)
    np.testing.assert_array_equal(r.obs[:, :5, 0], np.tile(np.arange(5.0), (runner.num_envs, 1)))
    assert r.valid[:, :5].all() and r.terminated[:, 4].all() and not r.terminated[:, :4].any()
    assert np.isfinite(r.rewards).all()
    summary, _ = runner.sample_rollout(1)
    assert {(e.length, e.ret) for e in summary.episodes} == {(5, 5.0)}


def wrong(base, call="step", **changes):
    """A class of envs of which one call goes wrong in one way, once, and then never again."""

    class Hostile(base):
        calls = 0

        def step(self, action):
            obs, reward, terminated, truncated, info = super().step(action)
            out = {
                "obs": obs,
                "reward": reward,
                "terminated": terminated,
                "truncated": truncated,
                "info": info,
            }
            return self._changed("step", out)

        def reset(self, **kwargs):
            obs, info = super().reset(**kwargs)
            return self._changed("reset", {"obs": obs, "info": info})

        def _changed(self, name, out):
            if name == call:
                type(self).calls += 1
                if type(self).calls == (WRONG_AT if call == "step" else 1):
                    if "all" in changes:
                        return changes["all"](tuple(out.values()))
                    out |= {key: change(out[key]) for key, change in changes.items()}
            return tuple(out.values())

    return Hostile


def fails(*_):
    raise RuntimeError("the cable\nbroke")


SINGLE = {
    "obs of another shape": ({"obs": lambda x: np.append(x, x)}, ["gymnasium's step", "(2,)"]),
    "obs that is no number": ({"obs": lambda x: "left"}, ["gymnasium's step", "(2,)"]),
    "obs None": ({"obs": lambda x: None}, ["observation"]),
    "obs complex": ({"obs": lambda x: x + 1j}, ["gymnasium's step", "float32", "complex"]),
    "obs infinite in float32": ({"obs": lambda x: x + 1e300}, ["NaN or infinite observation"]),
    "reward NaN": ({"reward": lambda x: float("nan")}, ["NaN or infinite reward", "step 1"]),
    "reward infinite": ({"reward": lambda x: -np.inf}, ["NaN or infinite reward"]),
    "reward None": ({"reward": lambda x: None}, ["reward"]),
    "reward complex": ({"reward": lambda x: 1j}, ["gymnasium's step", "reward", "complex"]),
    "reward of two": ({"reward": lambda x: np.ones(2)}, ["gymnasium's step", "reward"]),
    "reward a word": ({"reward": lambda x: "much"}, ["gymnasium's step", "reward", "much"]),
    "terminated of two": (
        {"terminated": lambda x: np.zeros(2, bool)},
        ["gymnasium's step", "terminated"],
    ),
    "info a list": ({"info": lambda x: [1]}, ["gymnasium's step", "info"]),
    "info None": ({"info": lambda x: None}, ["gymnasium's step", "info"]),
    "four values": ({"all": lambda x: x[:4]}, ["gymnasium's step", "expected 5, got 4"]),
    "obs alone": ({"all": lambda x: x[0]}, ["gymnasium's step", "expected 5"]),
    "nothing": ({"all": lambda x: None}, ["gymnasium's step", "NoneType"]),
    "an error": ({"all": fails}, ["env.step", "failed: RuntimeError: the cable broke"]),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("case", SINGLE)
def test_single_envs(case):
    changes, words = SINGLE[case]
    runner = make_runner(wrong(Counting, **changes))
    sentence = sentence_of(runner)
    for word in words:
        assert word in sentence, sentence
    goes_on(runner)


RESETS = {
    "obs alone": ({"all": lambda x: x[0]}, ["gymnasium's reset(", "info"]),
    "nothing": ({"all": lambda x: None}, ["gymnasium's reset(", "(observation, info)"]),
    "three values": ({"all": lambda x: (*x, 0)}, ["gymnasium's reset(", "expected 2"]),
    "obs of another shape": ({"obs": lambda x: x[:1]}, ["gymnasium's reset(", "(2,)"]),
    "obs NaN": ({"obs": lambda x: x * np.nan}, ["NaN or infinite observation"]),
    "info a list": ({"info": lambda x: [1]}, ["gymnasium's reset(", "info"]),
    "an error": ({"all": fails}, ["env.reset", "failed: RuntimeError: the cable broke"]),
}


@pytest.mark.parametrize("base", [Counting, NextStepCounting])
@pytest.mark.parametrize("case", RESETS)
def test_resets(base, case):
    changes, words = RESETS[case]
    if base is NextStepCounting and case == "obs of another shape":
        changes = {"obs": lambda x: x[:, :1]}
    runner = make_runner(wrong(base, call="reset", **changes))
    sentence = sentence_of(runner)
    for word in words if base is Counting else ():  # gymnasium unpacks what single envs return
        assert word in sentence, sentence
    goes_on(runner)


def test_a_reset_that_takes_no_seed():
    class OldApi(Counting):
        def reset(self):
            return self._obs()

    sentence = sentence_of(make_runner(OldApi))
    assert "is not gymnasium's reset(*, seed, options) -> (observation, info)" in sentence
    assert "unexpected keyword argument 'seed'" in sentence


VECTOR = {
    "obs of one env": ({"obs": lambda x: x[0]}, ["observations of shape (2,)", "shape (2, 2)"]),
    "obs of fewer envs": ({"obs": lambda x: x[:1]}, ["observations of shape (1, 2)"]),
    "obs ragged": ({"obs": lambda x: [[1.0], [1.0, 2.0]]}, ["observations", "shape (2, 2)"]),
    "obs of objects": ({"obs": lambda x: x.astype(object)}, ["dtype object", "numbers"]),
    "obs a dict": ({"obs": lambda x: {"x": x}}, ["observations", "dtype object"]),
    "one reward": ({"reward": lambda x: 1.0}, ["rewards of shape ()", "of shape (2,)"]),
    "rewards of a column": ({"reward": lambda x: x[:, None]}, ["rewards of shape (2, 1)"]),
    "rewards of one env": ({"reward": lambda x: x[:1]}, ["rewards of shape (1,)"]),
    "rewards None": ({"reward": lambda x: None}, ["rewards", "dtype object"]),
    "rewards complex": ({"reward": lambda x: x + 1j}, ["rewards", "complex128", "numbers"]),
    "rewards words": ({"reward": lambda x: ["1", "2"]}, ["rewards", "<U1"]),
    "rewards NaN": ({"reward": lambda x: x * np.nan}, ["NaN or infinite reward from env 0"]),
    "one terminated": ({"terminated": lambda x: False}, ["terminated of shape ()", "booleans"]),
    "terminated real": ({"terminated": lambda x: x * 0.5}, ["terminated", "float64", "booleans"]),
    "truncated None": ({"truncated": lambda x: None}, ["truncated", "object", "booleans"]),
    "truncated of three": ({"truncated": lambda x: [0, 0, 0]}, ["truncated of shape (3,)"]),
    "infos a list": ({"info": lambda x: [{}, {}]}, ["infos of type list, not a dict"]),
    "infos None": ({"info": lambda x: None}, ["infos of type NoneType, not a dict"]),
    "four values": ({"all": lambda x: x[:4]}, ["gymnasium's step", "expected 5, got 4"]),
    "an error": ({"all": fails}, ["env.step", "failed: RuntimeError: the cable broke"]),
}


@pytest.mark.parametrize("N", [1, 2])
@pytest.mark.parametrize("case", VECTOR)
def test_vector_envs(case, N):
    changes, words = VECTOR[case]
    if N == 1 and case in ("obs of fewer envs", "rewards of one env", "obs ragged"):
        pytest.skip("these are right for one env")
    runner = make_runner(wrong(NextStepCounting, **changes), N=N)
    sentence = sentence_of(runner)
    for word in words if N == 2 else ():
        assert word in sentence, sentence
    goes_on(runner)


TAKEN = {
    "obs of float64": {"obs": lambda x: x.astype(np.float64)},
    "obs of integers": {"obs": lambda x: x.astype(np.int64)},
    "obs in lists": {"obs": lambda x: x.tolist()},
    "obs of the other byte order": {"obs": lambda x: x.astype(">f4")},
    "obs read backwards": {"obs": lambda x: x[::-1].copy()[::-1]},
    "obs in columns": {"obs": np.asfortranarray},
    "rewards in a list": {"reward": lambda x: x.tolist()},
    "whole rewards": {"reward": lambda x: x.astype(np.uint8)},
    "ends as 0 and 1": {"terminated": lambda x: x.astype(np.int64), "truncated": lambda x: [0, 0]},
}


@pytest.mark.parametrize("case", TAKEN)
def test_what_is_cast_without_loss_is_taken(case):
    """Rollouts are the same as those of an env that returns what its spaces say."""
    runner = make_runner(wrong(NextStepCounting, **TAKEN[case]))
    other = make_runner(NextStepCounting)
    for _ in range(2):
        (_, a), (_, b) = runner.sample_rollout(1), other.sample_rollout(1)
        for name in ("obs", "actions", "logp", "rewards", "terminated", "valid", "last_obs"):
            x, y = getattr(a, name), getattr(b, name)
            np.testing.assert_array_equal(x, y, name)
            assert x.dtype == y.dtype, name


class Bytes(NextStepCounting):
    """Its observations are bytes, as images are."""

    def __init__(self, config=None):
        super().__init__(config)
        self.single_observation_space = gym.spaces.Box(0, 255, (2,), np.uint8)
        self.observation_space = gym.vector.utils.batch_space(
            self.single_observation_space, self.num_envs
        )

    def reset(self, **kwargs):
        obs, infos = super().reset(**kwargs)
        return obs.astype(np.uint8), infos

    def step(self, actions):
        obs, *rest = super().step(actions)
        return obs.astype(np.uint8), *rest


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_what_bytes_would_lose_is_refused(dtype):
    """Acting sees 0.5, and training would see 0."""
    runner = make_runner(wrong(Bytes, obs=lambda x: (x / 2).astype(dtype)))
    sentence = sentence_of(runner)
    assert f"dtype {np.dtype(dtype)}, not unsigned whole numbers of shape (2, 2)" in sentence
    goes_on(runner)


class Truncates(SameStepCounting):
    """Says how its episodes ended in the way that a test sets."""

    final = staticmethod(lambda obs: list(obs))

    def step(self, actions):
        rows = [e.step(a)[:4] for e, a in zip(self.envs, actions, strict=True)]
        obs, rewards, terminated, truncated = (np.array(x) for x in zip(*rows, strict=True))
        infos = {}
        if truncated.any():
            infos["final_obs"] = self.final(obs)
            obs = np.stack([e.reset()[0] for e in self.envs])
        return obs, rewards, terminated, truncated, infos


def test_final_observations_as_they_should_be():
    _, r = make_runner(Truncates, length=5, end="truncated").sample_rollout(1)
    assert r.final_obs[:, 0].tolist() == [5, 5, 5, 5]


@pytest.mark.parametrize(
    ("final", "words"),
    [
        (lambda obs: [None, None], ["['final_obs'][0]", "dtype object", "shape (2,)"]),
        (lambda obs: [], ["['final_obs'][0]", "shape (2,)"]),
        (lambda obs: None, ["['final_obs'][0]"]),
        (lambda obs: [obs[0, 0], obs[1, 0]], ["['final_obs'][0]", "shape ()"]),
        (lambda obs: obs[:1], ["['final_obs'][1]"]),
        (lambda obs: obs * [[1], [np.nan]], ["NaN or infinite observation from env 1"]),
        (lambda obs: obs.astype(str), ["['final_obs'][0]", "numbers"]),
    ],
)
def test_final_observations_that_are_none(final, words):
    """numpy makes NaN of None: the value of the state that an episode was cut off in."""
    env = type("Final", (Truncates,), {"final": staticmethod(final)})
    sentence = sentence_of(make_runner(env, length=5, end="truncated"))
    for word in words:
        assert word in sentence, sentence


def test_no_final_observations():
    with pytest.raises(ValueError, match="without infos"):
        make_runner(SameStepCounting, length=5, end="truncated").sample_rollout(1)


class OutOfSpace(gym.Env):
    """Its second observation is one that its space does not have."""

    def __init__(self, config=None):
        self.observation_space, self.obs = config["space"], config["obs"]
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.obs, 0.0, False, False, {}


DISCRETE = gym.spaces.Discrete(3, start=1)


@pytest.mark.parametrize(
    ("space", "obs"),
    [
        (DISCRETE, 4),
        (DISCRETE, 0),  # the last place of a one-hot vector, counted from its end
        (gym.spaces.MultiDiscrete([2, 3]), np.array([2, 0])),  # the next number's first place
        (gym.spaces.MultiDiscrete([2, 3]), np.array([0, -1])),
        (gym.spaces.Dict(a=DISCRETE), {"a": -1}),
        (gym.spaces.Tuple((DISCRETE,)), (9,)),
        (gym.spaces.Dict(a=DISCRETE), {"b": 1}),
        (gym.spaces.Tuple((DISCRETE,)), 2),
        (DISCRETE, None),
        (DISCRETE, "a"),
        (DISCRETE, 1.5),
        (DISCRETE, np.array([1, 2])),
    ],
)
def test_an_observation_that_its_space_does_not_have(space, obs):
    runner = make_runner(OutOfSpace, space=space, obs=obs)
    sentence = sentence_of(runner)
    assert "env.step" in sentence and "gymnasium's step" in sentence, sentence
    assert str(space) in sentence, sentence


def test_an_env_that_fails_twice_starts_anew_as_well():
    """The env that was made anew, too, has cut off its episodes."""

    class FailsTwice(Counting):
        steps = 0

        def step(self, action):
            FailsTwice.steps += 1
            if FailsTwice.steps in (4, 6):
                raise RuntimeError("the cable broke")
            return super().step(action)

    runner = make_runner(FailsTwice, N=1)
    runner.config.restart_failed_sub_environments = True
    sentence_of(runner, EnvStepError)
    goes_on(runner)


def test_an_env_whose_reset_fails_is_made_anew_once():
    runner = make_runner(wrong(Counting, call="reset", all=fails))
    runner.config.restart_failed_sub_environments = True
    goes_on(runner)


# -- Settings ------------------------------------------------------------------------------------


def small():
    return (
        PPGConfig()
        .environment("CartPole-v1", disable_env_checking=True)
        .env_runners(num_env_runners=1, num_envs_per_env_runner=8, rollout_fragment_length=32)
        .training(num_minibatches=4, num_aux_minibatches=4)
    )


def refused(key, value, set_=None):
    """Whether a setting is refused, and if so whether in one sentence that names it."""
    config = small()
    try:
        if set_ is None:
            setattr(config, key, value)
        else:
            set_(config, key, value)
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)
            config.validate()
    except ValueError as e:  # and nothing else
        sentence = str(e)
        assert "\n" not in sentence and key.strip("_") in sentence, sentence
        assert len(sentence) < 500, sentence
        return True
    return False


def by_training(config, key, value):
    config.training(**{key: value})


def by_dict(config, key, value):
    config.update_from_dict({key: value})


OWN = sorted({*inspect.signature(PPGConfig.training).parameters} - {"self", "kwargs"})
RLLIBS = ["lr", "gamma", "grad_clip", "minibatch_size", "num_epochs", "train_batch_size", "model"]
RLLIBS += ["optimizer", "train_batch_size_per_learner", "grad_clip_by"]
OTHERS = ["num_env_runners", "num_envs_per_env_runner", "rollout_fragment_length", "seed"]
OTHERS += ["num_learners", "num_gpus_per_learner", "num_cpus_per_env_runner", "explore"]
OTHERS += ["sample_timeout_s", "gym_env_vectorize_mode", "observation_filter", "batch_mode"]
NEVER = [
    "x", "1", -1, -0.5, float("nan"), float("inf"), -float("inf"), 10**400, -(10**5000), 1e308, 1j,
    b"x", (1, 2), [1], [[0, 1e-3], [10, "x"]], [[0, float("nan")], [10, 1]], [[0, 1], [5, -1]],
    [[5, 1], [9, 1]], [[0, 1], [9, 1], [5, 1]], [["a", 1], [2, 3]], [[0, 1e-3]], np.array([1, 2]),
    np.zeros((40, 40)), np.float32("nan"), object(), int, "x" * 10_000, set(), {"a": 1},
]  # fmt: skip


@pytest.mark.parametrize("key", [*OWN, *RLLIBS])
@pytest.mark.parametrize("set_", [by_training, by_dict])
def test_settings_that_nothing_can_be_set_to(key, set_):
    for value in NEVER:
        assert refused(key, value, set_), (key, value)


@pytest.mark.parametrize("key", OTHERS)
def test_other_settings_that_nothing_can_be_set_to(key):
    for value in NEVER:
        assert refused(key, value), (key, value)


@pytest.mark.parametrize("key", ["num_envs_per_env_runner"])
def test_rllibs_own_methods(key):
    for value in NEVER:
        assert refused(key, value, lambda c, k, v: c.env_runners(**{k: v}))


@pytest.mark.parametrize("value", [0, 1, None, "False", np.bool_(True)])
def test_switches_are_true_or_false(value):
    """`"False"` would be True."""
    for key in ("normalize_rewards", "detach_vf_in_aux_phase", "replay_may_spill", "explore"):
        assert refused(key, value)


@pytest.mark.parametrize("value", [True, False, np.int64(4), np.float32(0.5)])
def test_no_number_is_true_or_numpys(value):
    """Which a file of settings does not have; the sentence says so, where `4` is what is seen."""
    for key in ("n_pi", "gamma", "lr", "beta_clone", "segment_length", "seed"):
        assert refused(key, value)
    with pytest.raises(ValueError, match="not 4 of type int64"):
        small().training(n_pi=np.int64(4)).validate()


@pytest.mark.parametrize("seed", [-1, 2**31, 2**32, 2**64, 0.0, True, "0", [0], np.int64(0)])
def test_seeds_that_are_none(seed):
    with pytest.raises(ValueError, match="seed is None or a whole number from 0 to") as e:
        small().debugging(seed=seed).validate()
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("seed", [0, 2**31 - 1])
def test_seeds_at_the_ends_of_their_range(seed):
    """Also with what env runners and evaluation add to them."""
    config = small().debugging(seed=seed).evaluation(evaluation_interval=1)
    config.validate()
    for one in (config, config.get_evaluation_config_object()):
        runner = one.env_runner_cls(config=one, worker_index=10_000, num_workers=10_000)
        runner.sample(num_timesteps=4, random_actions=True)
        runner.stop()


def test_schedules():
    for key in ("lr", "aux_lr", "entropy_coeff"):
        for schedule in ([[0, 1e-3], [1e6, 0]], ((0, 1), (5, 1), (5, 0.5))):
            assert not refused(key, schedule, by_training)


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=3)
    | st.complex_numbers()
    | st.sampled_from([np.float32(1), np.int8(1), np.ones(2), 2**63, 10**400, int]),
    lambda x: st.lists(x, max_size=3) | st.tuples(x, x) | st.dictionaries(st.text(max_size=3), x),
    max_leaves=4,
)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.sampled_from([*OWN, *RLLIBS, *OTHERS]), ANYTHING)
def test_any_setting_of_anything(key, value):
    refused(key, value)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.dictionaries(st.sampled_from(OWN), ANYTHING, min_size=2, max_size=4))
def test_several_settings_of_anything(training):
    config = small()
    try:
        config.training(**training).validate()
    except ValueError as e:
        assert "\n" not in str(e)

"""Several agents: a module each or one for all, turns, agents that come and go, resume."""

import re

import numpy as np
import onnxruntime
import pytest
import ray
from gymnasium.spaces import Box, Dict, Discrete
from pettingzoo import ParallelEnv
from pettingzoo.utils.conversions import parallel_to_aec
from PIL import Image, ImageSequence
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv, PettingZooEnv
from ray.rllib.examples.envs.classes.multi_agent import MultiAgentCartPole
from ray.tune.registry import register_env

from rllib_ppg import PPG, PPGConfig, load_policy
from rllib_ppg.learner import PPGTorchLearner
from rllib_ppg.networks.rl_module import PPGTorchRLModule
from rllib_ppg_cli import main
from tests.support.learners import Float64Module

STILL = {"lr": 1e-12, "aux_lr": 1e-12}  # the policy in training stays the one that acted
CAMERA = Dict({"camera": Box(0, 255, (6, 6, 3), np.uint8), "speed": Box(-1, 1, (2,))})


class Team(MultiAgentEnv):
    """A runner from the start to step 8, and a helper from step 2 to 5, where it is truncated.

    Each observation of the runner is the step; the helper has a camera, which shows it.
    """

    def __init__(self, config=None):
        super().__init__()
        self.agents = self.possible_agents = ["runner", "helper"]
        self.observation_spaces = {"runner": Box(0, 10, (1,)), "helper": CAMERA}
        self.action_spaces = {"runner": Discrete(3, start=1), "helper": Box(-1, 1, (2,))}

    def _observe(self):
        obs = {"runner": np.array([self.t], np.float32)}
        if 2 <= self.t <= 5:
            picture = np.full((6, 6, 3), self.t, np.uint8)
            obs["helper"] = {"camera": picture, "speed": np.full(2, 0.1 * self.t, np.float32)}
        return obs

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self._observe(), {}

    def step(self, actions):
        assert actions["runner"] in (1, 2, 3)
        self.t += 1
        obs = self._observe()
        rewards = {agent: 10.0 if agent == "helper" else 1.0 for agent in obs}
        done = self.t == 8
        return obs, rewards, {"__all__": done}, {"helper": self.t == 5, "__all__": False}, {}


class Turns(MultiAgentEnv):
    """Two players act in turn; after each action both get a reward of 1."""

    def __init__(self, config=None):
        super().__init__()
        self.agents = self.possible_agents = ["first", "second"]
        self.observation_spaces = dict.fromkeys(self.agents, Box(0, 100, (1,)))
        self.action_spaces = dict.fromkeys(self.agents, Discrete(2))

    def _observe(self):
        return {self.agents[self.t % 2]: np.array([self.t], np.float32)}

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return self._observe(), {}

    def step(self, actions):
        assert list(actions) == [self.agents[self.t % 2]]
        self.t += 1
        rewards = dict.fromkeys(self.agents, 1.0)
        return self._observe(), rewards, {"__all__": self.t == 20}, {"__all__": False}, {}


def of_its_own(agent, *args, **kwargs):
    return str(agent)


def shared(agent, *args, **kwargs):
    return "all"


def config_of(env, policies, mapping=of_its_own, **multi_agent):
    return (
        PPGConfig()
        .environment(env, env_config={"num_agents": 2} if env is MultiAgentCartPole else {})
        .multi_agent(policies=policies, policy_mapping_fn=mapping, **multi_agent)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=4, rollout_fragment_length=16)
        .rl_module(model_config={"fcnet_hiddens": [8], "impala_channels": (4,)})
        .training(n_pi=2, e_aux=2, num_minibatches=2, num_aux_minibatches=2)
        .debugging(seed=0)
    )


def of_modules(result, name):
    return {m: x[name] for m, x in result["learners"].items() if name in x}


@pytest.mark.parametrize(
    ("env", "policies", "mapping", "model_config"),
    [
        (Team, {"runner", "helper"}, of_its_own, {}),
        (Turns, {"first", "second"}, of_its_own, {}),
        (Turns, {"all"}, shared, {}),
        (MultiAgentCartPole, {"0", "1"}, of_its_own, {"use_lstm": True, "lstm_cell_size": 8}),
    ],
    ids=["come and go", "turns", "one module", "memory"],
)
def test_learners_train_on_what_modules_acted_on(build, env, policies, mapping, model_config):
    config = config_of(env, policies, mapping).training(**STILL)
    config.rl_module(model_config={"fcnet_hiddens": [8], "impala_channels": (4,), **model_config})
    algo = build(config)
    for _ in range(2):
        result = algo.train()
        assert of_modules(result, "approx_kl").keys() == policies
        assert max(of_modules(result, "approx_kl").values()) < 1e-10
    assert of_modules(result, "aux").keys() == policies  # on one clock
    assert all(abs(aux["clone_kl"]) < 1e-6 for aux in of_modules(result, "aux").values())
    assert result["ppg"]["num_aux_phases_lifetime"] == 1


@pytest.mark.parametrize("fragment", [1, 3, 5])
def test_no_step_is_lost_where_rollouts_end(build, fragment):
    """An agent that acts last before a rollout's end has its last step in a later one."""
    config = config_of(Turns, {"first", "second"})
    config.env_runners(num_envs_per_env_runner=1, rollout_fragment_length=fragment)
    runner = build(config).env_runner
    steps, ends, total = 0, 0, 0.0
    while steps < 20 * 3:
        _, *rollouts = runner.sample_rollout(1, 0, ["first", "second"])
        steps += sum(r.valid.sum() for r in rollouts)
        ends += sum(r.terminated.sum() for r in rollouts)
        total += sum(r.rewards.sum() for r in rollouts)
    # Of 40 rewards of an episode, one comes before the second agent's first observation.
    assert (steps, ends, total) == (20 * 3, 2 * 3, 39.0 * 3)


class Duel(Turns):
    """The one who acts last gets the only reward."""

    def step(self, actions):
        obs, _, terminated, truncated, info = super().step(actions)
        (mover,) = actions
        return obs, {mover: float(terminated["__all__"])}, terminated, truncated, info


def test_an_evaluation_counts_the_last_step(build, tmp_path, quiet, capsys):
    algo = build(config_of(Duel, {"first", "second"}))
    path = algo.save_to_path(str(tmp_path / "checkpoint"))
    assert main(["evaluate", path, "--episodes", "3"]) == 0
    assert re.search(r"^return +1.000", capsys.readouterr().out, re.MULTILINE)


class TimeLimit(Turns):
    """Both act at once, until a limit of time."""

    def _observe(self):
        return dict.fromkeys(self.agents, np.array([self.t], np.float32))

    def step(self, actions):
        self.t += 1
        never, limit = {"__all__": False}, {"__all__": self.t == 5}
        return self._observe(), dict.fromkeys(self.agents, 1.0), never, limit, {}


class TimeLimitOfEach(TimeLimit):
    """Says of each agent that it is truncated, as PettingZoo's envs do; the first dies at 2."""

    def step(self, actions):
        obs, _, _, limit, infos = super().step(actions)
        alive = self.agents if self.t <= 2 else ["second"]
        dead = {"first": self.t == 2, "second": False, "__all__": False}
        limits = {**dict.fromkeys(alive, limit["__all__"]), **limit}
        return {a: obs[a] for a in alive}, {a: 1.0 for a in alive}, dead, limits, infos


def test_a_time_limit_of_each_agent_is_no_death(build):
    config = config_of(TimeLimitOfEach, {"first", "second"})
    _, first, second = build(config).env_runner.sample_rollout(1, 0, ["first", "second"])
    assert first.terminated.sum() == 12 and not second.terminated.any()
    assert second.truncated.sum() >= 12
    assert (second.final_obs == 5).sum() == 12


class Halved(ConnectorV2):
    """A user's connector, which changes what modules get and not the episodes."""

    def __call__(self, *, batch, episodes, **kwargs):
        for episode in self.single_agent_episode_iterator(episodes):
            self.add_batch_item(batch, "obs", episode.get_observations(-1) / 2, episode)
        return batch


def test_connectors_see_the_observations_that_are_bootstrapped_from(build):
    config = config_of(TimeLimit, {"first", "second"})
    config.env_runners(env_to_module_connector=lambda *_, **__: Halved())
    runner = build(config).env_runner
    _, *rollouts = runner.sample_rollout(1, 0, ["first", "second"])
    for r in rollouts:
        assert len(r.final_obs) >= 12
        for (n, t), final in zip(r.final_index, r.final_obs, strict=True):
            assert final == r.obs[n, t] + 0.5
        assert set(r.obs[r.valid].ravel()) == {0.0, 0.5, 1.0, 1.5, 2.0}


class Breaks(Turns):
    def step(self, actions):
        obs, rewards, *rest = super().step(actions)
        if self.t == 7:
            raise OSError("the cable broke")
        return obs, rewards, *rest


class NotANumber(Turns):
    def step(self, actions):
        obs, rewards, *rest = super().step(actions)
        return obs, dict.fromkeys(rewards, np.nan), *rest


@pytest.mark.parametrize(
    ("env", "error", "message"),
    [
        (Breaks, RuntimeError, r"env.step of env runner 0 .* failed: OSError: the cable broke"),
        (NotANumber, ValueError, r"NaN or infinite reward of agent \w+ from env runner 0"),
    ],
)
def test_envs_that_fail_are_named(build, env, error, message):
    algo = build(config_of(env, {"first", "second"}))
    with pytest.raises(error, match=message):
        algo.train()


def test_a_restored_run_does_not_repeat_its_first_episodes(build, tmp_path):
    algo = build(config_of(MultiAgentCartPole, {"0", "1"}))
    _, first, _ = algo.env_runner.sample_rollout(1, 0, ["0", "1"])
    algo.train()
    other = PPG.from_checkpoint(algo.save_to_path(str(tmp_path / "checkpoint")))
    try:
        _, again, _ = other.env_runner.sample_rollout(1, 100, ["0", "1"])
        assert not np.array_equal(first.obs[:, 0], again.obs[:, 0])
    finally:
        other.stop()


def test_a_mapping_may_look_at_the_episode(build):
    config = config_of(
        MultiAgentCartPole, {"0", "1"}, lambda agent, episode, **_: str(hash(episode.id_) % 2)
    )
    assert build(config).train()["num_env_steps_sampled_lifetime"] >= 64


def rollouts_of(build, env, policies):
    config = config_of(env, policies).env_runners(rollout_fragment_length=50)
    runner = build(config).env_runner
    summary, *rollouts = runner.sample_rollout(1, 0, sorted(policies))
    assert [x.rows for x in summary.modules.values()] == [[len(r)] for r in rollouts]
    return dict(zip(sorted(policies), rollouts, strict=True))


def test_an_agent_that_is_truncated_while_others_act(build):
    rollouts = rollouts_of(build, Team, {"runner", "helper"})
    helper, runner = rollouts["helper"], rollouts["runner"]
    assert runner.valid.sum() == 4 * 50 and helper.valid.sum() == 4 * (6 * 3)
    assert set(helper.rewards[helper.valid]) == {10.0}
    assert not helper.terminated.any() and runner.terminated.any()
    pictures = helper.obs[..., 0]  # the first byte is one of the camera
    assert set(pictures[helper.valid]) == {2, 3, 4}
    for (n, t), final in zip(helper.final_index, helper.final_obs, strict=True):
        assert final[0] == pictures[n, t] + 1
    assert 5 in helper.final_obs[:, 0]


def test_rewards_sum_up_until_an_agents_next_turn(build):
    for name, r in rollouts_of(build, Turns, {"first", "second"}).items():
        steps = r.obs[..., 0][r.valid]
        assert set(steps % 2) == ({0.0} if name == "first" else {1.0})
        last = r.terminated[r.valid]
        # The reward of its own action and of the other's, but at the end there is no other.
        rewards = r.rewards[r.valid]
        assert set(rewards[~last]) == {2.0}
        assert set(rewards[last]) == ({2.0} if name == "first" else {1.0})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"overrides": {"0": {"e_pi": -1}}}, "e_pi is a whole number of at least 1"),
        ({"overrides": {"0": {"gamma": 0.5}}}, "gamma is the same for all modules"),
        ({"overrides": {"zero": {"e_pi": 1}}}, "names 'zero', which is no policy"),
        ({"policies_to_train": []}, "policies_to_train names none of the policies"),
    ],
)
def test_wrong_settings_of_modules_are_refused(changes, words):
    overrides = changes.pop("overrides", {})
    config = config_of(
        MultiAgentCartPole,
        {"0", "1"},
        algorithm_config_overrides_per_module=overrides,
        **changes,
    )
    with pytest.raises(ValueError, match=words):
        config.validate()


def test_settings_of_modules_in_a_frozen_config():
    config = config_of(
        MultiAgentCartPole,
        {"0", "1"},
        algorithm_config_overrides_per_module={"0": {"lr": 0.5}},
    )
    config.freeze()
    assert config.get_config_for_module("0").lr == 0.5
    assert config.get_config_for_module("1").lr == config.lr
    assert PPG.default_resource_request(config)


def test_modules_have_settings_of_their_own(build):
    overrides = {
        "0": PPGConfig.overrides(lr=0.0, e_aux=0),
        "1": PPGConfig.overrides(arch="shared", aux_losses={"value": 1.0, "reward": 1.0}),
    }
    config = config_of(
        MultiAgentCartPole, {"0", "1"}, algorithm_config_overrides_per_module=overrides
    )
    algo = build(config)
    before = {m: algo.get_module(m).get_state() for m in "01"}
    for _ in range(2):
        result = algo.train()
    assert algo.get_module("1").arch == "shared"
    assert of_modules(result, "aux").keys() == {"1"}
    assert "reward_loss" in of_modules(result, "aux")["1"]
    assert len(algo.modules["0"].replay) == 0  # it stores nothing
    moved = {
        m: any((before[m][k] != w).any() for k, w in algo.get_module(m).get_state().items())
        for m in "01"
    }
    assert moved == {"0": False, "1": True}


def test_modules_that_are_not_trained_stay_as_they_are(build):
    algo = build(config_of(MultiAgentCartPole, {"0", "1"}, policies_to_train=["1"]))
    before = algo.get_module("0").get_state()
    result = [algo.train() for _ in range(2)][-1]
    assert of_modules(result, "aux").keys() == {"1"}
    for name, w in algo.get_module("0").get_state().items():
        np.testing.assert_array_equal(w, before[name])


RATES = []


class NotesRates(PPGTorchLearner):
    def policy_and_value_loss(self, module, batch):
        [group] = self.get_optimizer(module.id).param_groups
        RATES.append((module.id, round(float(group["lr"]), 6)))
        return super().policy_and_value_loss(module, batch)


def test_all_modules_have_the_learning_rate_of_their_iteration(build):
    config = config_of(MultiAgentCartPole, {"0", "1"})
    schedule = [[0, 0.4], [4 * 64, 0.0]]
    algo = build(config.training(lr=schedule, aux_lr=0.1, learner_class=NotesRates))
    RATES.clear()
    before = 0
    for _ in range(3):
        rate = round(0.4 * (1 - before / 256), 6)
        before = algo.train()["num_env_steps_sampled_lifetime"]
        assert {*RATES} == {("0", rate), ("1", rate)}
        RATES.clear()


def test_a_policy_that_stood_still_may_train_after_a_restore(build, tmp_path):
    algo = build(config_of(MultiAgentCartPole, {"0", "1"}, policies_to_train=["1"]))
    algo.train()
    path = algo.save_to_path(tmp_path / "checkpoint")
    other = build(config_of(MultiAgentCartPole, {"0", "1"}))
    other.restore_from_path(path)
    assert [len(other.modules[m].replay) for m in "01"] == [0, 1]  # "0" begins a phase
    for m in "01":
        for name, w in algo.get_module(m).get_state().items():
            np.testing.assert_array_equal(other.get_module(m).get_state()[name], w)
    assert of_modules(other.train(), "approx_kl").keys() == {"0", "1"}


def test_a_policy_can_be_added_if_it_only_acts(build):
    algo = build(config_of(MultiAgentCartPole, {"0", "1"}))
    module = algo.get_module("0")
    spec = RLModuleSpec(
        module_class=PPGTorchRLModule,
        observation_space=module.observation_space,
        action_space=module.action_space,
        model_config=dict(module.model_config),
    )
    with pytest.raises(ValueError, match="trains the policies that it was built with"):
        algo.add_module("past", spec)
    with pytest.raises(ValueError, match="'0' is trained"):
        algo.remove_module("0")
    algo.add_module(
        "past",
        spec,
        new_agent_to_module_mapping_fn=lambda agent, *args, **kwargs: ("0", "past")[agent],
        new_should_module_be_updated=["0", "1"],
    )
    before = algo.get_module("past").get_state()
    acted = algo.train()["env_runners"]["num_module_steps_sampled"]
    assert acted["past"] > 0
    for name, w in algo.get_module("past").get_state().items():
        np.testing.assert_array_equal(w, before[name])


def test_a_module_without_agents_trains_nothing_and_breaks_nothing(build, caplog):
    config = config_of(Team, {"runner", "helper"})
    config.env_runners(num_envs_per_env_runner=1, rollout_fragment_length=2)
    algo = build(config)
    result = algo.train()  # two steps: the helper has not acted yet
    assert of_modules(result, "approx_kl").keys() == {"runner"}
    assert "runner has 1 segments in this iteration, fewer than num_minibatches=2" in caplog.text
    for _ in range(3):
        result = algo.train()
    assert of_modules(result, "aux").keys() == {"runner", "helper"}


def test_two_learners_do_what_one_does(build):
    def weights(num_learners):
        config = config_of(MultiAgentCartPole, {"0", "1"}).learners(num_learners=num_learners)
        spec = RLModuleSpec(module_class=Float64Module, model_config={"fcnet_hiddens": [8]})
        algo = build(config.rl_module(rl_module_spec=spec))
        for _ in range(2):
            algo.train()
        return algo.learner_group.get_weights()

    one, two = weights(0), weights(2)
    for module_id in "01":
        for name, w in one[module_id].items():
            np.testing.assert_allclose(two[module_id][name], w, rtol=1e-6, atol=1e-8)


def test_a_run_resumes_within_a_phase(build, tmp_path):
    algo = build(config_of(Team, {"runner", "helper"}).training(n_pi=3))
    for _ in range(2):
        algo.train()
    path = algo.save_to_path(str(tmp_path / "checkpoint"))
    other = PPG.from_checkpoint(path)
    try:
        for module_id, module in algo.modules.items():
            restored = other.modules[module_id]
            assert restored.replay.rows_per_iteration() == module.replay.rows_per_iteration()
            assert restored.reward_norm.moments == module.reward_norm.moments
            a, b = algo.get_module(module_id).get_state(), other.get_module(module_id).get_state()
            assert all((a[name] == b[name]).all() for name in a)
        assert other.train()["ppg"]["num_aux_phases_lifetime"] == 1
    finally:
        other.stop()


def test_evaluation_and_a_users_module(build):
    class Mine(PPGTorchRLModule):
        pass

    spec = RLModuleSpec(module_class=Mine, model_config={"fcnet_hiddens": [8]})
    config = config_of(MultiAgentCartPole, {"0", "1"}).rl_module(rl_module_spec=spec)
    config.evaluation(evaluation_interval=1, evaluation_duration=4)
    result = build(config.env_runners(rollout_fragment_length=64)).train()
    assert result["evaluation"]["env_runners"]["episode_return_mean"] > 10
    assert result["env_runners"]["module_episode_returns_mean"].keys() == {"0", "1"}


def test_agents_of_one_module_have_the_same_spaces():
    config = config_of(Team, {"all"}, shared)
    with pytest.raises(ValueError, match="agents of the module 'all' have different spaces"):
        config.validate()


@pytest.fixture(scope="module")
def trained(build_for_module, tmp_path_factory):
    algo = build_for_module(config_of(MultiAgentCartPole, {"0", "1"}))
    algo.train()
    return algo.save_to_path(str(tmp_path_factory.mktemp("trained") / "checkpoint"))


def test_a_chosen_policy_predicts_and_is_exported(trained, tmp_path, quiet, capsys):
    with pytest.raises(ValueError, match="has the policies 0, 1: name one"):
        load_policy(trained)
    with pytest.raises(ValueError, match="'2' is none of them"):
        load_policy(trained, module_id="2")
    out = tmp_path / "policy.onnx"
    assert main(["export", trained, "--module-id", "1", "--out", str(out)]) == 0
    obs = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    actions, _ = load_policy(trained, module_id="1").predict(obs, deterministic=True)
    session = onnxruntime.InferenceSession(str(out))
    np.testing.assert_array_equal(session.run(["actions"], {"obs": obs})[0], actions)


@pytest.mark.long
def test_a_chosen_policy_is_published(trained, tmp_path, quiet, rllib):
    folder = tmp_path / "published"
    words = ("--module-id", "1", "--episodes", "2", "--out", folder)
    ended = rllib("export", trained, *words)
    assert ended.returncode == 0, ended.stderr
    assert "act(obs" in (folder / "act.py").read_text()
    card = (folder / "README.md").read_text()
    assert "The policy `1` for" in card and "sums over the agents" in card
    assert 'load_policy(".", module_id="1")' in card
    assert (
        "# left out, because they are not data: policy_mapping_fn"
        in (folder / "config.yaml").read_text()
    )
    obs = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    expected, _ = load_policy(trained, module_id="1").predict(obs, deterministic=True)
    actions, _ = load_policy(folder, module_id="1").predict(obs, deterministic=True)
    np.testing.assert_array_equal(actions, expected)


def test_all_policies_play_in_an_evaluation(trained, quiet, capsys):
    assert main(["evaluate", trained, "--episodes", "6"]) == 0
    [mean] = re.findall(r"^return +([\d.]+)", capsys.readouterr().out, re.MULTILINE)
    assert 20 < float(mean) < 200  # of two untrained agents


class Matching(ParallelEnv):
    """A PettingZoo env: both see a coin, and get 1 each if both name it. Ten coins an episode."""

    metadata = {"name": "matching"}  # noqa: RUF012 (PettingZoo's way)
    possible_agents = ("a", "b")

    def observation_space(self, agent):
        return Box(0, 1, (2,))

    def action_space(self, agent):
        return Discrete(2)

    def _observe(self):
        self.coin = int(self.rng.integers(2))
        return dict.fromkeys(self.agents, np.eye(2, dtype=np.float32)[self.coin])

    def reset(self, seed=None, options=None):
        self.rng, self.agents, self.t = np.random.default_rng(seed), list(self.possible_agents), 0
        return self._observe(), {agent: {} for agent in self.agents}

    def step(self, actions):
        self.t += 1
        agents, both = self.agents, all(action == self.coin for action in actions.values())
        obs, rewards = self._observe(), dict.fromkeys(agents, float(both))
        if self.t == 10:
            self.agents = []
        ended, never = dict.fromkeys(agents, self.t == 10), dict.fromkeys(agents, False)
        return obs, rewards, ended, never, {agent: {} for agent in agents}


@pytest.mark.parametrize(
    ("policies", "mapping", "make"),
    [
        ({"a", "b"}, of_its_own, lambda: ParallelPettingZooEnv(Matching())),
        ({"all"}, shared, lambda: ParallelPettingZooEnv(Matching())),
        ({"all"}, shared, lambda: PettingZooEnv(parallel_to_aec(Matching()))),
    ],
    ids=["own", "shared", "in turn"],
)
def test_pettingzoos_envs_are_learned(build, policies, mapping, make):
    register_env("matching", lambda config: make())
    config = config_of("matching", policies, mapping).env_runners(num_envs_per_env_runner=8)
    config.env_runners(rollout_fragment_length=32)
    config.training(n_pi=4, e_pi=4, e_v=4, lr=1e-2, gamma=0.5)
    algo = build(config)
    for _ in range(16):
        mean = algo.train()["env_runners"].get("episode_return_mean", 0)
        if mean > 18:
            break
    assert mean > 18  # of 20; 5 at random


class Painted(TimeLimit):
    """Its pictures have the brightness of the step."""

    metadata = {"render_fps": 10}  # noqa: RUF012 (gymnasium's way)

    def __init__(self, config=None):
        super().__init__(config)
        self.render_mode = dict(config or {}).get("render_mode")

    def render(self):
        return np.full((16, 16, 3), 40 * self.t, np.uint8)


def test_a_video_of_several_agents(build, tmp_path, quiet, capsys):
    algo = build(config_of(Painted, {"first", "second"}))
    path, out = algo.save_to_path(str(tmp_path / "checkpoint")), tmp_path / "x.gif"
    assert main(["record", path, "--episodes", "1", "--out", str(out)]) == 0
    with Image.open(out) as gif:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)]
    assert [int(np.median(frame)) for frame in frames] == [0, 40, 80, 120, 160, 200]


def test_a_run_goes_on_when_an_env_runner_dies(build):
    algo = build(config_of(MultiAgentCartPole, {"0", "1"}).env_runners(num_env_runners=2))
    algo.train()
    ray.kill(algo.env_runner_group._worker_manager.actors()[1], no_restart=False)
    assert algo.train()["ppg"]["num_rollouts"] in (1, 2)
    assert algo.train()["ppg"]["num_aux_phases_lifetime"] == 1

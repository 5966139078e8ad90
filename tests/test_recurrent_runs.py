"""Runs with a memory: acting, resuming, evaluating, exporting, and a user's own module."""

import gymnasium as gym
import numpy as np
import onnxruntime
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule

from rllib_ppg import PPG, PPGConfig, load_policy
from rllib_ppg.evaluation import onnx
from rllib_ppg.evaluation.players import make_player
from rllib_ppg_cli import main
from tests.support.algorithms import learner_metrics, several, small, weights
from tests.support.envs import AnySpaces, Counting, Masked, NextStepCounting, SameStepCounting
from tests.support.learners import Float64Module
from tests.test_exact_resume import check_exact
from tests.test_exact_resume import small as resumable

LSTM = {"use_lstm": True, "lstm_cell_size": 8, "fcnet_hiddens": [8]}
STILL = {"lr": 1e-12, "aux_lr": 1e-12}  # the policy in training stays the one that acted


class Recall(gym.Env):
    """An image shows a colour, and later ones are black; the last action has to name the colour."""

    def __init__(self, config=None):
        self.observation_space = Box(0, 255, (8, 8, 3), np.uint8)
        self.action_space = Discrete(3)
        self.delay = dict(config or {}).get("delay", 4)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.colour = 0, int(self.np_random.integers(3))
        obs = np.zeros((8, 8, 3), np.uint8)
        obs[..., self.colour] = 255
        return obs, {}

    def step(self, action):
        self.t += 1
        done = self.t > self.delay
        reward = float(done and action == self.colour)
        return np.zeros((8, 8, 3), np.uint8), reward, done, False, {}


class UsersGRU(TorchRLModule):
    """A user's own module by RLlib's contract, with nothing of PPG's; its state starts at random.

    It returns something more than PPG knows of.
    """

    def setup(self):
        (d,), n = self.observation_space.shape, int(self.action_space.n)
        self.gru = torch.nn.GRU(d, 8, batch_first=True)
        self.heads = torch.nn.ModuleList(torch.nn.Linear(8, k) for k in (n, 1, 1))
        self.h0 = torch.nn.Parameter(torch.from_numpy(np.random.default_rng().normal(size=8)))

    def get_initial_state(self):
        return {"memory": self.h0.detach().float().numpy()}

    def _features(self, batch):
        h = batch[Columns.STATE_IN]["memory"]
        y, h = self.gru(batch[Columns.OBS], h[None])
        return y, {Columns.STATE_OUT: {"memory": h[0]}}

    def _forward(self, batch, **kwargs):
        y, state = self._features(batch)
        return {Columns.ACTION_DIST_INPUTS: self.heads[0](y), **state}

    def _forward_train(self, batch, **kwargs):
        y, state = self._features(batch)
        V, V_aux = (head(y).squeeze(-1) for head in self.heads[1:])
        inputs = self.heads[0](y)
        out = {Columns.ACTION_DIST_INPUTS: inputs, Columns.VF_PREDS: V, "vf_aux_preds": V_aux}
        return {**out, **state, "scale": torch.ones(())}


@pytest.mark.parametrize(
    ("env", "settings", "spec"),
    [
        (NextStepCounting, {"segment_length": 5}, None),
        (SameStepCounting, {"arch": "shared"}, None),
        (NextStepCounting, {"segment_length": 5}, RLModuleSpec(module_class=UsersGRU)),
        (SameStepCounting, {}, RLModuleSpec(module_class=UsersGRU)),
    ],
    ids=["next step", "same step", "a user's, next step", "a user's, same step"],
)
def test_learners_see_the_states_that_the_policy_acted_with(build, env, settings, spec):
    config = small(env, **settings, **STILL).env_runners(num_env_runners=0)
    end = "truncated" if env is NextStepCounting else "terminated"
    config.environment(env_config={"length": 7, "end": end})
    config.rl_module(model_config=LSTM) if spec is None else config.rl_module(rl_module_spec=spec)
    algo = build(config)
    for phase in range(3):  # rows of 16 steps begin within episodes
        metrics = learner_metrics(algo.train())
        assert metrics["approx_kl"] < 1e-10
        assert metrics.get("num_vf_states_lost", 0) == 0
        if phase == 1:
            assert abs(metrics["aux"]["clone_kl"]) < 1e-6


@pytest.mark.long
def test_value_states_go_on_with_an_env_runner_in_a_process_of_its_own(build, tmp_path):
    config = small(NextStepCounting, segment_length=5).rl_module(model_config=LSTM)
    algo = build(config.copy().env_runners(num_env_runners=0))
    algo.train()
    path = algo.save_to_path(tmp_path / "checkpoint")
    other = build(config.copy().env_runners(num_env_runners=1))
    other.restore_from_path(path)
    assert learner_metrics(other.train())["num_vf_states_lost"] == 0


def test_default_model_config_alone_and_its_sequence_length(build):
    model = DefaultModelConfig(use_lstm=True, lstm_cell_size=8, fcnet_hiddens=[8], max_seq_len=5)
    config = small(num_minibatches=4).env_runners(num_env_runners=0).rl_module(model_config=model)
    assert config.steps_per_segment == 5
    assert small().rl_module(model_config=DefaultModelConfig(use_lstm=True)).steps_per_segment == 16
    assert small().rl_module(model_config={"max_seq_len": 5}).steps_per_segment == 16
    algo = build(config)
    assert [algo.train() for _ in range(2)][-1]["ppg"]["num_aux_phases_lifetime"] == 1


def test_initializers_of_the_core():
    model = {**LSTM, "lstm_kernel_initializer": "zeros_", "lstm_bias_initializer": "ones_"}
    spec = (
        small()
        .rl_module(model_config=model)
        .get_rl_module_spec(spaces={"default_policy": (Box(-1, 1, (3,)), Discrete(2))})
    )
    core = spec.build().pi_encoder.core
    assert (core.weight_hh_l0 == 0).all() and (core.bias_ih_l0 == 1).all()


@pytest.mark.parametrize("num_learners", [0, pytest.param(2, marks=pytest.mark.long)])
def test_a_run_resumes_exactly_in_the_middle_of_episodes(build, tmp_path, num_learners):
    config = resumable(segment_length=10, num_minibatches=4).rl_module(model_config=LSTM)
    check_exact(build, config.learners(num_learners=num_learners), tmp_path, starts=(1, 2))


def test_two_learners_do_what_one_does(build):
    def run(num_learners):
        config = several(num_learners, segment_length=5).environment("CartPole-v1")
        spec = RLModuleSpec(module_class=Float64Module, model_config=LSTM)
        algo = build(config.rl_module(rl_module_spec=spec))
        for _ in range(3):
            algo.train()
        return weights(algo)

    one, two = run(0), run(2)
    for name, w in one.items():
        np.testing.assert_allclose(two[name], w, rtol=1e-6, atol=1e-8, err_msg=name)


@pytest.fixture(scope="module")
def trained(build_for_module, tmp_path_factory):
    """A checkpoint of a policy whose actions depend on what it has seen."""
    config = small(Counting).environment(env_config={"length": 6}).rl_module(model_config=LSTM)
    algo = build_for_module(config.env_runners(num_env_runners=0))
    module = algo.get_module()
    for p in module.parameters():  # far from a policy that ignores its memory
        torch.nn.init.normal_(p, std=2.0)
    algo.learner_group.set_weights({"default_policy": module.get_state()})
    algo.env_runner.sample(num_timesteps=4 * 20, explore=False)
    taken = list(algo.env_runner.env.unwrapped.envs[0].unwrapped.actions)
    return algo.save_to_path(str(tmp_path_factory.mktemp("trained") / "checkpoint")), taken


def play(policy_of, steps=20, length=6):
    """Actions of a policy, `policy_of(obs, state, is_first) -> action, state`, in `Counting`."""
    env, state, actions, first = Counting({"length": length}), None, [], True
    obs, _ = env.reset()
    while len(actions) < steps:
        action, state = policy_of(obs, state, first)
        actions.append(int(action))
        obs, _, terminated, truncated, _ = env.step(action)
        first = terminated or truncated
        if first:
            obs, _ = env.reset()
    return actions


def test_it_acts_as_the_env_runner_does(trained):
    path, taken = trained
    policy = load_policy(path)

    def predict(obs, state, first):
        return policy.predict(obs, state, np.array([first]), deterministic=True)

    actions = play(predict)
    forgetful = play(lambda obs, state, first: predict(obs, None, first))
    assert actions[: len(taken)] == taken
    assert forgetful != actions
    with pytest.raises(ValueError, match="the state has shape"):
        policy.predict(np.zeros(2, np.float32), np.zeros((3, 16)))


def test_evaluations_and_the_exported_model_play_the_same(trained, tmp_path, quiet, capsys):
    path, _ = trained
    policy, out = load_policy(path), tmp_path / "policy.onnx"
    assert onnx.compare(onnx.to_onnx(policy), policy).is_rounding
    assert main(["export", path, "--out", str(out)]) == 0
    session = onnxruntime.InferenceSession(str(out))

    def run(obs, state, first):
        zeros = {f"state_in_{k}": np.zeros((1, 1, 8), np.float32) for k in "ch"}
        inputs = {"obs": obs[None], **(zeros if first else state)}
        names = [output.name for output in session.get_outputs()]
        found = dict(zip(names, session.run(None, inputs), strict=True))
        return found["actions"][0], {f"state_in_{k}": found[f"state_out_{k}"] for k in "ch"}

    expected = play(
        lambda obs, state, first: policy.predict(obs, state, np.array([first]), deterministic=True)
    )
    assert play(run) == expected
    player = make_player(policy, policy.config_with(), num_envs=1, seed=0, explore=False)
    for _ in range(20):
        player.step()
    played = player._env.unwrapped.envs[0].unwrapped.actions
    player.close()
    assert played[: len(expected)] == expected


def test_evaluation_in_training_plays_the_same(trained, build):
    path, _ = trained
    policy = load_policy(path)
    algo = PPG.from_checkpoint(path)
    config = algo.config.copy(copy_frozen=False)
    algo.stop()
    config.evaluation(
        evaluation_interval=1, evaluation_duration=4, evaluation_num_env_runners=0,
        evaluation_config={"explore": False, "num_envs_per_env_runner": 1},
    )  # fmt: skip
    other = build(config)
    other.restore_from_path(path)
    other.evaluate()
    played = other.eval_env_runner.env.unwrapped.envs[0].unwrapped.actions
    expected = play(
        lambda obs, state, first: policy.predict(obs, state, np.array([first]), deterministic=True)
    )
    # RLlib's env runner takes one step more for each reset, which the env does not see.
    assert played[:12] == expected[:12]


def test_it_remembers_what_images_showed(build):
    config = (
        PPGConfig()
        .environment(Recall)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=32, rollout_fragment_length=20)
        .rl_module(
            model_config={"use_lstm": True, "recurrent_cell": "gru", "lstm_cell_size": 32,
                          "impala_channels": (4,), "impala_dense": 16}
        )
        .training(n_pi=4, e_pi=4, e_v=4, e_aux=2, num_minibatches=4, num_aux_minibatches=4,
                  lr=5e-3, aux_lr=2e-3, gamma=0.9)
        .debugging(seed=0)
    )  # fmt: skip
    algo = build(config)
    for _ in range(60):
        result = algo.train()
        if result["env_runners"].get("episode_return_mean", 0) > 0.95:
            break
    assert result["env_runners"]["episode_return_mean"] > 0.95  # 1/3 without a memory


def test_with_parts_masks_losses_augmentation_and_successors(build):
    losses = {"value": {"target": "presleep"}, "reward": 0.5, "inverse_dynamics": 0.5}
    successors = {"proximal": "ewma", "target_kl": 0.05, "vf_phase": "auxiliary", "arch": "shared"}
    config = small(Masked, aux_losses=losses, segment_length=6, num_minibatches=4, **successors)
    config.environment(env_config={"image": True})
    config.env_runners(num_env_runners=0).rl_module(model_config={**LSTM, "impala_channels": (4,)})
    with pytest.raises(ValueError, match="leave that loss out"):
        build(config.copy(copy_frozen=False).training(aux_losses={"value": 1.0, "dynamics": 1.0}))
    algo = build(config)
    metrics = [learner_metrics(algo.train()) for _ in range(2)][-1]
    assert {"vf_aux_loss", "reward_loss", "inverse_dynamics_loss"} <= metrics["aux"].keys()
    images = {"observation_space": Box(0, 255, (8, 8, 3), np.uint8)}
    drac = small(AnySpaces, augmentation="random_translate", augmentation_phase="both")
    drac.environment(env_config=images).env_runners(num_env_runners=0)
    algo = build(drac.rl_module(model_config={**LSTM, "impala_channels": (4,)}))
    assert learner_metrics(algo.train())["augmentation_kl"] >= 0

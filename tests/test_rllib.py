"""RLlib's settings on PPG: each has a test that fails where it is ignored."""

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
import ray
import torch
from ray import tune
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.connectors.connector_v2 import ConnectorV2
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import TorchSquashedGaussian
from ray.rllib.core.models.base import ENCODER_OUT, Encoder
from ray.rllib.core.models.configs import ModelConfig
from ray.rllib.core.models.torch.base import TorchModel
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch import TorchRLModule
from ray.rllib.utils.test_utils import check_train_results_new_api_stack

from rllib_ppg import PPG, PPGCallback, PPGConfig
from rllib_ppg.networks.rl_module import PPGCatalog, PPGTorchRLModule
from rllib_ppg.sampling.env_runner import BatchedEnvRunner
from tests.support.algorithms import learner_metrics, only_module, small, weights
from tests.support.comparison import assert_equal
from tests.support.envs import AnySpaces, Counting, NextStepCounting, SameStepCounting, Target
from tests.support.learners import SGDLearner, make_learner, make_rollout, parameters, policy_phase


def local(env=Counting, **training):
    """Env runner and learner in this process: quick to build, and open to the tests."""
    return small(env, runners=0, **training)


# -- Evaluation -------------------------------------------------------------------------------


def evaluation(result):
    return result["evaluation"]["env_runners"]


def test_evaluation_every_so_many_iterations_for_so_many_episodes(build):
    evaluated = []
    config = local().evaluation(evaluation_interval=2, evaluation_duration=3)
    config.callbacks(
        on_evaluate_end=lambda *, algorithm, **_: evaluated.append(algorithm.iteration)
    )
    algo = build(config)
    results = [algo.train() for _ in range(4)]
    assert evaluated == [1, 3]  # counted from 0
    for result in (results[1], results[3]):
        assert evaluation(result)["num_episodes"] == 3
        assert evaluation(result)["episode_len_mean"] == 5


def test_evaluation_for_so_many_steps_in_an_env_of_its_own(build):
    config = local().evaluation(
        evaluation_interval=1,
        evaluation_duration=40,
        evaluation_duration_unit="timesteps",
        evaluation_config=PPGConfig.overrides(env_config={"length": 10}, num_envs_per_env_runner=2),
    )
    result = build(config).train()
    assert evaluation(result)["num_env_steps_sampled"] == 40
    assert evaluation(result)["episode_len_mean"] == 10
    assert result["env_runners"]["episode_len_mean"] == 5


def parallel_evaluation(duration):
    return local().evaluation(
        evaluation_interval=1,
        evaluation_num_env_runners=1,
        evaluation_parallel_to_training=True,
        evaluation_duration=duration,
    )


def test_evaluation_parallel_to_training(build):
    algo = build(parallel_evaluation(3))
    for _ in range(2):  # a policy phase, and an auxiliary phase
        result = algo.train()
        assert evaluation(result)["episode_len_mean"] == 5
        assert evaluation(result)["num_episodes"] == 3
    assert result["ppg"]["num_aux_phases_lifetime"] == 1


def test_evaluation_as_long_as_training_takes(build):
    algo = build(parallel_evaluation("auto").training(e_pi=100, e_v=100))
    for _ in range(20):  # RLlib leaves out what comes after training is done
        result = algo.train()
        if "env_runners" in result["evaluation"]:
            break
    assert evaluation(result)["episode_len_mean"] == 5


class Noisy(gym.Env):
    """Pays 1 for action 0 and 0 for action 1, for 20 steps."""

    observation_space = gym.spaces.Box(0, 1, (1,))
    action_space = gym.spaces.Discrete(2)

    def __init__(self, config=None):
        pass

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.ones(1, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.ones(1, np.float32), float(action == 0), self.t == 20, False, {}


@pytest.mark.parametrize("explore", [True, False])
def test_evaluation_with_and_without_exploration(build, explore):
    """An almost even policy: drawn actions mix, the mode is the same each time."""
    config = local(Noisy).evaluation(
        evaluation_duration=4, evaluation_config={"explore": explore}, evaluation_interval=1
    )
    returns = evaluation(build(config).train())
    if explore:
        assert returns["episode_return_min"] > 0 and returns["episode_return_max"] < 20
    else:
        assert returns["episode_return_min"] == returns["episode_return_max"]
        assert returns["episode_return_mean"] in (0, 20)


def test_evaluation_follows_the_weights(build):
    config = local().evaluation(evaluation_interval=1, evaluation_duration=1)
    algo = build(config)
    for _ in range(2):
        algo.train()
        algo.evaluate()
        held = algo.eval_env_runner.module.state_dict()
        assert_equal({k: np.array(v) for k, v in held.items()}, weights(algo, ("pi_encoder", "pi")))


STARTS = []


class NotesStarts(BatchedEnvRunner):
    def sample_rollout(self, *args, **kwargs):
        summary, rollout = super().sample_rollout(*args, **kwargs)
        STARTS.extend(map(tuple, rollout.obs[rollout.first() & rollout.valid].tolist()))
        return summary, rollout


def test_training_goes_on_with_new_episodes_after_an_evaluation(build):
    """Without env runners of its own, an evaluation plays in the envs of the training."""
    algo = build(local("CartPole-v1").env_runners(env_runner_cls=NotesStarts))
    STARTS.clear()
    for _ in range(4):
        algo.train()
        algo.evaluate()
    assert len(STARTS) == len({*STARTS}) > 8


def test_evaluation_on_another_procgen_level(build):
    first_frames = []
    level_7 = {"distribution_mode": "easy", "start_level": 7, "num_levels": 1}
    config = local("procgen-coinrun-v0").rl_module(
        model_config={"impala_channels": (2,), "impala_dense": 8}
    )
    config.environment(env_config=level_7 | {"start_level": 3})
    config.evaluation(
        evaluation_interval=1,
        evaluation_duration=32,
        evaluation_duration_unit="timesteps",
        evaluation_config=PPGConfig.overrides(
            env_config=level_7,
            callbacks_on_episode_start=lambda episode, **_: first_frames.append(
                episode.get_observations(0)
            ),
        ),
    )
    algo = build(config)
    (trained,) = algo.env_runner.sample(num_timesteps=4)
    assert evaluation(algo.train())["num_env_steps_sampled"] == 32
    frame, _ = gym.make("procgen-coinrun-v0", **level_7).reset()
    assert first_frames and all((f == frame).all() for f in first_frames)
    assert (trained.obs[:, 0] != frame).any()


@pytest.mark.parametrize("env", [SameStepCounting, NextStepCounting])
def test_evaluation_on_vector_envs(build, env):
    """Two episodes of each env: of all, all steps and rewards."""
    config = local(env).evaluation(evaluation_interval=1, evaluation_duration=8)
    config.evaluation(evaluation_config={"num_envs_per_env_runner": 4})
    returns = evaluation(build(config).train())
    assert returns["num_episodes"] == 8
    assert returns["episode_return_min"] == returns["episode_len_mean"] == 5


def test_evaluation_of_a_vector_env_has_no_episode_callbacks():
    config = local(SameStepCounting).evaluation(
        evaluation_interval=1, evaluation_config={"callbacks_on_episode_end": print}
    )
    with pytest.raises(
        ValueError, match="callbacks have on_episode_end, which needs RLlib's env runners"
    ):
        config.build_algo()


def test_evaluation_in_processes_of_their_own(build):
    config = local().evaluation(
        evaluation_interval=1, evaluation_config={"gym_env_vectorize_mode": "async"}
    )
    algo = build(config)
    assert isinstance(algo.eval_env_runner.env.unwrapped, gym.vector.AsyncVectorEnv)
    assert evaluation(algo.train())["episode_return_mean"] == 5


def test_evaluation_where_the_mode_is_a_member_of_gymnasiums_enum(build):
    """Without a step lost to resets, also in an env that RLlib would find no vector env of."""
    gym.register("Counting-v0", entry_point=lambda **config: Counting(config))
    config = local("Counting-v0")
    config.gym_env_vectorize_mode = gym.VectorizeMode.VECTOR_ENTRY_POINT
    returns = evaluation(build(config.evaluation(evaluation_interval=1)).train())
    assert returns["episode_len_min"] == returns["episode_len_max"] == 5


class ShortOrLong(gym.Env):
    """Episodes of 1 and 19 steps in turn, with a return of as many."""

    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Discrete(2)
    episode = 0

    def __init__(self, config=None):
        pass

    def reset(self, *, seed=None, options=None):
        if self.episode == 0 and seed is not None:
            self.episode = seed
        self.episode += 1
        self.left = 19 if self.episode % 2 else 1
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.left -= 1
        return np.zeros(1, np.float32), 1.0, self.left == 0, False, {}


def test_an_evaluation_is_not_of_the_episodes_that_end_first(build):
    config = local(ShortOrLong).env_runners(num_envs_per_env_runner=32)
    config.evaluation(evaluation_interval=1, evaluation_duration=10)
    assert evaluation(build(config).train())["episode_return_mean"] == 10
    for settings, envs in (
        ({"evaluation_duration": 40}, 4),
        ({"evaluation_duration": 40, "evaluation_num_env_runners": 2}, 2),
        ({"evaluation_config": {"num_envs_per_env_runner": 7}}, 7),
        ({"evaluation_duration_unit": "timesteps"}, 32),
    ):
        other = config.copy(copy_frozen=False).evaluation(**settings)
        assert other.get_evaluation_config_object().num_envs_per_env_runner == envs


def test_an_evaluation_config_is_a_set_of_overrides():
    with pytest.raises(ValueError, match=r"PPGConfig\.overrides"):
        local().evaluation(evaluation_interval=1, evaluation_config=PPGConfig())


class Seen(ConnectorV2):
    """A user's connector: keeps what passes, and changes nothing."""

    shapes: ClassVar[set] = set()

    def __call__(self, *, episodes, batch, **kwargs):
        self.shapes |= {np.shape(e.get_observations(-1)) for e in episodes if e.observations}
        return batch


def test_connectors_of_a_user_in_evaluation(build):
    """They come beside PPG's own: flattened observations, actions that start at 5."""
    spaces = {
        "observation_space": gym.spaces.Dict(a=gym.spaces.Discrete(3)),
        "action_space": gym.spaces.Discrete(2, start=5),
    }
    config = local(AnySpaces).environment(env_config=spaces)
    overrides = PPGConfig.overrides(
        _env_to_module_connector=lambda *_: Seen(), _module_to_env_connector=lambda *_: Seen()
    )
    config.evaluation(evaluation_interval=1, evaluation_config=overrides)
    assert evaluation(build(config).train())["episode_len_mean"] == 5
    assert Seen.shapes == {(3,)}


def test_an_error_of_an_env_while_the_filter_is_filled(build):
    config = small(Counting).environment(env_config={"fail_at": 3})
    algo = build(config.env_runners(observation_filter="MeanStdFilter"))
    with pytest.raises(RuntimeError, match="the cable broke"):
        algo.train()


def test_a_custom_evaluation_function(build):
    def evaluate(algorithm, env_runners):
        runner = env_runners.local_env_runner
        (episode,) = runner.sample(num_episodes=1)
        algorithm.metrics.aggregate([runner.get_metrics()], key=("evaluation", "env_runners"))
        return {}, episode.env_steps(), episode.agent_steps()

    config = local().evaluation(evaluation_interval=1, custom_evaluation_function=evaluate)
    assert evaluation(build(config).train())["num_episodes"] == 1


def test_evaluation_without_settings_uses_the_training_env_runner(build):
    algo = build(local())
    algo.train()
    assert algo.evaluate()["env_runners"]["episode_len_mean"] == 5
    assert algo.train()["ppg"]["num_aux_phases_lifetime"] == 1
    with pytest.raises(ValueError, match=r"set .evaluation\(evaluation_interval"):
        build(small(Counting)).evaluate()


# -- Observation filter -----------------------------------------------------------------------


def filtered(**training):
    config = local(**training).env_runners(
        observation_filter="MeanStdFilter", rollout_fragment_length=20
    )
    return config.environment(env_config={"length": 5})


def statistics(module):
    state = module.state_dict()
    return np.stack([state[f"observation_filter.{k}"].numpy() for k in ("mean", "std")])


class FilterInAuxPhase(PPGCallback):
    def on_aux_epoch_end(self, *, algorithm, metrics_logger, module_id, epoch, num_epochs):
        algorithm.seen.append(
            statistics(algorithm.learner_group._learner.module[DEFAULT_MODULE_ID])
        )


def test_observation_filter_has_the_moments_of_all_observations(build):
    algo = build(filtered(n_pi=4))
    # Seconds into episodes of 5 steps: 0..4, evenly, in the warm-up, too.
    for _ in range(2):
        algo.train()
        for module in (
            algo.get_module(),
            algo.env_runner.module,
            algo.learner_group._learner.module[DEFAULT_MODULE_ID],
        ):
            mean, std = statistics(module)
            assert (mean[0], std[0]) == pytest.approx((2.0, np.sqrt(2.0)))
    (block,) = (ray.get(e.ref) for e in only_module(algo).replay.iterations[0])
    assert sorted(np.unique(block.obs[..., 0])) == [0, 1, 2, 3, 4]  # raw ones are kept
    episodes = np.concatenate(
        [ray.get(e.ref).obs[..., 1].ravel() for [e] in only_module(algo).replay.iterations]
    )
    warm_up = np.repeat([1, 2, 3, 4], 5 * 4)  # and the four episodes before these
    seen = np.concatenate([warm_up, episodes])
    assert (mean[1], std[1]) == pytest.approx((seen.mean(), seen.std()), rel=1e-5)


def test_observation_filter_stands_still_while_the_policy_that_acted_learns(build):
    algo = build(filtered(n_pi=1, e_aux=2, num_minibatches=1).callbacks(FilterInAuxPhase))
    for _ in range(3):
        algo.seen, before = [], statistics(algo.env_runner.module)
        result = algo.train()
        # log r = 0 for all: the learner's policy is the env runner's, statistics included.
        assert learner_metrics(result)["approx_kl"] == pytest.approx(0.0, abs=1e-9)
        acted = algo.seen[0] if (before == [[0, 0], [1, 1]]).all() else before
        for seen in algo.seen:
            np.testing.assert_array_equal(seen, acted)
        assert (statistics(algo.env_runner.module) != algo.seen[0]).any()


def test_observation_filter_is_part_of_the_module(build, tmp_path):
    algo = build(filtered().evaluation(evaluation_interval=1, evaluation_duration=1))
    algo.train()
    algo.evaluate()
    module, (mean, std) = algo.get_module(), statistics(algo.get_module())
    np.testing.assert_array_equal(statistics(algo.eval_env_runner.module), [mean, std])
    raw = np.array([[3.0, 2.0], [1000.0, -1000.0]], np.float32)  # the latter are clipped to 10
    with torch.no_grad():
        out = module.forward_inference({Columns.OBS: torch.from_numpy(raw)})
        normalised = torch.from_numpy(np.clip((raw - mean) / std, -10, 10))
        features = module.pi_encoder({Columns.OBS: normalised})[ENCODER_OUT]
        torch.testing.assert_close(out[Columns.ACTION_DIST_INPUTS], module.pi(features))
    restored = PPG.from_checkpoint(algo.save_to_path(tmp_path / "checkpoint"))
    np.testing.assert_array_equal(statistics(restored.get_module()), [mean, std])
    count = only_module(algo).observations.moments.count
    assert only_module(restored).observations.moments.count == count
    restored.train()
    assert only_module(restored).observations.moments.count == count + 4 * 20  # no warm-up again
    restored.stop()


# -- Losses, gradients, schedules -------------------------------------------------------------


def test_vf_clip_param_bounds_the_squared_error_in_the_policy_phase():
    still = make_learner(SGDLearner, vf_clip_param=1e-9)
    before = parameters(still)
    metrics, _, _ = policy_phase(still, make_rollout())
    assert metrics["vf_loss"] == pytest.approx(0.5e-9, rel=1e-2)
    after = parameters(still)
    assert all(torch.equal(before[n], after[n]) for n in before if n.startswith("vf"))
    bounded, _, _ = policy_phase(make_learner(vf_clip_param=1e9), make_rollout())
    free, _, _ = policy_phase(make_learner(), make_rollout())
    assert bounded["vf_loss"] == free["vf_loss"]


@pytest.mark.parametrize("by", ["value", "norm", "global_norm"])
def test_grad_clip_by(by):
    learner = make_learner(SGDLearner, grad_clip=1e-3, grad_clip_by=by)
    before = parameters(learner)
    policy_phase(learner, make_rollout())
    moves = [before[n] - p for n, p in parameters(learner).items() if not torch.equal(before[n], p)]
    each = torch.stack([m.norm() for m in moves])
    largest = {
        "value": max(m.abs().max() for m in moves),
        "norm": each.max(),
        "global_norm": each.norm(),
    }
    assert largest[by].item() == pytest.approx(1e-3, rel=1e-2)


def test_a_grad_clip_of_0_clips_nothing():
    learner, other = make_learner(grad_clip=0), make_learner()
    for each in (learner, other):
        policy_phase(each, make_rollout())
    assert all(torch.equal(p, parameters(other)[n]) for n, p in parameters(learner).items())


def test_all_learning_rates_can_have_schedules(build):
    schedule = [[0, 1e-3], [128, 0.0]]
    algo = build(local(lr=schedule, aux_lr=schedule, entropy_coeff=[[0, 0.2], [128, 0.0]], e_v=2))
    for this, following in ((1.0, 0.5), (0.5, 0.0)):
        metrics = learner_metrics(algo.train())
        assert metrics["curr_entropy_coeff"] == pytest.approx(0.2 * this)
        for name in ("default_optimizer", "value", "aux"):  # logged after they have moved
            assert metrics[f"{name}_learning_rate"] == pytest.approx(1e-3 * following)
    before = weights(algo)
    algo.train()  # at learning rates of 0
    assert_equal(weights(algo), before)


def test_explore_false_acts_by_the_mode(build):
    algo = build(local(Noisy).env_runners(explore=False))
    (rollout,) = algo.env_runner.sample(num_timesteps=64)
    assert len(np.unique(rollout.actions)) == 1
    (rollout,) = algo.env_runner.sample(num_timesteps=64, explore=True)
    assert len(np.unique(rollout.actions)) == 2
    check_train_results_new_api_stack(algo.train())


# -- Callbacks and metrics --------------------------------------------------------------------


class Heard(RLlibCallback):
    """Logs the name of each hook that is called."""

    def on_algorithm_init(self, *, algorithm, metrics_logger=None, **kwargs):
        algorithm.heard = ["on_algorithm_init"]

    def on_train_result(self, *, algorithm, metrics_logger=None, result, **kwargs):
        algorithm.heard.append("on_train_result")
        result["my_result"] = result["num_env_steps_sampled_lifetime"] + 1

    def on_evaluate_start(self, *, algorithm, metrics_logger=None, **kwargs):
        algorithm.heard.append("on_evaluate_start")

    def on_evaluate_end(self, *, algorithm, metrics_logger=None, evaluation_metrics, **kwargs):
        algorithm.heard.append("on_evaluate_end")
        metrics_logger.log_value("my_metric", 42.0)

    def on_checkpoint_loaded(self, *, algorithm, metrics_logger=None, **kwargs):
        algorithm.heard.append("on_checkpoint_loaded")

    def on_environment_created(self, *, env_runner, metrics_logger=None, env, **kwargs):
        env_runner.my_env = env

    def on_sample_end(self, *, env_runner=None, metrics_logger=None, samples, **kwargs):
        steps = sum(rollout.env_steps() for rollout in samples)
        metrics_logger.log_value("my_steps", steps, reduce="sum")


def test_callbacks_and_custom_metrics(build, tmp_path):
    config = local().callbacks(Heard)
    config.evaluation(
        evaluation_interval=1,
        evaluation_duration=1,
        evaluation_config=PPGConfig.overrides(callbacks_class=RLlibCallback),
    )
    algo = build(config)
    result = algo.train()
    assert result["my_result"] == 64 + 1
    assert result["env_runners"]["my_steps"] == 64
    assert algo.train()["my_metric"] == 42.0  # evaluation comes after an iteration's metrics
    assert algo.env_runner.my_env is algo.env_runner.env.unwrapped
    algo.restore(algo.save_to_path(tmp_path / "checkpoint"))
    assert algo.heard == [
        "on_algorithm_init",
        "on_evaluate_start",
        "on_evaluate_end",
        "on_train_result",
        *("on_evaluate_start", "on_evaluate_end", "on_train_result"),
        "on_checkpoint_loaded",
    ]


class Episodes(RLlibCallback):
    def on_episode_end(self, *, episode, metrics_logger, **kwargs):
        metrics_logger.log_value("last_second", float(episode.get_observations(-1)[0]))


def test_episode_callbacks_work_in_evaluation(build):
    config = local().evaluation(
        evaluation_interval=1,
        evaluation_duration=2,
        evaluation_config=PPGConfig.overrides(callbacks_class=Episodes),
    )
    assert evaluation(build(config).train())["last_second"] == 5


@pytest.mark.long
def test_env_runners_recreated_callback(build):
    recreated = []
    config = small(Counting, runners=2).callbacks(
        on_env_runners_recreated=lambda *, env_runner_indices, **_: recreated.extend(
            env_runner_indices
        )
    )
    algo = build(config)
    ray.kill(algo.env_runner_group._worker_manager.actors()[1], no_restart=False)
    for _ in range(20):
        algo.train()
        if recreated:
            break
    assert recreated == [1]


# -- Networks ---------------------------------------------------------------------------------


def test_model_config_as_a_dataclass(build):
    config = local().rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[5]))
    assert build(config).get_module().pi.net.mlp[0].in_features == 5


class Sines(TorchModel, Encoder):
    """A user's encoder: sines of the observation, without parameters but one."""

    def __init__(self, config):
        TorchModel.__init__(self, config)
        Encoder.__init__(self, config)
        self.frequency = torch.nn.Parameter(torch.ones(()))

    def _forward(self, inputs, **kwargs):
        return {ENCODER_OUT: torch.sin(self.frequency * inputs[Columns.OBS])}


class SinesConfig(ModelConfig):
    output_dims = (2,)

    def build(self, framework="torch"):
        return Sines(self)


class SinesCatalog(PPGCatalog):
    @classmethod
    def _get_encoder_config(cls, observation_space, model_config_dict, action_space=None):
        assert model_config_dict["mine"] == 1
        return SinesConfig(input_dims=observation_space.shape)


def test_a_users_encoder(build, tmp_path):
    spec = RLModuleSpec(catalog_class=SinesCatalog, model_config={"mine": 1})
    algo = build(local().rl_module(rl_module_spec=spec))
    algo.train()
    algo.train()
    trained = weights(algo, ("pi_encoder", "vf_encoder"))
    assert {k: w.shape for k, w in trained.items()} == {
        "pi_encoder.frequency": (),
        "vf_encoder.frequency": (),
    }
    assert all(w != 1.0 for w in trained.values())


class Linear(TorchRLModule):
    """A user's module with nothing of PPG's: three linear maps of the observation."""

    def setup(self):
        (d,), n = self.observation_space.shape, int(self.action_space.n)
        self.heads = torch.nn.ModuleList(torch.nn.Linear(d, k) for k in (n, 1, 1))

    def _forward(self, batch, **kwargs):
        return {Columns.ACTION_DIST_INPUTS: self.heads[0](batch[Columns.OBS])}

    def _forward_train(self, batch, **kwargs):
        V, V_aux = (head(batch[Columns.OBS]).squeeze(-1) for head in self.heads[1:])
        return {**self._forward(batch), Columns.VF_PREDS: V, "vf_aux_preds": V_aux}


def test_a_users_module(build, tmp_path):
    spec = RLModuleSpec(module_class=Linear, model_config={"arch": "mine"})
    config = local().rl_module(rl_module_spec=spec)
    config.evaluation(evaluation_interval=1, evaluation_duration=1)
    algo = build(config)
    assert algo.get_module().model_config["arch"] == "mine"
    before = weights(algo, ["heads"])
    assert [algo.train() for _ in range(2)][-1]["ppg"]["num_aux_phases_lifetime"] == 1
    after = weights(algo, ["heads"])
    assert len(after) == 6 and all((before[k] != after[k]).any() for k in after)
    restored = PPG.from_checkpoint(algo.save_to_path(tmp_path / "checkpoint"))
    assert_equal(weights(restored, ["heads"]), after)
    restored.stop()
    refused = config.env_runners(observation_filter="MeanStdFilter")
    with pytest.raises(ValueError, match="derive Linear from PPGTorchRLModule"):
        refused.validate()


class NoAuxHead(Linear):
    def _forward_train(self, batch, **kwargs):
        return {k: v for k, v in super()._forward_train(batch).items() if k != "vf_aux_preds"}


class Forgetful(Linear):
    def get_initial_state(self):
        return {"h": np.zeros(3, np.float32)}

    def is_stateful(self):
        return True


class Squashed(PPGTorchRLModule):
    def setup(self):
        self.action_dist_cls = TorchSquashedGaussian
        super().setup()

    def get_train_action_dist_cls(self):
        return TorchSquashedGaussian


@pytest.mark.parametrize(
    ("module", "num_learners", "message"),
    [
        (NoAuxHead, 0, r"NoAuxHead.forward_train\(\) returns no 'vf_aux_preds'"),
        (NoAuxHead, 1, r"NoAuxHead.forward_train\(\) returns no 'vf_aux_preds'"),
        (Forgetful, 0, r"Forgetful.forward_train\(\) returns no 'state_out'"),
        (Squashed, 0, "a KL and an entropy, and TorchSquashedGaussian of Squashed lacks one of"),
    ],
)
def test_modules_that_ppg_cannot_train_are_refused_by_name(build, module, message, num_learners):
    env = Target if module is Squashed else Counting
    config = local(env).rl_module(rl_module_spec=RLModuleSpec(module_class=module))
    with pytest.raises(ValueError, match=message):
        build(config.learners(num_learners=num_learners))


def test_a_module_that_does_not_take_the_envs_dtype_is_refused_in_a_sentence(build):
    class Doubles(Counting):
        def __init__(self, config=None):
            super().__init__(config)
            self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)

    config = local(Doubles).rl_module(rl_module_spec=RLModuleSpec(module_class=Linear))
    with pytest.raises(
        ValueError, match=r"Linear fails with a batch of torch.float64 obs.* \(2,\)"
    ):
        build(config)


def test_frozen_parts_are_not_trained(build):
    frozen = ["pi_encoder", "vf"]
    algo = build(
        local(n_pi=1, e_v=2).rl_module(model_config={"fcnet_hiddens": [8], "freeze": frozen})
    )
    before = weights(algo)
    for _ in range(2):
        algo.train()
    after = weights(algo)
    moved = {k.split(".")[0] for k in after if (before[k] != after[k]).any()}
    assert moved == {"pi", "vf_encoder", "vf_aux"}


def test_a_frozen_value_network_leaves_value_epochs_nothing_to_do(build):
    frozen = {"fcnet_hiddens": [8], "freeze": ["vf_encoder", "vf"]}
    algo = build(local(n_pi=1, e_v=2).rl_module(model_config=frozen))
    before = weights(algo, ("vf_encoder", "vf"))
    result = algo.train()
    assert_equal(weights(algo, ("vf_encoder", "vf")), before)
    assert learner_metrics(result)["vf_loss"] > 0


def test_a_misspelt_frozen_part_is_refused(build):
    with pytest.raises(ValueError, match=r"'pi_encodr'.*did you mean 'pi_encoder'"):
        build(local().rl_module(model_config={"freeze": ["pi_encodr"]}))


# -- Tune -------------------------------------------------------------------------------------


def tuner(trainable, space, path, iterations=2, **tune_config):
    return tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(**tune_config),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=str(path),
            stop={"training_iteration": iterations},
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
            verbose=0,
        ),
    )


class RunTogether(RLlibCallback):
    """Waits in each trial's start for the other trial to have started, too."""

    def on_algorithm_init(self, *, algorithm, metrics_logger=None, **kwargs):
        barrier = ray.get_actor("barrier")
        ray.get(barrier.wait.remote(), timeout=60)


@ray.remote(num_cpus=0, max_concurrency=2)
class Barrier:
    def __init__(self):
        import threading

        self.barrier = threading.Barrier(2)

    def wait(self):
        self.barrier.wait()


@pytest.mark.long
def test_two_trials_of_a_sweep_run_at_once_on_fractions_of_cpus(cluster, tmp_path):
    barrier = Barrier.options(name="barrier").remote()
    config = local().callbacks(RunTogether).resources(num_cpus_for_main_process=0.5)
    config.training(n_pi=tune.grid_search([1, 2]), e_aux=tune.grid_search([1, 3]))
    results = tuner("PPG", config, tmp_path, max_concurrent_trials=2).fit()
    assert not results.errors
    aux = {
        (r.config["n_pi"], r.config["e_aux"]): r.metrics["ppg"]["num_aux_phases_lifetime"]
        for r in results
    }
    assert aux == {(1, 1): 2, (1, 3): 2, (2, 1): 1, (2, 3): 1}
    ray.kill(barrier)


def test_tune_with_resources(cluster, tmp_path):
    request = tune.PlacementGroupFactory([{"CPU": 1}, {"CPU": 1.5}])
    trainable = tune.with_resources(PPG, request)
    assert trainable.default_resource_request({}).bundles == request.bundles
    try:
        (result,) = tuner(trainable, local(), tmp_path).fit()
    finally:
        tune.register_trainable("PPG", PPG)  # Tune has registered the other one by this name
    assert result.error is None and result.metrics["training_iteration"] == 2


def test_tuner_restore_goes_on_within_a_phase(cluster, tmp_path):
    """A trial that fails after its first iteration, with one of two in the replay list."""
    flag = tmp_path / "repaired"
    config = local(n_pi=2).callbacks(
        on_train_result=lambda *, result, **_: (
            None if flag.exists() or result["training_iteration"] < 2 else 1 / 0
        )
    )
    (failed,) = tuner("PPG", config, tmp_path).fit()
    assert failed.error is not None
    flag.touch()
    restored = tune.Tuner.restore(
        str(tmp_path / "sweep"), trainable="PPG", resume_errored=True, param_space=config
    )
    (result,) = restored.fit()
    assert result.error is None
    assert result.metrics["training_iteration"] == 2
    assert result.metrics["ppg"]["num_aux_phases_lifetime"] == 1
    assert result.metrics["ppg"]["policy_iteration"] == 2
    assert result.metrics["num_env_steps_sampled_lifetime"] == pytest.approx(2 * 64, abs=16)


class Notes(RLlibCallback):
    """Notes what each trial has after a result, and after a checkpoint has been loaded.

    The trial that began with the higher learning rate is the better one.
    """

    def on_train_result(self, *, algorithm, result, **kwargs):
        lrs = algorithm.config.learner_config_dict["lrs"]
        result["better"] = float(algorithm.config.lr == max(lrs))
        self._note("trained", algorithm, phases=int(result["ppg"]["num_aux_phases_lifetime"]))

    def on_checkpoint_loaded(self, *, algorithm, **kwargs):
        self._note("loaded", algorithm)

    def _note(self, what, algorithm, **more):
        crc = zlib.crc32(b"".join(w.tobytes() for w in weights(algorithm).values()))
        note = {
            "what": what,
            "trial": Path(algorithm.logdir).name,
            "lr": algorithm.config.lr,
            "crc": crc,
        }
        note |= {
            "iteration": algorithm.training_iteration,
            "rows": len(only_module(algorithm).replay),
        }
        with open(algorithm.config.learner_config_dict["notes"], "a") as f:
            f.write(json.dumps(note | more) + "\n")


@pytest.mark.faults
def test_tune_pauses_trials_and_pbt_has_one_go_on_from_another(cluster, tmp_path):
    """Both pause after two iterations, within a phase of three; the worse takes over the better."""
    notes, lrs = tmp_path / "notes", [1e-3, 1e-4]
    config = local(n_pi=3, lr=tune.grid_search(lrs)).callbacks(Notes)
    config.learners(learner_config_dict={"notes": str(notes), "lrs": lrs})
    pbt = tune.schedulers.PopulationBasedTraining(
        time_attr="training_iteration",
        metric="better",
        mode="max",
        perturbation_interval=2,
        quantile_fraction=0.5,
        hyperparam_mutations={"lr": [1e-4, 3e-4, 1e-3]},
        synch=True,
    )
    results = tuner("PPG", config, tmp_path, iterations=4, scheduler=pbt).fit()
    assert not results.errors
    rows = [json.loads(line) for line in notes.read_text().splitlines()]
    (better,) = {row["trial"] for row in rows if row["iteration"] == 1 and row["lr"] == lrs[0]}
    (crc,) = {
        row["crc"] for row in rows if row["trial"] == better and row["iteration"] == 2
    }  # when it paused and when it went on
    loaded = [row for row in rows if row["what"] == "loaded"]
    assert len({row["trial"] for row in loaded}) == 2
    assert {(row["crc"], row["iteration"], row["rows"]) for row in loaded} == {(crc, 2, 2)}
    third = [row for row in rows if row["iteration"] == 3]
    assert [row["phases"] for row in third] == [1, 1]


@pytest.mark.long
def test_ray_is_started_if_nobody_has():
    """As in the README's example."""
    program = (
        "from rllib_ppg import PPGConfig\n"
        "config = PPGConfig().environment('CartPole-v1').env_runners(num_env_runners=0)\n"
        "config.env_runners(num_envs_per_env_runner=8, rollout_fragment_length=16)\n"
        "algo = config.training(n_pi=1, segment_length=1).build_algo()\n"
        "print(algo.train()['ppg']['num_aux_phases_lifetime'])\n"
    )
    # Not a Ray that happens to run on this machine.
    alone = os.environ | {"RAY_ADDRESS": "local"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=alone
    )
    assert done.stdout.splitlines()[-1:] == ["1"], done.stderr

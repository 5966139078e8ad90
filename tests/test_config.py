"""Settings: the paper's defaults, and one readable ValueError for each thing that can't be."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from ray import tune
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.tune.registry import get_trainable_cls

from rllib_ppg import PPG, PPGConfig
from rllib_ppg.sampling.env_runner import BatchedEnvRunner
from tests.support.envs import AnySpaces, Counting, NextStepCounting

pytestmark = pytest.mark.unit


def small(env="CartPole-v1", **training):
    return (
        PPGConfig()
        .environment(env)
        .env_runners(num_env_runners=1, num_envs_per_env_runner=8, rollout_fragment_length=32)
        .training(**{"num_minibatches": 4, "num_aux_minibatches": 4} | training)
    )


def refuses(config, *words):
    with pytest.raises(ValueError) as e:
        config.validate()
    sentence = str(e.value)
    assert "\n" not in sentence, sentence
    for word in words:
        assert word in sentence, sentence


def test_defaults_are_the_papers():
    config = PPGConfig()
    expected = {
        "n_pi": 32, "e_pi": 1, "e_v": 1, "e_aux": 6, "beta_clone": 1.0, "vf_true_weight": 1.0,
        "lr": 5e-4, "aux_lr": 5e-4, "gamma": 0.999, "lambda_": 0.95, "clip_param": 0.2,
        "entropy_coeff": 0.01, "kl_penalty": 0.0, "num_minibatches": 8, "num_aux_minibatches": 16,
        "arch": "dual", "normalize_rewards": True, "grad_clip": None,
        "rollout_fragment_length": 256, "num_env_runners": 4, "num_envs_per_env_runner": 64,
    }  # fmt: skip
    assert {k: getattr(config, k) for k in expected} == expected
    assert config.batch_size == 65_536
    spaces = gym.spaces.Box(0, 255, (64, 64, 3), np.uint8), gym.spaces.Discrete(15)
    states = 32 * 65_536
    assert config.replay_bytes(*spaces) == states * (12_288 + 4 + 1)  # observation, V_targ, mask
    config.training(aux_losses={"value": 1.0, "inverse_dynamics": 1.0})
    assert config.replay_bytes(*spaces) == states * (12_288 + 4 + 1 + 8 + 1)  # action, end


def test_ppg_is_known_to_rllib_by_name():
    assert get_trainable_cls("PPG") is PPG
    assert isinstance(PPG.get_default_config(), PPGConfig)


def test_each_setting_reaches_the_config():
    changed = {
        "n_pi": 3, "e_pi": 2, "e_v": 4, "e_aux": 5, "beta_clone": 0.5, "vf_true_weight": 0.1,
        "aux_lr": 1e-3, "num_minibatches": 2, "num_aux_minibatches": 1, "segment_length": 1,
        "arch": "shared", "detach_vf_in_aux_phase": False, "lambda_": 0.5, "clip_param": 0.1,
        "kl_penalty": 1.0, "entropy_coeff": 0.0, "vf_loss_coeff": 0.5, "normalize_rewards": False,
        "replay_may_spill": True, "micro_batch_size": 7, "gamma": 0.5, "lr": 1e-5,
        "replay_compression": "lz4", "policy_precision": "bfloat16", "aux_precision": "bfloat16",
    }  # fmt: skip
    config = PPGConfig().training(**changed)
    assert {k: getattr(config, k) for k in changed} == changed
    assert {k: getattr(PPGConfig().update_from_dict(changed), k) for k in changed} == changed


def test_model_config_may_come_in_a_dict():
    config = PPGConfig().update_from_dict({"model_config": {"impala_channels": [4, 8]}})
    assert config.model_config["impala_channels"] == [4, 8]
    assert config.model_config["arch"] == "dual"


def test_ids_with_a_module_are_imported(tmp_path, monkeypatch):
    (tmp_path / "my_envs.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('Mine-v0', 'gymnasium.envs.classic_control:CartPoleEnv')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    small("my_envs:Mine-v0").validate()


def test_a_config_survives_rllibs_ways_of_copying_it():
    config = small(n_pi=5, segment_length=4).rl_module(model_config={"fcnet_hiddens": [8]})
    config.validate()
    for other in (
        PPGConfig().update_from_dict(config.to_dict()),
        PPGConfig().update_from_dict(config),
        PPGConfig.from_state(config.get_state()),
        config.copy(),
    ):
        other.validate()
        assert (other.n_pi, other.segment_length, other.rows) == (5, 4, 8)
        assert other.model_config["fcnet_hiddens"] == [8]


@pytest.mark.parametrize(
    ("key", "near"),
    [("n_pii", "n_pi"), ("lamda_", "lambda_"), ("num_env_runer", "num_env_runners")],
)
def test_unknown_keys_name_the_nearest_one(key, near):
    with pytest.raises(ValueError, match=f"{key!r}; did you mean {near!r}"):
        PPGConfig().update_from_dict({key: 1})


def test_unknown_training_setting():
    with pytest.raises(ValueError, match="'e_auxx'; did you mean 'e_aux'"):
        PPGConfig().training(e_auxx=1)


@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"arch": "duel"}, ["arch is one of dual, detach, shared", "did you mean 'dual'"]),
        ({"n_pi": -1}, ["n_pi", "at least 0", "-1"]),
        ({"e_aux": 1.5}, ["e_aux", "whole number", "1.5"]),
        ({"e_pi": 0}, ["e_pi", "at least 1"]),
        ({"beta_clone": -1.0}, ["beta_clone", "non-negative"]),
        ({"aux_lr": -1.0}, ["aux_lr", "non-negative"]),
        ({"vf_clip_param": 0.0}, ["vf_clip_param", "None or a positive"]),
        ({"collective_timeout_s": 0}, ["collective_timeout_s", "positive"]),
        ({"gamma": 1.5}, ["gamma", "between 0 and 1"]),
        ({"segment_length": 5, "num_minibatches": 5}, ["56 segments", "1, 2, 4, 7, 8"]),
        ({"segment_length": 0}, ["segment_length", "at least 1"]),
        ({"micro_batch_size": "big"}, ["micro_batch_size", "'auto'"]),
        (
            {"policy_precision": "bf16"},
            ["policy_precision is one of float32, bfloat16", "bfloat16"],
        ),
        ({"aux_precision": "float16"}, ["aux_precision is one of", "did you mean 'bfloat16'"]),
        ({"replay_compression": "zip"}, ["replay_compression is None or 'lz4', not 'zip'"]),
        ({"num_minibatches": 3}, ["8 rows", "num_minibatches=3", "1, 2, 4, 8"]),
        ({"num_aux_minibatches": 16}, ["8 rows", "num_aux_minibatches=16", "segment_length"]),
        ({"train_batch_size_per_learner": 999}, ["999", "256 env steps an iteration"]),
        ({"minibatch_size": 64}, ["minibatch_size=64", "num_minibatches"]),
        ({"num_epochs": 3}, ["num_epochs=3", "e_pi"]),
        ({"train_batch_size": 999}, ["train_batch_size=999", "256 env steps an iteration"]),
        ({"lr": -1.0}, ["lr", "non-negative"]),
        ({"gamma": "x"}, ["gamma", "'x'"]),
        ({"beta_clone": float("nan")}, ["beta_clone", "nan"]),
    ],
)
def test_impossible_settings(training, words):
    refuses(small(**training), *words)


def test_clip_param_may_be_zero_where_nothing_is_clipped():
    small(kl_penalty=1.0, clip_param=0.0).validate()
    refuses(small(clip_param=0.0), "clip_param", "positive")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"fcnet_hiddens": 64}, "a list of whole numbers of at least 1, not 64"),
        ({"fcnet_hiddens": ["64"]}, "a list of whole numbers of at least 1, not ['64']"),
        ({"fcnet_hiddens": []}, "vectors need a layer"),
        ({"head_fcnet_hiddens": [32.5]}, "a list of whole numbers"),
        ({"fcnet_activation": "tnah"}, "not 'tnah'; did you mean 'tanh'?"),
        ({"fcnet_kernel_initializer": "orthogonal"}, "torch.nn.init that ends in _"),
        ({"fcnet_kernel_initializer_kwargs": 2}, "None or a dict, not 2"),
        ({"fcnet_use_layernorm": "no"}, "True or False, not 'no'"),
        ({"use_lstm": "no"}, "True or False, not 'no'"),
        ({"lstm_cell_size": "8"}, "a whole number of at least 1, not '8'"),
        ({"recurrent_cell": ["gru"]}, "'lstm' or 'gru', not ['gru']"),
        ({"impala_channels": 16}, "a list of whole numbers"),
        ({"impala_channels": []}, "that is not empty, not []"),
        ({"conv_filters": [16]}, "a list of layers"),
        ({"log_std_clip_param": "20"}, "a non-negative number, not '20'"),
        ({"freeze": "pi_encoder"}, "a list of names of parts, not 'pi_encoder'"),
        ({"parts": 5}, "a dict, not 5"),
        ({"parts": {"camera": 5}}, "['camera'] is a dict, not 5"),
        ({"parts": {"camera": {"impala_dense": 0}}}, "['camera']['impala_dense'] is a whole"),
    ],
)
def test_networks_that_can_t_be_built(entry, words):
    [name] = entry
    refuses(small().rl_module(model_config=entry), f"model_config['{name}']", words)
    refuses(
        small().rl_module(rl_module_spec=RLModuleSpec(model_config=entry)),
        f"model_config['{name}']",
        words,
    )


def test_what_rllib_s_networks_take():
    entries = {
        "fcnet_hiddens": (np.int64(8),),
        "head_fcnet_hiddens": [],
        "fcnet_activation": "ReLU",
        "head_fcnet_activation": torch.nn.GELU,
        "conv_activation": None,
        "fcnet_kernel_initializer": "orthogonal_",
        "fcnet_bias_initializer": torch.nn.init.zeros_,
        "log_std_clip_param": float("inf"),
        "conv_filters": [[16, [4, 4], 2], (8, 3, 1)],
    }
    small().rl_module(model_config=entries).validate()
    model_config = {"fcnet_hiddens": [], "impala_channels": [4]}  # which images do not need
    small("procgen-coinrun-v0").rl_module(model_config=model_config).validate()


def test_train_batch_size_that_agrees_is_fine():
    small(train_batch_size_per_learner=256).validate()


def test_without_auxiliary_phases_their_settings_do_not_matter():
    small(n_pi=0, num_aux_minibatches=16).validate()
    small(e_aux=0, num_aux_minibatches=16).validate()


def test_other_refusals():
    refuses(small().env_runners(batch_mode="complete_episodes"), "rollout_fragment_length")
    refuses(small().framework("tf2"), "torch only")
    lstm = {"use_lstm": True, "max_seq_len": 16}
    refuses(small(segment_length=8).rl_module(model_config=lstm), "max_seq_len=16", "leave one")
    refuses(small().rl_module(model_config={"lstm_use_prev_action": True}), "last action")
    refuses(small().rl_module(model_config={"recurrent_cell": "rnn"}), "'lstm' or 'gru'")
    refuses(small().rl_module(model_config={"fcnet_hidden": [3]}), "fcnet_hiddens")
    for key, value in {
        "arch": "duel",
        "observation_filter": "MeanStdFilter",
        "detach_vf_in_aux_phase": "no",
    }.items():
        refuses(small().rl_module(model_config={key: value}), f"set {key}, not model_config")
    refuses(small().rl_module(model_config=[("arch", "dual")]), "model_config is a dict or")
    refuses(
        small().rl_module(rl_module_spec=MultiRLModuleSpec(rl_module_specs={})),
        "not a MultiRLModuleSpec",
    )
    refuses(small().environment(clip_rewards=True), "clip_rewards", "normalize_rewards")
    small().environment(clip_rewards=False).validate()
    of_module = {"default_policy": PPGConfig.overrides(gamma=0.1)}
    config = small().rl_module(algorithm_config_overrides_per_module=of_module)
    refuses(config, "gamma is the same for all modules", "a module has its own lr, aux_lr, e_pi")
    refuses(
        small().multi_agent(policies={"a", "b"}, policy_mapping_fn=lambda *_: "a"),
        "'CartPole-v1' is not a multi-agent env",
    )
    refuses(small().env_runners(env_runner_cls=SingleAgentEnvRunner), "BatchedEnvRunner")
    refuses(small().reporting(log_gradients=True), "log_gradients")
    refuses(small().framework(torch_skip_nan_gradients=True), "torch_skip_nan_gradients")
    refuses(small().env_runners(observation_filter="MeanStdFiltr"), "did you mean 'MeanStdFilter'")
    images = small("procgen-coinrun-v0").env_runners(observation_filter="MeanStdFilter")
    refuses(images, "normalises vectors", "scaled to")
    refuses(small().debugging(seed="x"), "seed", "'x'")
    old_stack = small().api_stack(
        enable_rl_module_and_learner=False, enable_env_runner_and_connector_v2=False
    )
    refuses(old_stack, "new API stack")


@pytest.mark.parametrize("value", [5, {"ppg": "x"}, {"ppg": -1}, {1: 2}])
@pytest.mark.parametrize("who", ["for_main_process", "per_learner", "per_env_runner"])
def test_custom_resources_are_names_and_numbers(who, value):
    config = small().update_from_dict({f"custom_resources_{who}": value})
    with pytest.raises(ValueError, match=rf"custom_resources_{who} is a dict of names"):
        config.validate()


def test_what_needs_episodes_is_sampled_by_rllibs_env_runners():
    class OnEpisode(RLlibCallback):
        def on_episode_end(self, **kwargs): ...

    class OnResult(RLlibCallback):
        def on_train_result(self, **kwargs): ...

    connector = {"env_to_module_connector": lambda *_, **__: []}
    for config, reason in (
        (small().callbacks(OnEpisode), "callbacks have on_episode_end"),
        (small().callbacks(on_episode_step=lambda **_: None), "callbacks have on_episode_step"),
        (small().env_runners(**connector), "env_to_module_connector is set"),
        (small().callbacks(OnResult), None),
    ):
        config.validate()
        assert config.env_runner_reason == reason
        assert (config.env_runner_cls is BatchedEnvRunner) == (reason is None)
    refuses(small(NextStepCounting).env_runners(**connector), "can't step", "a single env")


class TwoAgents(MultiAgentEnv):
    pass


class NeverResets(NextStepCounting):
    metadata = {"autoreset_mode": AutoresetMode.DISABLED}  # noqa: RUF012


tune.register_env("returns-no-env", lambda config: "no env")
tune.register_env("returns-a-vector-env", lambda config: NextStepCounting({"num_envs": 2}))
tune.register_env("divides-by-zero", lambda config: 1 / 0)


@pytest.mark.parametrize(
    ("env", "words"),
    [
        (None, ["no environment"]),
        ("CartPol-v1", ["CartPol-v1", "did you mean 'CartPole-v1'"]),
        ("procgen-coinrum-v0", ["did you mean 'procgen-coinrun-v0'"]),
        ("no_such_module:Env-v0", ["no_such_module"]),
        (42, ["42"]),
        (int, ["int is not a gymnasium.Env"]),
        (TwoAgents, ["multi-agent"]),
        (lambda config: Counting(), ["register_env"]),
        ("returns-no-env", ["'no env'", "not a gymnasium.Env"]),
        ("returns-a-vector-env", ["give the class itself"]),
        ("divides-by-zero", ["can't be made", "division by zero"]),
        (NeverResets, ["resets by itself"]),
    ],
)
def test_envs_that_are_none(env, words):
    refuses(small(env), *words)


@pytest.mark.parametrize(
    ("space", "same"),
    [
        (gym.spaces.MultiBinary(3), "MultiDiscrete([2, 2, 2])"),
        (gym.spaces.MultiBinary((2, 3)), "MultiDiscrete([2] * 6)"),
        (gym.spaces.Box(0, 9, (2,), np.int64), "MultiDiscrete([10, 10])"),
        (gym.spaces.Box(-1, 1, (2, 2), np.int8), "MultiDiscrete([3] * 4, start=[-1] * 4)"),
        (gym.spaces.Box(2, 4, (), np.int32), "Discrete(3, start=2)"),
        (gym.spaces.Box(-1, 1, (2, 2)), "Box(-1.0, 1.0, (4,))"),
        (gym.spaces.MultiDiscrete([[2, 3]]), "MultiDiscrete([2, 3])"),
        (gym.spaces.Box(-(2**40), 2**40, (2,), np.int64), None),
        (gym.spaces.OneOf([gym.spaces.Discrete(2), gym.spaces.Box(-1, 1, (2,))]), None),
    ],
)
def test_action_spaces_without_a_distribution_here(space, same):
    config = small(Counting)
    config.environment(env_config={"action_space": space})
    refuses(config, str(space), "exact KL", f"{same} says the same" if same else "")
    config.environment(env_config={"action_space": gym.spaces.Dict(a=space)})
    refuses(config, str(space), "exact KL")
    # Nor does an evaluation or an env that nobody has checked take them.
    spec = config.environment(disable_env_checking=True).get_rl_module_spec(
        spaces={DEFAULT_MODULE_ID: (gym.spaces.Box(-1, 1, (2,)), space)}
    )
    with pytest.raises(ValueError, match="exact KL"):
        spec.build()


@pytest.mark.parametrize(
    "space",
    [gym.spaces.Box(-1, 1, (0,)), gym.spaces.Tuple([]), gym.spaces.Dict(a=gym.spaces.Dict())],
)
def test_action_spaces_without_an_action(space):
    refuses(small(Counting).environment(env_config={"action_space": space}), "nothing to choose")


def test_observations_without_a_fixed_size():
    config = small(AnySpaces)
    space = gym.spaces.Sequence(gym.spaces.Discrete(3))
    config.environment(env_config={"observation_space": space})
    refuses(config, "no fixed size", "Sequence")


@pytest.mark.parametrize(
    ("env_config", "words"),
    [
        ({"distribution_mode": "esay"}, ["esay", "easy"]),
        ({"distribution_mode": "extreme"}, ["coinrun", "extreme"]),
        ({"num_level": 3}, ["num_level", "num_levels"]),
        ({"num_levels": -1}, ["num_levels"]),
    ],
)
def test_procgen_options(env_config, words):
    config = small("procgen-coinrun-v0")
    config.environment(env_config=env_config)
    refuses(config, *words)


def test_env_checking_can_be_switched_off():
    config = small("divides-by-zero")
    config.environment(disable_env_checking=True)
    config.validate()


def test_other_algorithms_configs_are_not_touched():
    """PPG's stricter `update_from_dict` is PPG's alone."""
    assert AlgorithmConfig().update_from_dict({"anything": 1}).anything == 1

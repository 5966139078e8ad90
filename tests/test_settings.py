"""What a user sets is what is trained, or it is refused, whichever way it came."""

import inspect
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.policy.policy import PolicySpec

from rllib_ppg import PPGConfig
from rllib_ppg.experiments.experiment import Experiment
from rllib_ppg.experiments.experiment_file import dump_yaml
from rllib_ppg.rllib_settings import settings_by_method

pytestmark = pytest.mark.unit

# RLlib's settings that a run of PPG reads: in this package, or in RLlib's code that it runs. A
# setting that is in neither list of a new version of RLlib makes a test below fail.
READ = {
    "_env_to_module_connector", "_model_config", "_module_to_env_connector", "_rl_module_spec",
    "_learner_class", "_torch_grad_scaler_class", "_torch_lr_scheduler_classes",
    "_train_batch_size_per_learner", "_use_msgpack_checkpoints", "_validate_config",
    "_dont_auto_sync_env_runner_states", "_is_online", "_per_module_overrides",
    "_prior_exploration_config", "action_space", "add_default_connectors_to_env_to_module_pipeline",
    "add_default_connectors_to_module_to_env_pipeline", "algorithm_config_overrides_per_module",
    "broadcast_env_runner_states", "callbacks_class", "callbacks_on_algorithm_init",
    "callbacks_on_checkpoint_loaded", "callbacks_on_env_runners_recreated",
    "callbacks_on_environment_created", "callbacks_on_episode_created", "callbacks_on_episode_end",
    "callbacks_on_episode_start", "callbacks_on_episode_step", "callbacks_on_evaluate_end",
    "callbacks_on_evaluate_start", "callbacks_on_sample_end", "callbacks_on_train_result",
    "clip_actions", "count_steps_by", "create_env_on_local_worker", "create_local_env_runner",
    "custom_evaluation_function", "custom_resources_for_main_process",
    "custom_resources_per_env_runner", "custom_resources_per_learner",
    "delay_between_env_runner_restarts_s", "disable_env_checking",
    "enable_env_runner_and_connector_v2", "enable_rl_module_and_learner", "env", "env_config",
    "env_runner_cls", "env_runner_health_probe_timeout_s", "env_runner_restore_timeout_s",
    "episode_lookback_horizon", "episodes_to_numpy",
    "evaluation_auto_duration_max_env_steps_per_sample",
    "evaluation_auto_duration_min_env_steps_per_sample", "evaluation_config", "evaluation_duration",
    "evaluation_duration_unit", "evaluation_error_after_n_consecutive_skips",
    "evaluation_force_reset_envs_before_iteration", "evaluation_interval",
    "evaluation_num_env_runners", "evaluation_parallel_to_training", "evaluation_sample_timeout_s",
    "evaluation_unhealthy_workers_timeout_s", "explore", "extra_python_environs_for_worker",
    "framework_str", "gamma", "grad_clip", "grad_clip_by", "gym_env_vectorize_mode",
    "ignore_env_runner_failures", "in_evaluation", "learner_config_dict", "local_gpu_idx",
    "log_level", "log_sys_usage", "lr", "max_num_env_runner_restarts",
    "max_requests_in_flight_per_env_runner", "merge_env_runner_states",
    "metrics_num_episodes_for_smoothing", "min_sample_timesteps_per_iteration",
    "min_time_s_per_iteration", "min_train_timesteps_per_iteration", "normalize_actions",
    "num_consecutive_env_runner_failures_tolerance", "num_cpus_for_main_process",
    "num_cpus_per_env_runner", "num_cpus_per_learner", "num_env_runners", "num_envs_per_env_runner",
    "num_gpus_per_env_runner", "num_gpus_per_learner", "num_learners", "observation_filter",
    "observation_space", "placement_strategy", "policies", "policies_to_train", "policy_mapping_fn",
    "restart_failed_env_runners", "restart_failed_sub_environments", "rollout_fragment_length",
    "sample_timeout_s", "seed", "simple_optimizer", "stats_cls_lookup",
    "sync_filters_on_rollout_workers_timeout_s", "train_batch_size",
    "validate_env_runners_after_construction",
}  # fmt: skip
OF_RLLIB = {*vars(AlgorithmConfig())} - {"algo_class", "_is_frozen"}
OWN = sorted(n for n in PPGConfig().setting_names() - OF_RLLIB if not n.startswith("_"))
# Settings of RLlib whose values stand alone: a number, a name, or a switch.
SIMPLE = sorted(
    name
    for name in READ
    if not name.startswith("_") and isinstance(vars(PPGConfig())[name], int | float | str)
    and name not in ("in_evaluation", "simple_optimizer", "disable_env_checking")
)  # fmt: skip
VALUES = [
    -1, -1.0, 0, 0.0, 1, 2, 0.5, 1e-9, True, False, None, "", "auto", "x", [], {}, np.int64(4),
    np.float32(0.5), float("nan"), float("inf"), "__not_serializable__", "both", "ewma", "norm",
    [[0, 0.5], [100, 0.1]],
]  # fmt: skip


def start():
    """A config without an env to make, so that many can be checked in a second."""
    return PPGConfig().environment("CartPole-v1", disable_env_checking=True)


def by_method(name, value):
    for method in ("training", "env_runners", "learners", "resources", "evaluation", "reporting",
                   "debugging", "fault_tolerance", "environment", "framework", "api_stack",
                   "multi_agent"):  # fmt: skip
        if name in inspect.signature(getattr(PPGConfig, method)).parameters or (
            method == "training" and name in ("lr", "gamma", "grad_clip", "grad_clip_by")
        ):
            return getattr(start(), method)(**{name: value})
    return by_attribute(name, value)


def by_attribute(name, value):
    config = start()
    setattr(config, name, value)
    return config


def by_dict(name, value):
    return start().update_from_dict({name: value})


def by_state(name, value):
    return PPGConfig.from_state(by_attribute(name, value).get_state())


def by_copy(name, value):
    return PPGConfig.from_dict(by_attribute(name, value).to_dict()).copy()


def by_yaml(name, value):
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "experiment.yaml"
        file.write_text(dump_yaml({"e": {"run": "PPG", "config": {name: value}}}))
        [(_, config)] = Experiment.from_file(file).variants()
    return start().update_from_dict(config)


WAYS = [by_method, by_attribute, by_dict, by_state, by_copy, by_yaml]


def is_same(a, b):
    return type(a) is type(b) and (a == b or (a != a and b != b))


@settings(deadline=None, derandomize=True, database=None, max_examples=400)
@given(st.sampled_from(WAYS), st.sampled_from(OWN + SIMPLE), st.sampled_from(VALUES))
def test_a_value_arrives_as_it_was_set_or_is_refused(way, name, value):
    if way is by_yaml and isinstance(value, np.generic):
        return  # a file can't hold it
    try:
        config = way(name, value)
        config.validate()
    except ValueError as error:
        assert "\n" not in str(error), error
    else:
        assert is_same(getattr(config, name), value), (name, value, getattr(config, name))


def test_settings_that_nothing_reads_are_refused():
    ignored = []
    for name in sorted(OF_RLLIB - READ):
        config = start()
        setattr(config, name, "x")
        try:
            config.validate()
        except ValueError:
            continue
        ignored.append(name)
    assert not ignored


def test_the_reference_lists_settings_that_are_read():
    listed = {name for names in settings_by_method().values() for name in names}
    assert {"lr", "num_learners", "model_config", "evaluation_interval"} <= listed
    assert not {name for name in listed if not {name, f"_{name}"} & READ}


def test_settings_that_are_read_may_differ():
    """And are no names that RLlib no longer has."""
    assert READ <= OF_RLLIB
    config = start().debugging(log_level="ERROR").reporting(min_time_s_per_iteration=1)
    config.fault_tolerance(restart_failed_env_runners=False, max_num_env_runner_restarts=3)
    config.evaluation(evaluation_interval=2, evaluation_num_env_runners=1)
    config.validate()


def test_minus_one_survives_a_state():
    """RLlib drops it: it marks settings that are gone."""
    config = start()
    config.env_config["floor"] = -1
    config.learner_config_dict = -1
    other = PPGConfig.from_state(config.get_state())
    assert (other.env_config["floor"], other.learner_config_dict) == (-1, -1)


def test_policies_survive_a_dict():
    config = start().multi_agent(
        policies={"a": PolicySpec(), "b": PolicySpec()}, policy_mapping_fn=lambda *_, **__: "a"
    )
    assert {*PPGConfig.from_dict(config.to_dict()).policies} == {"a", "b"}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        # Old names of RLlib's, whichever way; -1 is RLlib's mark for "not given".
        (lambda: start().env_runners(num_rollout_workers=-1), "set num_env_runners"),
        (lambda: start().update_from_dict({"num_workers": 2}), "set num_env_runners"),
        (lambda: start().resources(num_gpus_per_worker=1), "set num_gpus_per_env_runner"),
        (lambda: start().training(num_sgd_iter=3), "e_pi for the policy, and e_v"),
        (lambda: start().training(sgd_minibatch_size=3), "set num_minibatches"),
        (lambda: start().training(vf_share_layers=True), "set arch"),
        (lambda: start().resources(num_gpus=1).validate(), "num_gpus_per_learner .* num_learners"),
        # Of other projects.
        (lambda: start().training(gae_lambda=0.9), "set lambda_"),
        (lambda: start().update_from_dict({"n_steps": 3}), "set rollout_fragment_length"),
        (lambda: start().training(e_policy=2), "set e_pi"),
        (lambda: start().training(aux_mbsize=4), "set num_aux_minibatches"),
        (lambda: start().training(num_gpus=1), "num_gpus_per_learner .* num_learners"),
        (lambda: start().evaluation(evaluation_num_episodes=1), "set evaluation_duration"),
        # A setting that another method sets.
        (lambda: start().training(num_env_runners=2), r"set by \.env_runners\("),
        (lambda: start().env_runners(n_pi=2), r"set by \.training\("),
        # Parts of settings.
        (lambda: start().update_from_dict({"multiagent": {"policis": 1}}), "mean 'policies'"),
        (lambda: start().update_from_dict({"lambda": 0.1, "lambda_": 0.2}), "the same setting"),
        (lambda: PPGConfig.overrides(n_pii=3), "did you mean 'n_pi'"),
        (lambda: by_attribute("n_pii", 3).validate(), "did you mean 'n_pi'"),
        (lambda: start().update_from_dict({"__n_pi": 3}), "no setting '__n_pi'"),
        (lambda: start().evaluation(evaluation_config={"n_pii": 3}).validate(), "mean 'n_pi'"),
        (lambda: by_attribute("evaluation_config", {1: 2}).validate(), "no setting '1'"),
        (lambda: by_attribute("evaluation_config", [1]).validate(), "evaluation_config is None or"),
        (
            lambda: Experiment("PPG", config={"env_config": {"x": {"eval": "1 + 1"}}}).validate(),
            "config.env_config.x .* as Python",
        ),
    ],
)
def test_other_names(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_an_entry_of_a_model_config_that_belongs_to_ppo():
    config = start().rl_module(model_config={"vf_share_layers": True})
    with pytest.raises(ValueError, match="set arch"):
        config.validate()


def test_a_complete_model_config_has_entries_that_nobody_typed():
    config = PPGConfig().environment("CartPole-v1")
    config.rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[8]))
    config.validate()


def test_a_subclass_may_have_settings_of_its_own():
    class Own(PPGConfig):
        def __init__(self):
            super().__init__()
            self.curiosity = 0.0

    config = Own().environment("CartPole-v1").update_from_dict({"curiosity": 0.5})
    config.validate()
    assert config.copy().curiosity == 0.5

"""RLlib's settings under PPG: what is not read is refused, and so is what has another name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from ray.rllib.algorithms.algorithm_config import DEPRECATED_VALUE, AlgorithmConfig
from ray.rllib.models import MODEL_DEFAULTS

from rllib_ppg.setting_names import INSTEAD, unknown_setting
from rllib_ppg.setting_values import format_value

if TYPE_CHECKING:
    from rllib_ppg.config import PPGConfig

ConfigT = TypeVar("ConfigT", bound=AlgorithmConfig)

# Settings that PPG replaces: their defaults, and what to set instead.
_REPLACED: dict[str, tuple[Any, str]] = {
    "num_epochs": (1, "e_pi and e_v"),
    "minibatch_size": (None, "num_minibatches (of the whole batch, per policy epoch)"),
    "shuffle_batch_per_epoch": (False, "nothing: PPG always shuffles"),
    "batch_mode": ("truncate_episodes", "rollout_fragment_length"),
    "num_gpus": (0, INSTEAD["num_gpus"]),
    "remote_worker_envs": (False, "gym_env_vectorize_mode='async'"),
}
# Settings that PPG does not support, with their defaults.
_UNSUPPORTED: dict[str, tuple[Any, str]] = {
    "_learner_connector": (None, "custom learner connectors"),
    "num_aggregator_actors_per_learner": (0, "aggregator actors"),
    "output": (None, "recording with .offline_data(output=...)"),
    "torch_compile_learner": (False, "torch_compile_learner"),
    "_torch_grad_scaler_class": (None, "gradient scalers"),
    "_torch_lr_scheduler_classes": (None, "torch's learning-rate schedulers: give `lr` a schedule"),
    "use_env_runner_state_server": (False, "the env runner state server"),
    "input_": ("sampler", "offline data"),
    "compress_observations": (False, "compress_observations"),
    "log_gradients": (False, "log_gradients"),
    "optimizer": ({}, "settings of RLlib's optimizers: it trains with Adam, at `lr` and `aux_lr`"),
    "model": (MODEL_DEFAULTS, "the old API stack's `model`: set .rl_module(model_config=...)"),
    "torch_skip_nan_gradients": (
        False,
        "torch_skip_nan_gradients: a NaN gradient ends the phase and leaves the weights unchanged",
    ),
    "torch_ddp_kwargs": ({}, "torch_ddp_kwargs: its learners sum their gradients without DDP"),
    "action_mask_key": (
        "action_mask",
        "another action_mask_key: the mask is the part 'action_mask' of a Dict observation",
    ),
}
# Settings that nothing reads in a run of PPG, by what they are for.
_NOT_READ = {
    "TensorFlow": (
        "eager_tracing", "eager_max_retraces", "tf_session_args", "local_tf_session_args",
        "enable_tf1_exec_eagerly", "_tf_policy_handles_more_than_one_loss",
    ),
    "torch.compile": (
        "torch_compile_learner_what_to_compile", "torch_compile_learner_dynamo_backend",
        "torch_compile_learner_dynamo_mode", "torch_compile_worker",
        "torch_compile_worker_dynamo_backend", "torch_compile_worker_dynamo_mode",
    ),
    "learner connectors, of which PPG has none": ("add_default_connectors_to_learner_pipeline",),
    "RLlib's asynchronous algorithms": (
        "max_requests_in_flight_per_aggregator_actor", "max_requests_in_flight_per_learner",
        "env_runner_state_server_max_concurrency",
    ),
    "offline data": (
        "offline_data_class", "input_read_method", "input_read_method_kwargs", "input_read_schema",
        "input_read_episodes", "input_read_sample_batches", "input_read_batch_size",
        "input_filesystem", "input_filesystem_kwargs", "input_compress_columns",
        "input_spaces_jsonable", "input_config", "materialize_data", "materialize_mapped_data",
        "map_batches_kwargs", "iter_batches_kwargs", "ignore_final_observation", "prelearner_class",
        "prelearner_buffer_class", "prelearner_buffer_kwargs", "prelearner_module_synch_period",
        "prelearner_use_recorded_module_states", "dataset_num_iters_per_learner",
        "actions_in_input_normalized", "postprocess_inputs", "shuffle_buffer_size", "output_config",
        "output_compress_columns", "output_max_file_size", "output_max_rows_per_file",
        "output_write_remaining_data", "output_write_method", "output_write_method_kwargs",
        "output_filesystem", "output_filesystem_kwargs", "output_write_episodes",
        "offline_sampling",
    ),
    "evaluation on offline data": (
        "off_policy_estimation_methods", "ope_split_batch_by_episode",
        "offline_evaluation_interval", "num_offline_eval_runners", "offline_evaluation_type",
        "offline_eval_runner_class", "offline_loss_for_module_fn", "offline_evaluation_duration",
        "offline_evaluation_parallel_to_training", "offline_evaluation_timeout_s",
        "num_cpus_per_offline_eval_runner", "num_gpus_per_offline_eval_runner",
        "custom_resources_per_offline_eval_runner", "restart_failed_offline_eval_runners",
        "ignore_offline_eval_runner_failures", "max_num_offline_eval_runner_restarts",
        "offline_eval_runner_restore_timeout_s", "max_requests_in_flight_per_offline_eval_runner",
        "validate_offline_eval_runners_after_construction",
        "offline_eval_runner_health_probe_timeout_s", "offline_eval_rl_module_inference_only",
        "broadcast_offline_eval_runner_states", "offline_eval_batch_size_per_runner",
        "dataset_num_iters_per_eval_runner", "callbacks_on_offline_eval_runners_recreated",
        "callbacks_on_evaluate_offline_start", "callbacks_on_evaluate_offline_end",
    ),
    "RLlib's old API stack": (
        "_fake_gpus", "extra_python_environs_for_driver", "_is_atari", "render_env",
        "remote_env_batch_wait_ms", "sample_collector", "preprocessor_pref",
        "update_worker_filter_stats", "use_worker_filter_stats", "sampler_perf_stats_ema_coef",
        "exploration_config", "policy_map_capacity", "policy_states_are_swappable",
        "observation_fn", "keep_per_episode_custom_metrics", "metrics_episode_collection_timeout_s",
        "export_native_model_files", "checkpoint_trainable_policies_only", "fake_sampler",
        "_disable_preprocessor_api", "_disable_action_flattening",
        "_disable_initialize_loss_from_dummy_batch", "env_task_fn", "enable_connectors", "monitor",
        "evaluation_num_episodes", "metrics_smoothing_episodes", "timesteps_per_iteration",
        "min_iter_time_s", "collect_metrics_timeout", "min_time_s_per_reporting",
        "min_train_timesteps_per_reporting", "min_sample_timesteps_per_reporting",
        "input_evaluation", "policy_map_cache", "worker_cls", "synchronize_filters",
        "enable_async_evaluation", "custom_async_evaluation_function", "_enable_rl_module_api",
        "auto_wrap_old_gym_envs", "always_attach_evaluation_results", "buffer_size",
        "prioritized_replay", "learning_starts", "replay_batch_size", "replay_sequence_length",
        "replay_mode", "prioritized_replay_alpha", "prioritized_replay_beta",
        "prioritized_replay_eps", "_disable_execution_plan_api",
    ),
}  # fmt: skip

# A setting that RLlib's `multi_agent` passes on to where it belongs now, and that its docs show.
_STILL_TAKEN = ("algorithm_config_overrides_per_module",)
# The methods of a config that take settings.
METHODS = (
    "python_environment", "resources", "framework", "api_stack", "environment", "env_runners",
    "learners", "training", "callbacks", "evaluation", "offline_data", "multi_agent", "reporting",
    "checkpointing", "debugging", "fault_tolerance", "rl_module", "experimental",
)  # fmt: skip


def settings_by_method() -> dict[str, list[str]]:
    """RLlib's settings that a run of PPG reads, by the method of a config that takes them."""
    refused = {*_REPLACED, *_UNSUPPORTED, *chain.from_iterable(_NOT_READ.values()), "clip_rewards"}
    refused |= {"train_batch_size", "train_batch_size_per_learner"}  # envs x steps say it
    attributes = {name.removeprefix("_") for name in vars(AlgorithmConfig())}
    found = {}
    for method in METHODS:
        names = inspect.signature(getattr(AlgorithmConfig, method)).parameters
        read = [n for n in names if n in attributes and not {n, f"_{n}"} & refused]
        if read:
            found[method] = read
    return found


def check_rllib_settings(config: PPGConfig) -> None:
    """Checks that all settings of RLlib that differ from their defaults are read.

    Raises:
        ValueError: One is not; the error says what to set instead if there is something.
    """
    for setting, (default, instead) in _REPLACED.items():
        value = getattr(config, setting)
        if differs(value, default):
            raise ValueError(f"PPG does not use {setting}={format_value(value)}: set {instead}")
    if config.clip_rewards:  # False and None both mean "never"
        raise ValueError("PPG does not use clip_rewards: set normalize_rewards")
    for setting, (default, what) in _UNSUPPORTED.items():
        if differs(getattr(config, setting), default):
            raise ValueError(f"PPG does not support {what}")
    defaults = vars(AlgorithmConfig())
    for purpose, names in _NOT_READ.items():
        for setting in names:
            value = getattr(config, setting)
            if differs(value, defaults[setting]):
                raise ValueError(
                    f"PPG does not use {setting}={format_value(value)}: it is for {purpose}"
                )


def checks_arguments(cls: type[ConfigT]) -> type[ConfigT]:
    """Class decorator: a config's methods refuse settings that they do not have, in a sentence.

    RLlib's methods ignore old names whose value is -1, their mark for "not given".
    """
    settings = {
        name: _settings_of(getattr(AlgorithmConfig, name)) | _settings_of(getattr(cls, name))
        for name in METHODS
    }
    for name in METHODS:
        setattr(cls, name, _checking_arguments(getattr(cls, name), settings))
    return cls


def _checking_arguments(
    method: Callable[..., Any], settings: Mapping[str, set[str]]
) -> Callable[..., Any]:
    name = method.__name__

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        for key in kwargs:
            if key in settings[name]:
                continue
            other = next((m for m, names in settings.items() if key in names), None)
            if other is not None and key not in INSTEAD:
                raise ValueError(f"{key} is set by .{other}({key}=...), not by .{name}(...)")
            raise unknown_setting(key, set().union(*settings.values()))
        return method(self, *args, **kwargs)

    return call


def _settings_of(method: Callable[..., Any]) -> set[str]:
    """Names of the settings that a config's method takes, without old ones."""
    return {
        name
        for name, p in inspect.signature(method).parameters.items()
        if name != "self"
        and p.kind != p.VAR_KEYWORD
        and (name in _STILL_TAKEN or not (type(p.default) is int and p.default == DEPRECATED_VALUE))
    }


def differs(value: Any, default: Any) -> bool:
    """Whether a value is not the default; an array never is."""
    return isinstance(value, np.ndarray) or bool(value != default)

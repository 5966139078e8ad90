"""Every check of `PPGConfig` that needs no cluster. Each error is one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils import force_list
from ray.rllib.utils.spaces.space_utils import get_original_space

from rllib_ppg.augmentation import augmentation_of
from rllib_ppg.aux_losses.setting import build_aux_losses, check_spaces
from rllib_ppg.data.minibatches import segments_per_row
from rllib_ppg.did_you_mean import did_you_mean
from rllib_ppg.envs.module_spaces import module_spaces
from rllib_ppg.envs.packed_observations import VECTOR, packing_of
from rllib_ppg.envs.spaces import check_action_space, is_image
from rllib_ppg.envs.vector_env import (
    check_env_exists,
    is_vector_env_class,
    vectorize_mode,
)
from rllib_ppg.learner import PPGTorchLearner
from rllib_ppg.learning.precision import AUTO
from rllib_ppg.learning.trained_module import PRECISIONS
from rllib_ppg.networks.image_values import check_image_space
from rllib_ppg.networks.observation_filter import FILTERS
from rllib_ppg.networks.rl_module import (
    ARCHITECTURES,
    PPGCatalog,
    PPGTorchRLModule,
    check_model_config,
)
from rllib_ppg.ray_private import given_setting
from rllib_ppg.resources.node_roles import ROLE_OF
from rllib_ppg.rllib_settings import check_rllib_settings, differs
from rllib_ppg.sampling.env_runner import BatchedEnvRunner
from rllib_ppg.sampling.episodes_env_runner import RolloutsOfEpisodes
from rllib_ppg.setting_names import INSTEAD, unknown_setting
from rllib_ppg.setting_rule import Rule, invalid_setting
from rllib_ppg.setting_values import format_value, is_number, is_whole

if TYPE_CHECKING:
    from rllib_ppg.config import PPGConfig

# Settings of PPG that the networks read, too.
MODEL_SETTINGS = ("arch", "aux_losses", "detach_vf_in_aux_phase", "observation_filter")

_LONGEST_TIMEOUT_S = 1e9


def _is_exactly(value: Any, expected: Any) -> bool:
    # Arrays compare by element, and True == 1.
    return type(value) is type(expected) and bool(value == expected)


# -- A rule for each setting -------------------------------------------------------------------


def _whole(minimum: int) -> Rule:
    return Rule(
        lambda value: is_whole(value) and minimum <= value < 2**31,
        f"a whole number of at least {minimum} and below 2**31",
    )


def _one_of(choices: Sequence[str]) -> Rule:
    return Rule(
        lambda value: isinstance(value, str) and value in choices,
        f"one of {', '.join(choices)}",
        choices,
    )


def _or(special: Any, rule: Rule) -> Rule:
    return Rule(
        lambda value: _is_exactly(value, special) or rule.allows(value),
        f"{special!r} or {rule.what}",
        rule.choices,
    )


_NOT_NEGATIVE = Rule(lambda value: is_number(value) and value >= 0, "a non-negative number")
_POSITIVE = Rule(lambda value: is_number(value) and value > 0, "a positive number")
_AT_LEAST_1 = Rule(lambda value: is_number(value) and value >= 1, "a number of at least 1")
_FRACTION = Rule(lambda value: is_number(value) and 0 <= value <= 1, "between 0 and 1")
_DECAY = Rule(lambda value: is_number(value) and 0 <= value < 1, "at least 0 and below 1")
_SWITCH = Rule(lambda value: isinstance(value, bool), "True or False")
_TIMEOUT = Rule(
    lambda value: is_number(value) and 0 < value <= _LONGEST_TIMEOUT_S,
    f"a positive number of at most {_LONGEST_TIMEOUT_S:g} seconds",
)
# The seeds of a run's parts are up to some millions larger, and numpy takes 32 bits.
_SEED = Rule(
    lambda value: is_whole(value) and 0 <= value < 2**31, "a whole number from 0 to 2**31 - 1"
)
_DICT = Rule(lambda value: isinstance(value, Mapping), "a dict")
_RESOURCES = Rule(
    lambda value: (
        isinstance(value, dict)
        and all(isinstance(n, str) and _NOT_NEGATIVE.allows(x) for n, x in value.items())
    ),
    "a dict of names and non-negative numbers",
)

_RULES: dict[str, Rule] = {
    **dict.fromkeys((
        "n_pi", "e_aux", "num_env_runners", "num_learners", "evaluation_num_env_runners",
        "local_gpu_idx", "max_num_env_runner_restarts",
        "num_consecutive_env_runner_failures_tolerance",
    ), _whole(0)),
    **dict.fromkeys((
        "e_pi", "e_v", "num_minibatches", "num_aux_minibatches", "num_envs_per_env_runner",
        "rollout_fragment_length", "metrics_num_episodes_for_smoothing",
        "episode_lookback_horizon", "max_requests_in_flight_per_env_runner",
    ), _whole(1)),
    **dict.fromkeys((
        "evaluation_interval", "min_sample_timesteps_per_iteration",
        "min_train_timesteps_per_iteration",
    ), _or(None, _whole(0))),
    **dict.fromkeys((
        "beta_clone", "vf_true_weight", "vf_loss_coeff", "vf_clone_coeff", "augmentation_coeff",
        "kl_penalty", "num_cpus_per_env_runner",
        "num_gpus_per_env_runner", "num_gpus_per_learner", "num_cpus_for_main_process",
        "delay_between_env_runner_restarts_s", "env_runner_health_probe_timeout_s",
        "env_runner_restore_timeout_s", "evaluation_unhealthy_workers_timeout_s",
    ), _NOT_NEGATIVE),
    **dict.fromkeys((
        "normalize_rewards", "detach_vf_in_aux_phase", "replay_may_spill", "checkpoint_replay",
        "adam_relative", "explore", "normalize_actions", "clip_actions", "disable_env_checking",
        "create_env_on_local_worker", "create_local_env_runner", "episodes_to_numpy",
        "evaluation_parallel_to_training", "evaluation_force_reset_envs_before_iteration",
        "restart_failed_env_runners", "ignore_env_runner_failures",
        "restart_failed_sub_environments", "validate_env_runners_after_construction",
    ), _SWITCH),
    **dict.fromkeys(("gamma", "lambda_"), _FRACTION),
    "policy_precision": _one_of(PRECISIONS),
    "aux_precision": _one_of((*PRECISIONS, AUTO)),
    **dict.fromkeys(ROLE_OF, _RESOURCES),
    "segment_length": _or(None, _whole(1)),
    "vf_lambda": _or(None, _FRACTION),
    **dict.fromkeys(("proximal_decay", "adv_ewma_decay"), _DECAY),
    "target_kl": _or(None, _or("auto", _POSITIVE)),
    "importance_max": _or(None, _AT_LEAST_1),
    "vf_phase": _one_of(("both", "auxiliary")),
    "augmentation_phase": _one_of(("auxiliary", "both")),
    "proximal": _one_of(("behavior", "ewma")),
    "micro_batch_size": _or("auto", _whole(1)),
    "vf_clip_param": _or(None, _POSITIVE),
    "grad_clip": _or(None, _NOT_NEGATIVE),
    "grad_clip_by": _one_of(("value", "norm", "global_norm")),
    "num_cpus_per_learner": _or("auto", _NOT_NEGATIVE),
    "collective_timeout_s": _TIMEOUT,
    "sample_timeout_s": _or(None, _TIMEOUT),
    "evaluation_sample_timeout_s": _or(None, _TIMEOUT),
    "min_time_s_per_iteration": _or(None, _NOT_NEGATIVE),
    "evaluation_duration": _or("auto", _whole(1)),
    "evaluation_duration_unit": _one_of(("episodes", "timesteps")),
    "count_steps_by": _one_of(("env_steps", "agent_steps")),
    "placement_strategy": _one_of(("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")),
    "env_config": _DICT,
    "evaluation_config": _or(None, _DICT),
    "seed": _or(None, _SEED),
    "arch": _one_of(ARCHITECTURES),
    "replay_compression": _or(None, Rule(lambda value: _is_exactly(value, "lz4"), "'lz4'")),
    "observation_filter": _one_of(FILTERS),
    "aux_losses": Rule(
        lambda value: isinstance(value, Mapping) and bool(value),
        "a dict of names and weights that is not empty (e_aux=0 turns auxiliary phases off)",
    ),
}  # fmt: skip
_SCHEDULES = ("lr", "aux_lr", "entropy_coeff")

# Settings that a module may have for itself.
PER_MODULE = (
    "lr", "aux_lr", "e_pi", "e_v", "e_aux", "entropy_coeff", "clip_param", "beta_clone", "arch",
    "aux_losses", "target_kl", "vf_true_weight",
)  # fmt: skip
_EPISODE_CALLBACKS = (
    "on_episode_created", "on_episode_start", "on_episode_step", "on_episode_end",
)  # fmt: skip


# -- Checks ------------------------------------------------------------------------------------


def check_setting(setting: str, value: Any) -> None:
    """Checks one setting on its own.

    Raises:
        ValueError: The value is not valid.
    """
    _RULES[setting].check(setting, value)


def check_is_dict(setting: str, value: Any) -> None:
    """Raises ValueError unless the value of a setting is a dict."""
    if not isinstance(value, dict):
        raise invalid_setting(setting, "a dict", value)


def check_settings(config: PPGConfig) -> None:
    """Checks all settings but the env's.

    Raises:
        ValueError: A setting is not valid, is not supported, or contradicts another one.
    """
    _check_names(config)
    _check_what_ppg_replaces(config)
    if is_vector_env_class(config):
        check_needs_no_episodes(config)
    _check_values(config)
    check_overrides(config)
    modes = [mode.value for mode in gym.VectorizeMode]
    _one_of(modes).check("gym_env_vectorize_mode", vectorize_mode(config))
    _check_module_spec(config)
    _check_batches(config)


def _check_names(config: PPGConfig) -> None:
    """Checks that no attribute, and no setting of the evaluation, is mistyped."""
    known = config.setting_names() | {"algo_class", "class", "worker_index"}
    for name in vars(config):
        if name not in known and not name.startswith("_"):
            raise unknown_setting(name, known)
    check_setting("evaluation_config", config.evaluation_config)
    config.check_keys(config.evaluation_config or {})


def _check_values(config: PPGConfig) -> None:
    """Checks settings that a module may have for itself, and what they have to do with others."""
    for setting, rule in _RULES.items():
        rule.check(setting, getattr(config, setting))
    # With a KL penalty nothing is clipped, and OpenAI's command line sets clip_param=0.
    if config.kl_penalty == 0:
        _POSITIVE.check("clip_param", config.clip_param)
    for setting in _SCHEDULES:
        _check_schedule(setting, getattr(config, setting))
    losses = build_aux_losses(config.aux_losses)
    if augmentation_of(config.augmentation) is None:
        for name, loss in losses.items():
            if loss.augmented:
                raise ValueError(f"aux_losses[{name!r}] needs an augmentation: set augmentation")
        if config.augmentation_phase == "both":
            raise ValueError("augmentation_phase='both' needs an augmentation: set augmentation")
    if config.vf_phase == "auxiliary" and not (config.has_aux_phase and config.vf_true_weight):
        raise ValueError(
            "vf_phase='auxiliary' would leave the value function untrained: it needs auxiliary "
            "phases (n_pi, e_aux) and a vf_true_weight above 0"
        )
    weights = [config.beta_clone, config.vf_true_weight, *(loss.weight for loss in losses.values())]
    if config.has_aux_phase and not any(weights):
        raise ValueError("all weights of the auxiliary phase are 0: set e_aux=0 to leave it out")


def check_env(config: PPGConfig) -> None:
    """Checks the env, by making one unless `disable_env_checking` is set.

    Raises:
        ValueError: There is no such env, or PPG can't train on its spaces.
    """
    if not config.is_multi_agent:
        check_env_exists(config)
    if config.disable_env_checking:
        return
    if custom_connector(config):  # which may change observations
        return
    for module_id, spaces in module_spaces(config).items():
        if config.trains(module_id):
            of_module = config.get_config_for_module(module_id)
            _check_spaces(of_module, spaces.observations, spaces.actions)


def _check_spaces(config: PPGConfig, observation_space: gym.Space, action_space: gym.Space) -> None:
    check_action_space(action_space)
    packing = packing_of(observation_space)
    if packing is not None:
        packing.check_mask(action_space)
    spec = given_setting(config, "rl_module_spec")
    if getattr(spec, "module_class", None) in (
        None,
        PPGTorchRLModule,
    ):  # others may take any images
        parts = packing.images.values() if packing else []
        for space in (observation_space, *(part.space for part in parts)):
            if is_image(space):
                check_image_space(space)
    check_spaces(build_aux_losses(config.aux_losses), observation_space, action_space)
    if config.augmentation is not None and not (
        is_image(observation_space) and observation_space.dtype == np.uint8
    ):
        raise ValueError(
            "augmentation changes uint8 images, and this env has "
            f"{get_original_space(observation_space)}"
        )
    vector = observation_space if packing is None else packing.vector
    has_vector = vector is not None and len(vector.shape) == 1
    if has_vector:
        _check_has_layers(config)
    if config.observation_filter != "NoFilter" and not has_vector:
        raise ValueError(
            f"observation_filter={config.observation_filter!r} normalises vectors; images are "
            "scaled to [0, 1] without it"
        )


def _check_has_layers(config: PPGConfig) -> None:
    """Refuses a network without layers for vectors; images have layers of other kinds."""
    spec = given_setting(config, "rl_module_spec") or RLModuleSpec()
    if not _has_default_networks(spec):
        return
    model_config = given_model_config(config)
    model_config |= model_config.get("parts", {}).get(VECTOR, {})
    if "fcnet_hiddens" in model_config and not len(model_config["fcnet_hiddens"]):
        raise ValueError(
            "model_config['fcnet_hiddens'] is empty, and vectors need a layer, as in [64]"
        )


def _has_default_networks(spec: Any) -> bool:
    return (
        isinstance(spec, RLModuleSpec)
        and spec.module_class in (None, PPGTorchRLModule)
        and spec.catalog_class in (None, PPGCatalog)
    )


def custom_connector(config: AlgorithmConfig) -> str | None:
    """The name of a setting with a user's connectors of env runners; None if there are none."""
    names = ("env_to_module_connector", "module_to_env_connector")
    return next((name for name in names if given_setting(config, name) is not None), None)


def needs_episodes(config: AlgorithmConfig) -> str | None:
    """What needs episode objects, which only RLlib's env runners build; None if nothing does."""
    if config.is_multi_agent:
        return "the env has several agents"
    if connector := custom_connector(config):
        return f"{connector} is set"
    overridden = {
        hook
        for cls in force_list(config.callbacks_class)
        for hook in _EPISODE_CALLBACKS
        if getattr(cls, hook, None) is not getattr(RLlibCallback, hook) and hasattr(cls, hook)
    } | {hook for hook in _EPISODE_CALLBACKS if getattr(config, f"callbacks_{hook}", None)}
    return f"callbacks have {min(overridden)}" if overridden else None


def check_needs_no_episodes(config: AlgorithmConfig) -> None:
    """Raises ValueError if something needs episodes, of an env that RLlib's env runners can't step.

    They lose a step of each episode of a vector env that resets in SAME_STEP mode.
    """
    if reason := needs_episodes(config):
        raise ValueError(
            f"{reason}, which needs RLlib's env runners, and these can't step {config.env}: give "
            "the class of a single env"
        )


def _check_what_ppg_replaces(config: PPGConfig) -> None:
    runner, learner = config.env_runner_cls, given_setting(config, "learner_class")
    if not (isinstance(runner, type) and issubclass(runner, BatchedEnvRunner | RolloutsOfEpisodes)):
        raise invalid_setting("env_runner_cls", "a class derived from BatchedEnvRunner", runner)
    if issubclass(runner, BatchedEnvRunner) and (reason := needs_episodes(config)):
        raise ValueError(
            f"env_runner_cls={runner.__name__} has no episodes, and {reason}: derive it from "
            "SingleAgentEpisodesEnvRunner or MultiAgentEpisodesEnvRunner"
        )
    if learner and not (isinstance(learner, type) and issubclass(learner, PPGTorchLearner)):
        raise invalid_setting("learner_class", "a class derived from PPGTorchLearner", learner)
    if not (config.enable_rl_module_and_learner and config.enable_env_runner_and_connector_v2):
        raise ValueError("PPG runs on RLlib's new API stack only")
    if config.framework_str != "torch":
        raise ValueError(f"PPG runs on torch only, not on {config.framework_str!r}")
    check_rllib_settings(config)


def _check_schedule(setting: str, value: Any) -> None:
    """Checks a number or a schedule; RLlib's own check accepts any two lists of two."""
    form = "a non-negative number or a schedule [[env steps, value], ...]"
    if not isinstance(value, list | tuple):
        Rule(_NOT_NEGATIVE.allows, form).check(setting, value)
        return
    pairs = all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value)
    if not pairs or not all(_NOT_NEGATIVE.allows(x) for pair in value for x in pair):
        raise invalid_setting(setting, f"{form} of non-negative numbers", value)
    steps = [pair[0] for pair in value]
    if len(steps) < 2 or steps[0] != 0 or steps != sorted(steps):
        raise invalid_setting(setting, f"{form} of at least two, from 0 env steps upwards", value)


def _check_batches(config: PPGConfig) -> None:
    T = config.rollout_fragment_length
    L, max_seq_len = config.segment_length, given_max_seq_len(config)
    if L and max_seq_len and max_seq_len != L:
        raise ValueError(
            f"segment_length={L} contradicts max_seq_len={max_seq_len} in model_config: leave one "
            "of them out"
        )
    segments = config.rows * segments_per_row(T, config.steps_per_segment)
    what = f"{config.rows} rows" if segments == config.rows else f"{segments} segments"
    num_env_runners = max(config.num_env_runners, 1)
    shape = f"{num_env_runners} env runners x {config.num_envs_per_env_runner} envs"
    varies = needs_episodes(config) is not None  # the number of rows
    for setting in ["num_minibatches"] + ["num_aux_minibatches"] * config.has_aux_phase:
        if not varies and segments % getattr(config, setting):
            raise ValueError(
                f"{what} ({shape}, {T} steps each) can't be cut into {setting}="
                f"{getattr(config, setting)} equal minibatches: set {setting} to one of "
                f"{_divisors(segments)}, or a smaller segment_length"
            )
    total = f"{shape} x {T} steps = {config.batch_size} env steps an iteration"
    size = config.train_batch_size
    if not is_whole(size) or size not in (AlgorithmConfig().train_batch_size, config.batch_size):
        raise ValueError(f"train_batch_size={format_value(size)} contradicts {total}; leave it out")
    size, num_learners = given_setting(config, "train_batch_size_per_learner"), config.num_learners
    per_learner = config.batch_size / max(num_learners, 1)
    if size is not None and not (is_number(size) and size == per_learner):
        raise ValueError(
            f"train_batch_size_per_learner={format_value(size)} contradicts {total} over "
            f"{max(num_learners, 1)} learner(s) = {per_learner:g}; leave it out"
        )


def _check_module_spec(config: PPGConfig) -> None:
    spec = given_setting(config, "rl_module_spec") or RLModuleSpec()
    if isinstance(spec, MultiRLModuleSpec) and config.is_multi_agent:
        for of_module in spec.rl_module_specs.values():
            _check_one_module_spec(config, of_module)
    else:
        _check_one_module_spec(config, spec)


def _check_one_module_spec(config: PPGConfig, spec: Any) -> None:
    if not isinstance(spec, RLModuleSpec):
        raise ValueError(f"rl_module_spec is an RLModuleSpec, not a {type(spec).__name__}")
    is_custom = spec.module_class not in (None, PPGTorchRLModule)
    is_ppgs = not is_custom or issubclass(spec.module_class, PPGTorchRLModule)
    for model_config in (given_setting(config, "model_config"), spec.model_config):
        is_dataclass = isinstance(model_config, DefaultModelConfig)
        if is_dataclass:
            model_config = asdict(model_config)
        model_config = {} if model_config is None else model_config
        if not isinstance(model_config, Mapping):
            raise invalid_setting("model_config", "a dict or DefaultModelConfig", model_config)
        if is_ppgs:
            _check_no_conflicting_model_settings(config, model_config)
        if _has_default_networks(spec):
            check_model_config(model_config)
        if is_ppgs and "vf_share_layers" in model_config and not is_dataclass:
            raise ValueError(
                f"vf_share_layers in model_config is a setting of RLlib's PPO: set "
                f"{INSTEAD['vf_share_layers']}"
            )
        for key in ("lstm_use_prev_action", "lstm_use_prev_reward"):
            if is_ppgs and model_config.get(key):
                raise ValueError(
                    f"PPG's networks do not get the last action or reward ({key}): add them to the "
                    "observations"
                )
    if not is_ppgs and config.observation_filter != "NoFilter":
        raise ValueError(
            f"observation_filter={config.observation_filter!r} is part of PPG's own networks: "
            f"derive {spec.module_class.__name__} from PPGTorchRLModule"
        )


def given_max_seq_len(config: PPGConfig) -> int | None:
    """`max_seq_len` of a recurrent policy's `model_config`, unless it is RLlib's default.

    Raises:
        ValueError: It is not a number of steps.
    """
    default = DefaultModelConfig().max_seq_len
    model_config = given_model_config(config)
    value = model_config.get("max_seq_len", default)
    spec = given_setting(config, "rl_module_spec")
    spec = spec if isinstance(spec, RLModuleSpec) else RLModuleSpec()
    is_ppgs = spec.module_class is None or issubclass(spec.module_class, PPGTorchRLModule)
    if (is_ppgs and not model_config.get("use_lstm")) or not differs(value, default):
        return None
    _whole(1).check("max_seq_len", value)
    return int(value)


def given_model_config(config: PPGConfig) -> dict[str, Any]:
    """The `model_config` that a user gave, in whichever way."""
    spec = given_setting(config, "rl_module_spec")
    specs = [spec] if isinstance(spec, RLModuleSpec) else []
    if isinstance(spec, MultiRLModuleSpec):
        specs = list(spec.rl_module_specs.values())
    given: dict[str, Any] = {}
    for model_config in (given_setting(config, "model_config"), *(s.model_config for s in specs)):
        if isinstance(model_config, DefaultModelConfig):
            model_config = asdict(model_config)
        given |= model_config or {}
    return given


def check_overrides(config: PPGConfig) -> None:
    """Raises ValueError for a setting that one module can't have for itself."""
    if config.is_multi_agent and not any(map(config.trains, config.policies)):
        raise ValueError("policies_to_train names none of the policies")
    for module_id, overrides in config.algorithm_config_overrides_per_module.items():
        ids = list(config.policies) if config.is_multi_agent else [DEFAULT_MODULE_ID]
        if module_id not in ids:
            raise ValueError(
                f"algorithm_config_overrides_per_module names {module_id!r}, which is no policy"
                f"{did_you_mean(str(module_id), ids)}"
            )
        for setting in overrides:
            if setting not in PER_MODULE:
                raise ValueError(
                    f"{setting} is the same for all modules, and the overrides of {module_id!r} "
                    f"set it: a module has its own {', '.join(PER_MODULE)}"
                )
        _check_values(config.get_config_for_module(module_id))


def _check_no_conflicting_model_settings(
    config: PPGConfig, model_config: Mapping[str, Any]
) -> None:
    """Refuses entries of `model_config` that contradict settings of the same name."""
    for setting in MODEL_SETTINGS:
        if setting in model_config and differs(model_config[setting], getattr(config, setting)):
            raise ValueError(
                f"{setting} does not belong in model_config: set {setting}, not model_config"
            )


# -- Sentences ---------------------------------------------------------------------------------


def _divisors(n: int) -> str:
    found = [str(d) for d in range(1, min(n, 4096) + 1) if n % d == 0]
    return ", ".join(found if len(found) <= 12 else [*found[:12], "..."])

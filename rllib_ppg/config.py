"""`PPGConfig`: the paper's symbols, RLlib's nouns, and every check that needs no cluster."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import gymnasium as gym
import numpy as np
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.models import MODEL_DEFAULTS
from ray.rllib.utils import force_list
from ray.rllib.utils.annotations import override
from ray.util import log_once

from rllib_ppg.did_you_mean import did_you_mean
from rllib_ppg.envs.spaces import check_action_space
from rllib_ppg.envs.vector_env import (
    NATIVE,
    check_env_id,
    is_vector_env_class,
    probe_spaces,
    vectorize_mode,
)
from rllib_ppg.learner import PPGTorchLearner
from rllib_ppg.learning.trained_module import PRECISIONS
from rllib_ppg.networks.observation_filter import FILTERS
from rllib_ppg.networks.rl_module import (
    ARCHITECTURES,
    PPGCatalog,
    PPGTorchRLModule,
    check_model_config,
)
from rllib_ppg.resources.node_roles import ROLE_OF
from rllib_ppg.sampling.env_runner import BatchedEnvRunner
from rllib_ppg.sampling.evaluation_connectors import act_as_in_training, observe_as_in_training

# RLlib settings that would contradict PPG's own, and what to set in their place.
_REPLACED = {
    "num_epochs": (1, "e_pi and e_v"),
    "minibatch_size": (None, "num_minibatches (of the whole batch, per policy epoch)"),
    "shuffle_batch_per_epoch": (False, "nothing: PPG always shuffles"),
    "batch_mode": ("truncate_episodes", "rollout_fragment_length"),
}
# Settings that PPG does not honour, with their defaults.
_UNSUPPORTED = {
    "_learner_connector": (None, "custom learner connectors"),
    "num_aggregator_actors_per_learner": (0, "aggregator actors"),
    "output": (None, "recording with .offline_data(output=...)"),
    "torch_compile_learner": (False, "torch_compile_learner"),
    "_torch_grad_scaler_class": (None, "gradient scalers"),
    "_torch_lr_scheduler_classes": (None, "torch's learning-rate schedulers: give `lr` a schedule"),
    "use_env_runner_state_server": (False, "the env runner state server"),
    "input_": ("sampler", "offline data"),
    "compress_observations": (False, "compress_observations"),
    "algorithm_config_overrides_per_module": (
        {},
        "algorithm_config_overrides_per_module: there is one module, give it the settings",
    ),
    "log_gradients": (False, "log_gradients"),
    "optimizer": ({}, "settings of RLlib's optimizers: it trains with Adam, at `lr` and `aux_lr`"),
    "model": (MODEL_DEFAULTS, "the old API stack's `model`: set .rl_module(model_config=...)"),
    "torch_skip_nan_gradients": (
        False,
        "torch_skip_nan_gradients: a gradient that is NaN ends the phase, the weights unchanged",
    ),
}
# Of an evaluation, at least, so that it is not of the shortest ones.
_EPISODES_AN_ENV = 10
# Settings that the networks read, too.
_MODEL_SETTINGS = ("arch", "detach_vf_in_aux_phase", "observation_filter")
# Whole numbers, and the least that each may be.
_AT_LEAST = {
    "n_pi": 0, "e_pi": 1, "e_v": 1, "e_aux": 0, "num_minibatches": 1, "num_aux_minibatches": 1,
    "num_env_runners": 0, "num_envs_per_env_runner": 1, "rollout_fragment_length": 1,
    "num_learners": 0,
}  # fmt: skip
_NOT_NEGATIVE = (
    "beta_clone", "vf_true_weight", "vf_loss_coeff", "kl_penalty", "num_cpus_per_env_runner",
    "num_gpus_per_env_runner", "num_gpus_per_learner", "num_cpus_for_main_process",
)  # fmt: skip
_CLIP_BY = ("value", "norm", "global_norm")
_SWITCHES = (
    "normalize_rewards",
    "detach_vf_in_aux_phase",
    "replay_may_spill",
    "checkpoint_replay",
    "explore",
)
# The other seeds of a run, which numpy takes from 32 bits, lie within some millions above this one.
_SEEDS = 2**31
_LONGEST_TIMEOUT_S = 1e9
_FLOAT32_MAX = 3.4e38
_EPISODE_CALLBACKS = (
    "on_episode_created",
    "on_episode_start",
    "on_episode_step",
    "on_episode_end",
)


class PPGConfig(AlgorithmConfig):
    """Configures `PPG`. The defaults are those of the paper's Procgen experiments (appendix A).

    Examples:
        >>> from rllib_ppg import PPGConfig
        >>> config = (
        ...     PPGConfig()
        ...     .environment("procgen-coinrun-v0", env_config={"distribution_mode": "easy"})
        ...     .env_runners(num_env_runners=1)
        ...     .training(n_pi=8, e_aux=6)
        ... )
        >>> algo = config.build_algo()  # doctest: +SKIP
    """

    env_runner_cls: type | None

    def __init__(self, algo_class: type | None = None):
        if algo_class is None:
            from rllib_ppg.ppg import PPG

            algo_class = PPG
        super().__init__(algo_class=algo_class)

        # Sampling: 4 x 64 envs x 256 steps = 65,536 env steps an iteration.
        self.num_env_runners = 4
        self.num_envs_per_env_runner = 64
        self.rollout_fragment_length = 256
        self.gym_env_vectorize_mode = "vector_entry_point"
        # A fragment of 256 steps can take minutes; a dead runner is noticed at once all the same.
        self.sample_timeout_s = 600.0

        # Policy phase.
        self.n_pi = 32
        self.e_pi = 1
        self.e_v = 1
        self.num_minibatches = 8
        self.segment_length: int | None = None
        self.lr = 5e-4
        self.gamma = 0.999
        self.lambda_ = 0.95
        self.clip_param = 0.2
        self.kl_penalty = 0.0
        self.entropy_coeff = 0.01
        self.vf_loss_coeff = 1.0
        self.vf_clip_param: float | None = None
        self.normalize_rewards = True

        # Auxiliary phase.
        self.e_aux = 6
        self.beta_clone = 1.0
        self.vf_true_weight = 1.0
        self.aux_lr = 5e-4
        self.num_aux_minibatches = 16
        self.replay_may_spill = False
        self.replay_compression: str | None = None
        self.checkpoint_replay = True

        # Networks.
        self.arch = "dual"
        self.detach_vf_in_aux_phase = True

        # Learners.
        self.micro_batch_size: int | str = "auto"
        self.policy_precision = "float32"
        self.aux_precision = "float32"
        self.collective_timeout_s = 300.0

        # `training_step` broadcasts the weights; there are no connector states to go with them.
        self._dont_auto_sync_env_runner_states = True

    @override(AlgorithmConfig)
    def training(
        self,
        *,
        n_pi: int = NotProvided,
        e_pi: int = NotProvided,
        e_v: int = NotProvided,
        e_aux: int = NotProvided,
        beta_clone: float = NotProvided,
        vf_true_weight: float = NotProvided,
        aux_lr: float | list = NotProvided,
        num_minibatches: int = NotProvided,
        num_aux_minibatches: int = NotProvided,
        segment_length: int | None = NotProvided,
        arch: str = NotProvided,
        detach_vf_in_aux_phase: bool = NotProvided,
        lambda_: float = NotProvided,
        clip_param: float = NotProvided,
        kl_penalty: float = NotProvided,
        entropy_coeff: float | list = NotProvided,
        vf_loss_coeff: float = NotProvided,
        vf_clip_param: float | None = NotProvided,
        normalize_rewards: bool = NotProvided,
        replay_may_spill: bool = NotProvided,
        replay_compression: str | None = NotProvided,
        checkpoint_replay: bool = NotProvided,
        micro_batch_size: int | str = NotProvided,
        policy_precision: str = NotProvided,
        aux_precision: str = NotProvided,
        collective_timeout_s: float = NotProvided,
        **kwargs: Any,
    ) -> PPGConfig:
        """Sets the algorithm's own settings; `**kwargs` are RLlib's (`lr`, `gamma`, ...).

        All counts are of the whole batch, over all env runners and learners.

        Args:
            n_pi: N_pi, iterations of a policy phase; then comes an auxiliary phase. 0: plain PPO.
                For runs shorter than the paper's 100M steps, no more than makes 15 phases of the
                run (docs/results.md).
            e_pi: E_pi, policy epochs an iteration. 1 is for Procgen; small vector tasks take PPO's
                usual 4 to 10. Where a return that was reached is lost again, fewer may keep it
                (docs/results.md, InvertedDoublePendulum).
            e_v: E_V, value epochs an iteration. If it differs from `e_pi`, the value epochs come
                first and have an Adam of their own; otherwise both losses share each pass.
            e_aux: E_aux, epochs of an auxiliary phase. 0: plain PPO.
            beta_clone: weight of KL[pi_old, pi] in L_joint. At 0 auxiliary phases damage the
                policy: on MinAtar's SpaceInvaders half the return is gone (docs/results.md).
            vf_true_weight: weight of L_value in the auxiliary phase.
            aux_lr: learning rate of the auxiliary phase's Adam, or a schedule as for `lr`:
                [[env steps, value], ...].
            num_minibatches: minibatches of a policy (or value) epoch.
            num_aux_minibatches: minibatches of an auxiliary epoch, per stored iteration.
            segment_length: steps of one env that stay together in a minibatch; None: whole rows
                of `rollout_fragment_length` steps, as in the original. 1: i.i.d. transitions,
                which small vector tasks want.
            arch: "dual" (two encoders), "detach" (one encoder; the value function's gradient stops
                at its features) or "shared" (one encoder, all gradients, as in PPO). With layers of
                64 units "detach" has a third less of a score on MuJoCo (docs/results.md).
            detach_vf_in_aux_phase: for arch="detach": stop that gradient in the auxiliary phase,
                too, as OpenAI's code does; False: let it in, as the paper's section 3.6 says.
            lambda_: lambda of GAE.
            clip_param: epsilon of L_clip.
            kl_penalty: beta of the KL penalty that takes the place of clipping (section 3.5);
                0: clip.
            entropy_coeff: weight of the entropy bonus, or a schedule [[env steps, value], ...].
            vf_loss_coeff: weight of L_value = 1/2 (V - V_targ)^2 where it shares passes with the
                policy loss.
            vf_clip_param: bound of (V - V_targ)^2 in the policy phase, as in RLlib's PPO; None,
                as in the paper: none.
            normalize_rewards: divide rewards by the running standard deviation of the discounted
                return and clip them to +-10 (metrics report raw returns).
            replay_may_spill: allow a replay list that is larger than the object store, of which
                Ray then keeps a part on disk.
            replay_compression: "lz4" keeps the replay list's observations compressed, exactly;
                None: as they are. So does a checkpoint.
            checkpoint_replay: whether checkpoints hold the replay list (25.8 GB at the paper's
                scale, at most once on disk); False: a run that goes on from one within a phase
                begins the phase anew.
            micro_batch_size: states that go through the network at once; gradients add up to the
                same. "auto": 64 images of 64 x 64 on a CPU and 1,024 on a GPU, more if they are
                smaller and fewer if larger; vectors all at once.
            policy_precision: "float32", or "bfloat16": the networks of the policy phase compute in
                bfloat16 (torch's autocast); weights, losses, KL and optimisers stay in float32. Env
                runners act in float32, so pi/pi_old is a little off 1 from the start.
            aux_precision: the same for the auxiliary phase.
            collective_timeout_s: seconds that a learner waits for the others within a gradient
                step before it gives up. One that fails is noticed at once, without it.

        Raises:
            ValueError: There is no such setting.
        """
        given = {k: v for k, v in locals().items() if k not in ("self", "kwargs", "__class__")}
        for key in kwargs:
            if key not in _training_keys():
                raise ValueError(_unknown(key, {*given, *_training_keys()}))
        for key in ("model", "optimizer"):  # RLlib merges them into its own at once
            if not isinstance(kwargs.get(key, {}), dict):
                raise _invalid_setting(key, "a dict", kwargs[key])
        if "grad_clip_by" in kwargs:
            _check_choice("grad_clip_by", kwargs["grad_clip_by"], _CLIP_BY)
        super().training(**kwargs)
        for key, value in given.items():
            if value is not NotProvided:
                setattr(self, key, value)
        return self

    @override(AlgorithmConfig)
    def env_runners(self, **kwargs: Any) -> PPGConfig:
        """RLlib's settings of the env runners.

        Raises:
            ValueError: `num_envs_per_env_runner` is no number, which RLlib would compare with 0.
        """
        key = "num_envs_per_env_runner"
        if kwargs.get(key, NotProvided) is not NotProvided:
            _check_count(key, kwargs[key], _AT_LEAST[key])
        return super().env_runners(**kwargs)

    @property
    def has_aux_phase(self) -> bool:
        """Whether there are auxiliary phases at all; without them PPG is PPO."""
        return self.n_pi > 0 and self.e_aux > 0

    @property
    def rows(self) -> int:
        """Rows of an iteration: envs over all env runners."""
        return max(self.num_env_runners, 1) * self.num_envs_per_env_runner

    @property
    def batch_size(self) -> int:
        """Env steps of an iteration."""
        return self.rows * self.rollout_fragment_length

    def row_bytes(self, observation_space: gym.Space) -> int:
        """Bytes of one env's observations of an iteration."""
        state = math.prod(observation_space.shape) * observation_space.dtype.itemsize
        return self.rollout_fragment_length * state

    def replay_bytes(self, observation_space: gym.Space) -> int:
        """Bytes of observations that a full replay list holds."""
        if not self.has_aux_phase:
            return 0
        return self.rows * self.n_pi * self.row_bytes(observation_space)

    @override(AlgorithmConfig)
    def update_from_dict(self, config_dict: dict) -> PPGConfig:
        """RLlib's `update_from_dict`, which takes misspelt keys for new ones; this one does not.

        Raises:
            ValueError: There is no such setting; the sentence names the nearest one.
        """
        known = {k for k in vars(PPGConfig(algo_class=self.algo_class)) if k != "algo_class"}
        known |= {"model_config", "rl_module_spec", "train_batch_size_per_learner", "learner_class"}
        for key in config_dict.keys():  # noqa: SIM118 (an AlgorithmConfig has keys, but no iter)
            name = self._translate_special_keys(key, warn_deprecated=False)
            # Tune adds keys of its own: __trial_info__, __stdout_file__, ...
            if name not in known and key not in ("class", "multiagent") and key[:2] != "__":
                raise ValueError(_unknown(key, known))
        config_dict = dict(config_dict.items())
        if "model_config" in config_dict:  # a property without a setter in RLlib
            self.rl_module(model_config=config_dict.pop("model_config"))
        return super().update_from_dict(config_dict)

    @override(AlgorithmConfig)
    def get_default_rl_module_spec(self) -> RLModuleSpec:
        return RLModuleSpec(module_class=PPGTorchRLModule)

    @override(AlgorithmConfig)
    def get_default_learner_class(self) -> type:
        return PPGTorchLearner

    @property
    @override(AlgorithmConfig)
    def _model_config_auto_includes(self) -> dict[str, Any]:
        own = {key: getattr(self, key) for key in _MODEL_SETTINGS}
        # RLlib's PPO catalog reads `vf_share_layers`; PPG's module goes by `arch` alone.
        return super()._model_config_auto_includes | own | {"vf_share_layers": False}

    @override(AlgorithmConfig)
    def evaluation(self, **kwargs: Any) -> PPGConfig:
        """RLlib's settings of the evaluation.

        Raises:
            ValueError: `evaluation_config` is a whole config; RLlib would then not evaluate.
        """
        if isinstance(kwargs.get("evaluation_config"), AlgorithmConfig):
            raise ValueError(
                "evaluation_config holds what differs from the training's config: give it "
                "PPGConfig.overrides(...) or a dict"
            )
        return super().evaluation(**kwargs)

    @override(AlgorithmConfig)
    def get_evaluation_config_object(self) -> AlgorithmConfig | None:
        """The evaluation's settings; episodes are sampled by RLlib's own env runner."""
        config = super().get_evaluation_config_object()
        if config is None or config.env_runner_cls is not self.env_runner_cls:
            return config
        config._limit_evaluation_envs(self.evaluation_config)
        if is_vector_env_class(config.env):
            # RLlib's runner would lose a step of each episode where these reset in SAME_STEP mode.
            config._check_needs_no_episodes()
            return config
        config.env_runner_cls = SingleAgentEnvRunner
        if vectorize_mode(config) == NATIVE:
            # RLlib does not fall back to "sync" where an env has no vector env of its own.
            config.gym_env_vectorize_mode = "sync"
        return config

    def _limit_evaluation_envs(self, given: Mapping[str, Any] | None) -> None:
        """Has an evaluation of few episodes few envs, unless their number is given.

        RLlib counts the episodes that end first, of all envs. With as many envs as in training
        these would be the shortest ones; with ten episodes an env they hardly are.
        """
        count, runners = self.evaluation_duration, self.evaluation_num_env_runners
        if not (_is_whole(count) and _is_whole(runners)):  # "auto", or what RLlib refuses
            return
        counts_episodes = self.evaluation_duration_unit == "episodes"
        if counts_episodes and "num_envs_per_env_runner" not in (given or {}):
            most = max(1, count // (_EPISODES_AN_ENV * max(1, runners)))
            self.num_envs_per_env_runner = min(self.num_envs_per_env_runner, most)

    @override(AlgorithmConfig)
    def build_env_to_module_connector(self, *args: Any, **kwargs: Any) -> Any:
        pipeline = super().build_env_to_module_connector(*args, **kwargs)
        if self.add_default_connectors_to_env_to_module_pipeline:
            observe_as_in_training(pipeline)
        return pipeline

    @override(AlgorithmConfig)
    def build_module_to_env_connector(self, *args: Any, **kwargs: Any) -> Any:
        pipeline = super().build_module_to_env_connector(*args, **kwargs)
        if self.add_default_connectors_to_module_to_env_pipeline:
            act_as_in_training(pipeline, self.normalize_actions, self.clip_actions)
        return pipeline

    @override(AlgorithmConfig)
    def validate(self) -> None:
        """Checks all settings.

        Raises:
            ValueError: In one sentence, what is wrong and what would be right.
        """
        if self.env_runner_cls is None:
            self.env_runner_cls = BatchedEnvRunner
        if not self._validate_config or self.in_evaluation:
            super().validate()
            return
        if not issubclass(self.env_runner_cls, BatchedEnvRunner):
            raise ValueError(
                f"env_runner_cls is a BatchedEnvRunner, not {self.env_runner_cls.__name__}"
            )
        self._check_what_ppg_replaces()
        self._check_numbers()
        self._check_batches()
        self._check_module_spec()
        # RLlib would warn that PPG is on the new API stack, as if there were another choice.
        log_once(f"{self.algo_class.__name__}_on_new_api_stack")
        super().validate()
        check_env_id(self.env)
        if not self.disable_env_checking:
            observation_space, action_space = probe_spaces(self)
            check_action_space(action_space)
            if self.observation_filter != "NoFilter" and len(observation_space.shape) != 1:
                raise ValueError(
                    f"observation_filter={self.observation_filter!r} normalises vectors; images "
                    "are divided by 255 as they are"
                )

    def _check_what_ppg_replaces(self) -> None:
        if not (self.enable_rl_module_and_learner and self.enable_env_runner_and_connector_v2):
            raise ValueError("PPG runs on RLlib's new API stack only")
        if self.framework_str != "torch":
            raise ValueError(f"PPG runs on torch only, not on {self.framework_str!r}")
        if self.is_multi_agent:
            raise ValueError("PPG trains single-agent envs only, and .multi_agent() is set")
        for key, (default, instead) in _REPLACED.items():
            value = getattr(self, key)
            if _differs(value, default):
                raise ValueError(f"PPG does not use {key}={_format_value(value)}: set {instead}")
        if self.clip_rewards:  # False and None are both RLlib's "never"
            raise ValueError("PPG does not use clip_rewards: set normalize_rewards")
        for key, (default, what) in _UNSUPPORTED.items():
            if _differs(getattr(self, key), default):
                raise ValueError(f"PPG does not support {what}")
        learner = self._learner_class
        if learner and not (isinstance(learner, type) and issubclass(learner, PPGTorchLearner)):
            raise _invalid_setting("learner_class", "a class derived from PPGTorchLearner", learner)
        self._check_needs_no_episodes()

    def _check_needs_no_episodes(self) -> None:
        """Refuses what only RLlib's env runner can do, which builds episode objects."""
        for way in ("env_to_module", "module_to_env"):
            if getattr(self, f"_{way}_connector") is not None:
                raise ValueError(f"PPG does not support custom {way.replace('_', '-')} connectors")
        overridden = {
            hook
            for cls in force_list(self.callbacks_class)
            for hook in _EPISODE_CALLBACKS
            if getattr(cls, hook, None) is not getattr(RLlibCallback, hook) and hasattr(cls, hook)
        } | {hook for hook in _EPISODE_CALLBACKS if getattr(self, f"callbacks_{hook}", None)}
        if overridden:
            instead = "use on_sample_end or on_train_result"
            if not self.in_evaluation:
                instead += ", or set it in the evaluation_config, whose episodes are RLlib's"
            raise ValueError(
                f"PPG's env runner builds no episode objects and can't call {min(overridden)}; "
                f"{instead}"
            )

    def _check_module_spec(self) -> None:
        spec = self._rl_module_spec or RLModuleSpec()
        if not isinstance(spec, RLModuleSpec):
            raise ValueError(f"rl_module_spec is an RLModuleSpec, not a {type(spec).__name__}")
        own_class = spec.module_class not in (None, PPGTorchRLModule)
        of_ppg = not own_class or issubclass(spec.module_class, PPGTorchRLModule)
        for model_config in (self._model_config, spec.model_config):
            if isinstance(model_config, DefaultModelConfig):
                model_config = asdict(model_config)
            model_config = {} if model_config is None else model_config
            if not isinstance(model_config, Mapping):
                raise _invalid_setting("model_config", "a dict or DefaultModelConfig", model_config)
            if of_ppg:
                self._check_no_conflicting_model_settings(model_config)
            if not own_class and spec.catalog_class in (None, PPGCatalog):
                check_model_config(model_config)
            if model_config.get("use_lstm"):
                raise ValueError("PPG does not train recurrent modules, and use_lstm is set")
        name = self.observation_filter
        _check_choice("observation_filter", name, FILTERS)
        if not of_ppg and name != "NoFilter":
            raise ValueError(
                f"observation_filter={name!r} is a part of PPG's own networks: derive "
                f"{spec.module_class.__name__} from PPGTorchRLModule"
            )

    def _check_no_conflicting_model_settings(self, model_config: Mapping[str, Any]) -> None:
        """Refuses in `model_config` what has another place, and would not agree with it there."""
        for key in _MODEL_SETTINGS:
            if key in model_config and _differs(model_config[key], getattr(self, key)):
                raise ValueError(f"{key} is a setting of its own: set {key}, not model_config")

    def _check_numbers(self) -> None:
        for key, minimum in _AT_LEAST.items():
            _check_count(key, getattr(self, key), minimum)
        for key, unset in (("segment_length", None), ("micro_batch_size", "auto")):
            value = getattr(self, key)
            if not _is_exactly(value, unset):
                _check_count(key, value, 1, or_unset=f"{unset!r} or ")
        for key in _NOT_NEGATIVE:
            value = getattr(self, key)
            if not _is_number(value) or value < 0:
                raise _invalid_setting(key, "a non-negative number", value)
        # With a KL penalty nothing is clipped, and OpenAI's own command line sets clip_param=0.
        if self.kl_penalty == 0 and not (_is_number(self.clip_param) and self.clip_param > 0):
            raise _invalid_setting("clip_param", "a positive number", self.clip_param)
        for key in ("gamma", "lambda_"):
            value = getattr(self, key)
            if not _is_number(value) or not 0 <= value <= 1:
                raise _invalid_setting(key, "between 0 and 1", value)
        value = self.vf_clip_param
        if value is not None and not (_is_number(value) and value > 0):
            raise _invalid_setting("vf_clip_param", "None or positive", value)
        value = self.grad_clip
        if value is not None and not (_is_number(value) and value >= 0):
            raise _invalid_setting("grad_clip", "None or a non-negative number", value)
        value = self.num_cpus_per_learner
        if not _is_exactly(value, "auto") and not (_is_number(value) and value >= 0):
            raise _invalid_setting("num_cpus_per_learner", "'auto' or a non-negative number", value)
        for key in ROLE_OF:
            value = getattr(self, key)
            if not isinstance(value, dict) or not all(
                isinstance(name, str) and _is_number(amount) and amount >= 0
                for name, amount in value.items()
            ):
                raise _invalid_setting(key, "a dict of names and non-negative numbers", value)
        for key, or_none in (("collective_timeout_s", ""), ("sample_timeout_s", "None or ")):
            value = getattr(self, key)
            if or_none and value is None:
                continue
            if not (_is_number(value) and 0 < value <= _LONGEST_TIMEOUT_S):
                at_most = f"a positive number of at most {_LONGEST_TIMEOUT_S:g} seconds"
                raise _invalid_setting(key, or_none + at_most, value)
        value = self.seed
        if value is not None and not (_is_whole(value) and 0 <= value < _SEEDS):
            raise _invalid_setting("seed", "None or a whole number from 0 to 2**31 - 1", value)
        for key in ("lr", "aux_lr", "entropy_coeff"):
            _check_schedule(key, getattr(self, key))
        for key in _SWITCHES:
            if not isinstance(getattr(self, key), bool):
                raise _invalid_setting(key, "True or False", getattr(self, key))
        _check_choice("arch", self.arch, ARCHITECTURES)
        _check_choice("grad_clip_by", self.grad_clip_by, _CLIP_BY)
        for key in ("policy_precision", "aux_precision"):
            _check_choice(key, getattr(self, key), PRECISIONS)
        value = self.replay_compression
        if value is not None and not _is_exactly(value, "lz4"):
            raise _invalid_setting("replay_compression", "None or 'lz4'", value)
        modes = [mode.value for mode in gym.VectorizeMode]
        _check_choice("gym_env_vectorize_mode", vectorize_mode(self), modes)

    def _check_batches(self) -> None:
        T, L = self.rollout_fragment_length, self.segment_length or self.rollout_fragment_length
        if T % L:
            raise ValueError(f"segment_length={L} does not divide rollout_fragment_length={T}")
        segments = self.rows * (T // L)
        what = f"{self.rows} rows" if L == T else f"{segments} segments"
        shape = f"{max(self.num_env_runners, 1)} env runners x {self.num_envs_per_env_runner} envs"
        counts = ["num_minibatches"] + ["num_aux_minibatches"] * self.has_aux_phase
        for key in counts:
            if segments % getattr(self, key):
                raise ValueError(
                    f"{what} ({shape}, {T} steps each) can't be cut into {key}="
                    f"{getattr(self, key)} equal minibatches: set {key} to one of "
                    f"{_divisors(segments)}, or a smaller segment_length"
                )
        default = AlgorithmConfig().train_batch_size
        size = self.train_batch_size
        if not _is_whole(size) or size not in (default, self.batch_size):
            raise ValueError(
                f"train_batch_size={_format_value(size)} contradicts {shape} x {T} steps = "
                f"{self.batch_size} env steps an iteration; leave it out"
            )
        if self._train_batch_size_per_learner is not None:
            per_learner = self.batch_size / max(self.num_learners, 1)
            size = self._train_batch_size_per_learner
            if not _is_number(size) or size != per_learner:
                raise ValueError(
                    f"train_batch_size_per_learner={_format_value(size)} "
                    f"contradicts {shape} x {T} steps = {self.batch_size} env steps an iteration "
                    f"over {max(self.num_learners, 1)} learner(s) = {per_learner:g}; leave it out"
                )


def _unknown(key: str, known: Collection[str]) -> str:
    return f"PPGConfig has no setting {key!r}{did_you_mean(key, known)}"


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    """Whether it is a number, and one that torch can calculate with beside float32s."""
    if _is_whole(value):
        return abs(value) < 2**63
    return isinstance(value, float) and abs(value) < _FLOAT32_MAX


def _is_exactly(value: Any, expected: Any) -> bool:
    # Arrays compare by element, and True is equal to 1.
    return type(value) is type(expected) and bool(value == expected)


def _differs(value: Any, default: Any) -> bool:
    return isinstance(value, np.ndarray) or bool(value != default)


def _check_count(key: str, value: Any, minimum: int, or_unset: str = "") -> None:
    if not _is_whole(value) or value < minimum:
        raise _invalid_setting(key, f"{or_unset}a whole number of at least {minimum}", value)
    if value >= 2**31:
        raise _invalid_setting(key, f"{or_unset}a whole number below 2**31", value)


def _check_choice(key: str, value: Any, known: Sequence[str]) -> None:
    if not isinstance(value, str) or value not in known:
        hint = did_you_mean(value, known) if isinstance(value, str) else ""
        raise ValueError(f"{key} is one of {', '.join(known)}, not {_format_value(value)}{hint}")


def _check_schedule(key: str, value: Any) -> None:
    """Checks a number or a schedule; RLlib's own check takes any two lists of two for one."""
    form = "a non-negative number or a schedule [[env steps, value], ...]"
    if not isinstance(value, list | tuple):
        if not _is_number(value) or value < 0:
            raise _invalid_setting(key, form, value)
        return
    pairs = all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value)
    if not pairs or not all(_is_number(x) and x >= 0 for pair in value for x in pair):
        raise _invalid_setting(key, f"{form} of non-negative numbers", value)
    steps = [pair[0] for pair in value]
    if len(steps) < 2 or steps[0] != 0 or steps != sorted(steps):
        raise _invalid_setting(key, f"{form} of at least two, from 0 env steps upwards", value)


def _invalid_setting(key: str, what: str, value: Any) -> ValueError:
    return ValueError(f"{key} is {what}, not {_format_value(value)}")


def _format_value(value: Any) -> str:
    """A value in one line; with its type where that is none that a file could hold."""
    if _is_whole(value) and value.bit_length() > 64:
        return f"one of {value.bit_length()} bits"
    text = " ".join(repr(value).split())
    text = text if len(text) <= 200 else f"{text[:200]}..."
    if isinstance(value, float) and _FLOAT32_MAX <= value < math.inf:
        return f"{text}, which is more than float32 holds"
    plain = value is None or isinstance(value, int | float | str | list | tuple | dict)
    return text if plain else f"{text} of type {type(value).__name__}"


def _divisors(n: int) -> str:
    found = [str(d) for d in range(1, min(n, 4096) + 1) if n % d == 0]
    return ", ".join(found if len(found) <= 12 else [*found[:12], "..."])


def _training_keys() -> set[str]:
    code = AlgorithmConfig.training.__code__
    return set(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]) - {"self"}

"""`PPGConfig`: the settings of PPG and what they mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NoReturn

import gymnasium as gym
from ray.rllib.algorithms.algorithm_config import (
    DEPRECATED_VALUE,
    AlgorithmConfig,
    NotProvided,
)
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils.annotations import override
from ray.rllib.utils.typing import ModuleID
from ray.tune.result import STDERR_FILE, STDOUT_FILE, TRIAL_INFO
from ray.util import log_once

from rllib_ppg.aux_losses.setting import build_aux_losses, replay_column_bytes
from rllib_ppg.config_checks import (
    MODEL_SETTINGS,
    check_env,
    check_is_dict,
    check_needs_no_episodes,
    check_setting,
    check_settings,
    given_max_seq_len,
    given_model_config,
    needs_episodes,
)
from rllib_ppg.envs.env_creator import env_file
from rllib_ppg.envs.module_spaces import ModuleSpaces
from rllib_ppg.envs.vector_env import NATIVE, is_vector_env_class, vectorize_mode
from rllib_ppg.learner import PPGTorchLearner
from rllib_ppg.networks.recurrent_encoder import CELLS
from rllib_ppg.networks.rl_module import PPGTorchRLModule
from rllib_ppg.rllib_settings import checks_arguments, differs
from rllib_ppg.sampling.connectors import act_as_in_training, observe_as_in_training
from rllib_ppg.sampling.env_runner import BatchedEnvRunner
from rllib_ppg.sampling.episode_records import record_actions, record_inputs
from rllib_ppg.sampling.episodes_env_runner import (
    MultiAgentEpisodesEnvRunner,
    RolloutsOfEpisodes,
    SingleAgentEpisodesEnvRunner,
)
from rllib_ppg.sampling.evaluation_env_runner import (
    EvaluationEnvRunner,
    MultiAgentEvaluationEnvRunner,
)
from rllib_ppg.setting_names import unknown_setting
from rllib_ppg.setting_values import is_whole

EPISODES_ENV_RUNNERS = (SingleAgentEpisodesEnvRunner, MultiAgentEpisodesEnvRunner)
# An evaluation that counts episodes takes at least so many from each env.
_EPISODES_PER_ENV = 10
# Keys of config dicts that RLlib translates, or that are properties without an attribute.
_DICT_KEYS = {
    "callbacks": "callbacks_class",
    "create_env_on_driver": "create_env_on_local_worker",
    "custom_eval_function": "custom_evaluation_function",
    "framework": "framework_str",
    "input": "input_",
    "lambda": "lambda_",
    "learner_class": "_learner_class",
    "model_config": "_model_config",
    "rl_module_spec": "_rl_module_spec",
    "train_batch_size_per_learner": "_train_batch_size_per_learner",
}
_OF_TUNE = {TRIAL_INFO, STDOUT_FILE, STDERR_FILE}  # keys that Tune adds to a trial's config
_OF_MULTIAGENT = {
    "policies", "policy_mapping_fn", "policies_to_train", "count_steps_by",
    "policy_map_capacity", "policy_states_are_swappable", "observation_fn",
}  # fmt: skip


@checks_arguments
class PPGConfig(AlgorithmConfig):
    """Settings of `PPG`. The defaults are those of the paper's Procgen experiments (appendix A).

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

        # Sampling: 4 x 64 envs x 256 steps = 65,536 env steps in each iteration.
        self.num_env_runners = 4
        self.num_envs_per_env_runner = 64
        self.rollout_fragment_length = 256
        self.gym_env_vectorize_mode = "vector_entry_point"
        # 256 steps can take minutes. An env runner that dies is noticed at once anyway.
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
        self.vf_lambda: float | None = None
        self.clip_param = 0.2
        self.kl_penalty = 0.0
        self.entropy_coeff = 0.01
        self.vf_loss_coeff = 1.0
        self.vf_clip_param: float | None = None
        self.vf_phase = "both"
        self.vf_clone_coeff = 1.0
        self.target_kl: float | str | None = None
        self.adam_relative = False
        self.proximal = "behavior"
        self.proximal_decay = 0.889
        self.adv_ewma_decay = 0.0
        self.importance_max: float | None = 100.0
        self.normalize_rewards = True

        # Auxiliary phase.
        self.e_aux = 6
        self.aux_losses: dict[str, Any] = {"value": 1.0}
        self.augmentation: Any = None
        self.augmentation_phase = "auxiliary"
        self.augmentation_coeff = 0.1
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

        # The file that `env` comes from; a checkpoint may be read where there is no such file.
        self._env_file: str | None = None

        # `training_step` broadcasts the weights, and there are no connector states to sync.
        self._dont_auto_sync_env_runner_states = True

    @override(AlgorithmConfig)
    def training(
        self,
        *,
        n_pi: int = NotProvided,
        e_pi: int = NotProvided,
        e_v: int = NotProvided,
        e_aux: int = NotProvided,
        aux_losses: dict[str, Any] = NotProvided,
        augmentation: Any = NotProvided,
        augmentation_phase: str = NotProvided,
        augmentation_coeff: float = NotProvided,
        beta_clone: float = NotProvided,
        vf_true_weight: float = NotProvided,
        aux_lr: float | list = NotProvided,
        num_minibatches: int = NotProvided,
        num_aux_minibatches: int = NotProvided,
        segment_length: int | None = NotProvided,
        arch: str = NotProvided,
        detach_vf_in_aux_phase: bool = NotProvided,
        lambda_: float = NotProvided,
        vf_lambda: float | None = NotProvided,
        clip_param: float = NotProvided,
        kl_penalty: float = NotProvided,
        entropy_coeff: float | list = NotProvided,
        vf_loss_coeff: float = NotProvided,
        vf_clip_param: float | None = NotProvided,
        vf_phase: str = NotProvided,
        vf_clone_coeff: float = NotProvided,
        target_kl: float | str | None = NotProvided,
        adam_relative: bool = NotProvided,
        proximal: str = NotProvided,
        proximal_decay: float = NotProvided,
        adv_ewma_decay: float = NotProvided,
        importance_max: float | None = NotProvided,
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
        """Sets PPG's own settings, and RLlib's `training` settings such as `lr` and `gamma`.

        Numbers of minibatches refer to the batch of all env runners and learners together.

        Args:
            n_pi: Number of iterations in a policy phase (N_pi in Algorithm 1). An auxiliary phase
                follows each policy phase; 0 turns PPG into PPO. For runs shorter than the paper's
                100M steps, choose a value that gives the run at least 15 phases
                (docs/results/phase-length.md).
            e_pi: Number of policy epochs in each iteration (E_pi). The paper's value suits Procgen.
                Small vector tasks need 4 to 10, as in PPO. If the return rises and then falls
                again, fewer epochs can help (docs/results/mujoco.md, InvertedDoublePendulum).
            e_v: Number of value epochs in each iteration (E_V). If it differs from `e_pi`, the
                value epochs come first and have their own Adam optimizer. Otherwise each pass
                trains both losses.
            e_aux: Number of epochs in an auxiliary phase (E_aux). 0 turns PPG into PPO.
            aux_losses: The losses of the auxiliary phase: for each name a weight, a dict of
                `weight` and the loss's settings, or an `AuxLoss`. Shipped are "value" (the
                paper's), "reward", "dynamics", "inverse_dynamics" and "augmentation_consistency"; a
                loss of your own has an entry `class` (docs/guides/aux-losses.md). The setting is
                replaced as a whole.
            augmentation: What is done to images in the auxiliary phase: "random_translate",
                "random_crop", "cutout", "color_jitter", a function of uint8 images `[B, H, W, C]`
                and random numbers `[B, 4]` from [0, 1), or None for nothing. L_joint and L_value
                see the augmented image; their targets are of the clean one. With the loss
                "augmentation_consistency", only that loss sees it (docs/guides/aux-losses.md).
            augmentation_phase: "auxiliary", or "both" for DrAC's losses in the policy phase, too:
                KL[pi(.|s), pi(.|f(s))] and (V(s) - V(f(s)))^2, with pi(.|s) and V(s) as targets
                (Raileanu et al. 2021). They take a second pass.
            augmentation_coeff: Weight of these losses (DrAC: 0.1).
            beta_clone: Weight of the cloning loss KL[pi_old, pi] in L_joint. With 0, auxiliary
                phases damage the policy: on MinAtar's SpaceInvaders it loses half of its return
                (docs/results/minatar.md).
            vf_true_weight: Weight of L_value in the auxiliary phase.
            aux_lr: Learning rate of the auxiliary phase's Adam optimizer, or a schedule
                `[[env steps, value], ...]` as for `lr`.
            num_minibatches: Number of minibatches in a policy or value epoch.
            num_aux_minibatches: Number of minibatches in an auxiliary epoch for each stored
                iteration.
            segment_length: Number of consecutive steps of one env that stay together in a
                minibatch. None keeps whole rows of `rollout_fragment_length` steps, as OpenAI's
                code does. 1 draws independent transitions, which suits small vector tasks. If it
                does not divide the row, the row's last segment is shorter. Gradients of a recurrent
                policy go back through a segment; None then takes `max_seq_len` of `model_config`
                if it is not RLlib's default of 20 (docs/guides/recurrent.md).
            arch: Network architecture. "dual": separate encoders for policy and value function.
                "detach": one encoder, which the value loss does not train (section 3.6).
                "shared": one encoder that all losses train, as in PPO. With layers of 64 units,
                "detach" scores a third less on MuJoCo than "dual" (docs/results/mujoco.md).
            detach_vf_in_aux_phase: Whether `arch="detach"` keeps the value loss from training the
                encoder in the auxiliary phase, too, as OpenAI's code does. False trains the encoder
                there, as section 3.6 of the paper says.
            lambda_: Parameter lambda of generalized advantage estimation (GAE).
            vf_lambda: Parameter lambda of the value targets, if it is to differ from that of the
                advantages (DNA, Aitchison and Sweetser 2022, section 4.1: 0.95, with 0.8 for
                `lambda_`). None: `lambda_`, as in the paper.
            clip_param: Clip range epsilon of L_clip.
            kl_penalty: Weight beta of a KL penalty that replaces clipping (section 3.5). 0 clips.
            entropy_coeff: Weight of the entropy bonus, or a schedule `[[env steps, value], ...]`.
            vf_loss_coeff: Weight of L_value = 1/2 (V - V_targ)^2 in passes that also train the
                policy loss.
            vf_clip_param: Upper bound of (V - V_targ)^2 in the policy phase, as in RLlib's PPO.
                None does not clip, as in the paper.
            vf_phase: Where L_value is trained: in "both" phases, or in the "auxiliary" phase only,
                which delays the value function (DCPG, Moon et al. 2022). With "auxiliary", `e_v`,
                `vf_loss_coeff` and `vf_clip_param` have no effect.
            vf_clone_coeff: With `vf_phase="auxiliary"`, weight of 1/2 (V - V_old)^2 in the policy
                phase, where V_old is from before the iteration (DCPG: 1.0). It keeps V where it was
                while the policy trains the encoder that both have. With `arch="dual"`, V does not
                move, and there is no such loss.
            target_kl: The policy's steps of an iteration end before the first minibatch whose mean
                of (r - 1) - log r, with r = pi/pi_old, is above 1.5 times this number, as in
                Stable-Baselines3. L_value goes on, also through an encoder that both have. "auto"
                is 0.01 for each dimension of the actions. None never stops them.
            adam_relative: Whether the policy phase's Adam optimizers count their steps from the
                last auxiliary phase, so that the first ones after it are small (Adam-Rel, Ellis et
                al. 2024, arXiv 2412.17113).
            proximal: The policy that L_clip or the KL penalty keeps the new one close to:
                "behavior", the one that acted, or "ewma", an average of the recent weights
                (PPG-EWMA, Hilton et al. 2021). The average begins anew after each auxiliary phase.
            proximal_decay: Decay of that average in each gradient step of the policy, beta_prox
                (PPG-EWMA: 0.889).
            adv_ewma_decay: Decay per iteration of the moments that advantages are normalised by
                (PPG-EWMA with smaller batches). 0 takes those of the iteration alone.
            importance_max: With `proximal="ewma"`, upper bound of pi/pi_old, at least 1 (PPG-EWMA:
                100). None for no bound.
            normalize_rewards: Whether to divide rewards by the running standard deviation of the
                discounted return and to clip them to +-10. Metrics show the original rewards.
            replay_may_spill: Whether the replay list may be larger than Ray's object store. Ray
                then moves part of it to disk.
            replay_compression: "lz4" compresses the observations in the replay list and in
                checkpoints without loss. None stores them uncompressed.
            checkpoint_replay: Whether checkpoints include the replay list: 25.8 GB at the paper's
                scale, at most once on disk. Without it, a run that is restored in the middle of a
                phase starts that phase again.
            micro_batch_size: Number of states that pass through the network at once. Gradients are
                summed, so the value does not change them. "auto" takes 32 images of 64 x 64 pixels
                in each thread of a CPU and 1,024 on a GPU, more if they are smaller, fewer if they
                are larger or if losses need more passes, and all states at once if they are
                vectors. Of a recurrent policy, it is the number of frames that an encoder takes.
            policy_precision: Precision of the networks in the policy phase: "float32", or
                "bfloat16" for torch's autocast. Weights, losses, KL and optimizers stay in float32.
                Env runners act in float32, so with "bfloat16" the ratio pi/pi_old is not exactly 1
                at the start.
            aux_precision: Precision of the networks in the auxiliary phase, as
                `policy_precision`. "auto" takes bfloat16 if the devices of all learners compute in
                it natively, and float32 otherwise. A run that continues from a checkpoint keeps
                what was taken. On MinAtar, runs learn as well in bfloat16
                (docs/performance.md).
            collective_timeout_s: Number of seconds that a learner waits for the other learners in
                a gradient step before it gives up. A learner that fails is noticed at once.
            **kwargs: RLlib's own `training` settings.

        Returns:
            This config.

        Raises:
            ValueError: There is no such setting, or RLlib can't take the value.
        """
        given = {k: v for k, v in locals().items() if k not in ("self", "kwargs", "__class__")}
        for key in ("model", "optimizer"):  # RLlib merges them into its own at once
            check_is_dict(key, kwargs.get(key, {}))
        if "grad_clip_by" in kwargs:
            check_setting("grad_clip_by", kwargs["grad_clip_by"])
        super().training(**kwargs)
        for key, value in given.items():
            if value is not NotProvided:
                setattr(self, key, value)
        return self

    @override(AlgorithmConfig)
    def env_runners(self, **kwargs: Any) -> PPGConfig:
        """Sets RLlib's settings of the env runners.

        Raises:
            ValueError: `num_envs_per_env_runner` is not a number; RLlib would compare it with 0.
        """
        key = "num_envs_per_env_runner"
        if kwargs.get(key, NotProvided) is not NotProvided:
            check_setting(key, kwargs[key])
        return super().env_runners(**kwargs)

    @property
    def env_runner_reason(self) -> str | None:
        """Why RLlib's own env runners sample; None if `BatchedEnvRunner` does."""
        return needs_episodes(self)

    @override(AlgorithmConfig)
    def get_config_for_module(self, module_id: ModuleID) -> PPGConfig:
        """The settings of a module: RLlib's method can't copy a config that is frozen."""
        overrides = self.algorithm_config_overrides_per_module.get(module_id)
        if not overrides:
            return self
        return self.copy(copy_frozen=False).update_from_dict(overrides)

    def trains(self, module_id: ModuleID) -> bool:
        """Whether a module is among `policies_to_train`; all are by default."""
        chosen = self.policies_to_train
        if callable(chosen):
            return bool(chosen(module_id, None))
        return chosen is None or module_id in chosen

    @property
    def has_aux_phase(self) -> bool:
        """Whether there are auxiliary phases; without them PPG is PPO."""
        return self.n_pi > 0 and self.e_aux > 0

    @property
    def has_value_epochs(self) -> bool:
        """Whether the value function has epochs of its own in the policy phase."""
        return self.vf_phase == "both" and self.e_v != self.e_pi

    @property
    def rows(self) -> int:
        """Number of rows of an iteration: envs of all env runners."""
        return max(self.num_env_runners, 1) * self.num_envs_per_env_runner

    @property
    def steps_per_segment(self) -> int:
        """Steps of a segment, L: of a recurrent policy, those that a gradient goes back through."""
        T = self.rollout_fragment_length
        return min(self.segment_length or given_max_seq_len(self) or T, T)

    @property
    def batch_size(self) -> int:
        """Number of env steps in an iteration."""
        return self.rows * self.rollout_fragment_length

    def row_bytes(self, observation_space: gym.Space) -> int:
        """Bytes of one env's observations in an iteration."""
        state = math.prod(observation_space.shape) * observation_space.dtype.itemsize
        return self.rollout_fragment_length * state

    def replay_bytes(self, observation_space: gym.Space, action_space: gym.Space) -> int:
        """Bytes of a full replay list."""
        if not self.has_aux_phase:
            return 0
        columns = replay_column_bytes(build_aux_losses(self.aux_losses), action_space)
        row = self.row_bytes(observation_space) + self.rollout_fragment_length * columns
        return self.rows * self.n_pi * (row + self.state_bytes)

    def replay_bytes_of_modules(self, modules: Mapping[ModuleID, ModuleSpaces]) -> int:
        """Bytes of the full replay lists of all modules in training."""
        return sum(
            spaces.num_agents
            * self.get_config_for_module(m).replay_bytes(spaces.observations, spaces.actions)
            for m, spaces in modules.items()
            if self.trains(m)
        )

    @property
    def state_bytes(self) -> int:
        """Bytes of an env's recurrent states in all of PPG's own networks; 0 without a memory."""
        model = given_model_config(self)
        if not model.get("use_lstm"):
            return 0
        _, states = CELLS[model.get("recurrent_cell", "lstm")]
        size = model.get("lstm_cell_size", DefaultModelConfig().lstm_cell_size)
        return 4 * size * len(states) * (2 if self.arch == "dual" else 1)

    # -- Settings as dicts ---------------------------------------------------------------------

    def setting_names(self) -> set[str]:
        """Names of all settings, as attributes of a config; also those that a subclass adds."""
        try:
            return {*vars(type(self)())} - {"algo_class"}
        except TypeError:  # a subclass that needs arguments
            return {*vars(self)} - {"algo_class"}

    def check_keys(self, given: Mapping[str, Any]) -> None:
        """Checks the keys of a dict of settings.

        Raises:
            ValueError: There is no such setting, or two keys stand for the same one.
        """
        known = self.setting_names()
        attributes: dict[str, str] = {}
        for key in given:
            attribute = _DICT_KEYS.get(key, key)
            if attribute not in known and key not in ("class", "multiagent"):
                raise unknown_setting(str(key), {*known, *_DICT_KEYS})
            other = attributes.setdefault(attribute, key)
            if other != key and differs(given[other], given[key]):
                raise ValueError(f"{other} and {key} are the same setting: leave one of them out")
        check_is_dict("multiagent", given.get("multiagent", {}))
        for key in given.get("multiagent", ()):
            if key not in _OF_MULTIAGENT:
                raise unknown_setting(str(key), _OF_MULTIAGENT)

    @override(AlgorithmConfig)
    def update_from_dict(self, config_dict: dict) -> PPGConfig:
        """Sets settings by name; unlike RLlib's method, it refuses unknown names.

        Raises:
            ValueError: There is no such setting; the error suggests the nearest one.
        """
        # An AlgorithmConfig has items, but no iterator.
        given = {key: value for key, value in config_dict.items() if key not in _OF_TUNE}
        self.check_keys(given)
        if "model_config" in given:  # a property without a setter in RLlib
            self.rl_module(model_config=given.pop("model_config"))
        if "learner_class" in given:
            given["_learner_class"] = given.pop("learner_class")
        return super().update_from_dict(given)

    @classmethod
    @override(AlgorithmConfig)
    def overrides(cls, **kwargs: Any) -> dict[str, Any]:
        """Settings that differ from those of the config that they will be merged into.

        Raises:
            ValueError: There is no such setting.
        """
        known = {*vars(cls()), *_DICT_KEYS}
        for key in kwargs:
            if key not in known:
                raise unknown_setting(key, known)
        return {_DICT_KEYS.get(key, key): value for key, value in kwargs.items()}

    @override(AlgorithmConfig)
    def get_state(self) -> dict[str, Any]:
        # RLlib leaves out settings whose value is -1, its mark for settings that are gone.
        here, gone = (
            {name for name, value in vars(config).items() if not differs(value, DEPRECATED_VALUE)}
            for config in (self, PPGConfig())
        )
        return super().get_state() | {name: getattr(self, name) for name in here - gone}

    @override(AlgorithmConfig)
    def get_default_rl_module_spec(self) -> RLModuleSpec:
        return RLModuleSpec(module_class=PPGTorchRLModule)

    @override(AlgorithmConfig)
    def get_multi_rl_module_spec(self, **kwargs: Any) -> MultiRLModuleSpec:
        spec = super().get_multi_rl_module_spec(**kwargs)
        for module_id, overrides in self.algorithm_config_overrides_per_module.items():
            own = {key: overrides[key] for key in MODEL_SETTINGS if key in overrides}
            if own and module_id in spec.rl_module_specs:
                of_module = spec.rl_module_specs[module_id]
                of_module.model_config = {**(of_module.model_config or {}), **own}
        return spec

    @override(AlgorithmConfig)
    def get_default_learner_class(self) -> type:
        return PPGTorchLearner

    @property
    @override(AlgorithmConfig)
    def _model_config_auto_includes(self) -> dict[str, Any]:
        own = {key: getattr(self, key) for key in MODEL_SETTINGS}
        # RLlib's PPO catalog reads `vf_share_layers`; PPG's module reads only `arch`.
        return super()._model_config_auto_includes | own | {"vf_share_layers": False}

    @override(AlgorithmConfig)
    def evaluation(self, **kwargs: Any) -> PPGConfig:
        """Sets RLlib's settings of the evaluation.

        Raises:
            ValueError: `evaluation_config` is a complete config; RLlib would then not evaluate.
        """
        if isinstance(kwargs.get("evaluation_config"), AlgorithmConfig):
            raise ValueError(
                "evaluation_config holds only the settings that differ from training: give it "
                "PPGConfig.overrides(...) or a dict"
            )
        return super().evaluation(**kwargs)

    @override(AlgorithmConfig)
    def get_evaluation_config_object(self) -> AlgorithmConfig | None:
        """The evaluation's config, in which RLlib's env runner samples the episodes."""
        config = super().get_evaluation_config_object()
        if config is None or config.env_runner_cls is not self.env_runner_cls:
            return config
        if self.is_multi_agent:
            config.env_runner_cls = MultiAgentEvaluationEnvRunner
            return config
        config._limit_evaluation_envs(self.evaluation_config)
        if is_vector_env_class(config):
            # RLlib's env runner loses a step of each episode if these reset in SAME_STEP mode.
            check_needs_no_episodes(config)
            return config
        config.env_runner_cls = EvaluationEnvRunner
        if vectorize_mode(config) == NATIVE:
            # RLlib does not fall back to "sync" if an env has no vector version.
            config.gym_env_vectorize_mode = "sync"
        return config

    def _limit_evaluation_envs(self, given: Mapping[str, Any] | None) -> None:
        """Reduces the number of envs for an evaluation of few episodes, unless it is given.

        RLlib counts the episodes that end first. With as many envs as in training, these would be
        the shortest ones; with ten episodes for each env this bias almost disappears.
        """
        count, runners = self.evaluation_duration, self.evaluation_num_env_runners
        if not (is_whole(count) and is_whole(runners)):  # "auto", or a value that RLlib refuses
            return
        counts_episodes = self.evaluation_duration_unit == "episodes"
        if counts_episodes and "num_envs_per_env_runner" not in (given or {}):
            most = max(1, count // (_EPISODES_PER_ENV * max(1, runners)))
            self.num_envs_per_env_runner = min(self.num_envs_per_env_runner, most)

    @property
    def _records_module_inputs(self) -> bool:
        """Whether env runners keep in their episodes what modules got, to train on it."""
        runner = self.env_runner_cls
        return isinstance(runner, type) and issubclass(runner, RolloutsOfEpisodes)

    @override(AlgorithmConfig)
    def build_env_to_module_connector(self, *args: Any, **kwargs: Any) -> Any:
        pipeline = super().build_env_to_module_connector(*args, **kwargs)
        if self.add_default_connectors_to_env_to_module_pipeline:
            observe_as_in_training(pipeline, self.is_multi_agent)
            if self._records_module_inputs:
                record_inputs(pipeline, self.is_multi_agent)
        return pipeline

    @override(AlgorithmConfig)
    def build_module_to_env_connector(self, *args: Any, **kwargs: Any) -> Any:
        pipeline = super().build_module_to_env_connector(*args, **kwargs)
        if self.add_default_connectors_to_module_to_env_pipeline:
            act_as_in_training(
                pipeline, self.normalize_actions, self.clip_actions, self.is_multi_agent
            )
            if self._records_module_inputs:
                record_actions(pipeline)
        return pipeline

    @override(AlgorithmConfig)
    def _value_error(self, errmsg: str) -> NoReturn:
        # RLlib's adds how to suppress all checks.
        raise ValueError(" ".join(errmsg.split()))

    @override(AlgorithmConfig)
    def validate(self) -> None:
        """Checks all settings.

        Raises:
            ValueError: A setting is wrong; the error says in one sentence what would be right.
        """
        if self.env_runner_cls in (None, BatchedEnvRunner, *EPISODES_ENV_RUNNERS):
            self.env_runner_cls = BatchedEnvRunner
            if self.env_runner_reason is not None:
                one, several = EPISODES_ENV_RUNNERS
                self.env_runner_cls = several if self.is_multi_agent else one
                if vectorize_mode(self) == NATIVE:
                    self.gym_env_vectorize_mode = "sync"  # RLlib's does not fall back to it
        if not self._validate_config or self.in_evaluation:
            super().validate()
            return
        check_settings(self)
        # RLlib would warn that PPG runs on the new API stack, as if there were a choice.
        log_once(f"{self.algo_class.__name__}_on_new_api_stack")
        super().validate()
        check_env(self)
        self._env_file = env_file(self)

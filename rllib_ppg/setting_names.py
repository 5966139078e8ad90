"""Names of settings, and errors for those that `PPGConfig` does not have."""

from __future__ import annotations

from collections.abc import Collection

from rllib_ppg.did_you_mean import did_you_mean

_AUX_MINIBATCHES = "num_aux_minibatches, which is a number, not a size"

# Names that older versions of RLlib, and other projects, give to what PPG calls otherwise.
INSTEAD = {
    # RLlib, before the new API stack.
    "num_workers": "num_env_runners",
    "num_rollout_workers": "num_env_runners",
    "rollouts": ".env_runners(...)",
    "exploration": ".env_runners(explore=...)",
    "num_envs_per_worker": "num_envs_per_env_runner",
    "num_cpus_per_worker": "num_cpus_per_env_runner",
    "num_gpus_per_worker": "num_gpus_per_env_runner",
    "custom_resources_per_worker": "custom_resources_per_env_runner",
    "num_cpus_for_driver": "num_cpus_for_main_process",
    "num_cpus_for_local_worker": "num_cpus_for_main_process",
    "num_gpus": "num_gpus_per_learner for each learner's GPUs, num_learners for how many learners",
    "num_learner_workers": "num_learners",
    "num_cpus_per_learner_worker": "num_cpus_per_learner",
    "num_gpus_per_learner_worker": "num_gpus_per_learner",
    "sample_batch_size": "rollout_fragment_length",
    "num_sgd_iter": "e_pi for the policy, and e_v for the value function",
    "sgd_minibatch_size": "num_minibatches, which is a number, not a size",
    "lr_schedule": "lr, which takes a schedule [[env steps, value], ...]",
    "entropy_coeff_schedule": "entropy_coeff, which takes a schedule [[env steps, value], ...]",
    "kl_coeff": "kl_penalty to penalise the KL, or target_kl to end an iteration's policy steps",
    "kl_target": "kl_penalty to penalise the KL, or target_kl to end an iteration's policy steps",
    "use_kl_loss": "kl_penalty",
    "use_gae": "lambda_, which is 1 without GAE",
    "vf_share_layers": "arch: 'shared' shares layers, 'dual' does not",
    "model_config_dict": "model_config",
    "horizon": "max_episode_steps where the env is registered",
    "recreate_failed_workers": "restart_failed_env_runners",
    "recreate_failed_env_runners": "restart_failed_env_runners",
    "ignore_worker_failures": "ignore_env_runner_failures",
    "max_num_worker_restarts": "max_num_env_runner_restarts",
    "delay_between_worker_restarts_s": "delay_between_env_runner_restarts_s",
    "num_consecutive_worker_failures_tolerance": "num_consecutive_env_runner_failures_tolerance",
    "worker_health_probe_timeout_s": "env_runner_health_probe_timeout_s",
    "worker_restore_timeout_s": "env_runner_restore_timeout_s",
    "validate_workers_after_construction": "validate_env_runners_after_construction",
    "evaluation_num_workers": "evaluation_num_env_runners",
    "evaluation_num_episodes": "evaluation_duration, which counts in evaluation_duration_unit",
    "synchronize_filter": "observation_filter, whose statistics PPG always synchronises",
    "metrics_smoothing_episodes": "metrics_num_episodes_for_smoothing",
    "min_iter_time_s": "min_time_s_per_iteration",
    "min_time_s_per_reporting": "min_time_s_per_iteration",
    "timesteps_per_iteration": "min_sample_timesteps_per_iteration",
    "min_sample_timesteps_per_reporting": "min_sample_timesteps_per_iteration",
    "min_train_timesteps_per_reporting": "min_train_timesteps_per_iteration",
    # Stable-Baselines3 and CleanRL.
    "learning_rate": "lr",
    "n_steps": "rollout_fragment_length",
    "num_steps": "rollout_fragment_length",
    "n_envs": "num_envs_per_env_runner for the envs of an env runner, and num_env_runners",
    "num_envs": "num_envs_per_env_runner for the envs of an env runner, and num_env_runners",
    "n_epochs": "e_pi for the policy, and e_v for the value function",
    "update_epochs": "e_pi for the policy, and e_v for the value function",
    "batch_size": "num_minibatches, which is a number, not a size",
    "gae_lambda": "lambda_",
    "clip_range": "clip_param",
    "clip_coef": "clip_param",
    "clip_range_vf": "vf_clip_param",
    "ent_coef": "entropy_coeff",
    "vf_coef": "vf_loss_coeff",
    "max_grad_norm": "grad_clip",
    "norm_reward": "normalize_rewards",
    "norm_obs": "observation_filter: 'MeanStdFilter'",
    "anneal_lr": "lr, which takes a schedule [[env steps, value], ...]",
    "total_timesteps": "num_env_steps_sampled_lifetime in stop",
    # PPG of CleanRL, and OpenAI's own.
    "n_iteration": "n_pi",
    "e_policy": "e_pi",
    "v_value": "e_v",
    "e_auxiliary": "e_aux",
    "num_aux_rollouts": _AUX_MINIBATCHES,
    "n_aux_grad_accum": _AUX_MINIBATCHES,
    "n_epoch_pi": "e_pi",
    "n_epoch_vf": "e_v",
    "n_aux_epochs": "e_aux",
    "aux_mbsize": _AUX_MINIBATCHES,
    "nstep": "rollout_fragment_length",
    "nminibatch": "num_minibatches",
    "lam": "lambda_",
    "entcoef": "entropy_coeff",
    "vfcoef": "vf_loss_coeff to twice that, because L_value has a factor of 1/2",
    "interacts_total": "num_env_steps_sampled_lifetime in stop",
}


def unknown_setting(name: str, known: Collection[str]) -> ValueError:
    """The error for a setting that PPG does not have; it names what to set instead, if it can.

    Args:
        name: The name that was given.
        known: Names that are valid there.
    """
    if name in INSTEAD:
        return ValueError(f"PPGConfig has no setting {name!r}: set {INSTEAD[name]}")
    return ValueError(f"PPGConfig has no setting {name!r}{did_you_mean(name, known)}")

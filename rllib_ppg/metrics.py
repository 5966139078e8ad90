"""The metrics of a run: their names in its results, and what they mean.

Losses and other terms of a phase are means over its last epoch.
"""

METRICS: dict[str, dict[str, str]] = {
    "Episodes": {
        "env_runners/episode_return_mean": (
            "Mean return of the last `metrics_num_episodes_for_smoothing` episodes over all env "
            "runners; raw, neither normalised nor clipped."
        ),
        "env_runners/episode_return_min": "The lowest return of these episodes.",
        "env_runners/episode_return_max": "The highest return of these episodes.",
        "env_runners/episode_len_mean": "Their mean length in env steps.",
        "env_runners/episode_len_min": "The shortest length.",
        "env_runners/episode_len_max": "The longest length.",
        "env_runners/episode_duration_sec_mean": "Their mean wall time in seconds.",
    },
    "Where a run is": {
        "ppg/policy_iteration": "Iterations of the current phase so far; N_pi ends the phase.",
        "ppg/num_aux_phases_lifetime": "Auxiliary phases so far.",
        "ppg/num_rollouts": "Env runners whose rollouts the iteration used.",
        "ppg/replay_states": "States of the phase so far, in the replay list.",
        "ppg/replay_bytes": "Bytes of these states.",
    },
    "Policy phase": {
        "learners/default_policy/policy_loss": "-L_clip, or -L_KL with `kl_penalty`.",
        "learners/default_policy/vf_loss": "L_value = 1/2 (V - V_targ)^2.",
        "learners/default_policy/entropy": "The policy's entropy.",
        "learners/default_policy/curr_entropy_coeff": "Its weight in the loss.",
        "learners/default_policy/approx_kl": (
            "1/2 (log pi - log pi_old)^2: an estimate of how far the iteration moves the policy."
        ),
        "learners/default_policy/clip_fraction": (
            "Fraction of states whose ratio pi/pi_old is outside 1 ± `clip_param`."
        ),
        "learners/default_policy/vf_explained_var": (
            "Fraction of the value targets' variance that the value function explains before the "
            "iteration; 1 is best. It is far below 0 where the targets hardly vary, as on a task "
            "that is solved, and says nothing there."
        ),
        "learners/default_policy/num_vf_states_lost": (
            "Rows within an episode that the value network began without a memory of it; only with "
            '`use_lstm` and `arch="dual"`.'
        ),
        "learners/default_policy/default_optimizer_learning_rate": "Learning rate, `lr`.",
    },
    "Auxiliary phase": {
        "learners/default_policy/aux/vf_aux_loss": (
            "L_aux, the auxiliary value head's loss; others of `aux_losses` are `aux/NAME_loss`."
        ),
        "learners/default_policy/aux/vf_loss": "L_value of the value head.",
        "learners/default_policy/aux/clone_kl": (
            "KL[pi_old, pi]: how far the phase moves the policy."
        ),
        "learners/default_policy/aux/vf_aux_explained_var": (
            "Fraction of the value targets' variance that the auxiliary head explains; 1 is best. "
            "On a task that is solved the targets hardly vary, and then a small error is many "
            "times their variance: -2.66 is no alarm while the return is as it should be."
        ),
        "learners/default_policy/aux/saturated_units": (
            "Share of the outputs of the policy encoder's tanh units beyond ±0.97 when the phase "
            "begins, where they hardly learn, for every 16th transition. Only with such units, and "
            "for policies without a memory."
        ),
        "learners/default_policy/aux/bfloat16": (
            '1 if the phase used bfloat16, 0 if float32; only with `aux_precision="auto"`.'
        ),
        "learners/default_policy/aux/epoch_1/clone_kl": (
            "The same over the phase's first epoch. Each of these metrics is there for each epoch, "
            "from `epoch_1` to E_aux."
        ),
        "learners/default_policy/aux_learning_rate": "Learning rate, `aux_lr`; in each iteration.",
    },
    "PPG's successors, in the policy phase": {
        "learners/default_policy/vf_clone_loss": (
            '1/2 (V - V_old)^2, with `vf_phase="auxiliary"`; there is no `vf_loss` then.'
        ),
        "learners/default_policy/augmentation_kl": (
            'KL[pi(.|s), pi(.|f(s))], with `augmentation_phase="both"`.'
        ),
        "learners/default_policy/augmentation_vf_loss": "(V(s) - V(f(s)))^2, likewise.",
        "learners/default_policy/importance_clip_fraction": (
            "Fraction of states whose ratio pi/pi_old is above `importance_max`, with "
            '`proximal="ewma"`; approx_kl and clip_fraction are of the average then.'
        ),
        "learners/default_policy/sampled_kl": (
            "(r - 1) - log r with r = pi/pi_old, which `target_kl` is compared with."
        ),
        "learners/default_policy/policy_epochs_done": (
            "Policy epochs before `target_kl` stopped them; 1.5 is one and a half."
        ),
        "learners/default_policy/target_kl_stopped": "1 if it did, 0 if not.",
    },
    "Seconds": {
        "timers/env_runner_sampling_timer": "Waiting for rollouts.",
        "timers/policy_phase": "The policy phase's epochs in an iteration.",
        "timers/auxiliary_phase": "An auxiliary phase.",
        "timers/synch_weights": "Sending the policy to the env runners.",
    },
    "Procgen, with `ProcgenMetrics`": {
        "env_runners/normalized_return_mean": (
            "The mean return, scaled so that 0 is a trivial policy and 1 about the best possible."
        ),
        "evaluation/env_runners/normalized_return_mean": "The same for the evaluation.",
        "evaluation/generalization_gap": (
            "Training's minus the evaluation's, if the evaluation plays other levels."
        ),
    },
}

"""ASHA over N_pi and E_aux on CartPole: trials that fall behind end early.

Why not PBT: it changes the settings of a running trial. N_pi is the number of iterations in a
phase, so a trial that started its phase with 16 and switches to 2 is past its end. Its score says
little about either value. With ASHA each trial keeps its settings.

Why the grace period: trials are compared at the same number of env steps, when one with a large
N_pi has had fewer auxiliary phases. So each trial first gets two phases of the largest N_pi:
2 x 16 x 2,048 = 65,536 env steps. Then it ends unless it is in the better half of the trials that
reached this point before it.

What to expect: mean returns after 65,536 and 131,072 env steps (seed 0, two AMD EPYC cores,
2026-11-24, versions of constraints.txt); - if the trial had ended. Trials start from left to
right:

    E_aux = 1    N_pi 2: 352, 500    4: 315, -      8: 343, -      16: 335, -
    E_aux = 3    N_pi 2: 448, 500    4: 392, -      8: 333, -      16: 359, -
    E_aux = 9    N_pi 2: 436, 500    4: 455, 500    8: 417, 500    16: 386, 500

The first trial has no other to be compared with, so it always runs to the end. All trials together
took 1.2M env steps; a plain grid takes 1.6M.
What it takes: 12 trials of one CPU each, two at a time. It took 6 minutes on two cores that other
programs used too.
"""

from ray import tune
from ray.tune.schedulers import ASHAScheduler

from rllib_ppg import PPGConfig

N_PI = [2, 4, 8, 16]
STEPS = 2_048  # 16 envs x 128
BUDGET = 131_072

config = (
    PPGConfig()
    .environment("CartPole-v1")
    .env_runners(num_env_runners=0, num_envs_per_env_runner=16, rollout_fragment_length=128)
    .training(
        n_pi=tune.grid_search(N_PI),
        e_aux=tune.grid_search([1, 3, 9]),
        num_minibatches=8,
        num_aux_minibatches=4,
        segment_length=1,
        gamma=0.99,
    )
    .debugging(seed=0)
)
stop = {"num_env_steps_sampled_lifetime": BUDGET}
scheduler = ASHAScheduler(
    metric="env_runners/episode_return_mean",
    mode="max",
    time_attr="num_env_steps_sampled_lifetime",
    grace_period=2 * max(N_PI) * STEPS,
    max_t=BUDGET,
    reduction_factor=2,
)

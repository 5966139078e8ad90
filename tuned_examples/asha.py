"""ASHA over N_pi and E_aux on CartPole: trials that fall behind end early.

Why not PBT, which RLlib's users know: it changes the settings of a run while it goes on. N_pi is
how many iterations a phase has, and one that began with 16 and is to end after 2 is over already;
what such a run scores says little about either value. With ASHA each trial keeps its own.

Why the grace period: trials are compared at the same number of env steps, and one with a large N_pi
has had fewer auxiliary phases by then. Before it is judged, each trial has had two phases of the
largest N_pi: 2 x 16 x 2,048 = 65,536 env steps. Then it ends unless it is among the better half of
those that got so far before it.

What to expect: mean returns after 65,536 and 131,072 env steps (seed 0, two AMD EPYC cores,
2026-11-24, versions of constraints.txt); - where a trial had ended. Trials start from left to
right:

    E_aux = 1    N_pi 2: 352, 500    4: 315, -      8: 343, -      16: 335, -
    E_aux = 3    N_pi 2: 448, 500    4: 392, -      8: 333, -      16: 359, -
    E_aux = 9    N_pi 2: 436, 500    4: 455, 500    8: 417, 500    16: 386, 500

The first trial has nobody to be compared with and runs to the end, good or not. All trials together
took 1.2M env steps of the 1.6M that a plain grid takes.
What it takes: 12 trials of one CPU each, two at a time. It took 6 minutes on two cores that other
programs used, too.
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

"""Two CartPoles with a policy each, in one multi-agent env; a learning test.

`.multi_agent` says which policies there are and which agent acts by which. RLlib's env runners
sample. N_pi iterations are counted once for all policies; each has a replay list and an auxiliary
phase of its own.

What to expect: 800 for both together after 63,775 env steps with seed 0 and after 65,868 with seed
1 (two AMD EPYC cores, 2026-11-29, versions of constraints.txt; `make test-learning` runs both). An
env step is one of both agents.
What it takes: a minute on two cores that other programs used too; 2 CPUs.
"""

from ray.rllib.examples.envs.classes.multi_agent import MultiAgentCartPole
from ray.tune.registry import register_env

from rllib_ppg import PPGConfig

register_env("two-cartpoles", lambda env_config: MultiAgentCartPole({"num_agents": 2}))

config = (
    PPGConfig()
    .environment("two-cartpoles")
    .multi_agent(
        policies={"left", "right"},
        policy_mapping_fn=lambda agent, *args, **kwargs: ("left", "right")[agent],
    )
    .env_runners(num_env_runners=1, num_envs_per_env_runner=16, rollout_fragment_length=128)
    .training(
        n_pi=8,
        e_pi=4,
        e_v=4,
        e_aux=3,
        num_minibatches=8,
        num_aux_minibatches=4,
        segment_length=1,
        gamma=0.99,
    )
    .debugging(seed=0)
)
# The sum of both agents' returns.
stop = {"env_runners/episode_return_mean": 800, "num_env_steps_sampled_lifetime": 400_000}

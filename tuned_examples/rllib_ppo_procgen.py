"""RLlib's own PPO with the paper's network on CoinRun, to compare PPG with.

RLlib's default networks take no uint8 images, so PPO needs the network of `ppo_baseline`, which
holds policy and value function. The other settings are the paper's for PPO, with 64 envs instead
of 256: a quarter of the batch, and by the rule that `procgen_64_envs` explains half the learning
rate. RLlib's PPO differs from `ppo_baseline` in two ways. Rewards are not normalised (CoinRun pays
10 or nothing). Procgen's envs are stepped one by one, because RLlib's env runner does not support
vector envs that reset in the step that ends an episode.

What to expect: OpenAI's PPO, whose settings `ppo_baseline` has, has a return of 6.0 after 8M steps
on CoinRun, 7.4 after 25M and 8.7 after 100M (published curves, 3 runs). This package has only run
single iterations of this file.
What it takes: 2 CPUs, and to finish it a GPU for the learner (`--set num_gpus_per_learner=1`).
There is no replay list: a rollout is 16,384 x 12,288 B = 0.2 GB.
"""

from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from rllib_ppg import ImpalaPPOModule

ENVS, STEPS = 64, 256

config = (
    PPOConfig()
    .environment("procgen-coinrun-v0", env_config={"distribution_mode": "hard", "num_levels": 0})
    .env_runners(num_env_runners=1, num_envs_per_env_runner=ENVS, rollout_fragment_length=STEPS)
    .rl_module(rl_module_spec=RLModuleSpec(module_class=ImpalaPPOModule))
    .training(
        train_batch_size_per_learner=ENVS * STEPS,
        minibatch_size=ENVS * STEPS // 8,
        num_epochs=3,
        lr=2.5e-4,
        gamma=0.999,
        lambda_=0.95,
        clip_param=0.2,
        entropy_coeff=0.01,
        vf_loss_coeff=0.5,
        vf_clip_param=float("inf"),
        use_kl_loss=False,
        grad_clip=None,
    )
)
stop = {"num_env_steps_sampled_lifetime": 100_000_000}

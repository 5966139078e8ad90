"""What RLlib's own env runners cost, which multi-agent envs, connectors and callbacks need.

    python -m benchmarks.episodes_path

The same run with `BatchedEnvRunner` and, because of an empty callback of episodes, with RLlib's env
runner, in this process. A figure is the time with RLlib's over that with ours, the median of rounds
in turn.
"""

from __future__ import annotations

import argparse
import json

import ray
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.core import DEFAULT_MODULE_ID

from benchmarks.measuring import SEED, in_turn, machine, ratio, start_ray
from rllib_ppg import PPGConfig

ENVS = {"CartPole-v1": (16, 128), "procgen-coinrun-v0": (16, 64)}


class OnEpisodeEnd(RLlibCallback):
    """A callback that does nothing."""

    def on_episode_end(self, **kwargs: object) -> None:
        """See the class."""


def config_of(env: str) -> PPGConfig:
    """One policy epoch over an iteration's states; images with a small CNN."""
    num_envs, T = ENVS[env]
    return (
        PPGConfig()
        .environment(env)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=num_envs, rollout_fragment_length=T)
        .rl_module(model_config={"fcnet_hiddens": [64, 64], "impala_channels": (8, 16, 16)})
        .training(n_pi=0, num_minibatches=4)
        .debugging(seed=SEED)
    )


def main() -> None:
    """See the module."""
    argparse.ArgumentParser(description=__doc__.split("\n", 1)[0]).parse_args()
    print(json.dumps(machine()), flush=True)
    start_ray()
    for env in ENVS:
        batched = config_of(env).build_algo()
        rllibs = config_of(env).callbacks(OnEpisodeEnd).build_algo()
        sampling = {
            name: lambda algo=algo: algo.env_runner.sample_rollout(1, 0, [DEFAULT_MODULE_ID])
            for name, algo in (("batched", batched), ("rllibs", rllibs))
        }
        runs = {"batched": batched.train, "rllibs": rllibs.train}
        for what, fns in (("sampling", sampling), ("a run without auxiliary phases", runs)):
            in_turn(1, **fns)
            times = in_turn(7, **fns)
            print(f"{env}, {what}: {ratio(times['rllibs'], times['batched']):.1f}", flush=True)
        batched.stop()
        rllibs.stop()
    ray.shutdown()


if __name__ == "__main__":
    main()

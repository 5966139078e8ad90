"""Which phases change a policy for the worse? Plays it right before and right after each one.

    python -m benchmarks.phases mujoco_more InvertedDoublePendulum-v5 ppg 0

Trains one run of `benchmarks/suites/`, and writes docs/results/phases/ENV_ARM_SEED.csv: a row a
phase, for an arm without auxiliary phases as if it had `ppg`'s. `before` and `after` are mean
returns of the policy around the auxiliary phase, over 100 episodes with the same starts and the
same noise each time; what changes from a row's `after` to the next one's `before` is the doing of
policy phases and of the observation filter, which moves between them. The other columns are the
learner's metrics, of an iteration's last epoch as means over the phase, and of the auxiliary
phase's last epoch.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from contextlib import closing
from typing import Any

import numpy as np
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.tune.utils import flatten_dict

from benchmarks.learning import Run, use_one_core
from benchmarks.learning_rows import RESULTS, write_rows
from benchmarks.suites import SUITES
from rllib_ppg import PPG, PPGCallback
from rllib_ppg.evaluation.players import make_player
from rllib_ppg.evaluation.scores import play_episodes
from rllib_ppg.evaluation.trained_policy import TrainedPolicy

EPISODES = 100
METRICS = (
    "aux/clone_kl",
    "approx_kl",
    "clip_fraction",
    "policy_loss",
    "entropy",
    "vf_explained_var",
)
FIELDS = ("env", "algo", "seed", "env_steps", "before", "after", *METRICS)


class PlayAroundAuxPhases(PPGCallback):
    """Notes in the results what the policy's returns are as an auxiliary phase begins and ends."""

    def on_aux_epoch_end(
        self, *, algorithm: PPG, metrics_logger: Any, epoch: int, num_epochs: int, **kwargs: Any
    ) -> None:
        """See the class."""
        if epoch in (0, num_epochs):
            name = "after" if epoch else "before"
            metrics_logger.log_value(name, play(algorithm), window=1)


def play(algo: PPG) -> float:
    """Mean return of EPISODES episodes with the policy as the learner has it."""
    module = algo.learner_group._learner.module[DEFAULT_MODULE_ID].unwrapped()
    policy = TrainedPolicy("", algo.config, module, env_steps=None)
    with torch.random.fork_rng():  # the player seeds it, and the training goes on with it
        player = make_player(policy, algo.config, num_envs=EPISODES, seed=0, explore=True)
        with closing(player):
            episodes = play_episodes(player, EPISODES)
    return float(np.mean([episode.episode_return for episode in episodes]))


def train(run: Run) -> list[list[Any]]:
    """Trains, and returns the rows."""
    suite = SUITES[run.suite]
    use_one_core()
    config = suite.arms[run.arm](run.env).callbacks(PlayAroundAuxPhases)
    per_row = config.n_pi or suite.arms["ppg"](run.env).n_pi
    algo = config.debugging(seed=run.seed).build_algo()
    rows, steps, metrics = [], 0, defaultdict(list)
    while steps < suite.env_steps:
        result = algo.train()
        steps = int(result["num_env_steps_sampled_lifetime"])
        of_learner = flatten_dict(result["learners"][DEFAULT_MODULE_ID])
        for name in METRICS:
            if name in of_learner:
                metrics[name].append(of_learner[name])
        if result["training_iteration"] % per_row:
            continue
        played = [result.get(name) for name in ("before", "after")]
        means = [np.mean(metrics[name]) if metrics[name] else None for name in METRICS]
        numbers = ["" if x is None else f"{x:.5g}" for x in (*played, *means)]
        rows.append([run.env, run.arm, run.seed, steps, *numbers])
        print(*rows[-1], flush=True)
        metrics.clear()
    algo.stop()
    return rows


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("suite", choices=[name for name in SUITES if "ppg" in SUITES[name].arms])
    parser.add_argument("env")
    parser.add_argument("arm", help="any but ppo")
    parser.add_argument("seed", type=int)
    run = Run(**vars(parser.parse_args()))
    write_rows(RESULTS / "phases" / f"{run.name}.csv", FIELDS, train(run))


if __name__ == "__main__":
    main()

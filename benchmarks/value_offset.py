"""What carries the mean of the value targets in `vf_aux`: its bias, or the encoder's features?

    python -m benchmarks.value_offset InvertedDoublePendulum-v5 ppg 10

Trains a run of the suite `mujoco_choice` for 8 phases, and writes
docs/results/value_offset/ENV_ARM_SEED.csv: two rows a phase, before it and after it, with means
over the states of the phase. V_aux = weights x features + bias, so that `features` and `bias` add
up to the mean of V_aux.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from torch import nn

from benchmarks.learning import Run, use_one_core
from benchmarks.learning_rows import RESULTS, write_rows
from benchmarks.suites import SUITES
from rllib_ppg import PPG, PPGCallback

SUITE = "mujoco_choice"
PHASES = 8
MEASURED = ("targets", "targets_std", "features", "bias")
FIELDS = ("env", "algo", "seed", "env_steps", "when", *MEASURED)


class MeasureHead(PPGCallback):
    """Notes in the results what the head is like as an auxiliary phase begins and ends."""

    def on_aux_epoch_end(
        self, *, algorithm: PPG, metrics_logger: Any, epoch: int, num_epochs: int, **kwargs: Any
    ) -> None:
        """See the class."""
        if epoch not in (0, num_epochs):
            return
        module = algorithm.learner_group._learner.trained[DEFAULT_MODULE_ID]
        if epoch == 0:
            S = len(module.aux.row_ids) * module.config.rollout_fragment_length
            states = module.aux.states
            (self.batch,) = states.batches([states.drop_masked(np.arange(S))])
        with torch.no_grad():
            features = module.forward(self.batch, Columns.EMBEDDINGS)[Columns.EMBEDDINGS]
        *_, head = (part for part in module.module.vf_aux.modules() if isinstance(part, nn.Linear))
        targets = self.batch["V_targ"]
        carried = head.weight[0].detach() @ features.mean(0)
        found = map(float, (targets.mean(), targets.std(), carried, head.bias[0]))
        for name, value in zip(MEASURED, found, strict=True):
            metrics_logger.log_value(f"{'after' if epoch else 'before'}_{name}", value, window=1)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("env", choices=SUITES[SUITE].envs)
    parser.add_argument("arm", help="one with auxiliary phases")
    parser.add_argument("seed", type=int)
    run = Run(SUITE, **vars(parser.parse_args()))
    use_one_core()
    config = SUITES[SUITE].arms[run.arm](run.env).callbacks(MeasureHead)
    algo = config.debugging(seed=run.seed).build_algo()
    rows: list[list[Any]] = []
    while len(rows) < 2 * PHASES:
        result = algo.train()
        if result["training_iteration"] % config.n_pi:
            continue
        for when in ("before", "after"):
            numbers = [f"{result[f'{when}_{name}']:.4g}" for name in MEASURED]
            steps = int(result["num_env_steps_sampled_lifetime"])
            rows.append([run.env, run.arm, run.seed, steps, when, *numbers])
            print(*rows[-1], flush=True)
    algo.stop()
    write_rows(RESULTS / "value_offset" / f"{run.name}.csv", FIELDS, rows)


if __name__ == "__main__":
    main()

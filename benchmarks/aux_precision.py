"""Does bfloat16 change what an auxiliary phase does, and what is learned?

    python -m benchmarks.aux_precision phase
    python -m benchmarks.learning run precision && python -m benchmarks.aux_precision returns

`phase`: for each seed, PPG with the paper's network trains for two phases and the policy phase of a
third. From that checkpoint the auxiliary phase runs twice, in float32 and in bfloat16. What it has
done is computed in float32 over all states of the phase: 1 - explained variance of both value
heads, and the KL from the policy before to the one after.

`returns`: relative differences of the final returns, and the 95 % t interval of their mean.

Run both on a device with native bfloat16.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from typing import Any

import numpy as np
import ray
import torch
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from scipy import stats
from scipy.special import log_softmax

from benchmarks.measuring import machine, start_ray
from rllib_ppg import PPGCallback, PPGConfig
from rllib_ppg.learning.batches import StateDataset
from rllib_ppg.learning.trained_module import TrainedModule
from rllib_ppg.networks.rl_module import TRAIN_OUTPUTS, VF_AUX_PREDS

SEEDS = (0, 1, 2)
PHASES, N_PI, N, T = 3, 4, 32, 64  # phases of N_PI iterations of N envs and T steps
MEASURES = ("clone KL", "1 - explained variance, V", "1 - explained variance, V_aux")


class MeasurePhase(PPGCallback):
    """Notes what an auxiliary phase has done."""

    measured: tuple[float, ...]
    states: StateDataset
    before: dict[str, np.ndarray]

    def on_aux_epoch_end(
        self, *, algorithm: Any, metrics_logger: Any, epoch: int, num_epochs: int, **kwargs: Any
    ) -> None:
        """See the class."""
        learner = algorithm.learner_group._learner
        module = learner.trained[DEFAULT_MODULE_ID]
        if epoch == 0:
            MeasurePhase.states = module.aux.states
            MeasurePhase.before = outputs(module, self.states)
        if epoch == num_epochs:
            after = outputs(module, self.states)
            log_p, log_q = (
                log_softmax(out[Columns.ACTION_DIST_INPUTS], axis=1) for out in (self.before, after)
            )
            MeasurePhase.measured = (
                float((np.exp(log_p) * (log_p - log_q)).sum(1).mean()),
                unexplained(after[Columns.VF_PREDS], after["V_targ"]),
                unexplained(after[VF_AUX_PREDS], after["V_targ"]),
            )
        module.begin_phase(learner.aux_precision)


@torch.no_grad()
def outputs(module: TrainedModule, states: StateDataset) -> dict[str, np.ndarray]:
    """The networks' outputs for all states in float32, and the states' V_targ, float64."""
    module.begin_phase("float32")
    index = states.drop_masked(np.arange(N_PI * N * T))
    collected: dict[str, list[np.ndarray]] = {name: [] for name in (*TRAIN_OUTPUTS, "V_targ")}
    for batch in states.batches(np.array_split(index, max(len(index) // 256, 1))):
        out = module.forward(batch, *TRAIN_OUTPUTS, aux_phase=True) | {"V_targ": batch["V_targ"]}
        for name, parts in collected.items():
            parts.append(out[name].cpu().numpy().astype(np.float64))
    return {name: np.concatenate(parts) for name, parts in collected.items()}


def unexplained(V: np.ndarray, V_targ: np.ndarray) -> float:
    """Share of the value targets' variance that is not explained."""
    return float(np.var(V_targ - V) / np.var(V_targ))


def config(seed: int) -> PPGConfig:
    """8,192 states of StarPilot a phase, and the paper's settings but for the minibatches."""
    return (
        PPGConfig()
        .environment("procgen-starpilot-v0", env_config={"distribution_mode": "easy"})
        .env_runners(num_env_runners=0, num_envs_per_env_runner=N, rollout_fragment_length=T)
        .training(n_pi=N_PI)
        .callbacks(MeasurePhase)
        .debugging(seed=seed)
    )


def stored_phase(seed: int, folder: str) -> None:
    """Trains until an auxiliary phase is due in the next iteration, and saves that."""
    algo = config(seed).build_algo()
    for _ in range(PHASES * N_PI - 1):
        algo.train()
    algo.save_to_path(folder)
    algo.stop()


def measured(seed: int, folder: str, precision: str) -> tuple[float, ...]:
    """What the stored phase's auxiliary phase does in that precision."""
    algo = config(seed).training(aux_precision=precision).build_algo()
    algo.restore_from_path(folder)
    algo.train()
    algo.stop()
    return MeasurePhase.measured


def returns() -> None:
    """Prints by how much the runs with bfloat16 end higher, relative to float32's mean."""
    from benchmarks import learning_report  # which draws

    found = learning_report.results(learning_report.read("precision"))
    differences = []
    for env in sorted({env for env, _ in found}):
        float32, bfloat16 = (found[env, arm] for arm in ("float32", "bfloat16"))
        n = min(len(float32), len(bfloat16))
        relative = bfloat16[:n] / float32.mean() - float32[:n] / float32.mean()
        differences.extend(relative)
        print(f"{env}: {float32.round(2)} {bfloat16.round(2)} difference {relative.mean():+.1%}")
    low, high = stats.t.interval(
        0.95, len(differences) - 1, np.mean(differences), stats.sem(differences)
    )
    print(f"all: {np.mean(differences):+.1%}, 95 % interval {low:+.1%} to {high:+.1%}")


def phase() -> None:
    """Prints what an auxiliary phase does in both precisions."""
    print(json.dumps(machine()), flush=True)
    start_ray()
    ratios: dict[str, list[float]] = {name: [] for name in MEASURES}
    print("| seed | | float32 | bfloat16 | ratio |\n|---|---|---|---|---|")
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            stored_phase(seed, folder)
            float32, bfloat16 = (measured(seed, folder, p) for p in ("float32", "bfloat16"))
        for name, a, b in zip(MEASURES, float32, bfloat16, strict=True):
            ratios[name].append(b / a)
            print(f"| {seed} | {name} | {a:.5f} | {b:.5f} | {b / a:.3f} |", flush=True)
    for name, values in ratios.items():
        print(f"| median | {name} | | | **{statistics.median(values):.3f}** |")
    ray.shutdown()


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("what", choices=["phase", "returns"])
    {"phase": phase, "returns": returns}[parser.parse_args().what]()


if __name__ == "__main__":
    main()

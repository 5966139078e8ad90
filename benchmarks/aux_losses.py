"""What each auxiliary loss adds to the auxiliary phase: time, and bytes of a stored state.

    python -m benchmarks.aux_losses

The paper's network on random frames of Procgen's size: whole rows in a minibatch, as the paper has
them, and single states. A figure is the time of an auxiliary phase with `value` and the loss over
that with `value` alone, the median of rounds in turn.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

import ray

from benchmarks.envs import FRAMES
from benchmarks.measuring import in_turn, machine, ratio, start_ray
from benchmarks.throughput import Phases, Sizes
from rllib_ppg.aux_losses.setting import build_aux_losses, replay_column_bytes

LOSSES: dict[str, dict[str, Any]] = {
    "value": {"value": 1.0},
    "value of presleep": {"value": {"target": "presleep"}},
    "reward": {"value": 1.0, "reward": 1.0},
    "inverse_dynamics": {"value": 1.0, "inverse_dynamics": 1.0},
    "dynamics": {"value": 1.0, "dynamics": 1.0},
}


def times_by(losses: Sequence[str], segment_length: int | None) -> dict[str, list[float]]:
    """Seconds of an auxiliary phase with each loss, in turn."""
    sizes = Sizes(num_mb=4)
    phases = {}
    for name in losses:
        phases[name] = Phases(sizes, aux_losses=LOSSES[name], segment_length=segment_length)
        phases[name].policy()
    fns: dict[str, Any] = {name: it.aux for name, it in phases.items()}
    in_turn(1, **fns)
    return in_turn(5, **fns)


def main() -> None:
    """See the module."""
    argparse.ArgumentParser(description=__doc__.split("\n", 1)[0]).parse_args()
    print(json.dumps(machine()))
    start_ray()
    rows, states = (times_by([*LOSSES], segment_length) for segment_length in (None, 1))
    print("\n| | whole rows | single states | bytes a state beside the frame |\n|---|---|---|---|")
    for name, losses in LOSSES.items():
        of_rows, of_states = (ratio(t[name], t["value"]) for t in (rows, states))
        columns = replay_column_bytes(build_aux_losses(losses), FRAMES["action_space"])
        print(f"| {name} | {of_rows:.2f} | {of_states:.2f} | {columns} |")
    ray.shutdown()


if __name__ == "__main__":
    main()

"""What auxiliary losses, augmentation and PPG's successors add: time, and bytes of a stored state.

    python -m benchmarks.settings_cost

The paper's network on random frames of Procgen's size: whole rows in a minibatch, as the paper has
them, and single states. A figure is the time of a phase with a setting over that with the default,
the median of rounds in turn.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

import ray

from benchmarks.envs import FRAMES
from benchmarks.measuring import in_turn, machine, ratio, start_ray
from benchmarks.throughput.phases import Phases
from benchmarks.throughput.sizes import Sizes
from rllib_ppg.aux_losses.setting import build_aux_losses, replay_column_bytes

Settings = Mapping[str, dict[str, Any]]


def _with(**losses: Any) -> dict[str, Any]:
    return {"aux_losses": {"value": 1.0, **losses}}


CONSISTENCY = {**_with(augmentation_consistency=0.1), "augmentation": "random_crop"}
AUX_PHASE: Settings = {
    "value": {},
    "value of presleep": _with(value={"target": "presleep"}),
    "reward": _with(reward=1.0),
    "inverse_dynamics": _with(inverse_dynamics=1.0),
    "dynamics": _with(dynamics=1.0),
    "augmentation_consistency": CONSISTENCY,
    "random_translate": {"augmentation": "random_translate"},
    "random_crop": {"augmentation": "random_crop"},
    "cutout": {"augmentation": "cutout"},
    "color_jitter": {"augmentation": "color_jitter"},
}
POLICY_PHASE: Settings = {
    "default": {},
    "proximal=ewma": {"proximal": "ewma"},
    "target_kl": {"target_kl": 100.0},
    "augmentation_phase=both": {"augmentation": "random_crop", "augmentation_phase": "both"},
}


def ratios(settings: Settings, phase: str, segment_length: int | None) -> dict[str, float]:
    """Time of a phase, `policy` or `aux`, with each of the settings over that with the first."""
    sizes = Sizes(num_mb=4)
    phases = {
        name: Phases(sizes, segment_length=segment_length, **training)
        for name, training in settings.items()
    }
    if phase == "aux":
        for it in phases.values():
            it.policy()
    fns: dict[str, Any] = {name: getattr(it, phase) for name, it in phases.items()}
    in_turn(1, **fns)
    times = in_turn(5, **fns)
    default, *_ = times.values()
    return {name: ratio(t, default) for name, t in times.items()}


def main() -> None:
    """See the module."""
    argparse.ArgumentParser(description=__doc__.split("\n", 1)[0]).parse_args()
    print(json.dumps(machine()), flush=True)
    start_ray()
    rows, states = (ratios(AUX_PHASE, "aux", length) for length in (None, 1))
    print("\n| auxiliary phase | whole rows | single states | bytes a state beside the frame |")
    print("|---|---|---|---|")
    for name, training in AUX_PHASE.items():
        losses = build_aux_losses(training.get("aux_losses", {"value": 1.0}))
        columns = replay_column_bytes(losses, FRAMES["action_space"])
        print(f"| {name} | {rows[name]:.2f} | {states[name]:.2f} | {columns} |", flush=True)
    rows, states = (ratios(POLICY_PHASE, "policy", length) for length in (None, 1))
    print("\n| policy phase | whole rows | single states |\n|---|---|---|")
    for name in POLICY_PHASE:
        print(f"| {name} | {rows[name]:.2f} | {states[name]:.2f} |")
    ray.shutdown()


if __name__ == "__main__":
    main()

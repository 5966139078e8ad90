"""What a GPU does for the learner, and how far StarPilot gets with it.

    python -m benchmarks.gpu.measure rows --json FILE
    python -m benchmarks.gpu.measure starpilot --json FILE --seconds 200

`rows` trains the paper's network on random frames, with one setting changed at a time: precision,
memory format, micro-batches, torch.compile, where the frames are. A row's figures are states/s of
both phases, each the median of three rounds. `starpilot` trains the paper's settings in hard mode,
but with N_pi = 8, so that phases end within minutes. Both write what they have after each row, and
run on the GPU unless there is none. `benchmarks/gpu/run.sh` runs both on a bare machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import ray
import torch
from ray.rllib.core import DEFAULT_MODULE_ID

from benchmarks.envs import FRAMES
from benchmarks.measuring import (
    DEVICE,
    GPUS,
    SEED,
    Row,
    in_turn,
    machine,
    per_second,
    seconds,
    start_ray,
)
from benchmarks.throughput.phases import Phases, phases
from benchmarks.throughput.sizes import Sizes
from rllib_ppg import PPGConfig
from rllib_ppg.learning import batches
from rllib_ppg.learning.batches import StateDataset

# A quarter of the paper's iteration, in minibatches of the paper's size in the policy phase.
FULL = Sizes(rounds=3, max_rounds=3, rows=64, T=256, num_mb=2)
TINY = Sizes(rounds=1, max_rounds=1, rows=4, T=8, num_mb=2)
PAPER_STATES = 32 * 65_536  # of a phase


@dataclass(frozen=True)
class Setting:
    """How a learner computes.

    Attributes:
        precision: Of both phases; float32 is without TF32 in anything, "TF32" is float32 with TF32
            in all products. torch's default has TF32 in convolutions alone.
        channels_last: Whether activations and filters are in this memory format.
        micro_batch_size: States that go through at once.
        compile: Whether torch.compile compiles the encoders, for whole micro-batches.
    """

    precision: str = "torch's default"
    channels_last: bool = True
    micro_batch_size: int | str = "auto"
    compile: bool = False


def settings(tiny: bool) -> dict[str, Setting]:
    """The rows by name, the most important first."""
    default = Setting()
    bfloat16 = replace(default, precision="bfloat16")
    sizes = (8,) if tiny else (256, 512, 2048, 4096, 8192)
    out = {
        "default": default,
        "bfloat16": bfloat16,
        "float32": replace(default, precision="float32"),
        "TF32": replace(default, precision="TF32"),
        "contiguous": replace(default, channels_last=False),
        "bfloat16, contiguous": replace(bfloat16, channels_last=False),
    }
    for name, setting in (("default", default), ("bfloat16", bfloat16)):
        for size in sizes:
            out[f"{name}, micro-batch {size}"] = replace(setting, micro_batch_size=size)
    size = 8 if tiny else 1024  # as "auto" chooses on a GPU
    out["compiled"] = replace(default, compile=True, micro_batch_size=size)
    out["bfloat16, compiled"] = replace(bfloat16, compile=True, micro_batch_size=size)
    return out


def phases_with(sizes: Sizes, setting: Setting) -> Phases:
    """A learner's phases with that setting."""
    torch.backends.cudnn.allow_tf32 = setting.precision != "float32"
    torch.backends.cuda.matmul.allow_tf32 = setting.precision == "TF32"
    precision = "bfloat16" if setting.precision == "bfloat16" else "float32"
    phases = Phases(
        sizes,
        policy_precision=precision,
        aux_precision=precision,
        micro_batch_size=setting.micro_batch_size,
    )
    module = phases.learner.module[DEFAULT_MODULE_ID].unwrapped()
    for encoder in (module.pi_encoder, module.vf_encoder):
        if not setting.channels_last:
            use_contiguous_format(encoder.net.stacks)
        if setting.compile:
            compile_for(encoder.net, int(setting.micro_batch_size))
    return phases


def figures(sizes: Sizes, setting: Setting) -> dict[str, Any]:
    """States/s of both phases, after a first call that does not count."""
    phases = phases_with(sizes, setting)
    first = {
        "first policy phase s": round(seconds(phases.policy), 2),
        "first aux phase s": round(seconds(phases.aux), 2),
    }
    times = in_turn(sizes.rounds, policy=phases.policy, aux=phases.aux)
    rates = {f"{k} states/s": per_second(sizes.states, t) for k, t in times.items()}
    return asdict(setting) | rates | first


def use_contiguous_format(stacks: torch.nn.Module) -> None:
    """Makes an encoder's filters and its input NCHW in memory, and so all between its layers."""
    stacks.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    stacks.register_forward_pre_hook(lambda module, inputs: (inputs[0].contiguous(),))


def compile_for(net: torch.nn.Module, size: int) -> None:
    """Compiles a network for batches of this size alone; all others are few."""
    eager = net.forward
    compiled = torch.compile(eager, dynamic=False)
    net.forward = lambda x: (compiled if len(x) == size else eager)(x)


# -- Rows --------------------------------------------------------------------------------------


def by_setting(sizes: Sizes, tiny: bool) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """A row for each setting."""
    for name, setting in settings(tiny).items():
        yield name, partial(figures, sizes, setting)


@contextmanager
def streamed(ahead: bool) -> Iterator[None]:
    """Keeps observations off the device; batches are prepared ahead of their use, or not."""
    limit = "_GPU_RESIDENT_PART" if GPUS else "_CPU_RESIDENT_BYTES"
    with mock.patch.object(batches, limit, 0):
        if ahead:
            yield
            return
        in_line = lambda self, indices: map(self._batch, indices)  # noqa: E731
        with mock.patch.object(StateDataset, "_ahead", in_line):
            yield


def transfers(sizes: Sizes) -> dict[str, Any]:
    """Frames on the device, copied while it computes, and copied while it waits."""
    phases = phases_with(sizes, Setting(precision="bfloat16"))
    phases.policy()
    phases.aux()

    def ahead() -> None:
        with streamed(ahead=True):
            phases.aux()

    def in_line() -> None:
        with streamed(ahead=False):
            phases.aux()

    in_turn(1, ahead=ahead, in_line=in_line)
    times = in_turn(sizes.rounds, resident=phases.aux, ahead=ahead, in_line=in_line)
    out = {f"{k} states/s": per_second(sizes.states, t) for k, t in times.items()}
    resident, hidden, waited_for = map(statistics.median, times.values())
    if waited_for > resident:
        out["share of the transfers that is hidden"] = 1 - (hidden - resident) / (
            waited_for - resident
        )
    return out


def resident_list(sizes: Sizes, tiny: bool) -> dict[str, Any]:
    """Memory that the replay list of the paper's size takes on the device."""
    phases = phases_with(sizes, Setting())
    phases.policy()
    iterations = 2 if tiny else PAPER_STATES // sizes.states
    before = allocated()
    took = seconds(lambda: phases.presleep(iterations))
    held = allocated() - before
    frames = iterations * sizes.states * FRAMES["observation_space"].sample().nbytes
    out = {"GB of frames": frames / 1e9, "GB held": held / 1e9, "presleep s": took}
    phases.learner.trained[DEFAULT_MODULE_ID].aux = None
    if GPUS:
        torch.cuda.reset_peak_memory_stats()
        phases.aux()
        peak = torch.cuda.max_memory_allocated() - before
        small = sizes.states * FRAMES["observation_space"].sample().nbytes
        out |= {"GB of an epoch beside its frames": (peak - small) / 1e9}
        out |= {"GB of the device": torch.cuda.get_device_properties(0).total_memory / 1e9}
    return out


def allocated() -> int:
    """Bytes of tensors on the GPU; 0 without one."""
    return torch.cuda.memory_allocated() if GPUS else 0


def rows(sizes: Sizes, tiny: bool) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Name and measurement of each row; what takes long, or may fail, comes last."""
    todo = [*by_setting(sizes, tiny)]
    compiled = [row for row in todo if "compiled" in row[0]]
    yield from (row for row in todo if row not in compiled)
    yield "share of bare torch", lambda: shown(phases(sizes))
    yield "transfers", lambda: transfers(sizes)
    yield "resident list", lambda: resident_list(sizes, tiny)
    yield from compiled


def shown(measured: Iterator[Row]) -> dict[str, Any]:
    """Rows of `benchmarks/throughput` by name."""
    torch.backends.cudnn.allow_tf32 = True  # as torch has it
    torch.backends.cuda.matmul.allow_tf32 = False
    return {row.name: {"ratio": row.value} | row.detail for row in measured}


def measure_rows(path: Path, tiny: bool) -> None:
    """Measures and writes row by row. A row that fails has its error in place of figures."""
    sizes = TINY if tiny else FULL
    start_ray()
    out: dict[str, Any] = {}
    for name, measure in rows(sizes, tiny):
        begun = time.perf_counter()
        try:
            out[name] = measure()
        except Exception as e:
            traceback.print_exc()
            out[name] = {"error": f"{type(e).__name__}: {e}"[:500]}
        out[name]["row took s"] = round(time.perf_counter() - begun, 1)
        write(path, {"sizes": asdict(sizes), "rows": out})
        print(f"{name}: {out[name]}", flush=True)
        if GPUS:
            torch.cuda.empty_cache()
    ray.shutdown()


# -- StarPilot ---------------------------------------------------------------------------------


def starpilot(tiny: bool) -> PPGConfig:
    """The paper's settings but for N_pi; what are its four workers are env runners on CPUs."""
    runners = 1 if tiny else 4
    cpus = max(1, (os.cpu_count() or 1) // (runners + 1))
    config = (
        PPGConfig()
        .environment(
            "procgen-starpilot-v0", env_config={"distribution_mode": "hard", "num_levels": 0}
        )
        .env_runners(
            num_env_runners=runners,
            num_envs_per_env_runner=64,
            num_cpus_per_env_runner=cpus,
        )
        .learners(num_gpus_per_learner=GPUS)
        .training(n_pi=8)
        .reporting(metrics_num_episodes_for_smoothing=400)  # as OpenAI's four workers report
        .debugging(seed=SEED)
    )
    if tiny:
        config.env_runners(num_envs_per_env_runner=2, rollout_fragment_length=32)
        config.training(n_pi=2, e_aux=1, num_minibatches=2, num_aux_minibatches=2)
    return config


def train_starpilot(path: Path, tiny: bool, budget_s: float) -> None:
    """Trains until the time is over, and writes a row after each iteration.

    The timers are RLlib's running means; `iteration_s` is of the iteration alone.
    """
    begun = time.perf_counter()
    start_ray()
    algo = starpilot(tiny).build_algo()
    trained: list[dict[str, Any]] = []
    spent = 0.0
    while time.perf_counter() - begun < budget_s:
        start = time.perf_counter()
        result = algo.train()
        took = time.perf_counter() - start
        spent += took
        row = {
            "env_steps": int(result["num_env_steps_sampled_lifetime"]),
            "episode_return": result["env_runners"].get("episode_return_mean"),
            "wall_time_s": round(spent, 1),
            "iteration_s": round(took, 2),
            "timers": {k: v for k, v in result["timers"].items() if isinstance(v, float)},
        }
        trained.append(row)
        write(path, {"env": algo.config.env, "n_pi": algo.config.n_pi, "rows": trained})
        print(row, flush=True)
    algo.stop()
    ray.shutdown()


# -- Command -----------------------------------------------------------------------------------


def write(path: Path, content: dict[str, Any]) -> None:
    """Writes what there is so far, with the machine it is of."""
    head = machine() | {"device": DEVICE, "cuda": torch.version.cuda if GPUS else None}
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(head | content, indent=1) + "\n")
    draft.rename(path)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("what", choices=["rows", "starpilot"])
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument("--tiny", action="store_true", help="a few states: tests this script")
    parser.add_argument("--seconds", type=float, default=200.0, help="for starpilot")
    args = parser.parse_args()
    torch.manual_seed(SEED)
    if args.what == "rows":
        measure_rows(args.json, args.tiny)
    else:
        train_starpilot(args.json, args.tiny, args.seconds)


if __name__ == "__main__":
    main()

"""What a phase of PPG moves, holds and waits for, by the number of learners and env runners.

    python -m benchmarks.scaling [--check] [--bandwidth 1.25e9 ...]

A model, not a measurement: bytes and counts follow from the code, seconds from `Hardware`, whose
values are assumptions until you put in your own. `--check` trains a tiny PPG and puts the model's
bytes and counts beside the real ones. `docs/scaling.md` explains it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import ray
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE, DEFAULT_MODULE_ID

from benchmarks.envs import FRAMES, Cheap
from benchmarks.measuring import machine, start_ray
from benchmarks.throughput.memory import in_store
from rllib_ppg import PPGConfig
from rllib_ppg.data.minibatches import Segments, interleave_row_ids, shard_cuts
from rllib_ppg.data.replay import rows_per_block
from rllib_ppg.driver.module_state import ModuleState
from rllib_ppg.learner import PPGTorchLearner
from rllib_ppg.ppg import PPG

LEARNERS = (1, 2, 4, 8, 16, 64)
RUNNERS = (4, 64, 250, 1000)
FRAME = (64, 64, 3)
ACTIONS = 15
# Of one call, as Ray's own benchmarks have tried it (release/benchmarks/README.md in Ray's source).
RAY_RETURNS = 3000


@dataclass(frozen=True)
class Hardware:
    """What seconds are computed from: put in your own.

    ASSUMPTIONS, round numbers, but for `driver_ref`, which `--check` has measured on two AMD EPYC
    cores.

    Attributes:
        train_rate: states/s that one learner trains one of the two networks on.
        forward_part: a pass without gradients, as a part of one with.
        env_rate: env steps/s of one env runner that has many envs.
        step_overhead: seconds of a vector step that do not hang on the number of envs.
        bandwidth: bytes/s of a node's network, each way.
        latency: seconds of one message between learners.
        runners_per_node: env runners that share a node, and its copy of the weights.
        driver_call: seconds of the driver's CPU a call to an actor.
        driver_ref: seconds of the driver's CPU a reference, from a call's result to its end.
    """

    train_rate: float = 20_000.0
    forward_part: float = 1 / 3
    env_rate: float = 1_000.0
    step_overhead: float = 1e-3
    bandwidth: float = 1.25e9
    latency: float = 50e-6
    runners_per_node: int = 32
    driver_call: float = 500e-6
    driver_ref: float = 300e-6


@dataclass(frozen=True)
class Run:
    """A run's settings, the paper's by default: frames, arch="dual", e_v = e_pi, whole rows.

    The properties are bytes and counts over all learners, unless they say otherwise.
    """

    learners: int = 1
    runners: int = 4
    envs: int = 64
    T: int = 256
    n_pi: int = 32
    e_pi: int = 1
    e_aux: int = 6
    num_minibatches: int = 8
    num_aux_minibatches: int = 16
    channels: tuple[int, ...] = (16, 32, 32)
    dense: int = 256

    @property
    def rows(self) -> int:
        """Rows of an iteration."""
        return self.runners * self.envs

    @property
    def states(self) -> int:
        """Env steps of an iteration."""
        return self.rows * self.T

    @property
    def encoder(self) -> int:
        """Parameters of one encoder."""
        (h, w, c), count = FRAME, 0
        for out in self.channels:
            count += (9 * c + 1) * out + 4 * (9 * out + 1) * out
            h, w, c = (h + 1) // 2, (w + 1) // 2, out
        return count + (h * w * c + 1) * self.dense

    # -- Bytes ---------------------------------------------------------------------------------

    @property
    def frame_bytes(self) -> int:
        """One observation's."""
        return int(np.prod(FRAME))

    @property
    def rollout_bytes(self) -> int:
        """Env runners to learners, an iteration: each state once, and the last observations."""
        # Actions int64, logp and rewards float32, three masks.
        return self.states * (self.frame_bytes + 8 + 4 + 4 + 3) + self.rows * self.frame_bytes

    @property
    def block_bytes(self) -> int:
        """Learners to their nodes' object stores, an iteration: V_targ float32 and a mask."""
        return self.states * (self.frame_bytes + 4 + 1)

    @property
    def broadcast_bytes(self) -> int:
        """Driver to each env runner's node, an iteration: the policy network."""
        return 4 * (self.encoder + (self.dense + 1) * ACTIONS)

    @property
    def gradient_bytes(self) -> tuple[int, int]:
        """Of the flat buffer of a policy step and of an auxiliary step."""
        # Both encoders, pi and vf; the auxiliary head has no gradient in the policy phase.
        policy = 2 * self.encoder + (self.dense + 1) * (ACTIONS + 1) + 1
        return 4 * policy, 4 * (policy + self.dense + 1)

    @property
    def sent_bytes(self) -> float:
        """By each learner in a phase's gradient all-reduces, if they are rings."""
        return 2 * (1 - 1 / self.learners) * self.reduced_bytes

    @property
    def reduced_bytes(self) -> int:
        """Of all gradients of a phase."""
        return sum(a * b for a, b in zip(self.steps, self.gradient_bytes, strict=True))

    @property
    def own_bytes(self) -> int:
        """A learner's own memory in an auxiliary phase, networks aside: pi_old, V_targ, valid."""
        return self.n_pi * self.states * (4 * ACTIONS + 4 + 1) // self.learners

    def store_bytes(self, copies: float = 2) -> float:
        """Object store of a learner's node: the replay list and so many rollouts.

        One rollout is being trained on. Ray frees objects some time after they are dropped, so
        there has to be room for a second.
        """
        return (self.n_pi * self.block_bytes + copies * self.rollout_bytes) / self.learners

    # -- Counts --------------------------------------------------------------------------------

    @property
    def steps(self) -> tuple[int, int]:
        """Gradient steps, each an all-reduce, of a phase's policy and auxiliary epochs."""
        policy = self.n_pi * self.e_pi * self.num_minibatches
        return policy, self.e_aux * self.num_aux_minibatches * self.n_pi

    @property
    def small_sums(self) -> int:
        """A phase's all-reduces of a few bytes: advantage moments, metrics."""
        return self.n_pi * (3 + self.e_pi) + self.e_aux

    @property
    def blocks(self) -> int:
        """Replay blocks of an iteration; a block's rows are of one env runner and one learner."""
        per_block = rows_per_block(self.T * self.frame_bytes)
        shards = [
            b - a
            for numbers in interleave_row_ids([self.envs] * self.runners)
            for a, b in pairwise(shard_cuts(numbers, self.rows, self.learners))
        ]
        return sum(-(-rows // per_block) for rows in shards)

    @property
    def references(self) -> int:
        """What the driver holds at the end of a phase."""
        return self.n_pi * self.blocks

    @property
    def busiest(self) -> tuple[int, int]:
        """States of a policy and an auxiliary epoch that the learners do not work on at once.

        Learners wait for each other in every gradient step, so the largest share of each minibatch
        counts.
        """
        return (
            self.T * _largest_shares(self, 1, self.num_minibatches),
            self.T * _largest_shares(self, self.n_pi, self.n_pi * self.num_aux_minibatches),
        )

    @property
    def idle(self) -> float:
        """The part of the auxiliary passes' time that learners wait for the busiest."""
        return 1 - self.n_pi * self.states / self.learners / self.busiest[1]

    # -- Seconds -------------------------------------------------------------------------------

    def seconds(self, hw: Hardware) -> dict[str, float]:
        """A phase's seconds, which are a sum: each part waits for the one before it."""
        n, n_pi = self.learners, self.n_pi
        vector_step = hw.step_overhead + self.envs / hw.env_rate
        policy, aux = self.busiest
        passes = n_pi * self.e_pi * 2 * policy + self.e_aux * 2 * aux
        # V before an iteration's update, pi_old before the auxiliary phase.
        passes += 2 * hw.forward_part * n_pi * self.states / n
        nodes = -(-self.runners // hw.runners_per_node)
        messages = 2 * (n - 1) * hw.latency
        all_reduces = sum(self.steps) + self.small_sums
        calls = n_pi * (2 * self.runners + n) + (1 + self.e_aux) * n
        refs = n_pi * (self.runners * n + self.blocks)  # rollouts and blocks
        return {
            "sampling": n_pi * self.T * vector_step,
            # Through the narrower end: the learners' nodes or the env runners'.
            "rollouts": n_pi * self.rollout_bytes / min(n, nodes) / hw.bandwidth,
            "passes": passes / hw.train_rate,
            "all-reduce": all_reduces * messages + self.sent_bytes / hw.bandwidth,
            "broadcast": n_pi * nodes * self.broadcast_bytes / hw.bandwidth,
            "driver": calls * hw.driver_call + refs * hw.driver_ref,
        }

    def bottleneck(self, hw: Hardware) -> tuple[str, float]:
        """What takes the largest part of a phase, and env steps/s."""
        s = self.seconds(hw)
        parts = {
            "runners": s["sampling"],
            "learners": s["passes"],
            "network": s["rollouts"] + s["all-reduce"] + s["broadcast"],
            "driver": s["driver"],
        }
        return max(parts, key=lambda p: parts[p]), self.n_pi * self.states / sum(parts.values())


@cache
def _largest_shares(run: Run, iterations: int, num_minibatches: int) -> int:
    """Rows of the learner that has the most of them, summed over an epoch's minibatches."""
    if run.rows % run.learners == 0:  # ranges of rows: equal parts, as far as there are rows
        in_minibatch = -(-run.rows * iterations // num_minibatches)
        return num_minibatches * -(-in_minibatch // run.learners)
    # Some get a row more, or the only one: what the package itself does.
    of_phase = interleave_row_ids([run.rows] * iterations)
    shares = []
    for k in range(run.learners):
        rows = np.arange(-(-k * run.rows // run.learners), -(-(k + 1) * run.rows // run.learners))
        segments = Segments([of[rows] for of in of_phase], run.rows * iterations, 1, 1)
        shares.append([len(m) for m in segments.epoch((0,), num_minibatches)])
    return int(np.max(shares, axis=0).sum())


def fixed(learners: int, runners: int) -> Run:
    """The paper's 256 rows, dealt out evenly over as many of the env runners as possible."""
    used = max(r for r in range(1, runners + 1) if 256 % r == 0)
    return Run(learners=learners, runners=used, envs=256 // used)


def growing(learners: int, runners: int) -> Run:
    """64 envs on each env runner."""
    return Run(learners=learners, runners=runners)


MODES = {
    "fixed": (fixed, "The batch stays at 65,536 env steps (256 rows, dealt out evenly)"),
    "growing": (growing, "The batch grows with the env runners (64 envs on each)"),
}

# -- Tables ------------------------------------------------------------------------------------


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a table in Markdown."""
    print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    print(flush=True)


def print_tables(hw: Hardware) -> None:
    """The model at the paper's settings."""
    print("Assumed or given:", ", ".join(f"{k}={v:.3g}" for k, v in asdict(hw).items()))
    run = Run()
    policy, aux = run.gradient_bytes
    print(
        f"An iteration of {run.states:,} states: rollouts {run.rollout_bytes / 1e6:.0f} MB, replay "
        f"blocks {run.block_bytes / 1e6:.0f} MB, weights {run.broadcast_bytes / 1e6:.2f} MB a "
        f"node. A phase: {run.steps[0]} + {run.steps[1]:,} all-reduces of {policy / 1e6:.2f} and "
        f"{aux / 1e6:.2f} MB, {run.small_sums} of some bytes."
    )
    parts = list(run.seconds(hw))
    print("\nA phase with 4 env runners; store, memory and what is sent are of each learner:")
    rows = []
    for n in LEARNERS:
        run = growing(n, 4)
        gb = [f"{run.store_bytes() / 1e9:.1f}", f"{run.sent_bytes / 1e9:.1f}"]
        seconds = [f"{s:,.0f}" for s in run.seconds(hw).values()]
        most, _ = run.bottleneck(hw)
        rows.append([n, *gb, f"{run.own_bytes / 1e6:.0f}", *seconds, f"{run.idle:.0%}", most])
    head = ["learners", "store, GB", "sent, GB", "own memory, MB", *(f"{p}, s" for p in parts)]
    table([*head, "idle in aux epochs", "most time"], rows)

    print("\nThe driver, with 8 learners and 64 envs on each env runner:")
    rows = []
    for r in RUNNERS:
        run = growing(8, r)
        returned = run.blocks // run.learners
        counts = [f"{x:,}" for x in (run.states, run.references, returned)]
        counts[-1] += f" (Ray tried {RAY_RETURNS:,})" if returned > RAY_RETURNS else ""
        driver = run.seconds(hw)["driver"] / run.n_pi
        rows.append([r, *counts, f"{run.store_bytes() / 1e9:,.0f}", f"{driver:.1f}"])
    head = ["env runners", "steps an iteration", "references a phase", "blocks returned by a call"]
    table([*head, "store of a learner's node, GB", "driver, s an iteration"], rows)

    for make, title in MODES.values():
        print(f"\n{title}: env steps/s, what takes the most time, idle in auxiliary epochs:")
        rows = []
        for n in LEARNERS:
            runs = [make(n, r) for r in RUNNERS]
            cells = [(*run.bottleneck(hw), run.idle) for run in runs]
            rows.append([n, *(f"{rate:,.0f} {most}, {idle:.0%}" for most, rate, idle in cells)])
        used = [make(1, r) for r in RUNNERS]
        head = [f"{run.runners} x {run.envs}" for run in used]
        table(["learners \\ env runners x envs", *head], rows)


# -- The check ---------------------------------------------------------------------------------


class CountingLearner(PPGTorchLearner):
    """Notes the bytes of every all-reduce, and how many states this learner had in it."""

    def build(self) -> None:
        """See the class."""
        super().build()
        self.sums: list[tuple[int, float]] = []
        reduce = self.collective.sum

        def counted(x: Any) -> None:
            # A gradient buffer's last number is the count of states.
            self.sums.append((x.numel() * x.element_size(), float(x[-1])))
            reduce(x)

        self.collective.sum = counted


class Watched(PPG):
    """Notes what lies in the object store, and what the driver holds."""

    seen: dict[str, float]

    def _policy_phase(self, module: Any, rollouts: list) -> None:
        refs = [ref for rollout in rollouts for shards in rollout.shards.values() for ref in shards]
        seen = Watched.seen = {"rollouts": in_store(refs)}
        del refs
        super()._policy_phase(module, rollouts)
        entries = [e for iteration in module.replay.iterations for e in iteration]
        seen["references"] = len(entries)
        seen["blocks"] = in_store([e.ref for e in entries])
        seen["store"] = store_usage()
        state = self.learner_group.get_state(
            components=f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}", inference_only=True
        )[COMPONENT_LEARNER][COMPONENT_RL_MODULE]
        seen["broadcast"] = in_store([ray.put(state[DEFAULT_MODULE_ID])])

    def _on_aux_epoch_end(self, module: ModuleState, epoch: int) -> None:
        if epoch:
            return  # the last one drops the states
        results = self.learner_group.foreach_learner(own_bytes)
        Watched.seen["own"] = max(r.get() for r in results)


def own_bytes(learner: Any) -> int:
    """Bytes of a learner's columns in an auxiliary phase, but for the observations; or 0."""
    (module,) = learner.trained.values()
    if module.aux is None:
        return 0
    states = module.aux.states
    tensors = states._columns.values()
    return states._valid.nbytes + sum(t.numel() * t.element_size() for t in tensors)


def store_usage() -> float:
    """Bytes of all objects in the object store."""
    time.sleep(1)  # it is reported now and then
    name = "object_store_memory"
    return ray.cluster_resources()[name] - ray.available_resources()[name]


@ray.remote(num_cpus=0)
class Learner:
    """Returns objects, and is told of them, as a learner."""

    def returns(self, count: int) -> list[np.ndarray]:
        """So many objects of 128 KiB: smaller ones would be sent to the caller."""
        return [np.zeros(2**17, np.uint8)] * count

    def told(self, refs: list[Any]) -> int:
        """Takes references."""
        return len(refs)


def driver_seconds(count: int = 500) -> float:
    """CPU seconds of this process a reference: as a call's result, handed on, dropped."""
    actor = Learner.remote()
    ray.get(actor.told.remote(actor.returns.options(num_returns=2).remote(2)))
    start = time.process_time()
    refs = actor.returns.options(num_returns=count).remote(count)
    ray.wait(refs, num_returns=count)
    ray.get(actor.told.remote(refs))
    del refs
    return (time.process_time() - start) / count


def check() -> list[tuple[str, float, float]]:
    """(what, model, measured) of tiny runs of one phase."""
    out: list[tuple[str, float, float]] = []
    for n, r in ((1, 1), (2, 2)):
        run = Run(
            learners=n, runners=r, envs=9, T=32, n_pi=3, e_aux=2, num_minibatches=3,
            num_aux_minibatches=3, channels=(1,), dense=4,
        )  # fmt: skip
        algo = (
            PPGConfig(algo_class=Watched)
            .environment(Cheap, env_config=FRAMES)
            .env_runners(num_env_runners=r, num_envs_per_env_runner=run.envs)
            .env_runners(rollout_fragment_length=run.T)
            .learners(num_learners=n)
            .rl_module(model_config={"impala_channels": (1,), "impala_dense": 4})
            .training(n_pi=run.n_pi, e_aux=run.e_aux, num_minibatches=run.num_minibatches)
            .training(num_aux_minibatches=run.num_aux_minibatches, learner_class=CountingLearner)
            .debugging(seed=0)
            .build_algo()
        )
        for _ in range(run.n_pi):
            algo.train()
        results = algo.learner_group.foreach_learner(lambda learner: learner.sums)
        sums = [r.get() for r in results]
        algo.stop()
        others = [size for size, _ in sums[0] if size not in run.gradient_bytes]
        gradients = [[x for x in of if x[0] in run.gradient_bytes] for of in sums]
        busiest = sum(max(states for _, states in step) for step in zip(*gradients, strict=True))
        policy, aux = run.busiest
        longest = run.n_pi * run.e_pi * policy + run.e_aux * aux
        seen = Watched.seen
        for what, model, measured in (
            ("rollouts of an iteration, bytes", run.rollout_bytes, seen["rollouts"]),
            ("replay list, references", run.references, seen["references"]),
            ("replay list, bytes", run.n_pi * run.block_bytes, seen["blocks"]),
            ("object store, list and one rollout, bytes", run.store_bytes(1) * n, seen["store"]),
            ("weights broadcast, bytes", run.broadcast_bytes, seen["broadcast"]),
            ("gradient all-reduces of a phase", sum(run.steps), len(gradients[0])),
            ("their bytes", run.reduced_bytes, sum(size for size, _ in gradients[0])),
            ("other all-reduces", run.small_sums, len(others)),
            ("states of each step's busiest learner", longest, busiest),
            ("a learner's own memory, bytes", run.own_bytes, seen["own"]),
        ):
            out.append((f"{n} + {r}: {what}", model, measured))
    return out


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description="PPG's bytes, counts and waits: a model")
    parser.add_argument("--check", action="store_true", help="compare with a tiny run")
    for f in fields(Hardware):
        parser.add_argument(f"--{f.name.replace('_', '-')}", type=type(f.default), default=None)
    args = parser.parse_args()
    given = {f.name: getattr(args, f.name) for f in fields(Hardware)}
    hw = replace(Hardware(), **{k: v for k, v in given.items() if v is not None})
    print_tables(hw)
    if args.check:
        print(json.dumps(machine()))
        start_ray()
        start = time.perf_counter()
        table(
            ["learners + env runners: what", "model", "measured", "measured / model"],
            [[what, f"{m:,.0f}", f"{x:,.0f}", f"{x / m:.3f}"] for what, m, x in check()],
        )
        print(f"driver: {driver_seconds() * 1e6:.0f} us of CPU a reference")
        print(f"({time.perf_counter() - start:.0f} s)")
        ray.shutdown()


if __name__ == "__main__":
    # As a module by its name, so that Ray's processes import its classes from there.
    from benchmarks import scaling

    scaling.main()

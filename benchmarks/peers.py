"""PPG next to OpenAI's code and CleanRL's on Procgen's StarPilot: env steps/s with two threads.

    mkdir peers && cd peers
    git clone https://github.com/openai/phasic-policy-gradient
    git clone https://github.com/vwxyzjn/cleanrl
    git -C phasic-policy-gradient checkout 7295473f0185c82f9eb9c1e17a373135edd8aacc
    git -C cleanrl checkout fe8d8a03c41a7ef5b523e2e354bd01c363e786bb
    pip install --target lib --no-deps gym==0.23.1 tyro docstring-parser typeguard tensorboard
    cd -
    export OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0
    python -m benchmarks.peers --openai peers/phasic-policy-gradient --cleanrl peers/cleanrl \
        --lib peers/lib [--shapes small large] [--rounds 3] [--arch dual] [--json FILE]

Each peer runs unmodified in a process of its own, with the packages in `lib` before ours. It stops
at the end of each phase until its turn comes again. mpi4py is not needed: one process has nobody to
talk to, so `OneProcess` takes its place. Imports and building are not timed, nor are a shape's
`warm_up` phases. A round is a whole phase of each, in turn. Rates are of median times, a ratio is
the median of the rounds' ratios.

All have two CPUs, two threads of torch, four threads of Procgen, all levels of the easy mode,
eight minibatches in a policy epoch and four envs in an auxiliary minibatch. The one network is
OpenAI's `--arch detach`, the only one that CleanRL has. With `--arch dual` CleanRL is left out.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any

import torch

# The peers' processes import this module, too. They need neither Ray nor rllib_ppg, which are
# therefore imported in functions.

GAME, THREADS, ENV_THREADS = "starpilot", 2, 4
MINIBATCHES, AUX_ENVS = 8, 4  # minibatches of a policy epoch, envs of an auxiliary minibatch


@dataclass(frozen=True)
class Shape:
    """The size of a phase.

    Attributes:
        warm_up: Number of phases that are not timed. A large phase takes minutes, next to which
            warming up is short.
    """

    num_envs: int
    T: int
    n_pi: int
    e_aux: int
    warm_up: int

    @property
    def steps(self) -> int:
        """Env steps of a phase."""
        return self.num_envs * self.T * self.n_pi


SHAPES = {
    "tiny": Shape(8, 16, n_pi=1, e_aux=1, warm_up=1),  # only shows whether all of it runs
    "small": Shape(16, 64, n_pi=2, e_aux=6, warm_up=1),
    "large": Shape(64, 256, n_pi=1, e_aux=2, warm_up=0),
    "large6": Shape(64, 256, n_pi=1, e_aux=6, warm_up=0),
}


# -- In the process of a peer -----------------------------------------------------------------


def wait_for_turn(pipe: Connection) -> None:
    """Tells the benchmark the number of threads, and waits until it wants the next phase."""
    pipe.send(torch.get_num_threads())
    pipe.recv()


class OneProcess:
    """What OpenAI's code uses of an MPI communicator, for one process."""

    rank, size = 0, 1

    def Get_rank(self) -> int:
        """The number of this process."""
        return 0

    def Barrier(self) -> None:
        """Waits for nobody."""

    def Bcast(self, array: Any, root: int = 0) -> None:
        """Leaves the array as it is."""

    def Allreduce(self, array: Any, total: Any) -> None:
        """Writes the sum over all processes."""
        total[...] = array

    def bcast(self, value: Any, root: int = 0) -> Any:
        """Returns the value of the only process."""
        return value

    def allgather(self, value: Any) -> list[Any]:
        """Returns the values of all processes."""
        return [value]

    gather = allgather


def run_openai(pipe: Connection, clone: str, shape: Shape, arch: str) -> None:
    """Trains with OpenAI's code; a policy phase starts with a call of `ppo.learn`."""
    sys.path.insert(0, clone)
    mpi: Any = ModuleType("mpi4py")
    mpi.MPI = ModuleType("mpi4py.MPI")
    mpi.MPI.Comm, mpi.MPI.COMM_WORLD = OneProcess, OneProcess()
    sys.modules["mpi4py"] = mpi
    os.environ["RCALL_NUM_CPU_PER_PROC"] = str(THREADS)
    os.environ["RCALL_NUM_GPU"] = "0"
    os.environ["RCALL_LOGDIR"] = os.getcwd()
    from phasic_policy_gradient import ppo, train  # type: ignore[import-not-found]

    learn = ppo.learn

    def learn_in_turn(**kwargs: Any) -> Any:
        wait_for_turn(pipe)
        return learn(nstep=shape.T, **kwargs)  # `train_fn` has no argument for it

    ppo.learn = learn_in_turn
    train.train_fn(
        env_name=GAME,
        distribution_mode="easy",
        arch=arch,
        num_envs=shape.num_envs,
        n_pi=shape.n_pi,
        n_aux_epochs=shape.e_aux,
        nminibatch=MINIBATCHES,
        aux_mbsize=AUX_ENVS,
        log_dir=os.getcwd(),
    )


def run_cleanrl(pipe: Connection, clone: str, shape: Shape) -> None:
    """Runs CleanRL's script; a phase ends with the auxiliary phase's last metric."""
    from torch.utils import tensorboard

    class Writer(tensorboard.SummaryWriter):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            wait_for_turn(pipe)

        def add_scalar(self, tag: str, *args: Any) -> None:
            super().add_scalar(tag, *args)
            if tag == "losses/aux/real_value_loss":
                wait_for_turn(pipe)

    tensorboard.SummaryWriter = Writer  # type: ignore[assignment,misc]
    settings = {
        "env-id": GAME,
        "num-envs": shape.num_envs,
        "num-steps": shape.T,
        "n-iteration": shape.n_pi,
        "e-auxiliary": shape.e_aux,
        "num-minibatches": MINIBATCHES,
        "num-aux-rollouts": AUX_ENVS,
    }
    script = f"{clone}/cleanrl/ppg_procgen.py"
    sys.argv = [script, "--no-cuda", *(f"--{k}={v}" for k, v in settings.items())]
    runpy.run_path(script, run_name="__main__")


def run_peer(run: Callable[..., None], lib: str, folder: str, pipe: Connection, *args: Any) -> None:
    """Calls one of the functions above; what the peer writes lies in the folder."""
    sys.path.insert(0, lib)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (open as long as the process lives)
    warnings.simplefilter("ignore")
    os.chdir(folder)
    torch.set_num_threads(THREADS)
    run(pipe, *args)


# -- The benchmark ----------------------------------------------------------------------------


class Peer:
    """Another's PPG in a process of its own.

    Args:
        run: `run_openai` or `run_cleanrl`.
        lib: Folder of the packages that it needs.
        *args: Arguments of `run` after the pipe.
    """

    def __init__(self, run: Callable[..., None], lib: str, *args: Any):
        self._folder = tempfile.TemporaryDirectory(prefix="peers-")
        spawn = multiprocessing.get_context("spawn")
        self._pipe, its_end = spawn.Pipe()
        run_args = (run, lib, self._folder.name, its_end, *args)
        self._process = spawn.Process(target=run_peer, args=run_args, daemon=True)
        self._process.start()
        its_end.close()
        self._wait()

    def _wait(self) -> None:
        threads = self._pipe.recv()
        assert threads == THREADS, f"the peer has {threads} threads"

    def phase(self) -> None:
        """Lets it train for a phase."""
        self._pipe.send(None)
        self._wait()

    def stop(self) -> None:
        """Ends its process."""
        self._process.terminate()
        self._process.join()
        self._folder.cleanup()


class Ours:
    """Our PPG, with an env runner in a process of its own and the learner in this one."""

    def __init__(self, shape: Shape, arch: str, aux_precision: str):
        from rllib_ppg import PPGConfig

        self._n_pi = shape.n_pi
        self._algo = (
            PPGConfig()
            .environment(
                f"procgen-{GAME}-v0",
                env_config={"distribution_mode": "easy", "num_threads": ENV_THREADS},
            )
            .env_runners(
                num_env_runners=1,
                num_envs_per_env_runner=shape.num_envs,
                rollout_fragment_length=shape.T,
            )
            .training(
                n_pi=shape.n_pi,
                e_aux=shape.e_aux,
                num_minibatches=MINIBATCHES,
                num_aux_minibatches=shape.num_envs // AUX_ENVS,
                arch=arch,
                aux_precision=aux_precision,
            )
            .debugging(seed=0)
            .build_algo()
        )

    def phase(self) -> None:
        """Trains for a phase."""
        for _ in range(self._n_pi):
            self._algo.train()

    def stop(self) -> None:
        """Ends its processes."""
        self._algo.stop()


def measure(shape: Shape, args: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of a phase of each, in turn."""
    from benchmarks.measuring import in_turn

    lib = str(args.lib.resolve())
    runs: dict[str, Peer | Ours] = {}
    runs["OpenAI"] = Peer(run_openai, lib, str(args.openai.resolve()), shape, args.arch)
    if args.arch == "detach":
        runs["CleanRL"] = Peer(run_cleanrl, lib, str(args.cleanrl.resolve()), shape)
    runs["float32"] = Ours(shape, args.arch, "float32")
    runs["bfloat16"] = Ours(shape, args.arch, "bfloat16")
    fns: dict[str, Any] = {name: run.phase for name, run in runs.items()}
    in_turn(shape.warm_up, **fns)
    times = in_turn(args.rounds, **fns)
    for run in runs.values():
        run.stop()
    return times


def row(name: str, shape: Shape, times: dict[str, list[float]]) -> dict[str, Any]:
    """The figures of a shape."""
    from benchmarks.measuring import per_second, ratio

    rates = {k: per_second(shape.steps, t) for k, t in times.items()}
    better = max(rates.keys() & {"OpenAI", "CleanRL"}, key=lambda k: rates[k])
    ratios = {k: round(ratio(times[better], times[k]), 2) for k in ("float32", "bfloat16")}
    return {
        "shape": name,
        **asdict(shape),
        "env steps/s": rates,
        "better peer": better,
        "ratios": ratios,
        "seconds": times,
    }


def commit(clone: pathlib.Path) -> str:
    """The commit that a clone is at."""
    command = ["git", "-C", str(clone), "rev-parse", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    """See the module."""
    import rllib_ppg  # noqa: F401 (before Ray starts: it sets the priority of Ray's workers)
    from benchmarks.measuring import machine, start_ray

    parser = argparse.ArgumentParser(description="PPG next to OpenAI's code and CleanRL's")
    for name in ("openai", "cleanrl", "lib"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True, metavar="DIR")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["small", "large"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--arch", choices=("detach", "dual"), default="detach", help="one network, or two"
    )
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE")
    args = parser.parse_args()

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])
    torch.set_num_threads(THREADS)
    head = machine() | {
        "arch": args.arch,
        "rounds": args.rounds,
        "openai": commit(args.openai),
        "cleanrl": commit(args.cleanrl),
    }
    print(json.dumps(head), flush=True)
    start_ray()
    print("| envs x steps, N_pi, E_aux | OpenAI | CleanRL | ours | ours, bfloat16 |", end="")
    print(" ours / better peer | bfloat16 / better peer |\n" + "|---" * 7 + "|", flush=True)
    rows = []
    for name in args.shapes:
        shape = SHAPES[name]
        figures = row(name, shape, measure(shape, args))
        rows.append(figures)
        rates = figures["env steps/s"]
        cells = [f"{shape.num_envs} x {shape.T}, {shape.n_pi}, {shape.e_aux}"]
        cells += [str(rates.get(k, "")) for k in ("OpenAI", "CleanRL", "float32", "bfloat16")]
        cells += [f"{ratio:.2f}" for ratio in figures["ratios"].values()]
        print(f"| {' | '.join(cells)} |", flush=True)
        if args.json:
            args.json.write_text(json.dumps({**head, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

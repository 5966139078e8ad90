"""What crosses the network between the nodes of a cluster, in bytes, beside `scaling`'s model.

    python -m benchmarks.cluster        # Linux, as root; four minutes on two cores

Hosts are network namespaces of this machine, on a bridge that leads nowhere else, and each runs a
Ray node of its own with a role (`rllib_ppg/resources/node_roles.py`). The script that trains runs
on the first learner's host, as a Tune trial's main process does. Bytes are those of the bridge's
ports: Ethernet frames of at most 1,514 bytes, with all that Ray sends. Seconds say nothing here, as
all hosts share one machine. `docs/scaling.md` has the results.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import ray

from benchmarks import only_module
from benchmarks.envs import FRAMES, Cheap
from benchmarks.measuring import machine
from benchmarks.scaling import Run, table
from rllib_ppg import PPGConfig
from rllib_ppg.driver import checkpointing
from rllib_ppg.driver.module_state import ModuleState
from rllib_ppg.ppg import PPG
from rllib_ppg.resources.node_roles import ENV_RUNNER, LEARNER, ROLES

SHAPE: dict[str, Any] = {
    "runners": 2, "envs": 8, "T": 64, "n_pi": 3, "e_aux": 2, "num_minibatches": 4,
    "num_aux_minibatches": 4, "channels": (1,), "dense": 64,
}  # fmt: skip
BEFORE_CHECKPOINT = 2  # iterations of a phase

LEARNERS, RUNNERS = ("learner1", "learner2"), ("runner1", "runner2")
HOSTS = ("head", *LEARNERS, *RUNNERS)
DRIVER = LEARNERS[0]
ADDRESS = {host: f"10.77.0.{i + 1}" for i, host in enumerate(HOSTS)}
SWITCH = "PPG_BENCHMARK_SWITCH"  # environment variable: the namespace of the bridge

SENT, GOT = "sent", "got"
ALL = [(host, GOT) for host in HOSTS]  # all that crosses
HEADERS = 14 + 20 + 32  # of a packet: Ethernet, IP, TCP with time stamps
IDLE_S = 10
SETTLE_S = 0.3  # what is sent and not waited for belongs to the step that sent it
# What; model; measured; of that headers; what passes in as many seconds when nothing happens.
Row = tuple[str, float | None, float, float | None, float | None]


# -- Hosts -------------------------------------------------------------------------------------


class Network:
    """Hosts on a bridge; a context that removes them and ends what runs on them."""

    def __init__(self) -> None:
        self._name = f"ppg{os.getpid()}"
        self._made: list[str] = []

    def __enter__(self) -> Network:
        # A short path, as Ray's sockets lie in it.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="ppg"))
        try:
            switch = self._namespace("switch")
            _ip(f"-n {switch} link add bridge type bridge")
            _ip(f"-n {switch} link set bridge up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in reversed(self._made.copy()):
            self.remove(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _namespace(self, name: str) -> str:
        _ip(f"netns add {self._name}-{name}")
        self._made.append(name)
        return f"{self._name}-{name}"

    def add(self, host: str) -> None:
        """A host, with a Ray node."""
        full, switch = self._namespace(host), f"{self._name}-switch"
        _ip(f"-n {switch} link add {host} type veth peer name eth0 netns {full}")
        _ip(f"-n {switch} link set {host} master bridge up")
        _ip(f"-n {full} addr add {ADDRESS[host]}/24 dev eth0")
        # Frames as they are on a cable, not up to 64 KiB at once.
        _ip(f"-n {full} link set eth0 gso_max_segs 1 up")
        _ip(f"-n {full} link set lo up")
        place = LEARNER if host in LEARNERS else ENV_RUNNER
        command = [
            *(f"{sys.prefix}/bin/ray", "start", "--block", "--disable-usage-stats"),
            f"--node-ip-address={ADDRESS[host]}",
            f"--num-cpus={0 if host == 'head' else 1}",
            f"--resources={json.dumps({ROLES: 1} if host == 'head' else {place: 1000})}",
            f"--object-store-memory={300 * 2**20}",
            f"--temp-dir={self.folder / host}",
        ]
        if host == "head":
            command += ["--head", "--port=6379", "--include-dashboard=false"]
        else:
            command += [f"--address={ADDRESS['head']}:6379"]
        self.start(host, command)
        if host == "head":
            _wait_for((self.folder / host / "ray_current_cluster").exists, "the head")

    def start(self, host: str, command: Sequence[str]) -> tuple[subprocess.Popen, pathlib.Path]:
        """Starts a command on a host; returns the process and what it writes to."""
        env = os.environ | {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",  # nobody else is on this network
            # All hosts have this machine's name, which says nothing of where they are.
            "GLOO_SOCKET_IFNAME": "eth0",
            SWITCH: f"{self._name}-switch",
        }
        env.pop("RAY_ADDRESS", None)
        log = self.folder / f"{host}-{pathlib.Path(command[0]).name}.txt"
        with open(log, "w") as f:
            process = subprocess.Popen(
                ["ip", "netns", "exec", f"{self._name}-{host}", *command],
                env=env,
                stdout=f,
                stderr=f,
                start_new_session=True,  # Ctrl-C is for this process, which ends the others
            )
        return process, log

    def remove(self, host: str) -> None:
        """Ends what runs on a host, and removes it."""
        full = f"{self._name}-{host}"
        for tries in range(100):
            pids = _ip(f"netns pids {full}").split()
            if not pids:
                break
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGTERM if tries < 30 else signal.SIGKILL)
            time.sleep(0.1)
        _ip(f"netns del {full}")
        self._made.remove(host)


def _ip(arguments: str) -> str:
    """Runs `ip`."""
    done = subprocess.run(["ip", *arguments.split()], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {arguments}: {done.stderr.strip()}")
    return done.stdout


def _wait_for(condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come within {seconds:g} s")
        time.sleep(0.2)


# -- The algorithm -----------------------------------------------------------------------------


class Meter:
    """Sums up bytes, packets and seconds while it is entered, by what it is entered for."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forgets all sums."""
        self._sums: dict[str, Counter] = {}

    def _now(self) -> Counter:
        now = Counter({"ns": time.monotonic_ns()})
        for link in json.loads(_ip(f"-n {os.environ[SWITCH]} -s -j link")):
            for way, at_port in ((SENT, "rx"), (GOT, "tx")):  # a port gets what its host sends
                for unit in ("bytes", "packets"):
                    now[link["ifname"], way, unit] = link["stats64"][at_port][unit]
        return now

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Adds what passes meanwhile to the sums of `what`."""
        before = self._now()
        yield
        time.sleep(SETTLE_S)
        passed = self._now()
        passed.subtract(before)
        self._sums.setdefault(what, Counter()).update(passed)

    def around(self, holder: Any, method: str, what: str) -> None:
        """Enters it whenever this method of an object is called."""
        call = getattr(holder, method)

        def metered(*args: Any, **kwargs: Any) -> Any:
            with self(what):
                return call(*args, **kwargs)

        setattr(holder, method, metered)

    def idle(self) -> None:
        """Forgets all sums, and notes what passes when nothing happens."""
        self.clear()
        with self("idle"):
            time.sleep(IDLE_S)

    def of(self, what: str, keys: Sequence[tuple[str, str]], times: int = 1) -> tuple[float, ...]:
        """Bytes of these (host, way), their headers, and idle ones: each of one of some times."""
        sums, idle = self._sums[what], self._sums["idle"]
        measured = sum(sums[host, way, "bytes"] for host, way in keys)
        headers = HEADERS * sum(sums[host, way, "packets"] for host, way in keys)
        at_rest = sum(idle[host, way, "bytes"] for host, way in keys) * sums["ns"] / idle["ns"]
        return measured / times, headers / times, at_rest / times


class Metered(PPG):
    """Notes what each host sends and gets in each step of an iteration."""

    def setup(self, config: Any) -> None:
        """See the class."""
        super().setup(config)
        self.meter = Meter()
        self.meter.around(self._env_runners, "sample", "rollouts")
        self.meter.around(self, "_policy_phase", "policy")
        self.meter.around(self, "_auxiliary_phase", "auxiliary")
        self.meter.around(self, "_sync_weights", "weights")
        self.meter.around(checkpointing, "load_replay", "list")

    def _on_aux_epoch_end(self, module: ModuleState, epoch: int) -> None:
        super()._on_aux_epoch_end(module, epoch)
        if epoch == self.config.e_aux:  # the replay list is about to be dropped
            self.at_the_end = self.in_place()

    def in_place(self) -> int:
        """Number of replay blocks whose only copy is on their learner's node."""
        time.sleep(1)  # copies are reported now and then
        nodes = [r.get() for r in self.learner_group.foreach_learner(node_of)]
        entries = [e for iteration in only_module(self).replay.iterations for e in iteration]
        found = ray.experimental.get_object_locations([e.ref for e in entries])
        return sum(found[e.ref]["node_ids"] == [nodes[e.learner]] for e in entries)


def node_of(_: Any) -> str:
    """Id of the node of the process that this is called in."""
    return str(ray.get_runtime_context().get_node_id())


# -- What runs on the driver's host ------------------------------------------------------------


def measure(n: int, own: str | None, other: str | None, out: str) -> None:
    """Writes the rows of n learners, each on a host of its own.

    Args:
        n: number of learners.
        own: where to write a checkpoint, after a phase of training; or None, for neither.
        other: path of another shape's checkpoint, to go on from; or None.
        out: path of the file.
    """
    head, driver = ADDRESS["head"], ADDRESS[DRIVER]
    ray.init(f"{head}:6379", _node_ip_address=driver, log_to_driver=False, logging_level="ERROR")
    nodes = 1 + n + len(RUNNERS)
    _wait_for(lambda: sum(node["Alive"] for node in ray.nodes()) == nodes, "a Ray node")
    run, rows = Run(learners=n, **SHAPE), []
    for part, path in ((trained, own), (restored, other)):
        if path:
            algo = build(run)
            rows += [(f"{n} + {run.runners}: {what}", *x) for what, *x in part(algo, run, path)]
            algo.stop()
    ray.shutdown()
    pathlib.Path(out).write_text(json.dumps(rows))


def build(run: Run) -> Metered:
    """The algorithm.

    Raises:
        RuntimeError: An actor is on a host of another role.
    """
    algo = (
        PPGConfig(algo_class=Metered)
        .environment(Cheap, env_config=FRAMES)
        .env_runners(num_env_runners=run.runners, num_envs_per_env_runner=run.envs)
        .env_runners(rollout_fragment_length=run.T)
        .learners(num_learners=run.learners)
        .rl_module(model_config={"impala_channels": run.channels, "impala_dense": run.dense})
        .training(n_pi=run.n_pi, e_aux=run.e_aux, num_minibatches=run.num_minibatches)
        .training(num_aux_minibatches=run.num_aux_minibatches)
        .debugging(seed=0)
        .build_algo()
    )
    address = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
    learners = [r.get() for r in algo.learner_group.foreach_learner(node_of)]
    runners = algo.env_runner_group.foreach_env_runner(node_of, local_env_runner=False)
    for actors, hosts in ((learners, LEARNERS[: run.learners]), (runners, RUNNERS)):
        found = sorted(address[node] for node in actors)
        if found != [ADDRESS[host] for host in hosts]:
            raise RuntimeError(f"actors are on {found}, and not on {hosts}")
    return algo


def trained(algo: Metered, run: Run, path: str) -> Iterator[Row]:
    """A phase, after a first one that makes processes and connections; then a checkpoint."""
    meter, n, n_pi = algo.meter, run.learners, run.n_pi
    for _ in range(n_pi):
        algo.train()
    meter.idle()
    with meter("phase"):
        for _ in range(n_pi):
            algo.train()
    # By all learners, if they are rings.
    policy, aux = (2 * (n - 1) * a * b for a, b in zip(run.steps, run.gradient_bytes, strict=True))
    to_runners = meter.of("weights", [(host, GOT) for host in RUNNERS], n_pi * len(RUNNERS))
    yield "rollouts of an iteration", run.rollout_bytes, *meter.of("rollouts", ALL, n_pi)
    yield "weights, an iteration and env runner's host", run.broadcast_bytes, *to_runners
    yield "a phase's policy iterations", policy, *meter.of("policy", ALL)
    yield "auxiliary phase", aux, *meter.of("auxiliary", ALL)
    yield "a whole phase, to the head", 0, *meter.of("phase", [("head", GOT)])
    yield "a whole phase, from the head", 0, *meter.of("phase", [("head", SENT)])
    yield "replay blocks in place at its end", run.references, algo.at_the_end, None, None

    for _ in range(BEFORE_CHECKPOINT):
        algo.train()
    with meter("checkpoint"):
        algo.save_to_path(path)
    states, blocks = (BEFORE_CHECKPOINT * x for x in (run.block_bytes, run.blocks))
    yield "checkpoint in a phase", states * (n - 1) / n, *meter.of("checkpoint", ALL)
    yield "replay blocks in place after it", blocks / n, algo.in_place(), None, None


def restored(algo: Metered, run: Run, path: str) -> Iterator[Row]:
    """A checkpoint of another number of learners, and the rest of its phase."""
    meter, n = algo.meter, run.learners
    meter.idle()
    with meter("restore"):
        algo.restore_from_path(path)
    states, blocks = (BEFORE_CHECKPOINT * x for x in (run.block_bytes, run.blocks))
    yield "restored replay list", states * (n - 1) / n, *meter.of("list", ALL)
    yield "restore, with networks and optimizers", None, *meter.of("restore", ALL)
    yield "restored replay blocks in place", blocks, algo.in_place(), None, None
    algo.train()
    aux = 2 * (n - 1) * run.steps[1] * run.gradient_bytes[1]
    yield "auxiliary phase after a restore", aux, *meter.of("auxiliary", ALL)
    yield "replay blocks in place at its end", run.references, algo.at_the_end, None, None


# -- What runs outside of the hosts ------------------------------------------------------------


def on_driver(network: Network, **kwargs: Any) -> list[list]:
    """`measure`'s rows, on the driver's host."""
    out = network.folder / "rows.json"
    arguments = json.dumps(kwargs | {"out": str(out)})
    process, log = network.start(
        DRIVER, [sys.executable, "-m", "benchmarks.cluster", "--on-driver", arguments]
    )
    if process.wait():
        raise RuntimeError(f"the driver has failed:\n{log.read_text()[-5000:]}")
    rows: list[list] = json.loads(out.read_text())
    return rows


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description="PPG's bytes between the nodes of a cluster")
    parser.add_argument("--on-driver", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.on_driver:
        measure(**json.loads(args.on_driver))
        return
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None:
        parser.error("this makes network namespaces: run it on Linux, as root, with iproute2's ip")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the network is removed first
    print(json.dumps(machine()), flush=True)
    start, rows = time.perf_counter(), []
    with Network() as network:
        one, two = str(network.folder / "one"), str(network.folder / "two")
        for host in ("head", DRIVER, *RUNNERS):
            network.add(host)
        rows += on_driver(network, n=1, own=one, other=None)
        network.add(LEARNERS[1])
        rows += on_driver(network, n=2, own=two, other=one)
        network.remove(LEARNERS[1])
        rows += on_driver(network, n=1, own=None, other=two)
    cells = []
    for what, *values in rows:
        ratio = f"{values[1] / values[0]:.3f}" if values[0] else ""
        cells.append([what, *("" if x is None else f"{x:,.0f}" for x in values), ratio])
    head = ["learners + env runners: what", "model", "measured", "of that headers", "when idle"]
    table([*head, "measured / model"], cells)
    print(f"({time.perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    # As a module by its name, so that Ray's processes import its classes from there.
    from benchmarks import cluster

    cluster.main()

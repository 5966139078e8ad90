"""Faults of a real machine: env runners that are killed, a disk that is full, a file that is lost.

Those of learners are in `test_distributed.py`, of the driver in `test_killed_run.py`.
"""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import numpy as np
import pytest

from rllib_ppg import PPG
from tests.support.algorithms import small


def note_and_die(*, env_runner, samples, **_):
    """Notes an env runner's rollouts; the first one dies where a file says that it should."""
    folder = Path(env_runner.config.learner_config_dict["folder"])
    (rollout,) = samples
    crc = zlib.crc32(np.ascontiguousarray(rollout.obs).tobytes())
    with (folder / f"rollouts_{env_runner.worker_index}").open("a") as f:
        f.write(f"{os.getpid()} {crc}\n")
    if env_runner.worker_index == 1 and (folder / "die").exists():
        (folder / "die").unlink()
        os.kill(os.getpid(), signal.SIGKILL)


class Kills(PPG):
    """Kills the first env runner when a phase begins that `to_kill` names."""

    to_kill = None

    def _policy_phase(self, *args):
        self._kill("policy")
        super()._policy_phase(*args)

    def _auxiliary_phase(self, *args):
        self._kill("aux")
        super()._auxiliary_phase(*args)

    def _kill(self, phase):
        if self.to_kill == phase:
            self.to_kill = None
            (pid,) = self.env_runner_group.foreach_env_runner(
                lambda _: os.getpid(), remote_worker_ids=[1], local_env_runner=False
            )
            os.kill(pid, signal.SIGKILL)


@pytest.mark.faults
@pytest.mark.parametrize("where", ["rollout", "policy", "aux"])
def test_an_env_runner_that_is_killed_comes_back_with_episodes_of_its_own(build, tmp_path, where):
    config = small(runners=2).callbacks(on_sample_end=note_and_die)
    config.learners(learner_config_dict={"folder": str(tmp_path)})
    config.algo_class = Kills
    algo = build(config)
    assert algo.train()["ppg"]["num_rollouts"] == 2
    if where == "rollout":
        (tmp_path / "die").touch()
    algo.to_kill = where
    rollouts = [algo.train()["ppg"]["num_rollouts"]]
    assert rollouts == [1 if where == "rollout" else 2]
    while rollouts[-2:] != [2, 2] or min(rollouts) == 2:
        rollouts.append(algo.train()["ppg"]["num_rollouts"])
        assert len(rollouts) < 1000
    lines = (tmp_path / "rollouts_1").read_text().split("\n")[:-1]
    pids, crcs = zip(*(line.split() for line in lines), strict=True)
    assert len(set(pids)) == 2
    assert len(set(crcs)) == len(crcs)  # also the first of each life


def run_alone(program, tmp_path, *before):
    """Runs a program with a Ray of its own."""
    file = tmp_path / "program.py"
    file.write_text(textwrap.dedent(program))
    command = [*before, sys.executable, str(file)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path])}
    return subprocess.run(command, capture_output=True, text=True, env=env)


def can_mount():
    unshare = shutil.which("unshare")
    command = [unshare, "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return unshare and subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.faults
@pytest.mark.skipif(not can_mount(), reason="this system lets no user mount a disk of his own")
def test_a_disk_that_is_really_full(tmp_path):
    """A disk of 4 MB: the second checkpoint, of other states, is too much for what is left."""
    disk = tmp_path / "disk"
    disk.mkdir()
    program = f"""
    import errno, os, ray
    from tests.support.algorithms import small
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    algo = small(n_pi=3).learners(num_learners=1).build_algo()
    algo.train()
    first = algo.save_to_path("{disk}/first")
    free = os.statvfs("{disk}")
    with open("{disk}/filler", "wb") as f:
        f.write(bytes(free.f_bavail * free.f_bsize - 40_000))
    for i in range(2):
        try:
            algo.save_to_path("{disk}/second")
        except OSError as e:
            assert e.errno == errno.ENOSPC, e
            print("full", sorted(os.listdir("{disk}")))
        algo.train()
    os.remove("{disk}/filler")
    algo.save_to_path("{disk}/second")
    algo.restore_from_path(first)
    print("iteration", algo.train()["training_iteration"])
    """
    mounted = f'mount -t tmpfs -o size=4m none {disk} && exec "$@"'
    done = run_alone(program, tmp_path, "unshare", "-rm", "sh", "-c", mounted, "sh")
    said = [line for line in done.stdout.splitlines() if line.startswith(("full", "iter"))]
    assert said == 2 * ["full ['filler', 'first']"] + ["iteration 2"], done.stderr


@pytest.mark.faults
def test_a_spilled_file_that_is_lost_is_an_error(tmp_path):
    """The store has 80 MB and the list 150; what Ray has spilled is deleted."""
    program = """
    import pathlib, ray
    from benchmarks.envs import FRAMES, Cheap
    from benchmarks.throughput.tiny_module import TinyModule
    from ray.rllib.core.rl_module.rl_module import RLModuleSpec
    from rllib_ppg import PPG, PPGConfig
    class Loses(PPG):
        def _auxiliary_phase(self, module):
            folder = pathlib.Path(ray._private.worker._global_node.get_session_dir_path())
            spilled = [p for p in folder.glob("ray_spilled_objects_*/*") if p.is_file()]
            for path in spilled:
                path.unlink()
            print("lost", len(spilled) > 0)
            super()._auxiliary_phase(module)
    ray.init(
        address="local", num_cpus=4, include_dashboard=False, log_to_driver=False,
        object_store_memory=80 * 2**20,
    )
    algo = (
        PPGConfig(algo_class=Loses)
        .environment(Cheap, env_config=FRAMES)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=16, rollout_fragment_length=128)
        .rl_module(rl_module_spec=RLModuleSpec(module_class=TinyModule))
        .training(n_pi=6, e_aux=1, num_minibatches=1, num_aux_minibatches=4)
        .training(replay_may_spill=True, collective_timeout_s=3)
        .build_algo()
    )
    for _ in range(5):
        algo.train()
    try:
        algo.train()
    except RuntimeError as e:
        print("error", e)
    """
    done = run_alone(program, tmp_path)
    said = [line for line in done.stdout.splitlines() if line.startswith(("lost", "error"))]
    assert said[0] == "lost True", done.stderr
    assert "did not arrive within 3 s" in said[1]

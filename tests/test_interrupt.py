"""How Ctrl-C and SIGTERM end a run: after its checkpoints, at once the second time, or in time."""

import json
import os
import re
import shlex
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import psutil
import pytest

from rllib_ppg.tune_callbacks.save_on_interrupt import SaveOnInterrupt
from tests.support.command import RLLIB


@pytest.fixture
def ended():
    """Signals that reached Tune's own handler, which ends the run."""
    told = []
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGINT, lambda signum, frame: told.append(signum))
    yield told
    for one, handler in before.items():
        signal.signal(one, handler)


def interrupt(signum=signal.SIGINT):
    os.kill(os.getpid(), signum)


def trial(name, status="RUNNING"):
    return SimpleNamespace(
        trial_id=name,
        status=status,
        latest_checkpoint_result=None,
        temporary_state=SimpleNamespace(ray_actor=None),
    )


def test_the_run_ends_when_all_that_run_have_saved(ended, capsys):
    a, b = trial("a"), trial("b")
    trials = [a, b, trial("c", "PENDING")]
    callback = SaveOnInterrupt()
    callback.setup()
    result = {}
    callback.on_trial_result(1, trials, a, result)
    callback.on_step_end(1, trials)
    assert (result, ended) == ({}, [])

    interrupt()
    for one in (a, b):
        callback.on_step_end(2, trials)
        assert not ended
        callback.on_trial_result(2, trials, one, result)
        assert result.pop("should_checkpoint")
        callback.on_checkpoint(2, trials, one, None)
    callback.on_step_end(2, trials)
    assert ended == [signal.SIGINT]
    assert capsys.readouterr().out.count("a checkpoint is saved when this iteration ends") == 1


def test_a_second_one_ends_it_at_once(ended, monkeypatch):
    limits = []
    monkeypatch.setattr(SaveOnInterrupt, "_end_in", lambda self, seconds: limits.append(seconds))
    callback = SaveOnInterrupt()
    callback.setup()
    interrupt()
    callback.on_step_end(1, [trial("a")])
    assert not ended
    assert not limits
    interrupt()
    callback.on_step_end(2, [trial("a")])
    assert ended == [signal.SIGINT]
    assert limits == [5]


def test_a_closed_terminal_says_so_twice_and_waits_for_the_checkpoint(ended, capsys, monkeypatch):
    limits = []
    monkeypatch.setattr(SaveOnInterrupt, "_end_in", lambda self, seconds: limits.append(seconds))
    callback = SaveOnInterrupt(grace_s=20)
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
    callback.setup()
    interrupt(signal.SIGHUP)  # by the kernel
    interrupt(signal.SIGHUP)  # by the shell
    callback.on_step_end(1, [trial("a")])
    assert (callback.signum, ended, limits) == (signal.SIGHUP, [], [])
    assert "stopping, as the terminal was closed: a checkpoint is" in capsys.readouterr().out
    interrupt(signal.SIGTERM)  # its first order
    assert limits == [25]
    callback.on_step_end(2, [trial("a")])
    assert not ended
    interrupt(signal.SIGTERM)
    callback.on_step_end(3, [trial("a")])
    assert ended == [signal.SIGINT]
    callback.on_experiment_end([])
    assert signal.signal(signal.SIGHUP, before) is not callback._on_signal


def test_a_run_in_which_nothing_runs_ends(ended):
    callback = SaveOnInterrupt()
    callback.setup()
    interrupt()
    callback.on_step_end(1, [trial("a", "PENDING"), trial("b", "TERMINATED")])
    assert ended == [signal.SIGINT]


CONFIG = {
    "seed": 5,
    "num_env_runners": 0,
    "num_envs_per_env_runner": 8,
    "rollout_fragment_length": 64,
    "segment_length": 1,
    "n_pi": 2,
    "e_aux": 8,
}


@contextmanager
def start(*words, **env):
    """A run, which is gone when the test is done with it, or has failed."""
    with subprocess.Popen(
        [RLLIB, "train", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | env,
        start_new_session=True,  # a group of its own, as a shell gives it
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process, pattern):
    """What a process says until a line matches."""
    out = ""
    for line in process.stdout:
        out += line
        if re.search(pattern, line):
            return out
    raise AssertionError(f"it ended first: {out}{process.stderr.read()}")


def read_rest(process):
    """What it says from there to its end, and what it has for errors.

    Not `communicate()`, which would leave out what was buffered beyond the line found last.
    """
    out, err = process.stdout.read(), process.stderr.read()
    process.wait(60)
    return out, err


HELD = """
import os

from rllib_ppg import PPGCallback


class Held(PPGCallback):
    def on_aux_epoch_end(self, *, epoch, **kwargs):
        if epoch == 1:
            with open(os.environ["HOLD"]) as pipe:  # until the test lets go
                pipe.read()


config = {config} | {{"env": "CartPole-v1", "callbacks_class": Held}}
"""


@pytest.mark.faults
def test_sigterm_in_an_auxiliary_phase_does_not_cut_it_short(tmp_path):
    file, pipe = tmp_path / "held.py", tmp_path / "pipe"
    file.write_text(HELD.format(config=CONFIG))
    os.mkfifo(pipe)
    words = ["file", file, "-n", "a", "--storage-path", tmp_path]
    words += ["--stop", '{"training_iteration": 100}']
    with start(*words, HOLD=str(pipe)) as process:
        out = read_until(process, "auxiliary ./8")
        process.send_signal(signal.SIGTERM)
        out += read_until(process, "stopping on SIGTERM")
        with pipe.open("w"):
            pass
        rest, err = read_rest(process)
    assert "auxiliary phase 1" in rest
    assert_ended_as_asked(process, out + rest, err, tmp_path / "a", iterations=2)


@pytest.mark.faults
def test_sigterm_saves_and_says_how_to_resume(tmp_path):
    words = ["-a", "PPG", "-e", "CartPole-v1", "-c", json.dumps(CONFIG), "-n", "a"]
    words += ["--storage-path", tmp_path, "--stop", '{"training_iteration": 100}']
    with start(*words) as process:
        out = read_until(process, r"^iteration 2/.* steps/s")
        process.send_signal(signal.SIGTERM)
        rest, err = read_rest(process)
    out += rest
    last = len(re.findall(r"^iteration \d+/100 .* steps/s", out, re.M))
    assert_ended_as_asked(process, out, err, tmp_path / "a", iterations=last)
    [command] = re.findall(r"to resume: \S*rllib train (.*)", out)
    with start(*shlex.split(command)) as again:
        on = read_until(again, r"^iteration .* steps/s")
        again.send_signal(signal.SIGTERM)
        read_rest(again)
    assert f"resumes from checkpoint_000000, of iteration {last}\n" in on
    assert f"\niteration {last + 1}/100" in on


def assert_ended_as_asked(process, out, err, folder, iterations):
    """Checks the end after SIGTERM: iterations printed and kept, and a checkpoint named."""
    assert process.returncode == 143
    assert err == "rllib: terminated\n"
    assert out.count("stopping on SIGTERM: a checkpoint is saved when this iteration ends") == 1
    assert "checkpoint_000000" in out
    told = re.findall(r"^iteration (\d+)/100 .* steps/s", out, re.M)
    [path] = folder.glob("PPG_*/result.json")
    kept = [json.loads(line)["training_iteration"] for line in path.read_text().splitlines()]
    assert [int(n) for n in told] == kept == list(range(1, iterations + 1))


WORDS = ["-a", "PPG", "-e", "CartPole-v1", "-c", json.dumps(CONFIG), "-n", "a"]
WORDS += ["--stop", '{"training_iteration": 100}']


@pytest.mark.faults
@pytest.mark.parametrize("what", ["terminal", "pipe"])
def test_what_is_closed_ends_a_run_after_its_checkpoint(tmp_path, what):
    with start(*WORDS, "--storage-path", tmp_path) as process:
        read_until(process, r"^iteration 2/.* steps/s")
        if what == "pipe":
            process.stdout.close()
            out = ""
        else:
            os.killpg(process.pid, signal.SIGHUP)  # Ray's processes are in the group, too
            out = process.stdout.read()
        said = out + process.stderr.read()
    assert process.returncode == (141 if what == "pipe" else 129)
    assert said.count(f"stopping, as the {what} was closed: a checkpoint is saved") == 1
    assert "Traceback" not in said
    [path] = re.findall(r"^checkpoint: (.*)$", said, re.M)
    assert os.path.isfile(f"{path}/ppg_checkpoint.json")
    assert not left_behind(process)


@pytest.mark.faults
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("when", ["gcs_server", "agent.py", "DashboardAgent"])
def test_a_signal_while_ray_starts_leaves_no_process(tmp_path, name, when):
    with start(*WORDS, "--storage-path", tmp_path) as process:
        while not any(when in " ".join(words) for words in left_behind(process)):
            assert process.poll() is None, process.stderr.read()
        if name == "SIGINT":  # a terminal sends it to the whole group
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.terminate()
        out, err = read_rest(process)
    code, word = (130, "interrupted") if name == "SIGINT" else (143, "terminated")
    assert (process.returncode, out, err) == (code, "", f"rllib: {word}\n")
    assert not left_behind(process)


def left_behind(process):
    """The command lines of the other processes in its session."""
    found = []
    for other in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if other.pid != process.pid and os.getsid(other.pid) == process.pid:
                found.append(other.cmdline())
    return [words for words in found if words]


SLOW = """
import os
import time

from gymnasium.envs.classic_control import CartPoleEnv


class Slow(CartPoleEnv):
    steps = 0

    def step(self, action):
        self.steps += 1
        if self.steps == 160:  # in the third iteration
            with open(os.environ["TOLD"], "w") as pipe:
                pipe.write("x")
            time.sleep(1000)
        return super().step(action)


config = {config} | {{"env": Slow}}
"""


@pytest.mark.faults
@pytest.mark.parametrize("how", ["grace time", "second signal"])
def test_a_run_that_cannot_save_ends_in_time(tmp_path, how):
    file, pipe = tmp_path / "slow.py", tmp_path / "pipe"
    file.write_text(SLOW.format(config=CONFIG))
    os.mkfifo(pipe)
    grace = 2 if how == "grace time" else 500
    words = ["file", file, "--storage-path", tmp_path, "--checkpoint-freq", "1"]
    words += ["--grace-time", grace, "--stop", '{"training_iteration": 100}']
    with start(*words, TOLD=str(pipe)) as process:
        with pipe.open() as told:
            assert told.read() == "x"
        out = read_until(process, "^iteration 2/.* steps/s")
        before = time.monotonic()
        process.send_signal(signal.SIGTERM)
        if how == "second signal":
            out += read_until(process, "stopping on SIGTERM")
            process.send_signal(signal.SIGTERM)
        rest, err = read_rest(process)
    assert time.monotonic() - before < (2 if how == "grace time" else 0) + 5 + 2
    assert process.returncode == 143, err
    assert ("no checkpoint within 2 s" in rest) == (how == "grace time")
    assert "it would resume from checkpoint_000001, of iteration 2\n" in rest
    assert re.search(r"^to resume: \S*rllib train file .* --resume$", rest, re.M)
    assert err == "rllib: terminated\n"


def test_a_grace_time_below_zero(rllib):
    ended = rllib("train", "-a", "PPG", "-e", "CartPole-v1", "--grace-time", "-1")
    assert ended.returncode == 2
    assert "--grace-time must be 0 or more" in ended.stderr

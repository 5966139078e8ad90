"""When Ctrl-C ends a run: after its checkpoints, or at once the second time."""

import os
import signal
from types import SimpleNamespace

import pytest

from rllib_ppg.cli.interrupt import SaveOnInterrupt


@pytest.fixture
def ended():
    """What Tune's own handler has been told; it ends the run."""
    told, before = [], signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, lambda signum, frame: told.append(signum))
    yield told
    signal.signal(signal.SIGINT, before)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def trial(name, status="RUNNING"):
    return SimpleNamespace(trial_id=name, status=status)


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


def test_a_second_one_ends_it_at_once(ended):
    callback = SaveOnInterrupt()
    callback.setup()
    interrupt()
    assert not ended
    interrupt()
    assert ended == [signal.SIGINT]


def test_a_run_in_which_nothing_runs_ends(ended):
    callback = SaveOnInterrupt()
    callback.setup()
    interrupt()
    callback.on_step_end(1, [trial("a", "PENDING"), trial("b", "TERMINATED")])
    assert ended == [signal.SIGINT]

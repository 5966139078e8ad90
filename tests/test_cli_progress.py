import builtins
import io
import math
import pickle
import sys
from types import SimpleNamespace

import pytest

from rllib_ppg.tune_callbacks import progress as progress_module
from rllib_ppg.tune_callbacks.progress import Progress
from rllib_ppg.tune_callbacks.progress_lines import ProgressLines, duration
from rllib_ppg.tune_callbacks.time_left import TimeLeft

pytestmark = pytest.mark.unit

STEPS = 2048


def ppg_result(iteration, seconds, n_pi=4, **metrics):
    """What PPG reports after an iteration."""
    return {
        "training_iteration": iteration,
        "iterations_since_restore": iteration,
        "num_env_steps_sampled_lifetime": STEPS * iteration,
        "time_this_iter_s": seconds,
        "time_total_s": 10 * iteration,
        "config": {"n_pi": n_pi, "e_aux": 3},
        "ppg": {
            "policy_iteration": (iteration - 1) % n_pi + 1,
            "num_aux_phases_lifetime": iteration // n_pi,
            "replay_states": STEPS * ((iteration - 1) % n_pi + 1),
        },
        "learners": {
            "default_policy": {"aux": {"vf_aux_explained_var": 0.42, "clone_kl": 0.00123}}
        },
        **metrics,
    }


def fed(receiver, iterations, policy_seconds=10, aux_seconds=100):
    lines = []
    for iteration in iterations:
        seconds = policy_seconds if iteration % 4 else aux_seconds
        lines = receiver.update(ppg_result(iteration, seconds))
    return lines


def test_a_line_says_where_the_run_is():
    [line] = ProgressLines({"training_iteration": 8}).update(
        ppg_result(3, 4, env_runners={"episode_return_mean": 2.345})
    )
    assert line.split("   ") == [
        "iteration 3/8",
        "6,144 steps",
        "512 steps/s",
        "return 2.35",
        "policy 3/4",
        "more than 20s left",
    ]


@pytest.mark.parametrize("env_runners", [{}, {"episode_return_mean": math.nan}])
def test_there_is_no_return_before_an_episode_ended(env_runners):
    [line] = ProgressLines({}).update(ppg_result(1, 4, env_runners=env_runners))
    assert "return -" in line


def test_an_auxiliary_phase_has_a_line_of_its_own():
    lines = ProgressLines({"training_iteration": 8})
    assert len(fed(lines, [1, 2, 3])) == 1
    iteration, phase = fed(lines, [4])
    assert "policy 4/4" in iteration
    assert phase.split("   ") == [
        "  auxiliary phase 1",
        "8,192 states",
        "explained variance 0.42",
        "clone KL 0.00123",
    ]
    assert len(fed(lines, [5])) == 1


@pytest.mark.parametrize(
    ("stop", "iterations", "left"),
    [
        ({"training_iteration": 8}, 4, 3 * 10 + 100),
        ({"training_iteration": 8}, 7, 100),
        ({"training_iteration": 10}, 4, 3 * 10 + 100 + 2 * 10),
        ({"num_env_steps_sampled_lifetime": 6 * STEPS - 1}, 4, 2 * 10),
        ({"num_env_steps_sampled_lifetime": 6 * STEPS + 1}, 4, 3 * 10),
        ({"training_iteration": 8, "num_env_steps_sampled_lifetime": 5 * STEPS}, 4, 10),
        ({"time_total_s": 100}, 4, 60),
        ({"training_iteration": 4}, 4, 0),
        ({"env_runners/episode_return_mean": 450}, 4, None),
        ({}, 4, None),
    ],
)
def test_time_left_counts_the_phases_to_come(stop, iterations, left):
    time_left = TimeLeft(stop)
    fed(time_left, range(1, iterations + 1))
    assert time_left.seconds() == left


def test_a_restored_run_goes_by_its_own_pace():
    [line] = ProgressLines({"training_iteration": 8}).update(ppg_result(6, 4))
    assert "512 steps/s" in line
    assert "policy 2/4" in line


def test_an_algorithm_without_phases_shows_none():
    result = {**ppg_result(2, 4), "config": {"lr": 1}, "ppg": {}, "learners": {}}
    [line] = ProgressLines({"training_iteration": 4}).update(result)
    assert "policy" not in line
    assert line.endswith("~8s left")


def test_an_evaluation_has_a_line_of_its_own():
    evaluation = {"env_runners": {"episode_return_mean": 4.7}}
    lines = ProgressLines({"training_iteration": 8})
    _, line = lines.update(ppg_result(1, 4, evaluation=evaluation))
    assert line == "  evaluation   return 4.70"
    evaluation["generalization_gap"] = 0.24
    _, line = lines.update(ppg_result(2, 4, evaluation=evaluation))
    assert line == "  evaluation   return 4.70   generalization gap 0.240"


def test_what_goes_on_right_now():
    lines = ProgressLines({"training_iteration": 8})
    assert lines.now(2) == "starting   2s"
    fed(lines, range(1, 8))
    assert lines.now(3) == "iteration 8/8   policy 4/4   3s   ~1m37s left"
    assert lines.aux_epoch(1, 3) == "iteration 8/8   auxiliary 1/3"
    assert lines.now(130) == "iteration 8/8   auxiliary 1/3   2m10s"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1s"), (59, "59s"), (130, "2m10s"), (3900, "1h05m"), (273600, "3d04h")],
)
def test_durations(seconds, words):
    assert duration(seconds) == words


class Terminal(io.StringIO):
    def isatty(self):
        return True


def follow(total_num_samples, stop=None, result_names=None):
    """Shows a trial's two results as Tune would have them shown."""
    trial = SimpleNamespace(
        trial_id="t",
        experiment_tag="0_n_pi=4",
        path="/results/run/trial",
        storage=SimpleNamespace(experiment_fs_path="/results/run"),
        stopping_criterion=stop or {"training_iteration": 8},
    )
    progress = Progress(result_names=result_names)
    progress.setup(total_num_samples=total_num_samples)
    progress.on_trial_start(iteration=0, trials=[trial], trial=trial)
    for iteration in (1, 2):
        progress._last_refresh = -math.inf
        progress.on_step_end(iteration=iteration, trials=[trial])
        progress.on_trial_result(
            iteration=iteration, trials=[trial], trial=trial, result=ppg_result(iteration, 4)
        )
    progress.on_experiment_end(trials=[trial])


def test_a_log_file_gets_whole_lines(capsys):
    follow(1)
    out = capsys.readouterr().out
    first, *others = out.splitlines()
    assert first.endswith(
        "/results/run/trial; to watch them: tensorboard --logdir /results/run/trial"
    )
    assert [line[:13] for line in others] == ["iteration 1/8", "iteration 2/8"]
    assert "\r" not in out


def test_an_auxiliary_phase_is_announced_once_in_a_log_file(monkeypatch, capsys):
    trial = SimpleNamespace(trial_id="t", stopping_criterion={}, path="/results")
    epochs = [(epoch, 6) for epoch in range(7)]
    monkeypatch.setattr(progress_module.ray, "get", lambda taken: taken)
    monkeypatch.setattr(
        progress_module,
        "_start_mailbox",
        lambda: SimpleNamespace(take=SimpleNamespace(remote=lambda: epochs)),
    )
    progress = Progress(auxiliary=True)
    progress.setup(total_num_samples=1)
    progress.on_trial_start(iteration=0, trials=[trial], trial=trial)
    progress._last_refresh = -math.inf
    progress.on_step_end(iteration=1, trials=[trial])
    assert [x for x in capsys.readouterr().out.splitlines() if "auxiliary" in x] == [
        "iteration 1   auxiliary 0/6"
    ]


def test_a_terminal_gets_a_live_line_that_is_wiped(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    follow(1)
    assert "\r\x1b[Kiteration 2/8   policy 2/4" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")


def test_several_trials_are_told_apart(capsys):
    follow(2)
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("results in /results/run;")
    assert second.startswith("[0_n_pi=4] iteration 1/8")


def test_a_name_that_no_result_has_is_pointed_at_once(capsys):
    """Unless the result may come: after an episode, an evaluation or an auxiliary phase."""
    follow(
        1,
        {"training_iterations": 8, "my/score": 3, "env_runners/episode_return_max": 1},
        result_names={
            "num_env_steps_sampled_lifetme": "the scheduler's time_attr",
            "evaluation/to_come": "checkpoint_score_attribute",
        },
    )
    lines = [line for line in capsys.readouterr().out.splitlines() if "no result" in line]
    assert lines == [
        "no result is called num_env_steps_sampled_lifetme so far, and the scheduler's time_attr "
        "refers to it; did you mean 'num_env_steps_sampled_lifetime'?",
        "no result is called training_iterations so far, and --stop refers to it; did you mean "
        "'training_iteration'?",
        "no result is called my/score so far, and --stop refers to it",
    ]


def test_tune_can_pickle_it_also_after_ray_has_replaced_print(monkeypatch):
    progress = Progress()
    monkeypatch.setattr(builtins, "print", lambda *args, **kwargs: None)
    pickle.dumps(progress)

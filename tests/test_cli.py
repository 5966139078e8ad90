import json
import os
import re
import shlex
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from pyarrow.fs import LocalFileSystem

from rllib_ppg.experiments.experiment import Experiment
from rllib_ppg_cli import main, outcome, train
from tests.support.command import parse, run
from tests.support.trial_folders import write_trial


def experiment_from(command_line):
    return train.experiment_from(parse(command_line))


@pytest.fixture(params=["on the PATH", "not on the PATH"])
def program(request, monkeypatch):
    """What the user has to type to run the command again."""
    monkeypatch.setattr(sys, "argv", [".venv/bin/rllib"])
    on_path = request.param == "on the PATH"
    monkeypatch.setattr(outcome.shutil, "which", lambda name: f"/bin/{name}" if on_path else None)
    return "rllib" if on_path else ".venv/bin/rllib"


@pytest.fixture
def quiet_main(monkeypatch):
    """`main` without what it does to this process's logging, environment and warnings."""
    monkeypatch.setattr("rllib_ppg_cli.command.keep_quiet", lambda verbose: None)
    return main


def test_options_make_an_experiment():
    experiment = experiment_from(
        "train --algo PPG --env procgen-coinrun-v0 --seed 3 --num-samples 2 "
        """--config '{"n_pi": 4, "env_config": {"distribution_mode": "easy"}}' """
        """--stop '{"num_env_steps_sampled_lifetime": 100000}' """
        "--checkpoint-freq 5 --checkpoint-at-end --keep-checkpoints-num 3 "
        "--checkpoint-score-attr min-x/y --storage-path here --restore there -n mine "
        "--scheduler pbt --scheduler-config 'perturbation_interval: 3' "
        "--set env_config.num_levels=200 --set n_pi=8 --set lr=1e-3"
    )
    assert experiment == Experiment(
        run="PPG",
        name="mine",
        config={
            "env": "procgen-coinrun-v0",
            "seed": 3,
            "n_pi": 8,  # the last word is --set's
            "lr": 0.001,
            "env_config": {"distribution_mode": "easy", "num_levels": 200},
        },
        stop={"num_env_steps_sampled_lifetime": 100000},
        num_samples=2,
        checkpoint_config={
            "checkpoint_frequency": 5,
            "checkpoint_at_end": True,
            "num_to_keep": 3,
            "checkpoint_score_attribute": "x/y",
            "checkpoint_score_order": "min",
        },
        scheduler="pbt",
        scheduler_config={"perturbation_interval": 3},
        storage_path="here",
        restore="there",
    )


@pytest.mark.parametrize(
    "command_line", ["train -a PPO -e E-v0 -c 'lr: 5e-4' -s 'x: 1'", "train -r PPO --env=E-v0 "]
)
def test_short_forms_and_yaml(command_line):
    experiment = experiment_from(command_line)
    assert (experiment.run, experiment.config["env"]) == ("PPO", "E-v0")
    if "-c" in command_line:
        assert (experiment.config["lr"], experiment.stop) == (5e-4, {"x": 1})


@pytest.mark.parametrize(
    ("words", "gpus"),
    [
        ("", None),
        ("--device cuda", 1),
        ("--device cpu", 0),
        ("--device cuda --set num_gpus_per_learner=0.5", 0.5),
    ],
)
def test_device_is_where_learners_train(words, gpus):
    config = experiment_from(f"train -a PPG -e CartPole-v1 {words}").config
    assert config.get("num_gpus_per_learner") == gpus


def test_options_override_a_file_and_leave_the_rest():
    shipped = experiment_from("train file procgen_small")
    assert shipped.stop == {"training_iteration": 8}
    assert shipped.checkpoint_config == {"checkpoint_at_end": True}

    changed = experiment_from(
        "train --seed 7 file procgen_small --stop '{\"training_iteration\": 1}' "
        '--env procgen-maze-v0 --config \'{"env_config": {"num_levels": 0}}\' '
        "--no-checkpoint-at-end"
    )
    assert changed.name == "procgen_small"
    assert changed.stop == {"training_iteration": 1}
    assert changed.checkpoint_config == {"checkpoint_at_end": False}
    assert changed.config == {
        **shipped.config,
        "seed": 7,
        "env": "procgen-maze-v0",
        "env_config": {"distribution_mode": "easy", "num_levels": 0},
    }


@pytest.mark.parametrize(
    ("command_line", "complaint"),
    [
        ("", "give a command"),
        ("trian", "No such command 'trian'; did you mean 'train'?"),
        ("train", "give an algorithm"),
        ("train --stpo '{}'", "No such option '--stpo'; did you mean '--stop'?"),
        ("train file procgen_small --sead 1", "No such option '--sead'; did you mean '--seed'?"),
        ("train file nothing", "no experiment file nothing"),
        ("train nothing", "unexpected nothing: an experiment is given as in `rllib train file"),
        ("train file", "unexpected file: an experiment is given as in `rllib train file"),
        ("train -a PPG --config '{\"n_pi\": 1'", "'--config' / '-c': it is not valid YAML or JSON"),
        ("train -a PPG --config 3", "must be a mapping"),
        ("train -a PPG --seed x", "'--seed': 'x' is not a valid integer"),
        ("train -a PPG -e CartPole-v1 -c '{\"n_pie\": 3}'", "did you mean 'n_pi'"),
        ("train -a PPG -e Nope-v0", "Nope-v0"),
        ("train -a PPO -e CartPole-v1 --restore /nowhere", "/nowhere is not a checkpoint"),
        ("train -a PPO -e CartPole-v1 --set lr", "'--set': it must be KEY=VALUE"),
        ("train -a PPO -e CartPole-v1 --set lr=[1", "'--set': lr is not valid YAML or JSON"),
        ("train -a PPO -e CartPole-v1 --set lrr=1", "'lrr'; did you mean 'lr'?"),
        ("train -a PPO -e CartPole-v1 --scheduler pbd", "did you mean 'pbt'?"),
        (
            "train -a PPO -e CartPole-v1 --scheduler pbt --scheduler-config 'max_t: 1'",
            "scheduler pbt has no setting 'max_t'",
        ),
        ("train -a PPO -e CartPole-v1 --scheduler-config 'max_t: 1'", "needs a scheduler's name"),
        ("train -a PPO -e CartPole-v1 --resume", "--resume needs the name"),
        (
            "train -a PPO -e CartPole-v1 --resume -n x --storage-path /nowhere",
            "nothing to resume in /nowhere/x",
        ),
        ("train -a PPO -e CartPole-v1 --as-test", "--as-test needs a return to reach"),
        ("train -a PPO -e CartPole-v1 --set minibatch_size=9999", "minibatch_size"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(quiet_main, capsys, command_line, complaint):
    assert quiet_main(shlex.split(command_line)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("rllib: error: ")
    assert err.count("\n") == 1
    assert complaint in err


@pytest.mark.parametrize("verbose", [["-vv"], ["-v", "-v"]])
def test_a_traceback_is_there_for_who_asks(quiet_main, capsys, verbose):
    assert quiet_main(["train", *verbose]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--set", "n_pi=4", "file", "procgen_small", "--set", "e_aux=2"]]
)
def test_settings_count_on_both_sides_of_the_file(words):
    config = experiment_from(shlex.join(["train", *words])).config
    assert (config["n_pi"], config["e_aux"]) == (4, 2)


def test_the_best_checkpoints_are_kept_whatever_the_file_says(tmp_path):
    file = tmp_path / "x.yaml"
    keep = "{checkpoint_score_attribute: loss, checkpoint_score_order: min}"
    file.write_text(f"x: {{run: PPG, checkpoint_config: {keep}}}")
    experiment = experiment_from(f"train file {file} --checkpoint-score-attr a/b")
    assert experiment.checkpoint_config == {
        "checkpoint_score_attribute": "a/b",
        "checkpoint_score_order": "max",
    }


def test_ctrl_c_has_its_own_exit_code(monkeypatch, quiet_main, capsys):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Experiment, "validate", interrupt)
    assert quiet_main(["train", "-a", "PPG"]) == 130
    assert "Traceback" not in capsys.readouterr().err


class FakeResults(list):
    experiment_path = "/results"
    filesystem = LocalFileSystem()

    @property
    def num_errors(self):
        return sum(result.error is not None for result in self)


def fake_result(error=None, checkpoint="/results/trial/checkpoint_000000", done=True):
    return SimpleNamespace(
        path="/results/trial",
        error=error,
        checkpoint=SimpleNamespace(path=checkpoint) if checkpoint else None,
        metrics={"done": done},
        config={},
    )


@pytest.fixture
def a_sweep(tmp_path):
    """Three trials, the second of which is the best."""
    results = FakeResults()
    results.experiment_path = str(tmp_path)
    for n_pi, final in ((1, 5.0), (2, 9.0), (4, 7.0)):
        folder = write_trial(tmp_path, [1.0, final], name=str(n_pi), n_pi=n_pi)
        result = fake_result(checkpoint=f"{folder}/checkpoint_000000")
        result.path = str(folder)
        results.append(result)
    return results


COMMAND = shlex.split("train file x --stop 'training_iteration: 4' --restore=a --seed 1")
EXPERIMENT = Experiment(run="PPG", stop={"training_iteration": 4, "env_runners/x": 450})


def test_a_finished_run_says_how_to_go_on(capsys, program):
    assert outcome.show(FakeResults([fake_result()]), EXPERIMENT, COMMAND) == 0
    out = capsys.readouterr().out
    assert "results: /results/trial\n" in out
    [command] = re.findall("to continue: (.*)", out)
    *words, stop = shlex.split(command)
    assert words == shlex.split(
        f"{program} train file x --seed 1 --restore /results/trial/checkpoint_000000 --stop"
    )
    assert json.loads(stop) == {"training_iteration": 8, "env_runners/x": 450}


def test_a_return_that_was_reached_does_not_stop_what_goes_on(capsys):
    result = fake_result()
    result.metrics = {"done": True, "env_runners": {"x": 451.0}}
    assert outcome.show(FakeResults([result]), EXPERIMENT, COMMAND) == 0
    out = capsys.readouterr().out
    assert "ended: env_runners/x reached 450\n" in out
    [command] = re.findall("to continue: (.*)", out)
    assert json.loads(shlex.split(command)[-1]) == {"training_iteration": 8}


def test_what_continues_a_run_whose_learning_rate_is_0_says_so(capsys):
    result = fake_result()
    result.metrics["num_env_steps_sampled_lifetime"] = 1000
    result.config = {"lr": [[0, 0.5], [500, 0.25], [1000, 0]], "aux_lr": None}
    assert outcome.show(FakeResults([result]), EXPERIMENT, COMMAND) == 0
    out = capsys.readouterr().out
    assert "lr is 0 after 1,000 env steps" in out
    assert "--set 'lr=[[0, 0.5], [1000, 0.25], [2000, 0]]'\nto continue: " in out


def test_what_continues_a_named_run_has_another_name(capsys):
    argv = ["train", "-n", "results", "file", "x"]
    assert outcome.show(FakeResults([fake_result()]), EXPERIMENT, argv) == 0
    [command] = re.findall("to continue: (.*)", capsys.readouterr().out)
    assert shlex.split(command)[1:6] == ["train", "file", "x", "-n", "results_2"]


def test_a_picture_that_fails_does_not_fail_the_run(capsys, monkeypatch, a_sweep):
    def fail(*args):
        raise KeyError("font")

    monkeypatch.setattr("rllib_ppg.plots.pictures.learning_curves", fail)
    assert outcome.show(a_sweep, EXPERIMENT, COMMAND) == 0
    out = capsys.readouterr().out
    assert "no plot: KeyError: 'font'\n" in out
    assert f"results: {a_sweep.experiment_path}\n" in out


def test_a_sweep_names_its_best_trial_and_how_to_evaluate_it(capsys, monkeypatch, a_sweep):
    monkeypatch.setattr("rllib_ppg.plots.pictures.save", lambda *args: None)
    assert outcome.show(a_sweep, EXPERIMENT, COMMAND) == 0
    out = capsys.readouterr().out
    best = a_sweep[1].path
    assert f"best trial: {best} (return 9 after 2k env steps)\n" in out
    assert f"its checkpoint: {best}/checkpoint_000000\n" in out
    assert re.search(rf"to evaluate it: \S+ evaluate {best}/checkpoint_000000\n", out)
    a_sweep[1].checkpoint = None
    outcome.show(a_sweep, EXPERIMENT, COMMAND)
    assert "no checkpoint of it to evaluate" in capsys.readouterr().out


def test_a_checkpoint_in_a_bucket_has_its_scheme(capsys):
    experiment = replace(EXPERIMENT, storage_path="s3://bucket/runs")
    result = fake_result(checkpoint="bucket/runs/x/checkpoint_000000")
    assert outcome.show(FakeResults([result]), experiment, COMMAND) == 0
    out = capsys.readouterr().out
    checkpoint = "s3://bucket/runs/x/checkpoint_000000"
    assert f"checkpoint: {checkpoint}\n" in out
    [command] = re.findall("to continue: (.*)", out)
    words = shlex.split(command)
    assert words[words.index("--restore") + 1] == checkpoint


def test_a_run_that_saved_nothing_says_so(capsys):
    assert outcome.show(FakeResults([fake_result(checkpoint=None)]), EXPERIMENT, COMMAND) == 0
    assert "--checkpoint-at-end" in capsys.readouterr().out


def test_a_failed_run_names_the_reason_and_the_error_file(capsys):
    error = RuntimeError("Traceback:\n  many lines\nValueError: rewards are NaN\n")
    assert outcome.show(FakeResults([fake_result(error)]), EXPERIMENT, COMMAND) == 1
    err = capsys.readouterr().err
    assert "the run failed: ValueError: rewards are NaN" in err
    assert "/results/trial/error.txt" in err
    assert "many lines" not in err


def test_a_run_that_failed_before_its_first_result(capsys):
    result = fake_result(RuntimeError("ValueError: rewards are NaN"), checkpoint=None)
    result.metrics = {}
    assert outcome.show(FakeResults([result]), EXPERIMENT, COMMAND) == 1
    assert "the run failed: ValueError: rewards are NaN" in capsys.readouterr().err


def test_an_interrupted_run_has_exit_code_130():
    results = FakeResults([fake_result(), fake_result(done=False)])
    assert outcome.show(results, EXPERIMENT, COMMAND) == 130


@pytest.mark.parametrize("name", ["mine", None])
def test_an_interrupted_run_says_how_to_resume(capsys, program, name):
    experiment = replace(EXPERIMENT, name=name)
    argv = [*COMMAND, "-n", name, "--resume"] if name else COMMAND
    assert outcome.show(FakeResults([fake_result(done=False)]), experiment, argv) == 130
    [command] = re.findall("to resume: (.*)", capsys.readouterr().out)
    assert shlex.split(command) == shlex.split(
        f"{program} {shlex.join(COMMAND)} -n results --resume"
    )


@pytest.mark.parametrize(
    ("metrics", "code"),
    [
        ({"env_runners": {"x": 450.0}}, 0),
        ({"env_runners": {"x": 449.9, "num_env_steps_sampled_lifetime": 100}}, 1),
        ({}, 1),
    ],
)
def test_as_test_fails_short_of_the_goal_whatever_the_budget(capsys, metrics, code):
    result = fake_result()
    result.metrics = {"done": True, "training_iteration": 4, **metrics}
    stop = {**EXPERIMENT.stop, "env_runners/num_env_steps_sampled_lifetime": 100}
    assert outcome.judge(FakeResults([result]), stop) == code
    assert ("not reached: env_runners/x is" in capsys.readouterr().err) == bool(code)


@pytest.mark.parametrize(
    ("file", "way_out"),
    [("~/.ray/auth_token", "set HOME to a folder"), ("/var/ray/session", "set RAY_TMPDIR")],
)
def test_ray_can_not_write_its_own_files(monkeypatch, file, way_out):
    def init(**kwargs):
        raise PermissionError(13, "Permission denied", os.path.expanduser(file))

    monkeypatch.setattr(train.ray, "init", init)
    with pytest.raises(ValueError, match=rf"Ray can't write to \S+ \(Perm.*\): .*{way_out}"):
        train._start_ray({"verbose": 0})


def test_a_run_too_large_for_the_machine_ends_at_once(rllib_here):
    ended = rllib_here(
        "train", "-a", "PPG", "-e", "procgen-coinrun-v0", "--set", "num_env_runners=9"
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("rllib: error: ")
    assert ended.stderr.count("\n") == 1
    assert "num_env_runners" in ended.stderr


@pytest.mark.long
def test_ppo_is_the_baseline_one_flag_away(tmp_path):
    config = {
        "num_env_runners": 0,
        "num_envs_per_env_runner": 4,
        "train_batch_size_per_learner": 64,
        "minibatch_size": 64,
        "num_epochs": 1,
    }
    ended = run(
        *("train", "--algo", "PPO", "--env", "procgen-maze-v0", "-c", json.dumps(config)),
        *("--stop", '{"training_iteration": 1}', "--storage-path", tmp_path),
    )
    assert ended.returncode == 0, ended.stderr
    assert "\niteration 1/1" in ended.stdout


@pytest.mark.long
def test_a_test_that_falls_short_fails(tmp_path):
    config = {"num_env_runners": 0, "num_envs_per_env_runner": 4, "rollout_fragment_length": 32}
    settings = {**config, "segment_length": 1, "callbacks": "rllib_ppg.callbacks.PPGCallback"}
    ended = run(
        *("train", "-a", "PPG", "-e", "CartPole-v1", "-c", json.dumps(settings), "--as-test"),
        *("--stop", '{"env_runners/episode_return_mean": 450, "training_iteration": 1}'),
        *("--storage-path", tmp_path),
    )
    assert ended.returncode == 1
    assert "not reached: env_runners/episode_return_mean is" in ended.stderr
    [file] = tmp_path.glob("*/config.yaml")
    assert Experiment.from_file(file).config["callbacks"] == "rllib_ppg.callbacks.PPGCallback"

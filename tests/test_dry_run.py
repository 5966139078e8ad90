"""The arithmetic of `rllib train --dry-run`, against numbers worked out by hand."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict
from ray.tune.registry import register_env

from rllib_ppg.experiments.experiment import Experiment
from rllib_ppg_cli import dry_run
from tests.support.command import run
from tests.support.envs import AnySpaces


def shown(capsys, **changes):
    experiment = Experiment.from_file("procgen_small").override(**changes)
    fits = dry_run.show(experiment)
    return fits, capsys.readouterr().out


def line(text, name):
    unwrapped = re.sub(r"\n {12,}", " ", text)
    [found] = re.findall(rf"^ *{name} {{2,}}(.*)$", unwrapped, re.MULTILINE)
    return found


def test_the_command_shows_a_run_and_trains_nothing(tmp_path):
    command = ("train", "file", "procgen_small", "--dry-run", "--storage-path", tmp_path)
    ended = run(*command, "--ray-num-cpus", "2", "--ray-object-store-memory", 200_000_000)
    assert (ended.returncode, ended.stderr) == (0, "")
    text = ended.stdout
    assert line(text, "an iteration") == "2,048 env steps: 1 env runner x 16 envs x 128 steps"
    assert line(text, "policy phase") == "1 epoch of 8 minibatches of 256 states: 8 gradient steps"
    assert line(text, "a phase") == "4 iterations: 8,192 env steps"
    assert (
        line(text, "auxiliary phase")
        == "3 epochs of 32 minibatches of 256 states: 96 gradient steps"
    )
    # 4 iterations x 2,048 states x 64 x 64 x 3 bytes
    assert line(text, "replay list") == "100.7 MB a trial, of the object store's 200.0 MB"
    assert (
        line(text, "the run")
        == "8 iterations: 16,384 env steps, 2 auxiliary phases, 256 gradient steps"
    )
    assert line(text, "env runner") == "batched"
    assert line(text, "resources") == "2 CPUs of 2"
    assert line(text, "n_pi") == "4   (default: 32)"
    assert "gamma" not in text
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("iterations", "n_pi", "advice"),
    [(480, 32, None), (479, 32, 16), (200, 12, None), (100, 32, 4), (14, 2, 1), (14, 1, None)],
)
def test_a_run_with_few_phases_is_told_of_the_rule(cluster, capsys, iterations, n_pi, advice):
    stop = {"training_iteration": iterations}
    _, text = shown(capsys, stop=stop, config={"n_pi": n_pi, "replay_may_spill": True})
    assert ("shorter phases" in text) == bool(advice)
    if advice:
        assert line(text, "shorter phases").startswith(f"n_pi={advice} or so")


@pytest.mark.parametrize(("end", "told"), [(40_000, True), (60_000, False)])
def test_a_run_that_outlasts_its_learning_rate_is_told_so(cluster, capsys, end, told):
    config = {"lr": [[0, 1e-3], [end, 0.0]], "aux_lr": 1e-3}
    _, text = shown(capsys, stop={"num_env_steps_sampled_lifetime": 65_536}, config=config)
    assert ("learning rates" in text) == told
    if told:
        said = line(text, "learning rates")
        assert said.startswith("lr is 0 after 40,000 env steps")
        assert said.endswith("--set 'lr=[[0, 0.001], [65536, 0.0]]'")


def test_parts_and_memories_have_sizes(cluster, capsys):
    space = Dict({"camera": Box(0, 255, (8, 9, 3), np.uint8), "speed": Box(-1, 1, (2,))})
    register_env("with-a-camera", lambda _: AnySpaces({"observation_space": space}))
    model = {"use_lstm": True, "lstm_cell_size": 16, "max_seq_len": 32}
    config = {"env": "with-a-camera", "env_config": {}, "model_config": model}
    _, text = shown(capsys, config=config)
    assert line(text, "an observation") == "camera 216 B, vector 8 B"
    # An LSTM has two arrays of 16 floats, and there are two networks.
    assert line(text, "memory").startswith("256 B of recurrent states")
    assert line(text, "memory").endswith("through 32 steps")


@pytest.mark.parametrize(
    ("name", "settings", "advice"),
    [
        ("cartpole", {"e_pi": 1, "segment_length": None}, "suit images"),
        ("cartpole", {}, None),
        ("stateless_cartpole", {"e_pi": 1, "segment_length": None}, None),
        ("procgen_small", {}, None),
        ("procgen_small", {"e_pi": 10, "segment_length": 1}, "suit vectors"),
    ],
)
def test_settings_for_other_observations_are_pointed_at(cluster, capsys, name, settings, advice):
    dry_run.show(Experiment.from_file(name).override(config=settings))
    text = capsys.readouterr().out
    assert ("  settings  " in text) == bool(advice)
    if advice:
        assert advice in line(text, "settings")


def test_what_does_not_fit_is_an_error(rllib_here):
    ended = rllib_here(
        *("train", "file", "procgen_small", "--set", "num_envs_per_env_runner=64", "--dry-run")
    )
    assert ended.returncode == 2
    text = " ".join(ended.stdout.split())
    assert "does not fit the replay list takes 0.4 GB" in text
    assert "set n_pi=3 or less" in text


@pytest.mark.unit
@pytest.mark.parametrize(
    ("stop", "words"),
    [
        ({}, "never ends, as there is no --stop"),
        ({"env_runners/episode_return_mean": 450}, "may never end, since env_runners/"),
        ({"training_iteration": math.inf}, "may never end"),
        ({"env_runners/episode_return_mean": 450, "time_total_s": 60}, None),
        ({"training_iteration": 3}, None),
    ],
)
def test_a_run_that_may_never_end_is_told_so(stop, words):
    end = dry_run._end(stop)
    assert end is None if words is None else words in end


def test_value_epochs_of_their_own_and_a_stop_within_a_phase(cluster, capsys):
    fits, text = shown(
        capsys,
        config={"e_pi": 1, "e_v": 9, "num_env_runners": 0},
        stop={"training_iteration": 100, "num_env_steps_sampled_lifetime": 12_000},
    )
    assert fits
    assert line(text, "an iteration") == "2,048 env steps: 16 envs x 128 steps"
    assert line(text, "policy phase").endswith(": 80 gradient steps")
    assert "10 epochs (9 of the values, 1 of the policy)" in text
    # 12,000 / 2,048 = 5.9: 6 iterations with 80 steps each, and one auxiliary phase of 96.
    assert line(text, "the run") == (
        "6 iterations: 12,288 env steps, 1 auxiliary phase, 576 gradient steps; "
        "it ends 2 iterations into a phase"
    )


def test_values_that_are_learned_in_auxiliary_phases_have_no_epochs_before(cluster, capsys):
    _, text = shown(capsys, config={"vf_phase": "auxiliary", "e_pi": 2, "e_v": 9})
    assert line(text, "policy phase") == (
        "2 epochs of 8 minibatches of 256 states: 16 gradient steps"
    )


@pytest.mark.parametrize(
    ("done", "stop", "words"),
    [
        (5, 10, "5 iterations, 1 auxiliary phase; to do: 5 iterations, 1 auxiliary phase"),
        (4, 5, "4 iterations, 1 auxiliary phase; to do: 1 iteration, 0 auxiliary phases"),
        (8, 8, "8 iterations, 2 auxiliary phases; to do: nothing"),
        (8, None, "8 iterations, 2 auxiliary phases"),
    ],
)
def test_what_a_checkpoint_has_behind_it_is_counted(cluster, capsys, done, stop, words):
    stop = {"training_iteration": stop} if stop else {"env_runners/episode_return_mean": 9}
    dry_run.show(replace(Experiment.from_file("procgen_small"), stop=stop), [done])
    assert line(capsys.readouterr().out, "done so far") == words


def test_each_trial_has_its_own_past(cluster, capsys):
    grid = {"seed": {"grid_search": [0, 1, 2]}, "num_env_runners": 0}
    dry_run.show(Experiment.from_file("procgen_small").override(config=grid), [8, 4])
    text = capsys.readouterr().out
    assert re.findall(r"^1 trial: seed=(\d)", text, re.MULTILINE) == ["0", "1", "2"]
    assert re.findall("done so far +(\\d)", text) == ["8", "4"]


def test_plain_ppo_has_no_phases(cluster, capsys):
    _, text = shown(capsys, config={"n_pi": 0, "num_env_runners": 0})
    assert "auxiliary" not in text.replace("0 auxiliary phases", "")
    assert "replay list" not in text


def test_trials_of_a_grid_are_shown_once_if_they_are_alike(cluster, capsys):
    grid = {"n_pi": {"grid_search": [2, 4]}, "seed": {"grid_search": [0, 1]}}
    fits, text = shown(capsys, config=grid | {"num_env_runners": 0}, num_samples=3)
    assert fits
    assert line(text, "n_pi") == "each of 2, 4   (default: 32)"
    assert text.count("1 CPUs of 8: 8 trials at a time") == 2
    heads = re.findall(r"^6 trials: (.*)", text, re.MULTILINE)
    assert heads == ["n_pi=2, seed=0; n_pi=2, seed=1", "n_pi=4, seed=0; n_pi=4, seed=1"]


def test_trials_whose_replay_lists_do_not_fit_together_are_pointed_at(cluster, capsys):
    # 4 x 100.7 MB, in the 315 MB of the tests' object store
    _, text = shown(capsys, config={"num_env_runners": 0, "seed": {"grid_search": [0, 1, 2, 3]}})
    assert "4 trials at a time, with 402.8 MB of replay lists" in line(text, "resources")


def test_another_algorithm_has_its_own_defaults_and_no_phases(cluster, capsys):
    experiment = Experiment(run="PPO", config={"env": "CartPole-v1", "lr": 0.1})
    assert dry_run.show(experiment)
    text = capsys.readouterr().out
    assert line(text, "lr") == "0.1   (default: 5e-05)"
    assert line(text, "resources") == "3 CPUs of 8"
    assert "a phase" not in text


@pytest.mark.parametrize(
    ("num_bytes", "words"), [(25_769_803_776, "25.8 GB"), (16_384, "16.4 kB"), (0, "0.0 B")]
)
def test_sizes(num_bytes, words):
    assert dry_run._size(num_bytes) == words


def test_options_of_the_command_count(rllib_here):
    config = json.dumps({"num_env_runners": 0})
    ended = rllib_here(
        "train", "-a", "PPG", "-e", "CartPole-v1", "-c", config, "--set", "n_pi=3", "--dry-run"
    )
    assert line(ended.stdout, "n_pi") == "3   (default: 32)"


def test_several_agents(cluster, capsys):
    dry_run.show(Experiment.from_file("two_agent_cartpole"))
    text = capsys.readouterr().out
    assert line(text, "policies").startswith("left, right: each has these epochs")
    assert line(text, "env runner") == "RLlib's, because the env has several agents"
    # Of two agents: 8 iterations x 2,048 steps x (4 floats, V_targ and the mask)
    assert line(text, "replay list").startswith("688.1 kB")

import json

import pytest
from pyarrow import fs

from rllib_ppg.plots.results import read_trials
from tests.support.trial_folders import write_trial

pytestmark = pytest.mark.unit


def test_a_trial_is_read_without_what_has_no_return(tmp_path):
    run = tmp_path / "mine"
    write_trial(
        run, [None, 5.0, float("nan"), 7.5], env="procgen-maze-v0", seed=3, started=100.0,
        env_config={"num_levels": 200}, defaults={"n_pi": 32},
    )  # fmt: skip
    [trial] = read_trials([run])
    assert (trial.run, trial.algo, trial.env, trial.seed) == ("mine", "PPG", "procgen-maze-v0", 3)
    assert trial.env_steps.tolist() == [2000, 4000]
    assert trial.returns.tolist() == [5, 7.5]
    assert trial.given["env_config/num_levels"] == 200
    assert "n_pi" not in trial.given
    assert trial.setting("n_pi") == 32


def test_a_run_is_an_experiment_or_one_trial(tmp_path):
    first = write_trial(tmp_path / "run", [1.0], name="0", seed=0)
    write_trial(tmp_path / "run", [2.0], name="1", seed=1, started=-5)
    (tmp_path / "run" / "tuner.pkl").write_text("not a folder")
    assert [trial.seed for trial in read_trials([tmp_path / "run"])] == [1, 0]  # as they started
    [trial] = read_trials([first])
    assert trial.seed == 0
    assert len(read_trials([tmp_path / "run", first])) == 2  # not three


def test_lines_cut_off_by_a_kill_are_skipped(tmp_path):
    folder = write_trial(tmp_path / "run", [1.0, 2.0, 3.0])
    first, second, third = (folder / "result.json").read_text().splitlines(keepends=True)
    (folder / "result.json").write_text(first + second[:40] + "\n" + third + third[:30])
    [trial] = read_trials([tmp_path / "run"])
    assert trial.returns.tolist() == [1, 3]


def test_what_was_done_again_after_a_resume_counts_once(tmp_path):
    write_trial(
        tmp_path / "run", [1.0, 2.0, 3.0, 20.0, 30.0, 40.0],
        steps=[1000, 2000, 3000, 2000, 3000, 4000],
    )  # fmt: skip
    [trial] = read_trials([tmp_path / "run"])
    assert trial.env_steps.tolist() == [1000, 2000, 3000, 4000]
    assert trial.returns.tolist() == [1, 20, 30, 40]


def test_a_trial_that_goes_on_from_another_is_one_with_it(tmp_path):
    write_trial(tmp_path / "a", [1.0, 2.0, 3.0], seed=0, n_pi=4)
    write_trial(
        tmp_path / "b", [20.0, 30.0], steps=[3000, 4000], first_iteration=3,
        started=9, seed=0, n_pi=4,
    )  # fmt: skip
    [trial] = read_trials([tmp_path / "b", tmp_path / "a"])
    assert trial.run == "a"
    assert trial.env_steps.tolist() == [1000, 2000, 3000, 4000]
    assert trial.returns.tolist() == [1, 2, 20, 30]


def test_a_trial_that_goes_on_otherwise_stays_apart(tmp_path):
    write_trial(tmp_path / "a", [1.0, 2.0], seed=0, n_pi=4)
    write_trial(tmp_path / "b", [3.0], steps=[3000], first_iteration=3, seed=0, n_pi=8, started=9)
    assert len(read_trials([tmp_path / "a", tmp_path / "b"])) == 2


@pytest.mark.parametrize(
    ("env", "written"),
    [("ALE/Pong-v5", "ALE/Pong-v5"), ("MyEnv", "<class 'my_experiment.MyEnv'>")],
)
def test_names_of_algorithm_and_env(tmp_path, env, written):
    folder = write_trial(tmp_path / "run", [1.0], algo="My_PPG", env=env)
    (folder / "params.json").write_text(json.dumps({"env": written}))
    [trial] = read_trials([tmp_path / "run"])
    assert (trial.algo, trial.env) == ("My_PPG", env)


def test_another_metric(tmp_path):
    write_trial(tmp_path / "run", [1.0, 2.0])
    [trial] = read_trials([tmp_path / "run"], "training_iteration")
    assert trial.returns.tolist() == [1, 2]
    with pytest.raises(ValueError, match="did you mean 'env_runners/episode_return_mean'"):
        read_trials([tmp_path / "run"], "env_runner/episode_return_mean")


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path):
    for place in ("a", "b"):
        write_trial(tmp_path / place / "run", [1.0])
    runs = [tmp_path / "a" / "run", tmp_path / "b" / "run"]
    assert [trial.run for trial in read_trials(runs)] == ["a/run", "b/run"]
    assert [trial.run for trial in read_trials([tmp_path])] == ["a/run", "b/run"]
    assert [trial.run for trial in read_trials([*runs[0].iterdir()])] == ["run"]


@pytest.mark.parametrize("place", ["file://{}", "fsspec+file://{}/", "local"])
def test_a_run_at_a_uri(tmp_path, place):
    """An fsspec filesystem is not pyarrow's local one, so it stands for a bucket."""
    write_trial(tmp_path / "run", [1.0, 2.0], n_pi=4)
    write_trial(tmp_path / "other", [1.0], name="1")
    run = place.format(tmp_path / "run")
    filesystem = None
    if place == "local":
        run, filesystem = "run", fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    [trial] = read_trials([run], filesystem=filesystem)
    assert (trial.run, trial.algo, trial.given["n_pi"]) == ("run", "PPG", 4)
    assert trial.returns.tolist() == [1, 2]
    run = run.rstrip("/").removesuffix("run")
    with pytest.raises(ValueError, match=r"there is no folder .*; did you mean 'other'"):
        read_trials([f"{run}othr"], filesystem=filesystem)
    if run:
        assert len(read_trials([run], filesystem=filesystem)) == 2  # of both experiments


def test_a_run_by_a_path_from_here_or_from_home(tmp_path, monkeypatch):
    folder = write_trial(tmp_path / "run", [1.0])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert [trial.run for trial in read_trials(["~/run"])] == ["run"]
    monkeypatch.chdir(folder)
    assert [trial.run for trial in read_trials([".", "..", "../../run"])] == ["run"]


def test_no_results(tmp_path):
    write_trial(tmp_path / "cartpole", [None, None])
    with pytest.raises(ValueError, match=r"there is no folder \S+; did you mean 'cartpole'"):
        read_trials([tmp_path / "cartpol"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="there are no results in"):
        read_trials([tmp_path / "empty"])
    with pytest.raises(ValueError, match="no result has a number for env_runners/episode_return"):
        read_trials([tmp_path / "cartpole"])


def test_runs_however_deep_and_what_is_not_one(tmp_path):
    deep = tmp_path / "project" / "monday"
    trials = [write_trial(deep / "a", [1.0]), write_trial(deep / "b" / "c", [2.0], n_pi=4)]
    write_trial(trials[0] / "checkpoint_000000", [3.0])
    write_trial(tmp_path / ".trash", [4.0])
    (deep / "up").symlink_to(tmp_path)
    for place in (tmp_path, tmp_path / "project", deep):
        found = read_trials([place])
        assert [trial.folder for trial in found] == [str(folder) for folder in trials]
    assert len(read_trials([tmp_path, deep / "a", trials[0]])) == 2

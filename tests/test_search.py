"""`search` in an experiment: Optuna's study, next to Optuna itself as it reads the file."""

import math
import shutil
from functools import partial
from pathlib import Path

import gymnasium as gym
import optuna
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from ray import tune

from rllib_ppg.experiments.experiment import Experiment
from rllib_ppg.experiments.search import PPG_SPACE, in_words
from rllib_ppg.experiments.study import FILE, StudySearch, best_trial, importances
from rllib_ppg.experiments.tuner import make_tuner

RETURN = "env_runners/episode_return_mean"
CARTPOLE = {
    "env": "CartPole-v1",
    "num_env_runners": 0,
    "num_envs_per_env_runner": 8,
    "rollout_fragment_length": 64,
    "segment_length": 1,
    "num_aux_minibatches": 4,
}
FITS = {key: value for key, value in CARTPOLE.items() if key != "num_env_runners"}
SPACE = {
    "lr": {"loguniform": [1e-4, 1e-2]},
    "num_minibatches": {"choice": [4, 7]},
    "model_config": {"fcnet_hiddens": {"choice": [[8, 8], [16]]}},
}


def experiment(optuna=SPACE, config=CARTPOLE, run="PPG", **others):
    search = {"optuna": optuna, "num_samples": 5, "seed": 0}
    return Experiment(
        run=run, config=config, search={**search, **others.pop("search", {})}, **others
    )


def study_search(folder, given=None):
    given = given or experiment()
    search = given.parsed_search
    return StudySearch(search, folder, partial(given.check_drawn, search.fixed))


def study_in(folder):
    storage = JournalStorage(JournalFileBackend(str(Path(folder, FILE))))
    [name] = optuna.get_all_study_names(storage)
    return optuna.load_study(storage=storage, study_name=name)


# -- What is drawn -----------------------------------------------------------------------------


@pytest.mark.unit
def test_combinations_that_cannot_be_are_pruned(tmp_path):
    search = study_search(tmp_path)
    drawn = [search.suggest(f"trial {n}") for n in range(20)]
    assert {x["num_minibatches"] for x in drawn} == {4}  # 7 does not divide the batch
    assert all(1e-4 <= x["lr"] <= 1e-2 for x in drawn)
    hidden = [x["model_config"]["fcnet_hiddens"] for x in drawn]
    assert [8, 8] in hidden and [16] in hidden
    trials = study_in(tmp_path).trials
    pruned = [trial for trial in trials if trial.state == TrialState.PRUNED]
    assert len(trials) - len(pruned) == 20
    assert {trial.params["num_minibatches"] for trial in pruned} == {7}
    assert all("num_minibatches" in trial.user_attrs["invalid"] for trial in pruned)


@pytest.mark.unit
def test_invalid_combinations_are_avoided_once_trials_have_ended(tmp_path):
    space = {"num_minibatches": {"choice": [4, 7, 9, 11, 13]}, "lr": SPACE["lr"]}
    search = study_search(tmp_path, experiment(space))
    drawn = []
    for n in range(60):
        search.suggest(f"{n}")
        search.on_trial_complete(f"{n}", {RETURN: float(n % 7)})
        drawn.append(len(study_in(tmp_path).trials))
    assert drawn[-1] - drawn[19] < 130  # for 40 trials; 200 at random


@pytest.mark.unit
def test_a_space_of_gymnasium_stays_one():
    observations = gym.spaces.Dict({"a": gym.spaces.Discrete(2)})
    given = experiment({"lr": SPACE["lr"]}, {**CARTPOLE, "env_config": {"space": observations}})
    assert given.parsed_search.fixed["env_config"] == {"space": observations}
    assert type(given.parsed_search.fixed["env_config"]["space"]) is gym.spaces.Dict


@pytest.mark.unit
def test_other_algorithms_take_a_space_of_model_config():
    space = {"model_config": {"fcnet_hiddens": {"choice": [[8], [16]]}}}
    _, config = next(experiment(space, {"env": "CartPole-v1"}, run="PPO").variants())
    assert config["_model_config"]["fcnet_hiddens"] in ([8], [16])


@pytest.mark.unit
def test_a_seed_repeats_what_is_drawn(tmp_path):
    def draw(folder, seed):
        return study_search(tmp_path / folder, experiment(search={"seed": seed})).suggest("trial")

    assert draw("a", 3) == draw("b", 3) != draw("c", 4)


@pytest.mark.unit
def test_search_spaces_of_python_experiments_are_drawn_too(tmp_path):
    given = experiment(
        {}, {**CARTPOLE, "lr": tune.loguniform(1e-4, 1e-3), "n_pi": tune.choice([3])}
    )
    given.validate()
    drawn = study_search(tmp_path, given).suggest("trial")
    assert sorted(drawn) == ["lr", "n_pi"]
    assert drawn["n_pi"] == 3


@pytest.mark.unit
def test_an_empty_space_is_that_of_ppg_without_what_the_config_sets():
    given = experiment({}, {**CARTPOLE, "gamma": 0.97, "lambda": 0.9})
    given.validate()
    assert set(given.parsed_search.space) == {*PPG_SPACE} - {
        "gamma",
        "lambda_",
        "num_aux_minibatches",
    }
    _, config = next(given.variants())
    assert config["gamma"] == 0.97


@pytest.mark.unit
@pytest.mark.parametrize("name", PPG_SPACE)
def test_each_value_of_the_shipped_space_can_be(name):
    [(kind, values)] = PPG_SPACE[name].items()
    assert kind in ("choice", "loguniform")
    config = {"env": "CartPole-v1", "num_env_runners": 0, "segment_length": 1}
    for value in values:
        Experiment(run="PPG", config={**config, name: value}).validate()


# -- What Optuna is told -----------------------------------------------------------------------


@pytest.mark.unit
def test_a_trial_counts_with_its_last_return(tmp_path):
    search = study_search(tmp_path)
    for name in ("early", "whole", "silent", "failed"):
        search.suggest(name)
    search.on_trial_result("early", {RETURN: 3.0})
    search.on_trial_result("early", {})  # no episode has ended in this iteration
    search.on_trial_complete("early")  # schedulers that pause trials give no result
    search.on_trial_complete("whole", {RETURN: 8.0})
    search.on_trial_complete("silent", {RETURN: float("nan")})
    search.on_trial_complete("failed", {RETURN: 9.0}, error=True)
    told = {t.user_attrs["trial"]: t for t in study_in(tmp_path).trials if "trial" in t.user_attrs}
    assert {name: trial.value for name, trial in told.items()} == {
        "early": 3.0,
        "whole": 8.0,
        "silent": None,
        "failed": None,
    }
    assert best_trial(tmp_path) == ("whole", 8.0)


@pytest.mark.unit
def test_lower_may_be_better(tmp_path):
    search = study_search(tmp_path, experiment(search={"mode": "min"}))
    for name, value in (("low", 1.0), ("high", 2.0)):
        search.suggest(name)
        search.on_trial_complete(name, {RETURN: value})
    assert best_trial(tmp_path) == ("low", 1.0)


@pytest.mark.unit
def test_after_a_kill_no_trial_is_counted_twice(tmp_path):
    before, after = tmp_path / "before", tmp_path / "renamed"
    search = study_search(before)
    for name in ("done", "running"):
        search.suggest(name)
    search.save(str(tmp_path / "state"))
    search.on_trial_complete("done", {RETURN: 5.0})  # the file is ahead of Tune's state
    lost = search.suggest("unknown to Tune")

    shutil.move(before, after)
    resumed = study_search(tmp_path / "elsewhere")
    resumed.move_to(after)
    resumed.restore(str(tmp_path / "state"))
    assert resumed.suggest("in its place") == lost
    for name in ("done", "running", "in its place"):
        resumed.on_trial_result(name, {RETURN: 6.0})
        resumed.on_trial_complete(name, {RETURN: 6.0})
    trials = [t for t in study_in(after).trials if t.state != TrialState.PRUNED]
    assert {t.user_attrs["trial"]: (t.state, t.value) for t in trials} == {
        "done": (TrialState.COMPLETE, 5.0),
        "running": (TrialState.COMPLETE, 6.0),
        "unknown to Tune": (TrialState.FAIL, None),
        "in its place": (TrialState.COMPLETE, 6.0),
    }
    assert not before.exists()


@pytest.mark.unit
def test_a_failed_trial_that_a_resumed_run_trains_again_counts(tmp_path):
    search = study_search(tmp_path)
    drawn = search.suggest("again")
    search.on_trial_complete("again", error=True)
    search.on_trial_complete("again", {RETURN: 4.0})
    assert best_trial(tmp_path) == ("again", 4.0)
    assert study_in(tmp_path).best_params["lr"] == drawn["lr"]


@pytest.mark.unit
def test_a_new_run_has_a_new_study(tmp_path):
    study_search(tmp_path / "mine").suggest("of a run without results")
    given = experiment({"n_pi": {"choice": [2]}}, name="mine", storage_path=str(tmp_path))
    make_tuner(given)
    study_search(tmp_path / "mine", given).suggest("first")
    [trial] = study_in(tmp_path / "mine").trials
    assert trial.params == {"n_pi": 2}


@pytest.mark.unit
@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"randint": [0, 10]}, "0 to 9"),
        ({"qrandint": [0, 10, 2]}, "0 to 10, in steps of 2"),
        ({"loguniform": [1e-5, 1e-3]}, "1e-05 to 0.001, on a logarithmic scale"),
        ({"choice": [None, 1]}, "one of None, 1"),
    ],
)
def test_a_space_in_words(space, words):
    assert in_words(experiment({"e_aux": space}).parsed_search.space["e_aux"]) == words


@pytest.mark.unit
def test_importances_name_the_setting_that_matters(tmp_path):
    search = study_search(tmp_path)
    search.suggest("only")
    search.on_trial_complete("only", {RETURN: -1.0})
    assert importances(tmp_path) == {}
    for n in range(20):
        lr = search.suggest(f"{n}")["lr"]
        search.on_trial_complete(f"{n}", {RETURN: -abs(math.log(lr / 1e-3))})
    shares = importances(tmp_path)
    assert sum(shares.values()) == pytest.approx(1)
    assert next(iter(shares)) == "lr"
    assert "model_config/fcnet_hiddens" in shares
    assert shares["lr"] > 0.8


# -- Bad input ---------------------------------------------------------------------------------


@pytest.mark.unit
@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"optuna": {"lr": {"logunifrom": [1, 2]}}}, "did you mean 'loguniform'"),
        ({"optuna": {"lr": 3e-4}}, "search.optuna.lr must say what to draw from"),
        (
            {"optuna": {"lr": {"loguniform": [0, 1]}}},
            "search.optuna.lr: loguniform does not accept",
        ),
        ({"optuna": {"lr": {"uniform": [1, 0]}}}, "Optuna can't draw lr"),
        ({"optuna": {"lr": {"uniform": [1]}}}, "give two bounds"),
        ({"optuna": {"n_pi": {"choice": []}}}, "nothing to choose from"),
        ({"optuna": {"n_pii": {"choice": [1, 2]}}}, "did you mean 'n_pi'"),
        ({"optuna": {"num_minibatches": {"choice": [7, 9]}}}, "none of the 100 combinations"),
        ({"optuna": {"env_config": {"a": {"eval": "1"}}}}, "would run its text as Python"),
        ({"optuna": {}, "run": "PPO"}, "must name the settings of PPO"),
        ({"optuna": {"env_config": {"a/b": {"choice": [1]}}}}, "keys of text without /"),
        ({"optuna": {"seed": {"choice": [0, 1]}}}, "can't try values of seed"),
        ({"config": {**CARTPOLE, "lr": tune.randn()}, "optuna": {}}, "Optuna can't draw lr"),
        ({"optuna": {"lr": tune.qloguniform(2, 8, 2)}}, "Optuna can't draw lr"),
        (
            {"config": {**CARTPOLE, "lambda": 0.9}, "optuna": {"lambda_": {"choice": [1]}}},
            "lambda_ is set in config and searched",
        ),
        ({"config": {**CARTPOLE, "lr": 1e-3}}, "lr is set in config and searched"),
        (
            {"config": {**CARTPOLE, "n_pi": {"grid_search": [1, 2]}}},
            "takes no grid_search, as n_pi",
        ),
        ({"num_samples": 2}, "leave it out, and say how many in search.num_samples"),
        ({"storage_path": "s3://bucket/x"}, "must be a folder, not s3://bucket/x"),
        ({"scheduler": "pbt", "scheduler_config": {"hyperparam_mutations": {"lr": [1]}}}, "asha"),
        ({"search": {"metric": "episode_reward_mean"}}, "search.metric means"),
        ({"search": {"metric": [5]}}, "search.metric must be the name of a result, not [5]"),
        ({"search": {"mode": "best"}}, "search.mode must be 'max' or 'min'"),
        ({"search": {"num_samples": 0}}, "search.num_samples must be the number of trials"),
        ({"search": {"seed": -1}}, "search.seed must be an integer"),
        ({"search": {"samples": 3}}, "search has no setting 'samples'"),
    ],
)
def test_a_bad_search_is_refused_in_a_sentence(changes, complaint):
    with pytest.raises(ValueError, match=r"^[^\n]+$") as error:
        experiment(**changes).validate()
    assert complaint in str(error.value)


@pytest.mark.unit
@pytest.mark.parametrize("given", [{"num_samples": 3}, {"optuna": {}}])
def test_what_a_search_needs_is_named(given):
    with pytest.raises(ValueError, match="search must"):
        Experiment(run="PPG", config=CARTPOLE, search=given).validate()


@pytest.mark.unit
@pytest.mark.parametrize("scheduler", ["asha", "hyperband", "median"])
def test_schedulers_that_only_end_trials_go_with_a_search(scheduler):
    experiment({"lr": SPACE["lr"]}, scheduler=scheduler).validate()


@pytest.mark.unit
def test_without_optuna_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("rllib_ppg.experiments.search.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'rllib-ppg\[search\]'"):
        experiment().validate()


# -- Files and the command ---------------------------------------------------------------------


@pytest.mark.unit
def test_a_file_keeps_its_search(tmp_path):
    file = tmp_path / "experiment.yaml"
    text, not_data = experiment(name="mine").to_yaml()
    file.write_text(text)
    assert not_data == []
    assert Experiment.from_file(file) == experiment(name="mine")
    assert Experiment.from_file(file).override(num_samples=9).parsed_search.num_samples == 9


def test_combinations_that_do_not_fit_the_machine_are_pruned(cluster, tmp_path):
    search = study_search(tmp_path, experiment({"num_env_runners": {"choice": [0, 1_000]}}, FITS))
    assert {search.suggest(f"{n}")["num_env_runners"] for n in range(10)} == {0}
    pruned = [t for t in study_in(tmp_path).trials if t.state == TrialState.PRUNED]
    assert {"1001 CPUs" in trial.user_attrs["invalid"] for trial in pruned} == {True}


def test_a_dry_run_shows_what_would_be_drawn(rllib_here):
    out = rllib_here(
        "train", "--algo", "PPG", "-c", yaml.dump(CARTPOLE), "-s", "training_iteration: 2",
        "--search", yaml.dump({"optuna": SPACE, "num_samples": 5}), "--num-samples", "7",
        "--dry-run",
    ).stdout  # fmt: skip
    assert "Optuna tries 7 combinations for the highest env_runners/episode_return_mean" in out
    assert "0.0001 to 0.01, on a logarithmic scale" in out
    assert "one of [8, 8], [16]" in out
    assert "7 trials: such as " in out

"""The shipped experiments: valid, documented, run for a tiny iteration, and as in the paper."""

import json
import re

import pytest
import torch

from rllib_ppg.envs.procgen import GAMES
from rllib_ppg.experiments.experiment import Experiment
from rllib_ppg.experiments.experiment_file import find_experiment_file, shipped_examples
from rllib_ppg_cli import main
from rllib_ppg_cli.example import head, summary
from tests.support.command import run

EXAMPLES = [path.stem for path in shipped_examples()]
EXTRAS = {
    "mujoco": "mujoco",
    "minatar_breakout": "minatar",
    "atari_pong": "ale_py",
    "ppg_dna": "ale_py",
}
TINY = {
    "num_env_runners": 0,
    "num_envs_per_env_runner": 4,
    "rollout_fragment_length": 8,
    "evaluation_num_env_runners": 0,
}
TINY_PPG = {**TINY, "num_minibatches": 2, "num_aux_minibatches": 2}
TINY_PPO = {**TINY, "train_batch_size_per_learner": 32, "minibatch_size": 16}
TINY_EVALUATION = {
    "evaluation_interval": 1,
    "evaluation_duration": 8,
    "evaluation_duration_unit": "timesteps",
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """MuJoCo leaves its warnings in a file in the working folder."""
    monkeypatch.chdir(tmp_path)


def from_file(name):
    if name in EXTRAS:
        pytest.importorskip(EXTRAS[name])
    return Experiment.from_file(name)


def tiny(experiment):
    """The first trial's config, small in all that the example is not about."""
    _, config = next(experiment.variants())
    sizes = dict(TINY_PPG if experiment.run == "PPG" else TINY_PPO)
    if config.get("n_pi"):
        sizes["n_pi"] = 1  # so that the iteration ends with an auxiliary phase
    if config.get("evaluation_interval"):
        sizes |= TINY_EVALUATION
    if config["env"].startswith(("procgen-", "atari-")) and experiment.run == "PPG":
        sizes["model_config"] = {"impala_channels": [4, 4], "impala_dense": 16}
    merged = experiment.algorithm.get_default_config()
    return merged.update_from_dict({**config, **sizes})


def settings(experiment, *names):
    """The values that these settings have over all trials, a set each."""
    default = experiment.algorithm.get_default_config
    configs = [default().update_from_dict(config) for _, config in experiment.variants()]
    return [{getattr(config, name) for config in configs} for name in names]


@pytest.mark.parametrize("name", EXAMPLES)
def test_is_valid_and_ends(name):
    experiment = from_file(name)
    experiment.validate()
    assert experiment.name == name
    assert experiment.stop


@pytest.mark.parametrize("name", EXAMPLES)
def test_says_what_it_is_what_to_expect_and_what_it_takes(name):
    path = find_experiment_file(name)
    first = summary(path)
    assert first.endswith(".") and first.count(". ") == 0 and len(first) <= 80
    assert "\nWhat to expect: " in head(path)
    assert "\nWhat it takes: " in head(path)
    assert max(map(len, path.read_text().splitlines())) <= 100


@pytest.mark.parametrize("name", EXAMPLES)
def test_unknown_settings_are_refused(name):
    experiment = from_file(name).override(config={"no_such_setting": 1})
    with pytest.raises(ValueError, match="no setting 'no_such_setting'"):
        experiment.validate()


@pytest.mark.parametrize("name", EXAMPLES)
def test_runs_for_a_tiny_iteration(name, build):
    experiment = from_file(name)
    algo = build(tiny(experiment))
    result = algo.train()
    assert result["num_env_steps_sampled_lifetime"] > 0
    if experiment.run == "PPG":
        phases = result["ppg"].get("num_aux_phases_lifetime", 0)
        assert phases == int(algo.config.n_pi > 0)
        assert all(algo.get_module(m).arch == algo.config.arch for m in algo.modules)
    if algo.config.evaluation_interval:
        assert result["evaluation"]["env_runners"]["num_env_steps_sampled"] > 0


# -- As in the paper --------------------------------------------------------------------------

PAPER_SCALE = {
    "procgen_hard": {},
    "ppo_baseline": {"arch": {"shared"}, "n_pi": {0}, "e_pi": {3}, "e_v": {3}},
    "single_network": {"arch": {"detach"}},
    "kl_penalty": {"kl_penalty": {1.0}},
    "ppg_ewma": {"kl_penalty": {1.0}},
    "sweep_n_pi": {"n_pi": {2, 4, 8, 16, 32}},
    "sweep_e_aux": {"e_aux": {1, 2, 3, 6, 9}},
}
PAPER = {
    "n_pi": {32},
    "e_pi": {1},
    "e_v": {1},
    "e_aux": {6},
    "beta_clone": {1.0},
    "arch": {"dual"},
    "kl_penalty": {0.0},
    "batch_size": {65_536},
    "rows": {256},
    "num_minibatches": {8},
    "num_aux_minibatches": {16},
    "lr": {5e-4},
    "aux_lr": {5e-4},
    "gamma": {0.999},
    "lambda_": {0.95},
    "clip_param": {0.2},
    "entropy_coeff": {0.01},
    "env": {f"procgen-{game}-v0" for game in GAMES},
}


@pytest.mark.parametrize("name", PAPER_SCALE)
def test_differs_from_the_paper_in_nothing_but_its_point(name):
    experiment = Experiment.from_file(name)
    expected = {**PAPER, **PAPER_SCALE[name]}
    assert dict(zip(expected, settings(experiment, *expected), strict=True)) == expected
    assert experiment.config["env_config"] == {"distribution_mode": "hard", "num_levels": 0}
    assert experiment.stop == {"num_env_steps_sampled_lifetime": 100_000_000}
    assert experiment.num_samples == 1


def test_easy_trains_on_200_levels_and_is_evaluated_on_all():
    experiment = Experiment.from_file("procgen_easy")
    assert dict(zip(PAPER, settings(experiment, *PAPER), strict=True)) == PAPER
    assert experiment.stop == {"num_env_steps_sampled_lifetime": 25_000_000}
    _, config = next(experiment.variants())
    merged = experiment.algorithm.get_default_config().update_from_dict(config)
    train, test = merged.env_config, merged.get_evaluation_config_object().env_config
    assert train == {"distribution_mode": "easy", "num_levels": 200, "start_level": 0}
    assert test == {"distribution_mode": "easy", "num_levels": 0, "start_level": 0}


def test_64_envs_follow_the_batch_size_rule():
    default = Experiment(run="PPG").algorithm.get_default_config()
    [batch], [n_pi], [lr], [aux_lr] = settings(
        Experiment.from_file("procgen_64_envs"), "batch_size", "n_pi", "lr", "aux_lr"
    )
    c = default.batch_size / batch
    assert c == 4
    assert (n_pi, lr, aux_lr) == (default.n_pi * c, default.lr / c**0.5, default.aux_lr / c**0.5)


@pytest.mark.parametrize("name", ["n_pi", "e_aux"])
def test_small_sweeps_have_three_seeds_of_each_value(name):
    experiment = Experiment.from_file(f"sweep_{name}_small")
    values, seeds = settings(experiment, name, "seed")
    assert len(values) == len(seeds) == 3
    assert len(list(experiment.variants())) == 9


# What may differ: where it runs, which seed, and what an env that is made in the file is called.
@pytest.mark.parametrize(
    ("name", "suite", "may_differ"),
    [
        ("mujoco", "mujoco_six", {"num_env_runners", "seed"}),
        ("minatar_breakout", "minatar", {"num_env_runners", "seed", "env"}),
    ],
)
def test_has_the_settings_of_the_published_results(name, suite, may_differ):
    from benchmarks.suites import SUITES

    suite, experiment = SUITES[suite], from_file(name)
    assert experiment.stop == {"num_env_steps_sampled_lifetime": suite.env_steps}
    variants = list(experiment.variants())
    for env, (_, config) in zip(suite.envs[: len(variants)], variants, strict=True):
        assert differing(experiment, config, suite.arms["ppg"](env)) <= may_differ


def test_procgens_first_steps_are_measured_with_the_papers_settings():
    from benchmarks.suites import SUITES

    experiment = Experiment.from_file("procgen_hard")
    measured = SUITES["procgen_hard"].arms["no_aux"]("procgen-bigfish-v0")
    _, config = next(experiment.variants())
    differ = differing(experiment, config, measured)
    envs = {"num_env_runners", "num_envs_per_env_runner"}  # all on one env runner
    without_aux_phase = {"n_pi", "aux_precision"}
    assert differ <= {*envs, *without_aux_phase, "metrics_num_episodes_for_smoothing"}
    assert {measured.batch_size} == PAPER["batch_size"]


def differing(experiment, config, measured):
    """The settings in which an experiment's trial is not as measured."""
    example = experiment.algorithm.get_default_config().update_from_dict(config).to_dict()
    measured = measured.to_dict()
    return {key for key in measured if measured[key] != example[key]}


def test_rllibs_ppo_has_the_network_of_the_baseline_and_values_rollouts_in_parts(build):
    algo = build(tiny(Experiment.from_file("rllib_ppo_procgen")))
    module = algo.learner_group._learner.module["default_policy"].unwrapped()
    # The paper's single network has 626,513 parameters, an auxiliary head of 257 included.
    assert sum(p.numel() for p in module.parameters()) == 626_513 - 257
    frames = torch.randint(0, 256, (1500, 64, 64, 3), dtype=torch.uint8)
    values = module.compute_values({"obs": frames})
    assert values.shape == (1500,) and not values.requires_grad
    features = module.forward_train({"obs": frames[-5:]})["embeddings"]
    in_loss = module.compute_values({"obs": frames[-5:]}, embeddings=features)
    assert in_loss.requires_grad
    torch.testing.assert_close(in_loss, values[-5:])


# -- The command ------------------------------------------------------------------------------


def test_list_names_each_example_and_says_what_it_is(rllib):
    ended = rllib("example", "list")
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    assert [line.split()[0] for line in lines] == EXAMPLES
    column = max(map(len, EXAMPLES)) + 2
    assert all(line[column - 1] == " " and line[column] != " " for line in lines)
    assert dict(line.split(maxsplit=1) for line in lines) == {
        name: summary(find_experiment_file(name)) for name in EXAMPLES
    }


def test_get_prints_the_file_as_it_is(capsys):
    assert main(["example", "get", "cartpole"]) == 0
    assert capsys.readouterr().out == find_experiment_file("cartpole").read_text()


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("get cartpoole", "there is no experiment file cartpoole.*did you mean 'cartpole'"),
        ("run cartpoole", "there is no experiment file cartpoole.*did you mean 'cartpole'"),
        ("get", "Missing argument 'NAME'"),
        ("", "give an action: rllib example list, get NAME or run NAME"),
        ("run cartpole --stpo 3", "No such option '--stpo'; did you mean '--stop'?"),
    ],
)
def test_mistyping_is_met_with_a_sentence(monkeypatch, capsys, command, complaint):
    monkeypatch.setattr("rllib_ppg_cli.command.keep_quiet", lambda verbose: None)
    assert main(["example", *command.split()]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert re.search(complaint, err)


@pytest.mark.long
def test_run_takes_the_options_of_train(tmp_path):
    ended = run(
        *("example", "run", "cartpole", "--config", json.dumps({**TINY_PPG, "n_pi": 1})),
        *("--stop", '{"training_iteration": 1}', "--storage-path", tmp_path),
        *("--no-checkpoint-at-end", "--ray-num-cpus", 1),
    )
    assert ended.returncode == 0, ended.stderr
    assert "iteration 1/1" in ended.stdout
    assert list((tmp_path / "cartpole").glob("*/result.json"))

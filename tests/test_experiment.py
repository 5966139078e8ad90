import enum
import math
from pathlib import Path

import numpy as np
import pytest
from ray import tune
from ray.tune.experiment import Trial

from rllib_ppg.experiments.experiment import Experiment
from rllib_ppg.experiments.experiment_file import find_experiment_file, parse_yaml
from rllib_ppg.experiments.settings import is_budget
from rllib_ppg.experiments.tuner import make_tuner, resume_tuner
from rllib_ppg.tune_callbacks.run_files import RunFiles

pytestmark = pytest.mark.unit

SMALL = {
    "env": "CartPole-v1",
    "num_env_runners": 1,
    "num_envs_per_env_runner": 8,
    "rollout_fragment_length": 64,
    "num_minibatches": 4,
    "num_aux_minibatches": 4,
}


def write(tmp_path, text):
    file = tmp_path / "experiment.yaml"
    file.write_text(text)
    return file


def test_a_file_says_what_to_train(tmp_path):
    file = write(
        tmp_path,
        """
        mine:
          run: PPG
          env: CartPole-v1
          stop: {training_iteration: 3}
          num_samples: 2
          max_failures: 3
          checkpoint_config: {checkpoint_frequency: 5}
          config: {lr: 5e-4, n_pi: 4}
        """,
    )
    assert Experiment.from_file(file) == Experiment(
        run="PPG",
        name="mine",
        config={"env": "CartPole-v1", "lr": 0.0005, "n_pi": 4},
        stop={"training_iteration": 3},
        num_samples=2,
        max_failures=3,
        checkpoint_config={"checkpoint_frequency": 5},
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("a: {run: PPG, stopp: {x: 1}}", "has no setting 'stopp'; did you mean 'stop'?"),
        ("a: {run: PPG}\nb: {run: PPG}", "must hold one experiment"),
        ("a: {env: CartPole-v1}", "must name its algorithm"),
        ("a: {run: PPG, env: A-v0, config: {env: B-v0}}", "names two environments"),
        ("a: {run: PPG, config: [1]}", "config in .* must be a mapping"),
        ("just words", "must be a mapping"),
        ("a: {run: PPG", "not valid YAML or JSON at line"),
        ("a: !!python/object/apply:os.system [id]", "not valid YAML or JSON"),
    ],
)
def test_a_file_in_another_form_is_refused(tmp_path, text, complaint):
    with pytest.raises(ValueError, match=complaint):
        Experiment.from_file(write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "value"),
    [("5e-4", 5e-4), ("1E3", 1e3), ("-2.5e-1", -0.25), ("e4", "e4"), ('{\t"a": 1e2}', {"a": 100})],
)
def test_numbers_are_read_as_python_would(text, value):
    assert parse_yaml(text, "it") == value


def test_shipped_examples_are_found_by_name_and_files_by_path(tmp_path):
    assert find_experiment_file("procgen_small").stem == "procgen_small"
    assert find_experiment_file("procgen_small.yaml") == find_experiment_file("procgen_small")
    file = write(tmp_path, "a: {run: PPG}")
    assert find_experiment_file(file) == file
    with pytest.raises(ValueError, match="did you mean 'procgen_small'"):
        find_experiment_file("procgen_smal")
    text = tmp_path / "experiment.txt"
    text.write_text("a: {run: PPG}")
    with pytest.raises(ValueError, match="must end in"):
        find_experiment_file(text)


def test_overrides_go_inside_dicts_but_replace_everything_else():
    experiment = Experiment(
        run="PPG",
        config={"lr": {"grid_search": [1, 2]}, "env_config": {"num_levels": 200, "mode": "easy"}},
        stop={"training_iteration": 8},
        checkpoint_config={"checkpoint_at_end": True},
    )
    changed = experiment.override(
        config={"lr": {"grid_search": [3]}, "env_config": {"num_levels": 0}},
        stop={"time_total_s": 5},
        checkpoint_config={"checkpoint_frequency": 2},
        name=None,
    )
    assert changed.config == {
        "lr": {"grid_search": [3]},
        "env_config": {"num_levels": 0, "mode": "easy"},
    }
    assert changed.stop == {"time_total_s": 5}
    assert changed.checkpoint_config == {"checkpoint_at_end": True, "checkpoint_frequency": 2}
    assert experiment.override() == experiment


def test_a_grid_is_checked_value_by_value():
    grid = {"arch": {"grid_search": ["dual", "detach"]}, "n_pi": {"grid_search": [2, 4, 8]}}
    experiment = Experiment(run="PPG", config={**SMALL, **grid})
    assert len({label for label, _ in experiment.variants()}) == 6
    experiment.validate()
    with pytest.raises(ValueError, match=r"n_pi.*\(in the trial with .*n_pi=-4"):
        experiment.override(config={"n_pi": {"grid_search": [2, -4]}}).validate()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"run": "PPPO"}, "no algorithm 'PPPO'.*did you mean 'PPO'"),
        ({"config": {"n_pie": 3}}, "n_pie.*did you mean 'n_pi'"),
        ({"run": "PPO", "config": {"env": "CartPole-v1", "lrr": 1}}, "'lrr'; did you mean 'lr'"),
        ({"run": "PPO", "config": {"num_workers": 1}}, "did you mean 'num_env_runners'"),
        ({"run": "PPO", "config": {"env": "CartPol-v1"}}, "CartPol-v1"),
        ({"run": "PPO", "config": {"env": "CartPole-v1", "lr": []}}, "lr"),
        ({"stop": {"training_iteration": "many"}}, "training_iteration"),
        ({"stop": {"env_runners": {"episode_return_mean": 450}}}, "env_runners/episode_return"),
        ({"stop": {"episode_reward_mean": 9}}, "stop means env_runners/episode_return_mean"),
        ({"stop": {"timesteps_total": 9}}, "stop means num_env_steps_sampled_lifetime"),
        ({"stop": {"training_iterations": 9}}, "did stop mean training_iteration"),
        (
            {"checkpoint_config": {"checkpoint_score_attribute": "episode_reward_max"}},
            "checkpoint_score_attribute means env_runners/episode_return_max",
        ),
        (
            {"scheduler": "asynchyperband", "scheduler_config": {"time_attr": "timesteps_total"}},
            "the scheduler's time_attr means num_env_steps",
        ),
        ({"num_samples": 0}, "num_samples"),
        (
            {"num_samples": 2, "config": {"seed": {"grid_search": [0, 1]}}},
            r"num_samples=2 would train each seed of \[0, 1\] 2 times",
        ),
        ({"max_failures": -2}, "max_failures"),
        ({"checkpoint_config": {"checkpoint_freq": 2}}, "did you mean 'checkpoint_frequency'"),
        (
            {"checkpoint_config": {"num_to_keep": "10"}},
            "num_to_keep is None or a whole number of at least 1, not '10'",
        ),
        ({"checkpoint_config": {"checkpoint_frequency": 1.5}}, "frequency is a whole number"),
        ({"checkpoint_config": {"checkpoint_at_end": "no"}}, "at_end is True or False, not 'no'"),
        ({"checkpoint_config": {"checkpoint_score_attribute": 5}}, "the name of a result, not 5"),
        ({"checkpoint_config": {"checkpoint_score_order": ["max"]}}, "is 'max' or 'min', not"),
        ({"stop": {1: 5}}, "stop must map a result's name to a number, 1 is no name"),
        (
            {"scheduler": "asha", "scheduler_config": {"metric": 5}},
            "the scheduler's metric must be the name of a result, not 5",
        ),
        ({"scheduler": 5}, "scheduler must be the name of one, as in asha, not 5"),
        *(
            (
                {"config": {**SMALL, "lr": {"grid_search": values}}},
                "lr.grid_search must be a list of values that is not empty",
            )
            for values in ([], 3, None, "abc")
        ),
        ({"config": {**SMALL, "env_config": {"a": {"grid_search": []}}}}, "env_config.a.grid_se"),
        ({"config": {**SMALL, "lr": [[0, {"grid_search": []}]]}}, r"lr\.0\.1\.grid_search must be"),
        ({"config": {**SMALL, "lr": [[0, {"eval": "1"}]]}}, r"lr\.0\.1 .* would run its text"),
        ({"restore": "/nowhere"}, "/nowhere is not a checkpoint"),
        ({"restore": "file:///nowhere"}, "file:///nowhere is not a checkpoint"),
        ({"restore": "nosuch://bucket/checkpoint"}, "nosuch://bucket/checkpoint"),
    ],
)
def test_bad_input_is_refused_before_ray_starts(change, complaint):
    experiment = Experiment(**{"run": "PPG", "config": SMALL, **change})
    with pytest.raises(ValueError, match=complaint):
        experiment.validate()


def test_results_that_own_code_may_add_are_not_judged_before_the_start():
    stop = {"env_runners/episode_return_meen": 3}
    with pytest.raises(ValueError, match="episode_return_mean"):
        Experiment("PPG", config=SMALL, stop=stop).validate()
    callbacks = {"callbacks_class": "rllib_ppg.callbacks.PPGCallback"}
    Experiment("PPG", config=SMALL | callbacks, stop=stop).validate()
    # Agents and modules have results of their own.
    Experiment("PPG", config=SMALL, stop={"env_runners/agent_episode_returns_mean/0": 3}).validate()


def test_any_algorithm_of_rllib_will_do():
    config = {"env": "CartPole-v1", "train_batch_size_per_learner": 512, "framework": "torch"}
    Experiment(run="PPO", config=config).validate()


def test_the_users_own_callbacks_stay(tmp_path):
    from ray.rllib.callbacks.callbacks import RLlibCallback

    class Ours(RLlibCallback):
        pass

    path = "rllib_ppg.callbacks.PPGCallback"
    experiment = Experiment(
        run="PPG", config={**SMALL, "callbacks_class": path}, storage_path=str(tmp_path)
    )
    tuner = make_tuner(experiment, rllib_callbacks=[Ours])
    names = [cls.__name__ for cls in tuner._local_tuner.param_space["callbacks_class"]]
    assert names == ["PPGCallback", "Ours"]


@pytest.mark.parametrize(
    ("order", "returns", "best"),
    [
        ("max", [500, 10, 20, 30], 0),
        ("min", [20, 10, 500, 30], 1),
        ("max", [5, math.nan, 4, None], 0),  # None: there is no such result
    ],
)
def test_the_best_checkpoint_by_a_nested_result_is_kept(tmp_path, order, returns, best):
    from ray import tune
    from ray.train._internal.checkpoint_manager import _CheckpointManager
    from ray.train._internal.session import _TrainingResult

    score = {"num_to_keep": 1, "checkpoint_score_attribute": "env_runners/episode_return_mean"}
    experiment = Experiment(
        "PPG", config=SMALL, checkpoint_config={**score, "checkpoint_score_order": order}
    )
    tuner = make_tuner(experiment)._local_tuner
    [callback] = tuner.param_space["callbacks_class"]
    manager = _CheckpointManager(tuner.get_run_config().checkpoint_config)
    for i, value in enumerate(returns):
        (tmp_path / f"{i}").mkdir()
        result = {"env_runners": {} if value is None else {"episode_return_mean": value}}
        callback().on_train_result(algorithm=None, result=result)
        manager.register_checkpoint(
            _TrainingResult(tune.Checkpoint(str(tmp_path / f"{i}")), result)
        )
    latest = len(returns) - 1
    assert {path.name for path in tmp_path.iterdir()} == {f"{best}", f"{latest}"}


@pytest.mark.parametrize("algorithm", ["PPG", "PPO"])
@pytest.mark.parametrize("form", ["{}", "DefaultModelConfig(**{})"])
def test_options_change_what_a_python_file_says_of_the_networks(tmp_path, algorithm, form):
    networks = form.format({"fcnet_hiddens": [64, 64], "fcnet_activation": "relu"})
    file = write_python(
        tmp_path,
        f"""
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from rllib_ppg import PPGConfig

config = {algorithm}Config().environment("CartPole-v1").rl_module(model_config={networks})
""",
    )
    grid = {"fcnet_hiddens": {"grid_search": [[8], [16]]}}
    experiment = Experiment.from_file(file).override(config={"model_config": grid})
    found = []
    for _, config in experiment.variants():
        networks = experiment.algorithm.get_default_config().update_from_dict(config).model_config
        found.append((networks["fcnet_hiddens"], networks["fcnet_activation"]))
    assert found == [([8], "relu"), ([16], "relu")]


def write_python(tmp_path, text):
    file = tmp_path / "mine.py"
    file.write_text(text)
    return file


def test_a_python_file_says_the_same_in_code(tmp_path):
    experiment = Experiment.from_file(
        write_python(
            tmp_path,
            """
from ray import tune
from rllib_ppg import PPGConfig
from tests.support.envs import Counting

config = (
    PPGConfig()
    .environment(Counting, env_config={"length": 3})
    .training(n_pi=tune.grid_search([2, 4]), lr=1e-3)
)
stop = {"training_iteration": 3}
num_samples = 2
scheduler = tune.schedulers.ASHAScheduler(metric="env_runners/episode_return_mean", mode="max")
unrelated = 3
""",
        )
    )
    assert (experiment.run, experiment.name, experiment.num_samples) == ("PPG", "mine", 2)
    assert experiment.stop == {"training_iteration": 3}
    assert experiment.config["env"].__name__ == "Counting"
    rest = {key: value for key, value in experiment.config.items() if key != "env"}
    # Only what differs from the defaults, so that the rest can be told from it.
    assert rest == {"env_config": {"length": 3}, "n_pi": {"grid_search": [2, 4]}, "lr": 1e-3}
    assert type(experiment.scheduler).__name__ == "AsyncHyperBandScheduler"


def test_a_python_file_may_be_of_another_algorithm_or_plain_data(tmp_path):
    of_ppo = write_python(
        tmp_path,
        "from ray.rllib.algorithms.ppo import PPOConfig\n"
        "config = PPOConfig().environment('CartPole-v1')",
    )
    assert Experiment.from_file(of_ppo) == Experiment(
        run="PPO", name="mine", config={"env": "CartPole-v1"}
    )
    data = write_python(tmp_path, "config = {'env': 'CartPole-v1', 'n_pi': 4}")
    assert Experiment.from_file(data).config == {"env": "CartPole-v1", "n_pi": 4}
    assert Experiment.from_file(data).run == "PPG"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("x = 1", "must have a `config`"),
        ("config = 3", "must have a `config`"),
        ("1 / 0", "raised ZeroDivisionError"),
    ],
)
def test_a_python_file_that_is_no_experiment(tmp_path, text, complaint):
    with pytest.raises(ValueError, match=complaint):
        Experiment.from_file(write_python(tmp_path, text))


def test_schedulers_by_name_go_by_the_return():
    named = Experiment(
        run="PPG",
        config=SMALL,
        scheduler="ASHA",
        scheduler_config={"max_t": 7, "grace_period": 2},
    )
    named.validate()
    scheduler = make_tuner(named)._local_tuner._tune_config.scheduler
    assert type(scheduler).__name__ == "AsyncHyperBandScheduler"
    assert scheduler.metric == "env_runners/episode_return_mean"
    assert scheduler._max_t == 7
    with pytest.raises(ValueError, match=r"scheduler async_hyperband: grace_period must be"):
        Experiment(
            run="PPG",
            config=SMALL,
            scheduler="async_hyperband",
            scheduler_config={"max_t": 1, "grace_period": 2},
        ).validate()


def pbt(**mutations):
    scheduler = {"scheduler": "pbt", "scheduler_config": {"hyperparam_mutations": mutations}}
    return Experiment(run="PPG", config=SMALL, **scheduler)


def test_pbt_takes_the_spaces_of_a_search():
    nested = {"env_config": {"max_episode_steps": [9, 10]}}
    experiment = pbt(
        lr={"loguniform": [1e-5, 1e-3]}, n_pi=[2, 4], e_aux={"choice": [1, 6]}, **nested
    )
    experiment.validate()
    scheduler = make_tuner(experiment)._local_tuner._tune_config.scheduler
    mutations = dict(scheduler._hyperparam_mutations)
    assert all(1e-5 <= mutations["lr"].sample() <= 1e-3 for _ in range(9))
    del mutations["lr"]
    assert mutations == {"n_pi": [2, 4], "e_aux": [1, 6], **nested}


@pytest.mark.parametrize(
    ("mutations", "complaint"),
    [
        ({"lrr": [1e-3, 1e-4]}, "no setting 'lrr'; did you mean 'lr'"),
        ({"lr": {"logunifrom": [1e-5, 1e-3]}}, "hyperparam_mutations.lr .*mean 'loguniform'"),
        ({"lr": {"loguniform": [1e-5]}}, "give two bounds"),
        ({"lr": 1e-3}, "hyperparam_mutations.lr must say what to draw from"),
        ({"lr": []}, "hyperparam_mutations.lr is an empty list"),
        ({"n_pi": [-2, 4]}, "n_pi"),
    ],
)
def test_pbt_s_mutations_are_checked(mutations, complaint):
    with pytest.raises(ValueError, match=complaint):
        pbt(**mutations).validate()


def test_an_experiment_written_to_a_file_is_the_same(tmp_path):
    experiment = Experiment(
        run="PPG",
        name="mine",
        config={
            **SMALL,
            "lr": 1e-5,
            "n_pi": {"grid_search": (2, 4)},
            "gamma": np.float64(0.9),
            "env_config": {"commit": "123e45"},  # text that YAML's readers may take for a number
        },
        stop={"training_iteration": 3},
        num_samples=2,
        checkpoint_config={"checkpoint_at_end": True},
        scheduler="pbt",
        scheduler_config={"perturbation_interval": 3},
    )
    text, not_data = experiment.to_yaml()
    again = Experiment.from_file(write(tmp_path, text))
    assert not not_data
    # A tuple comes back as a list, and numpy's numbers as Python's.
    assert again == experiment.override(config={"n_pi": {"grid_search": [2, 4]}, "gamma": 0.9})


def test_enums_of_text_and_numbers_are_written_as_what_they_are(tmp_path):
    class Level(str, enum.Enum):
        EASY = "easy"

    class Size(enum.IntEnum):
        SMALL = 3

    class Name(str):
        pass

    given = {"level": Level.EASY, Level.EASY: Size.SMALL, "name": Name("x"), "on": True}
    text, not_data = Experiment(run="PPG", config={"env_config": given}).to_yaml()
    assert not not_data
    again = Experiment.from_file(write(tmp_path, text)).config["env_config"]
    assert again == {"level": "easy", "easy": 3, "name": "x", "on": True}
    assert again["on"] is True


def test_what_is_no_data_is_named():
    text, not_data = Experiment(run="PPG", config={"env": Experiment, "a": {"b": len}}).to_yaml()
    assert not_data == ["config.env", "config.a.b"]
    assert "Experiment" in text


def test_each_sample_gets_a_seed_unless_there_is_one():
    one = Experiment(run="PPG", config=SMALL).with_seed()
    assert isinstance(one.config["seed"], int)
    assert one.config["seed"] != Experiment(run="PPG", config=SMALL).with_seed().config["seed"]
    assert one.with_seed() == one


@pytest.mark.parametrize("seed", [None, 7])
def test_samples_have_seeds_of_their_own_and_can_be_repeated(tmp_path, seed):
    one = Experiment(run="PPG", name="x", config={**SMALL, "seed": seed}, num_samples=3)
    several = one.with_seed()
    seeds = [config["seed"] for _, config in several.variants()]
    assert len(seeds) == len(set(seeds)) == 3
    if seed is not None:
        assert seeds == [7, 8, 9]
    text, not_data = several.to_yaml()
    assert not not_data
    again = Experiment.from_file(write(tmp_path, text))
    assert [config["seed"] for _, config in again.with_seed().variants()] == seeds


@pytest.mark.parametrize(
    ("key", "is_budget_"),
    [
        ("training_iteration", True),
        ("num_env_steps_sampled_lifetime", True),
        ("env_runners/num_env_steps_sampled_lifetime", True),
        ("time_total_s", True),
        ("env_runners/episode_return_mean", False),
        ("evaluation/env_runners/episode_return_mean", False),
    ],
)
def test_what_a_run_spends_is_told_from_what_it_reaches(key, is_budget_):
    assert is_budget(key) == is_budget_


def test_networks_of_rllibs_algorithms_have_their_public_names():
    config = {"env": "CartPole-v1", "model_config": {"fcnet_hiddens": [8]}}
    experiment = Experiment(run="PPO", config=config)
    experiment.validate()
    space = make_tuner(experiment)._local_tuner.param_space
    merged = experiment.algorithm.get_default_config().update_from_dict(space)
    assert merged.model_config["fcnet_hiddens"] == [8]


def test_settings_of_a_config_class_are_not_lost(tmp_path):
    file = write_python(
        tmp_path,
        """
from ray.rllib.algorithms.ppo import PPOConfig

class MyConfig(PPOConfig):
    def __init__(self):
        super().__init__()
        self.lr = 0.001

config = MyConfig().environment("CartPole-v1")
""",
    )
    assert Experiment.from_file(file).config == {"env": "CartPole-v1", "lr": 0.001}


def test_a_multi_agent_env_is_left_to_rllibs_ppo(tmp_path):
    file = write_python(
        tmp_path,
        """
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.examples.envs.classes.multi_agent import MultiAgentCartPole

config = PPOConfig().environment(MultiAgentCartPole, env_config={"num_agents": 2}).multi_agent(
    policies={"p"}, policy_mapping_fn=lambda *args, **kwargs: "p"
)
""",
    )
    assert "_rl_module_spec" not in make_tuner(Experiment.from_file(file))._local_tuner.param_space


@pytest.mark.parametrize(
    ("run", "env", "config", "network"),
    [
        ("PPO", "procgen-maze-v0", {}, "ImpalaPPOModule"),
        ("PPO", {"grid_search": ["procgen-maze-v0", "procgen-miner-v0"]}, {}, "ImpalaPPOModule"),
        ("PPO", "procgen-maze-v0", {"model_config": {"conv_filters": [[16, 8, 4]]}}, None),
        ("PPO", "CartPole-v1", {}, None),
        ("PPG", "procgen-maze-v0", {}, None),
    ],
)
def test_rllibs_ppo_gets_a_network_for_images_unless_it_has_one(run, env, config, network):
    tuner = make_tuner(Experiment(run=run, config={"env": env, **config}))
    spec = tuner._local_tuner.param_space.get("_rl_module_spec")
    assert (spec.module_class.__name__ if spec else None) == network


def test_trials_start_from_a_checkpoint_also_if_the_run_is_resumed_before_they_save(tmp_path):
    experiment = Experiment(
        run="PPG", name="x", config=SMALL, storage_path=str(tmp_path), restore="~/there"
    )
    make_tuner(experiment, callbacks=[tune.Callback()])
    tuner, _ = resume_tuner(experiment, [], keep=RunFiles)
    [callback] = tuner._local_tuner.get_run_config().callbacks
    trial = Trial("PPG", stub=True)
    callback.on_trial_start(0, [trial], trial)
    assert trial.checkpoint.path == str(Path.home() / "there")

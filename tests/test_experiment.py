import pytest

from rllib_ppg.experiment import Experiment
from rllib_ppg.experiment_file import find_experiment_file, parse_yaml, shipped_examples

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
    with pytest.raises(ValueError, match="must end in"):
        find_experiment_file(__file__)


@pytest.mark.parametrize("example", shipped_examples(), ids=lambda path: path.stem)
def test_shipped_examples_are_valid(example):
    experiment = Experiment.from_file(example)
    experiment.validate()
    assert experiment.name == example.stem
    assert experiment.stop


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
        ({"run": "PPO", "config": {"env": "CartPol-v1"}}, "CartPol-v1"),
        ({"run": "PPO", "config": {"env": "CartPole-v1", "lr": []}}, "lr"),
        ({"stop": {"training_iteration": "many"}}, "training_iteration"),
        ({"stop": {"env_runners": {"episode_return_mean": 450}}}, "env_runners/episode_return"),
        ({"num_samples": 0}, "num_samples"),
        ({"checkpoint_config": {"checkpoint_freq": 2}}, "did you mean 'checkpoint_frequency'"),
        ({"restore": "/nowhere"}, "/nowhere is not a checkpoint"),
    ],
)
def test_bad_input_is_refused_before_ray_starts(change, complaint):
    experiment = Experiment(**{"run": "PPG", "config": SMALL, **change})
    with pytest.raises(ValueError, match=complaint):
        experiment.validate()


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
    tuner = experiment.to_tuner(rllib_callbacks=[Ours])
    names = [cls.__name__ for cls in tuner._local_tuner.param_space["callbacks_class"]]
    assert names == ["PPGCallback", "Ours"]

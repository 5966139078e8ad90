"""`ProcgenMetrics` on the results of several algorithms, and Tune's progress."""

import math
from types import SimpleNamespace

import pytest
import ray

from rllib_ppg import PPGConfig, ProcgenMetrics
from rllib_ppg.tune_callbacks.progress import Progress
from tests.support.checkpoints import ppo
from tests.support.envs import Counting


def result_of(config, training, held_out=None):
    """What the callback makes of mean returns in training and evaluation."""

    class Algorithm:
        pass

    algorithm = Algorithm()
    algorithm.config = config
    algorithm.evaluation_config = config.get_evaluation_config_object()
    result = {"env_runners": {"episode_return_mean": training}}
    if held_out is not None:
        result["evaluation"] = {"env_runners": {"episode_return_mean": held_out}}
    ProcgenMetrics().on_train_result(algorithm=algorithm, metrics_logger=None, result=result)
    return result


def procgen(make, mode, evaluation=None, **env_config):
    config = make().environment(
        "procgen-coinrun-v0", env_config={"distribution_mode": mode, **env_config}
    )
    if evaluation is not None:
        evaluation = {"distribution_mode": mode, **evaluation}
        config.evaluation(evaluation_interval=1, evaluation_config={"env_config": evaluation})
    return config


@pytest.mark.parametrize("make", [PPGConfig, ppo])
def test_normalized_returns_and_the_gap(make):
    # Coinrun's range is from 5 to 10.
    config = procgen(make, "easy", {"num_levels": 0}, num_levels=200)
    result = result_of(config, 9.0, 7.0)
    assert result["env_runners"]["normalized_return_mean"] == pytest.approx(0.8)
    assert result["evaluation"]["env_runners"]["normalized_return_mean"] == pytest.approx(0.4)
    assert result["evaluation"]["generalization_gap"] == pytest.approx(0.4)


def test_returns_where_no_range_is_published():
    config = procgen(PPGConfig, "exploration", {}, num_levels=0)
    result = result_of(config, 9.0, 7.0)
    assert "normalized_return_mean" not in result["env_runners"]
    config = procgen(PPGConfig, "memory", {"num_levels": 0}, num_levels=200)
    config.environment("procgen-maze-v0")
    assert result_of(config, 9.0, 7.0)["evaluation"] == {
        "env_runners": {"episode_return_mean": 7.0},
        "generalization_gap": 2.0,
    }


def test_no_gap_without_other_levels_or_numbers():
    same = procgen(PPGConfig, "easy", {"num_levels": 200}, num_levels=200)
    assert "generalization_gap" not in result_of(same, 9.0, 7.0)["evaluation"]
    other_mode = procgen(
        PPGConfig, "easy", {"num_levels": 0, "distribution_mode": "hard"}, num_levels=200
    )
    assert "generalization_gap" not in result_of(other_mode, 9.0, 7.0)["evaluation"]
    unseen = procgen(PPGConfig, "easy", {"num_levels": 0}, num_levels=200)
    assert list(result_of(unseen, float("nan"), 7.0)["env_runners"]) == ["episode_return_mean"]
    assert list(result_of(unseen, float("nan"), 7.0)["evaluation"]) == ["env_runners"]
    assert "evaluation" not in result_of(unseen, 9.0)


def test_other_envs_are_left_alone():
    config = PPGConfig().environment("CartPole-v1").evaluation(evaluation_interval=1)
    assert result_of(config, 9.0, 7.0) == {
        "env_runners": {"episode_return_mean": 9.0},
        "evaluation": {"env_runners": {"episode_return_mean": 7.0}},
    }


def test_rllib_calls_it(build, monkeypatch):
    """On an env that stands in for Procgen's, whose episodes are long."""
    monkeypatch.setattr("rllib_ppg.callbacks.procgen_game", lambda env: "coinrun")
    monkeypatch.setattr("rllib_ppg.callbacks.normalized", lambda env, config, mean: mean / 10)
    config = (
        PPGConfig()
        .environment(Counting)
        .env_runners(num_env_runners=0, num_envs_per_env_runner=16, rollout_fragment_length=16)
        .evaluation(
            evaluation_interval=1,
            evaluation_duration=2,
            evaluation_config={"env_config": {"length": 3, "num_levels": 9}},
        )
        .callbacks(ProcgenMetrics)
    )
    result = build(config).train()
    assert result["env_runners"]["normalized_return_mean"] == pytest.approx(0.5)
    assert result["evaluation"]["generalization_gap"] == pytest.approx(0.2)


def test_progress_is_shown_without_the_process_that_passes_on_auxiliary_epochs(cluster):
    """It may be lost with its node, and the run must not be."""
    progress = Progress(auxiliary=True)
    progress.setup(total_num_samples=1)
    trial = SimpleNamespace(trial_id="t", path="t", stopping_criterion={"training_iteration": 1})
    progress.on_trial_start(iteration=0, trials=[trial], trial=trial)
    ray.kill(progress._mailbox)
    progress._last_refresh = -math.inf
    progress.on_step_end(iteration=1, trials=[trial])
    assert progress._last_refresh > 0  # it has looked

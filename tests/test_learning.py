"""Does it learn? The shipped experiments reach the return they stop at, within their budget."""

import pytest

from rllib_ppg.experiments.experiment import Experiment
from rllib_ppg.experiments.tuner import make_tuner

pytestmark = pytest.mark.learning


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "name", ["cartpole", "pendulum", "stateless_cartpole", "two_agent_cartpole"]
)
def test_shipped_experiment_reaches_its_return(cluster, tmp_path, name, seed):
    experiment = Experiment.from_file(name).override(
        config={"seed": seed}, storage_path=str(tmp_path)
    )
    (result,) = make_tuner(experiment).fit()
    assert result.error is None
    reached = result.metrics["env_runners"]["episode_return_mean"]
    assert reached >= experiment.stop["env_runners/episode_return_mean"]


def test_without_a_memory_stateless_cartpole_is_not_solved(cluster, tmp_path):
    experiment = Experiment.from_file("stateless_cartpole").override(
        config={"model_config": {"use_lstm": False, "fcnet_hiddens": [64]}},
        storage_path=str(tmp_path),
    )
    (result,) = make_tuner(experiment).fit()
    assert result.metrics["env_runners"]["episode_return_mean"] < 100

"""Does it learn? The shipped experiments reach the return they stop at, within their budget."""

import pytest

from rllib_ppg.experiments.experiment import Experiment
from rllib_ppg.experiments.tuner import make_tuner

pytestmark = pytest.mark.learning


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", ["cartpole", "pendulum"])
def test_shipped_experiment_reaches_its_return(cluster, tmp_path, name, seed):
    experiment = Experiment.from_file(name).override(
        config={"seed": seed}, storage_path=str(tmp_path)
    )
    (result,) = make_tuner(experiment).fit()
    assert result.error is None
    reached = result.metrics["env_runners"]["episode_return_mean"]
    assert reached >= experiment.stop["env_runners/episode_return_mean"]

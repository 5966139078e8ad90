"""One small Ray for all tests that need one."""

import pytest
import ray

from tests.support.checkpoints import checkpoint  # noqa: F401 (a fixture)


@pytest.fixture(scope="session")
def cluster():
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=300 * 2**20,
    )
    yield
    ray.shutdown()


@pytest.fixture
def build(cluster):
    """Builds algorithms and stops them when the test ends."""
    algorithms = []

    def build(config):
        algorithms.append(config.build_algo())
        return algorithms[-1]

    yield build
    for algorithm in algorithms:
        algorithm.stop()

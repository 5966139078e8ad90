"""One small Ray for all tests that need one; one for each worker of pytest-xdist."""

import logging
import os
import shutil
import subprocess
import tempfile
import warnings

import pytest
import ray

from rllib_ppg_cli import main
from tests.support.checkpoints import checkpoint  # noqa: F401 (a fixture)


@pytest.fixture(scope="session", autouse=True)
def own_ray_folder(worker_id):
    """Keeps the Rays of two workers apart: each finds its own through this folder."""
    if worker_id == "master":
        yield
        return
    folder = tempfile.mkdtemp(prefix="ray")  # short: Ray puts sockets into it
    os.environ["RAY_TMPDIR"] = folder
    yield
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster(own_ray_folder):
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


@pytest.fixture
def quiet(monkeypatch):
    """Undoes what the command sets in its process to keep other packages quiet."""
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_AIR_NEW_OUTPUT"):
        monkeypatch.setenv(name, "0")
    names = ("ray", "ray.rllib", "ray.tune", "matplotlib", "torch.onnx")
    levels = {logger: logger.level for logger in map(logging.getLogger, names)}
    yield
    for logger, level in levels.items():
        logger.setLevel(level)


@pytest.fixture
def rllib(quiet, monkeypatch, capsys):
    """Runs `rllib words...` in this process, up to where it would start Ray.

    For mistakes in the arguments: a process takes seconds to import what they are compared with.
    Takes and returns what `run` does; the environment is this process's.
    """

    def rllib(*words):
        with warnings.catch_warnings():
            code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(words, code, out, err)

    monkeypatch.setattr(ray, "init", lambda *args, **kwargs: pytest.fail("Ray would start"))
    return rllib

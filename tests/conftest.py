"""One small Ray for all tests that need one; one for each worker of pytest-xdist."""

import logging
import os
import shutil
import subprocess
import tempfile
import warnings
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import ray

from rllib_ppg_cli import main, train
from tests.support.checkpoints import checkpoint  # noqa: F401 (a fixture)

# Each takes more than half a minute. They come first, so that both workers end at the same time.
LONGEST = ("test_distributed", "test_run", "test_algorithm", "test_exact_resume", "test_rllib")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.stem not in LONGEST)


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


@pytest.fixture(scope="module")
def ray_folder():
    """A folder for another Ray's files. Its name is short, as paths of sockets must be."""
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def cluster(own_ray_folder):
    ray.init(
        address="local",
        num_cpus=8,  # two algorithms of a module, and those of a test
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
    with builder() as build:
        yield build


@pytest.fixture(scope="module")
def build_for_module(cluster):
    """Builds algorithms and stops them after the last test of the module."""
    with builder() as build:
        yield build


@contextmanager
def builder():
    algorithms = []

    def build(config):
        # Without Tune's thread that watches the CPUs: `stop` waits for it for 0.7 s.
        config = config.copy(copy_frozen=False).debugging(log_sys_usage=False)
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


@pytest.fixture
def rllib_here(cluster, rllib, monkeypatch):
    """The same on the tests' Ray, which the command would stop."""
    monkeypatch.setattr(train, "_ray", lambda options: nullcontext())
    return rllib

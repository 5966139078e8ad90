"""What `import rllib_ppg` gives its users: names, and an algorithm and envs that are registered."""

import inspect
import subprocess
import sys

import pytest
import ray

import rllib_ppg

CONFIG = {
    "env": "CartPole-v1",
    "num_env_runners": 0,
    "num_envs_per_env_runner": 2,
    "rollout_fragment_length": 16,
    "segment_length": 1,
    "num_minibatches": 1,
    "n_pi": 0,
}
TRAIN_AFTER_A_RESTART = f"""
import rllib_ppg
import gymnasium
import ray
from ray import tune

def train():
    run = tune.RunConfig(stop={{"training_iteration": 1}}, verbose=0, storage_path=STORAGE)
    [result] = tune.Tuner("PPG", param_space={CONFIG}, run_config=run).fit()
    assert result.error is None, result.error

def start():
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
             object_store_memory=200 * 2**20)

start()
ray.shutdown()
start()  # Tune has forgotten what was registered with it

@ray.remote
def remote():
    import rllib_ppg
    from ray.tune.registry import get_trainable_cls
    return get_trainable_cls("PPG").__module__

assert ray.get(remote.remote()) == "rllib_ppg.ppg"
train()
assert gymnasium.make("procgen-coinrun-v0").observation_space.shape == (64, 64, 3)
"""
OTHER_ORDER = """
from ray import tune
import ray.rllib
from ray.tune.registry import get_trainable_cls
assert get_trainable_cls("PPO").__name__ == "PPO"  # RLlib has registered its algorithms
import rllib_ppg
assert get_trainable_cls("PPG").__module__ == "rllib_ppg.ppg"
"""


def run(code, **names):
    values = "".join(f"{name} = {str(value)!r}\n" for name, value in names.items())
    ended = subprocess.run(
        [sys.executable, "-c", values + code], capture_output=True, text=True, timeout=250
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.long
def test_tune_knows_ppg_also_after_a_restart_of_ray_and_in_tasks(tmp_path):
    run(TRAIN_AFTER_A_RESTART, STORAGE=tmp_path)


def test_tune_knows_ppg_if_rllib_was_imported_before():
    run(OTHER_ORDER)


def test_a_checkpoint_is_restored_without_any_import(checkpoint):
    """In a new process, in which nothing has imported `rllib_ppg`."""

    def restore(path):
        import sys

        from ray.rllib.algorithms.algorithm import Algorithm

        imported = "rllib_ppg" in sys.modules
        algorithm = Algorithm.from_checkpoint(path)
        return imported, type(algorithm).__module__

    restore.__module__ = "__main__"  # Ray sends the function itself, not this module's name
    new_process = {"env_vars": {"RESTORE": "1"}}
    restored = ray.remote(runtime_env=new_process)(restore).remote(checkpoint("CartPole-v1"))
    assert ray.get(restored) == (False, "rllib_ppg.ppg")


def test_each_public_name_is_what_it_says():
    for name in set(rllib_ppg.__all__) - {"__version__", "load_policy"}:
        value = getattr(rllib_ppg, name)
        assert inspect.isclass(value)
        assert (value.__name__, value.__module__.split(".")[0]) == (name, "rllib_ppg")
    assert set(rllib_ppg.__all__) <= set(dir(rllib_ppg))
    with pytest.raises(AttributeError, match="'rllib_ppg' has no attribute 'PPGConfg'"):
        rllib_ppg.PPGConfg  # noqa: B018

"""Checkpoints on disk: whole or not there, written once, and read only as what they are."""

import errno
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import ray
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem
from ray import tune
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.learner.torch.torch_learner import TorchLearner

from rllib_ppg import PPG, load_policy
from rllib_ppg.checkpoint import folder, plain_data
from rllib_ppg.checkpoint.folder import MANIFEST, check_checkpoint
from rllib_ppg.experiments.experiment import Experiment
from rllib_ppg.experiments.tuner import find_saved_run
from rllib_ppg.learner import PPGTorchLearner
from tests.support.algorithms import only_module, small, weights
from tests.support.comparison import assert_equal

REPLAY = Path("replay/default_policy")  # the one module's replay list


def full(*args):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def saved(build, tmp_path):
    """An algorithm in the middle of a phase of three, and its checkpoint."""
    algo = build(small(n_pi=3, runners=0))
    algo.train()
    algo.train()
    return algo, Path(algo.save_to_path(tmp_path / "saved"))


def test_an_iteration_is_written_once(saved, tmp_path):
    algo, first = saved
    one, two = sorted((first / REPLAY).iterdir())
    second = Path(algo.save_to_path(tmp_path / "second"))
    assert (second / REPLAY / "0000.npy").stat().st_ino == one.stat().st_ino
    assert (second / REPLAY / "0001.npy").stat().st_ino == two.stat().st_ino
    # Each is whole by itself, and the file stays until the last checkpoint with it has gone.
    for path in first.rglob("*"):
        if path.is_file():
            path.unlink()
    check_checkpoint(second)
    algo.restore_from_path(second)
    assert only_module(algo).replay.rows_per_iteration() == [4, 4]
    third = Path(algo.save_to_path(tmp_path / "third"))  # of a list that was restored
    assert (third / REPLAY / "0000.npy").stat().st_ino == (
        second / REPLAY / "0000.npy"
    ).stat().st_ino
    (second / REPLAY / "0000.npy").unlink()
    (third / REPLAY / "0000.npy").unlink()
    fourth = Path(algo.save_to_path(tmp_path / "fourth"))  # none is left to take over
    algo.restore_from_path(fourth)
    algo.train()
    after_phase = Path(algo.save_to_path(fourth))  # in its place, and the list is empty now
    assert not (after_phase / "replay").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_file_in_an_earlier_one_s_place_is_not_taken_for_it(saved, build, tmp_path, monkeypatch):
    algo, path = saved
    algo.train()  # ends the phase
    algo.train()
    algo.train()
    # A save that fails, to where a checkpoint of the phase before is, ...
    with monkeypatch.context() as patch:
        patch.setattr(folder, "_rename", full)
        with pytest.raises(OSError, match="No space left"):
            algo.save_to_path(path)
    algo.restore_from_path(algo.save_to_path(tmp_path / "other"))
    # ... and a checkpoint that somebody else has replaced.
    other = build(small(runners=0, n_pi=3, lr=1e-2))
    other.train()
    other.train()
    other.save_to_path(tmp_path / "other")
    algo.restore_from_path(algo.save_to_path(tmp_path / "last"))
    assert len(only_module(algo).replay) == 2


def test_other_files_in_the_folder_stay(saved, tmp_path):
    algo, path = saved
    (path / "notes.txt").write_text("mine")
    algo.save_to_path(path)
    assert (path / "notes.txt").read_text() == "mine"
    check_checkpoint(path)


def test_a_save_that_fails_leaves_what_was_there(saved, monkeypatch):
    algo, path = saved
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    algo.train()
    monkeypatch.setattr(folder, "_flush", full)
    with pytest.raises(OSError, match="No space left"):
        algo.save_to_path(path)
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file()} == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    monkeypatch.undo()
    algo.train()  # it can go on
    algo.save_to_path(path)


class FullDisk(TorchLearner):
    def save_to_path(self, *args, **kwargs):
        full()


class LearnerOnFullDisk(PPGTorchLearner, FullDisk):
    pass


def test_a_learner_that_cannot_save_says_so_and_lives(build, tmp_path):
    """RLlib calls it in a way that would end it, and would not tell."""
    config = small(learner_class=LearnerOnFullDisk).learners(num_learners=1)
    algo = build(config)
    algo.train()
    with pytest.raises(OSError, match="No space left"):
        algo.save_to_path(tmp_path / "saved")
    assert not list(tmp_path.iterdir())
    assert algo.train()["ppg"]["num_aux_phases_lifetime"] == 1


def test_in_a_bucket_the_manifest_comes_last_and_files_are_copied_there(
    saved, tmp_path, monkeypatch
):
    algo, _ = saved
    (tmp_path / "bucket").mkdir()
    bucket = SubTreeFileSystem(str(tmp_path / "bucket"), LocalFileSystem())
    algo.save_to_path("one", filesystem=bucket)

    def written_again(*args, **kwargs):
        raise AssertionError("an iteration was written again")

    monkeypatch.setattr("rllib_ppg.checkpoint.replay_files._write", written_again)
    algo.save_to_path("two", filesystem=bucket)
    for i in range(2):
        one, two = (
            tmp_path / f"bucket/{name}/replay/default_policy/000{i}.npy" for name in ("one", "two")
        )
        assert one.read_bytes() == two.read_bytes()
    algo.restore_from_path("two", filesystem=bucket)
    assert only_module(algo).replay.rows_per_iteration() == [4, 4]
    # A save that is cut off leaves no checkpoint.
    monkeypatch.setattr(folder.Draft, "finish", written_again)
    with pytest.raises(AssertionError):
        algo.save_to_path("two", filesystem=bucket)
    with pytest.raises(ValueError, match=f"it has no {MANIFEST}"):
        algo.restore_from_path("two", filesystem=bucket)


def test_the_learning_rate_is_that_of_the_settings(build, tmp_path):
    """Tune's PBT goes on from another trial's checkpoint with a learning rate of its own."""
    algo = build(small(runners=0, lr=1e-3))
    algo.train()
    algo.save_to_path(tmp_path / "saved")
    other = build(small(runners=0, lr=1e-4))
    other.restore_from_path(tmp_path / "saved")
    optimizer = other.learner_group._learner.get_optimizer(DEFAULT_MODULE_ID, "default_optimizer")
    assert optimizer.param_groups[0]["lr"] == 1e-4


def _truncated(path):
    path.write_bytes(path.read_bytes()[:-20])


def _changed(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def _newer(path):
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (
            "replay/default_policy/0001.npy",
            _truncated,
            r"is damaged: replay/default_policy/0001.npy has [\d,]+ bytes of",
        ),
        ("replay/default_policy/0001.npy", _changed, r"is damaged: replay/default_policy/0001.npy"),
        (
            "replay/default_policy/0000.npy",
            Path.unlink,
            r"is damaged: it has no replay/default_policy/0000.npy",
        ),
        ("algorithm_state.pkl", _changed, "is damaged: algorithm_state.pkl is not what was"),
        ("learner_group/learner/state.pkl", _truncated, "is damaged: learner_group"),
        ("exact/env_runner_0001.npz", _changed, "is damaged: exact/env_runner_0001.npz"),
        (MANIFEST, _truncated, "is damaged: ppg_checkpoint.json can't be read"),
        (MANIFEST, _newer, r"was written by a newer version of rllib_ppg, 0.2.0 \(format 99\)"),
        (MANIFEST, Path.unlink, r"can't|PPG can resume from: it has no ppg_checkpoint.json"),
    ],
)
def test_what_is_damaged_is_refused_and_changes_nothing(saved, name, damage, message):
    algo, path = saved
    algo.train()
    before, stored = weights(algo), only_module(algo).replay.rows_per_iteration()
    damage(path / name)
    with pytest.raises(ValueError, match=message) as error:
        algo.restore_from_path(path)
    assert "\n" not in str(error.value)
    assert_equal(weights(algo), before)
    assert only_module(algo).replay.rows_per_iteration() == stored
    algo.train()


@pytest.mark.parametrize(
    ("hiddens", "arch", "message"),
    [
        ([16, 8], "dual", r"pi.net.mlp.0.weight is \(2, 16\) in it, and \(2, 8\) by this config"),
        ([16, 16], "shared", r"is of other networks: .* is not there in it|and not there by this"),
    ],
)
def test_other_networks_are_refused_and_change_nothing(saved, build, hiddens, arch, message):
    _, path = saved
    config = small(runners=0).rl_module(model_config={"fcnet_hiddens": hiddens})
    other = build(config.training(arch=arch))
    before = weights(other)
    with pytest.raises(ValueError, match=message) as error:
        other.restore_from_path(path)
    assert "\n" not in str(error.value)
    assert_equal(weights(other), before)
    assert other.train()["training_iteration"] == 1


def test_a_foreign_checkpoint_is_refused(saved, tmp_path):
    algo, _ = saved
    ppo = PPOConfig().environment("CartPole-v1").env_runners(num_env_runners=0).build_algo()
    path = ppo.save_to_path(tmp_path / "ppo")
    ppo.stop()
    check_checkpoint(path)  # it is one, and `rllib evaluate` takes it
    with pytest.raises(ValueError, match="another algorithm wrote it"):
        algo.restore_from_path(path)


def test_what_can_be_is_no_pickle(saved):
    """Pickles are what RLlib writes; the replay list and env states load without any."""
    _, path = saved
    with (path / REPLAY / "0000.npy").open("rb") as f:
        header, obs, valid, V_targ = (np.load(f, allow_pickle=False) for _ in range(4))
    assert json.loads(header.item()) == {"columns": ["V_targ"]}
    assert obs.shape == (4, 16, 4) and V_targ.shape == valid.shape == (4, 16)
    plain_data.load(path / "exact/env_runner_0001.npz")


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


def test_plain_data_runs_no_code(tmp_path, capsys):
    with pytest.raises(ValueError, match="holds a Evil, which is not plain data"):
        plain_data.save(tmp_path / "x.npz", {"a": [Evil()]})
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Evil()))
    np.savez(tmp_path / "object.npz", structure=np.array(Evil(), dtype=object))
    for name in ("pickle.npz", "object.npz"):
        with pytest.raises(ValueError, match="is damaged"):
            plain_data.load(tmp_path / name)
    assert "executed" not in capsys.readouterr().out


@pytest.fixture
def run_of_older_version(tmp_path):
    """The folder of a run with one checkpoint; each of its pickles prints when it is loaded."""
    run = tmp_path / "run"
    checkpoint = run / "trial/checkpoint_000000"
    for name in ("", "learner_group/learner/rl_module/default_policy", "env_runner"):
        (checkpoint / name).mkdir(parents=True, exist_ok=True)
        for file in ("class_and_ctor_args.pkl", "state.pkl", "algorithm_state.pkl"):
            (checkpoint / name / file).write_bytes(pickle.dumps(Evil()))
    for file in ("tuner.pkl", "trainable.pkl", "experiment_state-2026.json"):
        (run / file).write_bytes(pickle.dumps(Evil()))
    about = {"type": "Algorithm", "checkpoint_version": "2.1", "format": "cloudpickle"}
    (checkpoint / "rllib_checkpoint.json").write_text(json.dumps(about))
    (checkpoint / Algorithm.METADATA_FILE_NAME).write_text(json.dumps(about))
    manifest = {"format": 1, "versions": {"rllib-ppg": "0.0.7"}, "files": {}}
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))
    return run


def _resume(run, checkpoint):
    find_saved_run(Experiment(run="PPG", name=run.name, storage_path=str(run.parent)))


def _restore(run, checkpoint):
    Experiment(run="PPG", config={"env": "CartPole-v1"}, restore=str(checkpoint)).validate()


@pytest.mark.parametrize(
    "use",
    [
        lambda run, checkpoint: PPG.from_checkpoint(checkpoint),
        lambda run, checkpoint: PPG.from_checkpoint(tune.Checkpoint(checkpoint)),
        lambda run, checkpoint: load_policy(checkpoint),
        lambda run, checkpoint: load_policy(str(run)),
        _restore,
        _resume,
    ],
)
def test_an_older_version_s_checkpoint_is_refused_unread(run_of_older_version, use, capsys):
    checkpoint = run_of_older_version / "trial/checkpoint_000000"
    message = r"was written by an older version of rllib_ppg, 0\.0\.7 \(format 1\), and this one"
    with pytest.raises(ValueError, match=message) as error:
        use(run_of_older_version, str(checkpoint))
    assert "\n" not in str(error.value)
    assert "executed" not in capsys.readouterr().out


def test_a_component_of_an_older_version_is_refused(build, run_of_older_version, capsys):
    algo = build(small(runners=0))
    checkpoint = run_of_older_version / "trial/checkpoint_000000"
    for component in (None, "env_runner", "learner_group"):
        with pytest.raises(ValueError, match="was written by an older version"):
            algo.restore_from_path(checkpoint, component=component)
    assert "executed" not in capsys.readouterr().out


def test_without_the_replay_list_the_phase_begins_anew(build, tmp_path, caplog):
    algo = build(small(runners=0, n_pi=3, checkpoint_replay=False))
    algo.train()
    algo.train()
    path = Path(algo.save_to_path(tmp_path / "saved"))
    assert not (path / "replay").exists()
    algo.stop()
    other = build(small(runners=0, n_pi=3, checkpoint_replay=False))
    other.restore_from_path(path)
    assert "its 2 of n_pi=3 iterations start over" in caplog.text
    phases = [other.train()["ppg"]["num_aux_phases_lifetime"] for _ in range(3)]
    assert phases == [0, 0, 1]


@pytest.mark.parametrize("settings", [{"e_aux": 0}, {"n_pi": 0}])
def test_settings_without_auxiliary_phases_leave_the_list_alone(saved, build, settings, caplog):
    algo, path = saved
    algo.stop()
    for file in (path / REPLAY).iterdir():
        file.unlink()
    other = build(small(runners=0, **{"n_pi": 2, **settings}))
    other.restore_from_path(path)
    assert "these settings have no auxiliary phases" in caplog.text
    assert len(only_module(other).replay) == 0
    assert other.train()["training_iteration"] == 3
    assert len(only_module(other).replay) == 0


def test_a_list_that_is_not_there_can_be_left_out(saved, build, caplog):
    """Checkpoints that come home from a job are without it."""
    algo, path = saved
    for file in (path / REPLAY).iterdir():
        file.unlink()
    check_checkpoint(path, replay=False)
    with pytest.raises(ValueError, match=r"has no replay/default_policy/0000.npy"):
        algo.restore_from_path(path)
    algo.stop()
    other = build(small(runners=0, n_pi=3, checkpoint_replay=False))
    other.restore_from_path(path)
    assert len(only_module(other).replay) == 0 and other.training_iteration == 2


def test_driver_memory_holds_one_block_at_a_time(saved, tmp_path, monkeypatch):
    algo, _ = saved
    only_module(algo).replay.written = [None] * len(only_module(algo).replay)
    asked, get = [], ray.get

    def counting(refs, **kwargs):
        asked.append(refs)
        return get(refs, **kwargs)

    monkeypatch.setattr("ray.get", counting)
    algo.save_to_path(tmp_path / "streamed")
    blocks = [entry.ref for it in only_module(algo).replay.iterations for entry in it]
    assert [ref for ref in asked if ref in blocks] == blocks

"""A name has one run, and a run has one process at a time."""

import os
import signal

import pytest

from rllib_ppg.experiments.experiment import Experiment
from rllib_ppg.experiments.run_folder import (
    FolderTakenError,
    RunFolder,
    claim,
    numbered_runs,
    unused_name,
)
from rllib_ppg_cli import train
from tests.support.command import parse
from tests.support.trial_folders import write_trial

pytestmark = pytest.mark.unit


def experiment(storage, name="a"):
    return Experiment(run="PPG", name=name, storage_path=str(storage))


def test_a_name_with_results_is_refused_or_gets_a_number(tmp_path):
    write_trial(tmp_path / "a", [1.0])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FolderTakenError, match=r"a has the results of .*--resume.*as in -n a_2$"):
        claim(experiment(tmp_path), may_number=False)
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != ".lock"] == before
    with claim(experiment(tmp_path), may_number=True) as folder:
        assert folder.name == "a_2"
        (tmp_path / "a_2" / "tuner.pkl").touch()
    assert numbered_runs(f"{tmp_path}/a") == ["a_2"]
    assert unused_name(f"{tmp_path}/a") == "a_3"


def test_a_run_that_left_nothing_to_lose_gives_its_name_away(tmp_path):
    failed = tmp_path / "a" / "PPG_CartPole"
    failed.mkdir(parents=True)
    for name in ("error.txt", "result.json", "params.json"):
        (failed / name).touch()
    with claim(experiment(tmp_path), may_number=False) as folder:
        assert folder.name == "a"
    (failed / "checkpoint_000000").mkdir()
    with pytest.raises(FolderTakenError):
        claim(experiment(tmp_path), may_number=False)


def test_names_in_a_bucket_too(tmp_path):
    """An fsspec filesystem is not pyarrow's local one, so it stands for a bucket."""
    write_trial(tmp_path / "a", [1.0])
    bucket = f"fsspec+file://{tmp_path}"
    with pytest.raises(FolderTakenError, match=r"as in -n a_2$"):
        claim(experiment(bucket), may_number=False)
    with claim(experiment(bucket), may_number=True) as folder:
        assert (folder.name, folder.place) == ("a_2", f"{bucket}/a_2")


def test_two_runs_at_the_same_time(tmp_path):
    with claim(experiment(tmp_path), may_number=False):
        with pytest.raises(
            FolderTakenError, match=rf"another run is using .*process {os.getpid()}"
        ):
            claim(experiment(tmp_path), may_number=False)
        with pytest.raises(FolderTakenError):
            RunFolder(f"{tmp_path}/a")  # as --resume does
        with claim(experiment(tmp_path), may_number=True) as second:
            assert second.name == "a_2"
        unnamed = [claim(experiment(tmp_path, None), may_number=False) for _ in range(3)]
        assert len({folder.name for folder in unnamed}) == 3  # also within one second
        for folder in unnamed:
            folder.__exit__()
    assert not list(tmp_path.iterdir())  # nothing has begun


def test_a_killed_process_gives_its_folder_back(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "tuner.pkl").touch()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        held = RunFolder(f"{tmp_path}/a")  # noqa: F841 (for as long as the process lives)
        os.write(write, b"x")
        signal.pause()
    os.read(read, 1)
    with pytest.raises(FolderTakenError, match=f"process {child} on "):
        RunFolder(f"{tmp_path}/a")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with RunFolder(f"{tmp_path}/a"):
        pass


def test_a_folder_that_can_not_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"can't be written to .*/file/a \(Not a directory\)"):
        claim(experiment(tmp_path / "file"), may_number=True)


def options(tmp_path, words):
    return parse(f"train file cartpole --storage-path {tmp_path} {words}")


def test_an_experiment_file_trains_again_under_another_name(tmp_path, capsys):
    write_trial(tmp_path / "cartpole", [1.0])
    given = options(tmp_path, "")
    with train._run_folder(train.experiment_from(given), given) as folder:
        assert folder.name == "cartpole_2"
    assert capsys.readouterr().out == "name: cartpole_2, as cartpole is an earlier run\n"


@pytest.mark.parametrize("name", ["sweep/a", "/a", "a/", ".", "..", ""])
def test_a_name_is_that_of_one_folder(tmp_path, name):
    """Tune would run in the folder of its last part, which may be another run's."""
    for words in ("", " --resume"):
        given = options(tmp_path, f"-n '{name}'{words}")
        with pytest.raises(ValueError, match="the name of a run must be the name of a folder"):
            train._run_folder(train.experiment_from(given), given)
    assert not list(tmp_path.iterdir())


def test_a_script_s_run_is_not_resumed_by_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "resume_tuner", lambda *args, keep: (None, []))
    with pytest.raises(ValueError, match=r"'a' was not started by `rllib train`"):
        train._saved_run(experiment(tmp_path), [])


def test_it_does_not_guess_which_of_several_runs_to_resume(tmp_path):
    for name in ("cartpole", "cartpole_2", "cartpole_3"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tuner.pkl").touch()
    given = options(tmp_path, "--resume")
    with pytest.raises(ValueError, match=r"several runs of cartpole: .* -n cartpole_3$"):
        train._run_folder(train.experiment_from(given), given)
    given = options(tmp_path, "--resume -n cartpole")
    with train._run_folder(train.experiment_from(given), given) as folder:
        assert folder.name == "cartpole"

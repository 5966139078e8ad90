"""SIGKILL of `rllib train`, and what `--resume` does after it."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import optuna
import psutil
import pytest
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from rllib_ppg.tune_callbacks import crash_recovery
from tests.support.command import RLLIB, run

ITERATIONS = 10
CONFIG = {
    "env": "CartPole-v1",
    "seed": 5,
    "num_env_runners": 1,
    "num_envs_per_env_runner": 8,
    "rollout_fragment_length": 64,
    "segment_length": 1,
    "n_pi": 2,
    "e_aux": 1,
}
# An experiment that kills its own driver once, in the second save.
KILLS = """
import os
import signal
import time

from ray.rllib.callbacks.callbacks import RLlibCallback

os.environ["DRIVER"] = str(os.getpid())  # which its workers inherit


class Kills(RLlibCallback):
    def on_algorithm_init(self, *, algorithm, **kwargs):
        from rllib_ppg.checkpoint.folder import Draft

        write = Draft.finish

        def finish(draft, **described):
            if "checkpoint_000001" in str(draft.folder) and not os.path.exists(os.environ["MARK"]):
                open(os.environ["MARK"], "w").close()
                os.kill(int(os.environ["DRIVER"]), signal.SIGKILL)
                time.sleep(1000)
            write(draft, **described)

        Draft.finish = finish


config = {config} | {{"callbacks_class": Kills}}
"""


def words(storage, *more):
    stop = json.dumps({"training_iteration": ITERATIONS})
    given = ["-n", "k", "--storage-path", storage, "--stop", stop, *more]
    return [str(word) for word in given]


def plain(storage, *more):
    return ["train", "-a", "PPG", "-c", json.dumps(CONFIG), *words(storage, *more)]


def killed_at(line, command, **env):
    """Starts a run and kills it; its Ray's processes end by themselves."""
    process = subprocess.Popen([RLLIB, *command], stdout=subprocess.PIPE, text=True, env=env)
    with process:
        for said in process.stdout:
            if line and re.search(line, said):
                others = psutil.Process(process.pid).children(recursive=True)
                process.send_signal(signal.SIGKILL)
                _, alive = psutil.wait_procs(
                    [one for one in others if "Agent" not in one.name()], timeout=30
                )
                assert not alive
                break
    assert process.returncode == -signal.SIGKILL


def read(storage):
    """What is in the folder of a run's one trial."""
    [trial] = Path(storage, "k").glob("PPG_*")
    result, progress = trial / "result.json", trial / "progress.csv"
    lines = result.read_text().splitlines() if result.exists() else []
    rows = []
    if progress.exists():
        with progress.open() as file:
            rows = [int(row["training_iteration"]) for row in csv.DictReader(file)]
    return SimpleNamespace(
        path=trial,
        results=[json.loads(line)["training_iteration"] for line in lines],
        rows=rows,
        checkpoints=sorted(path.name for path in trial.glob("*checkpoint_*")),
    )


def resume(storage, *more):
    ended = run(*plain(storage, *more), "--resume")
    assert ended.returncode == 0, ended.stderr
    numbers = [int(n) for n in re.findall(r"^iteration (\d+)/\d+ .* steps/s", ended.stdout, re.M)]
    return ended.stdout, numbers


@pytest.fixture(scope="module")
def a_killed_run(tmp_path_factory):
    """A run that was killed in its seventh iteration or a little later; it saved after each."""
    storage = tmp_path_factory.mktemp("killed")
    more = ["--checkpoint-freq", "1", "--keep-checkpoints-num", "2"]
    killed_at("^iteration 7/.* steps/s", plain(storage, *more), **os.environ)
    return storage


@pytest.fixture
def copy(a_killed_run, tmp_path):
    shutil.copytree(a_killed_run, tmp_path, dirs_exist_ok=True)
    return tmp_path


def whole(found):
    return [name for name in found.checkpoints if not name.startswith(".")]


@pytest.mark.faults
def test_it_resumes_from_the_newest_checkpoint(copy):
    before = read(copy)
    newest = int(whole(before)[-1].split("_")[1]) + 1  # saved after each iteration, from 0 on
    assert 6 <= newest <= 8
    assert list(range(1, newest + 1)) == before.results[:newest]
    out, numbers = resume(copy)
    assert f"resumes from checkpoint_{newest - 1:06}, of iteration {newest}\n" in out
    assert numbers == list(range(newest + 1, ITERATIONS + 1))
    after = read(copy)
    assert after.results == after.rows == list(range(1, ITERATIONS + 1))
    assert after.checkpoints == [f"checkpoint_{n:06}" for n in (ITERATIONS - 2, ITERATIONS - 1)]


@pytest.mark.faults
def test_it_resumes_from_an_older_checkpoint_if_the_newest_is_damaged(copy):
    before = read(copy)
    *_, second, newest = whole(before)
    (before.path / newest / "algorithm_state.pkl").unlink()
    for file in copy.glob("k/*state-*.json"):  # as a kill cuts them off while they are written
        file.write_bytes(file.read_bytes()[:100])
    with (before.path / "result.json").open("a") as file:
        file.write('{"training_iter')
    out, numbers = resume(copy)
    done = int(second.split("_")[1]) + 1
    assert f"resumes from {second}, of iteration {done}\n" in out
    assert numbers == list(range(done + 1, ITERATIONS + 1))
    after = read(copy)
    assert after.results == after.rows == list(range(1, ITERATIONS + 1))


@pytest.mark.faults
def test_it_starts_from_the_beginning_without_a_checkpoint(copy):
    before = read(copy)
    for name in before.checkpoints:
        shutil.rmtree(before.path / name)
    out, numbers = resume(copy)
    assert "nothing was saved, so it starts from the beginning\n" in out
    assert numbers == list(range(1, ITERATIONS + 1))
    after = read(copy)
    assert after.results == after.rows == numbers


@pytest.mark.faults
def test_it_starts_from_the_beginning_if_tune_had_written_no_state(copy):
    [trial] = copy.glob("k/PPG_*")
    shutil.rmtree(trial)
    shutil.rmtree(copy / "k" / crash_recovery._BACKUP_DIR)
    for file in copy.glob("k/*state-*.json"):
        file.unlink()
    out, numbers = resume(copy)
    assert out.startswith("nothing of the run was saved, so it starts from the beginning\n")
    assert numbers == list(range(1, ITERATIONS + 1))


@pytest.mark.faults
def test_killed_before_the_first_checkpoint(tmp_path):
    more = ["--checkpoint-freq", "9"]
    killed_at("^iteration 2/.* steps/s", plain(tmp_path, *more), **os.environ)
    out, numbers = resume(tmp_path, *more)
    assert "nothing was saved, so it starts from the beginning\n" in out
    after = read(tmp_path)
    assert numbers == after.results == after.rows == list(range(1, ITERATIONS + 1))


@pytest.mark.faults
def test_a_copy_under_another_name_resumes_in_its_own_folder(copy, a_killed_run):
    before = sorted(path.stat().st_mtime_ns for path in a_killed_run.rglob("*"))
    newest = whole(read(copy))[-1]
    (copy / "k").rename(copy / "renamed")
    ended = run(*plain(copy, "-n", "renamed"), "--resume")
    assert ended.returncode == 0, ended.stderr
    assert f"resumes from {newest}, " in ended.stdout
    assert f"results: {copy}/renamed/" in ended.stdout
    assert sorted(path.stat().st_mtime_ns for path in a_killed_run.rglob("*")) == before
    assert sorted(path.name for path in copy.iterdir()) == ["renamed"]


@pytest.mark.faults
def test_killed_in_a_save(tmp_path):
    file, storage = tmp_path / "kills.py", tmp_path / "results"
    file.write_text(KILLS.format(config=CONFIG))
    env = os.environ | {"MARK": str(tmp_path / "mark")}
    command = ["train", "file", str(file), *words(storage, "--checkpoint-freq", "2")]
    killed_at(None, command, **env)
    before = read(storage)
    assert before.checkpoints == [".checkpoint_000001.unfinished", "checkpoint_000000"]
    ended = run(*command, "--resume", env=env)
    assert ended.returncode == 0, ended.stderr
    assert "resumes from checkpoint_000000, of iteration 2\n" in ended.stdout
    after = read(storage)
    assert after.results == after.rows == list(range(1, ITERATIONS + 1))
    assert after.checkpoints == [f"checkpoint_{n:06}" for n in range(ITERATIONS // 2)]


def test_what_is_after_the_checkpoint_or_cut_off_is_left_out():
    lines = "".join(json.dumps({"training_iteration": n}) + "\n" for n in (1, 2, 3))
    assert (
        crash_recovery._truncate_json(lines + '{"training_it', 2)
        == lines[: lines.index('{"training_iteration": 3')]
    )
    table = 'training_iteration,x\r\n1,"a,b"\r\n2,\r\n3,\r\n4'
    assert crash_recovery._truncate_csv(table, 2) == 'training_iteration,x\r\n1,"a,b"\r\n2,\r\n'
    assert crash_recovery._truncate_csv("", 2) == crash_recovery._truncate_json("", 2) == ""


@pytest.mark.faults
def test_a_search_counts_each_trial_once(tmp_path):
    space = {"lr": {"loguniform": [1e-4, 1e-2]}, "num_minibatches": {"choice": [4, 5]}}
    search = json.dumps({"optuna": space, "num_samples": 4, "seed": 0})
    more = ["--search", search, "--checkpoint-freq", "1", "--ray-num-cpus", "2"]
    killed_at(r"^\[3\] iteration 2/", plain(tmp_path, *more), **os.environ)
    ended = run(*plain(tmp_path, *more), "--resume")
    assert ended.returncode == 0, ended.stderr
    results = [*tmp_path.glob("k/PPG_*/result.json")]
    finished = [path for path in results if len(path.read_text().splitlines()) == ITERATIONS]
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "k" / "optuna_study.log")))
    study = optuna.load_study(study_name=None, storage=storage)
    states = Counter(trial.state.name for trial in study.trials)
    assert states["COMPLETE"] == len(finished) == 4
    assert states["RUNNING"] == states["WAITING"] == 0
    assert re.search(rf"^{states['PRUNED']} invalid combinations? w", ended.stdout, re.M)
    again = run("train", "file", tmp_path / "k" / "best.yaml", "--dry-run")
    assert again.returncode == 0, again.stderr
    best = yaml.safe_load((tmp_path / "k" / "best.yaml").read_text())["k"]["config"]
    assert best["num_minibatches"] == 4
    assert best["lr"] in [trial.params["lr"] for trial in study.trials]

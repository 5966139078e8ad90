"""A run that is interrupted by Ctrl-C and resumed, and what its folder holds."""

import csv
import json
import os
import re
import shlex
import signal
import statistics
import struct
import subprocess
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import wandb
from tensorboardX.proto.event_pb2 import Event

from rllib_ppg.experiments.experiment import Experiment
from rllib_ppg.plots import results as trials
from rllib_ppg.reports.curves import aux_epochs
from rllib_ppg.tune_callbacks.wandb_logger import WandbLogger
from tests.support.command import RLLIB, run
from tests.support.secrets import holds
from tests.support.wandb_file import items, records

ITERATIONS = 12
CONFIG = {
    "env": "CartPole-v1",
    "seed": 5,
    "num_env_runners": 0,
    "num_envs_per_env_runner": 8,
    "rollout_fragment_length": 64,
    "segment_length": 1,
    "n_pi": 2,
    "e_aux": 2,
}
SECRET = "0123456789" * 4  # as long as a key of W&B
CLONE_KL = "learners/default_policy/aux/clone_kl"


@pytest.fixture(scope="module")
def a_run(tmp_path_factory, ray_folder):
    """A run with `--track` that cannot reach W&B; it is interrupted and resumed.

    With keys in the environment and a Ray folder of its own, in which they are looked for.
    """
    home = tmp_path_factory.mktemp("home")
    file = home / "mine.yaml"
    body = {"run": "PPG", "stop": {"training_iteration": ITERATIONS}, "config": CONFIG}
    file.write_text(json.dumps({"mine": body}))
    env = os.environ | {
        "HOME": str(home),  # where no W&B key is
        "WANDB_API_KEY": SECRET,
        "WANDB_BASE_URL": "http://127.0.0.1:9",
        "SOME_SERVICE_TOKEN": SECRET,
        "RAY_TMPDIR": str(ray_folder),
    }
    words = ["train", "file", file, "--storage-path", home / "results", "--track"]
    words += ["--wandb-project", "pro", "--wandb-group", "gr", "--wandb-checkpoints"]
    with subprocess.Popen(
        [RLLIB, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        start_new_session=True,
    ) as first:
        out = ""
        for line in first.stdout:
            out += line
            if line.startswith(f"iteration 1/{ITERATIONS}"):
                os.killpg(first.pid, signal.SIGINT)  # a terminal sends it to the whole group
        err = first.stderr.read()
    [command] = re.findall(r"to resume: \S*rllib (.*)", out)
    # It takes 10 seconds each time to find W&B unreachable.
    second = run(*shlex.split(command), "-v", env=env | {"WANDB_MODE": "offline"})
    folder = home / "results" / "mine"
    [trial] = folder.glob("PPG_*")
    return SimpleNamespace(
        out=out,
        err=err,
        code=first.returncode,
        resumed=second,
        home=home,
        ray_folder=ray_folder,
        folder=folder,
        trial=trial,
        results=read_results(trial),
    )


def read_results(trial):
    return [json.loads(line) for line in (trial / "result.json").read_text().splitlines()]


def interrupted_in(a_run):
    """The number of the iteration in which Ctrl-C came."""
    return len(re.findall(r"^iteration .* steps/s", a_run.out, re.MULTILINE))


def test_ctrl_c_saves_and_says_how_to_resume(a_run):
    assert a_run.code == 130
    assert "stopping: a checkpoint is saved when this iteration ends" in a_run.out
    assert a_run.err == "rllib: interrupted\n"
    assert re.search(r"^checkpoint: .*/checkpoint_000000$", a_run.out, re.MULTILINE)


def test_a_resumed_run_goes_on_where_it_was(a_run):
    assert a_run.resumed.returncode == 0, a_run.resumed.stderr
    numbers = [int(n) for n in re.findall(r"^iteration (\d+)/\d+ .* steps/s", a_run.out, re.M)]
    again = [
        int(n) for n in re.findall(r"^iteration (\d+)/\d+ .* steps/s", a_run.resumed.stdout, re.M)
    ]
    assert numbers + again == list(range(1, ITERATIONS + 1))
    assert len(numbers) < ITERATIONS
    assert [r["training_iteration"] for r in a_run.results] == list(range(1, ITERATIONS + 1))


def test_a_finished_run_has_nothing_to_resume(a_run, rllib):
    [command] = re.findall(r"to resume: \S*rllib (.*)", a_run.out)
    ended = rllib(*shlex.split(command))
    assert (ended.returncode, ended.stderr) == (0, "")  # and Ray is not started
    first, *_, last = ended.stdout.splitlines()
    assert first == "the run is finished, so there is nothing to resume"
    assert last.startswith("to continue: ")
    other = rllib(
        "train", "-a", "PPO", "-n", "mine", "--resume", "--storage-path", a_run.folder.parent
    )
    assert other.returncode == 2
    assert "mine trains PPG, not PPO" in other.stderr


def test_a_dry_run_counts_what_was_done(a_run, rllib_here):
    words = ("train", "file", a_run.folder / "config.yaml", "--dry-run")
    resumed = rllib_here(*words, "--resume", "--storage-path", a_run.folder.parent)
    checkpoint = a_run.trial / "checkpoint_000000"
    done = interrupted_in(a_run)
    restored = rllib_here(*words, "--restore", checkpoint)
    for ended, iterations in ((resumed, ITERATIONS), (restored, done)):
        assert ended.returncode == 0, ended.stderr
        [shown] = re.findall("done so far +(\\d+) iteration", ended.stdout)
        assert int(shown) == iterations
    assert "to do: nothing" in resumed.stdout


def test_the_csv_file_has_the_auxiliary_phases_metrics(a_run):
    with (a_run.trial / "progress.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["training_iteration"]) for row in rows] == list(range(1, ITERATIONS + 1))
    with_phase = {int(row["training_iteration"]): row[CLONE_KL] for row in rows if row[CLONE_KL]}
    assert list(with_phase) == list(range(2, ITERATIONS + 1, 2))
    assert [float(kl) for kl in with_phase.values()] == [
        r["learners"]["default_policy"]["aux"]["clone_kl"] for r in a_run.results[1::2]
    ]


def test_tensorboard_has_them_too(a_run):
    values = {}
    for path in a_run.trial.glob("events.out.tfevents.*"):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 12 + length + 4
            for value in event.summary.value:
                if value.tag == f"ray/tune/{CLONE_KL}":
                    values[event.step] = value.simple_value
    # tensorboardX writes in a thread of its own: of the iteration in which the run was interrupted
    # it may lose some.
    whole = {n for n in range(2, ITERATIONS + 1, 2) if n != interrupted_in(a_run)}
    assert whole <= set(values) <= {*whole, interrupted_in(a_run)}


def test_its_report_shows_each_auxiliary_epoch(a_run, rllib, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    ended = rllib("report", a_run.folder, "--out", tmp_path / "report.html")
    assert ended.returncode == 0, ended.stderr
    page = (tmp_path / "report.html").read_text()
    assert page.count('<script type="application/json">') > 10
    assert "Each phase is a line over its epochs." in page
    assert SECRET not in page
    [trial] = trials.read_results([a_run.folder], lambda path: True)
    epochs = aux_epochs(trial, "default_policy", "clone_kl").returns
    assert len(epochs) == ITERATIONS // 2 * 3  # two epochs, and a gap
    assert epochs[1::3].tolist() == [
        r["learners"]["default_policy"]["aux"]["clone_kl"] for r in a_run.results[1::2]
    ]


@pytest.fixture(scope="module")
def repeated(a_run, tmp_path_factory):
    """The first two iterations of the run, from the file in its folder."""
    storage = tmp_path_factory.mktemp("repeated")
    ended = run(
        *("train", "file", a_run.trial / "config.yaml", "--storage-path", storage),
        *("--stop", '{"training_iteration": 2}', "--checkpoint-at-end", "--ray-num-cpus", "1"),
    )
    assert ended.returncode == 0, ended.stderr
    [trial] = storage.glob("*/PPG_*")
    return ended, read_results(trial)


def test_a_run_shows_its_progress_and_nothing_else(repeated):
    ended, _ = repeated
    assert ended.stderr == ""
    lines = ended.stdout.splitlines()
    assert lines[0].startswith("results in ") and "tensorboard --logdir " in lines[0]
    assert lines[1].startswith("iteration 1/2")
    assert "policy 1/2" in lines[1]
    assert "ended: training_iteration reached 2" in lines
    assert [line for line in lines if line.endswith("auxiliary 0/2")]
    assert [line for line in lines if line.startswith("  auxiliary phase 1")]


def test_a_finished_run_goes_on_from_its_checkpoint(repeated):
    ended, _ = repeated
    [checkpoint] = re.findall("checkpoint: (.*)", ended.stdout)
    assert Path(checkpoint, "rllib_checkpoint.json").is_file()
    [command] = re.findall(r"to continue: \S*rllib (.*)", ended.stdout)
    longer = run(*shlex.split(command))
    assert longer.returncode == 0, longer.stderr
    name, results, first, *_ = longer.stdout.splitlines()
    assert name == "name: mine_2, as mine is an earlier run"
    assert results.startswith("results in ")
    assert first.startswith("iteration 3/4")


def test_the_run_can_be_repeated_from_its_folder(a_run, repeated):
    of_run, of_trial = (
        Experiment.from_file(folder / "config.yaml") for folder in (a_run.folder, a_run.trial)
    )
    assert of_run == of_trial
    assert of_run.config == CONFIG
    command = (a_run.trial / "command.txt").read_text()
    assert shlex.split(command)[:3] == ["rllib", "train", "file"]
    assert "--resume" not in command

    _, results = repeated
    # Only up to the interruption: the resumed run started new episodes.
    for result, before in zip(results, a_run.results[: interrupted_in(a_run)], strict=False):
        for path in ("env_runners/episode_return_mean", "learners/default_policy/policy_loss"):
            assert nested(result, path) == pytest.approx(nested(before, path), rel=1e-5)


def nested(result, path):
    for key in path.split("/"):
        result = result[key]
    return result


def wandb_records(a_run):
    """Of both W&B files, one of each part of the run."""
    files = sorted(a_run.trial.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2
    return [record for file in files for record in records(file)]


def test_without_wandb_the_run_goes_on_offline(a_run):
    lines = [line for line in a_run.out.splitlines() if line.startswith("W&B")]
    assert len(lines) == 2
    assert "; logging offline" in lines[0]
    assert re.fullmatch(r"W&B: `wandb sync .*/wandb/offline-run-\S+` uploads it", lines[1])


def test_wandb_has_results_against_env_steps_and_the_config(a_run):
    found = wandb_records(a_run)
    runs = [record for kind, record in found if kind == "run"]
    assert {(r.project, r.run_group) for r in runs} == {("pro", "gr")}
    assert len({r.run_id for r in runs}) == 1
    axes = {r.glob_name: r.step_metric for kind, r in found if kind == "metric" and r.step_metric}
    assert axes == {"*": "num_env_steps_sampled_lifetime"}

    rows = [items(record) for kind, record in found if kind == "history"]
    steps = [row["num_env_steps_sampled_lifetime"] for row in rows]
    assert steps == [r["num_env_steps_sampled_lifetime"] for r in a_run.results]
    assert [row["training_iteration"] for row in rows if CLONE_KL in row] == list(
        range(2, ITERATIONS + 1, 2)
    )
    config = {}
    for kind, record in found:
        if kind == "config":
            config |= items(record)
    # What was given, and what was not.
    assert (config["n_pi"], config["beta_clone"]) == (2, 1.0)


def test_checkpoints_become_artifacts_if_asked_for(a_run):
    [artifact] = [record for kind, record in wandb_records(a_run) if kind == "artifact"]
    assert artifact.type == "model"
    assert "rllib_checkpoint.json" in {entry.path for entry in artifact.manifest.contents}


def test_the_key_is_in_no_file_of_the_run(a_run):
    shown = a_run.out + a_run.err + a_run.resumed.stdout + a_run.resumed.stderr
    assert SECRET not in shown
    places = (a_run.home, a_run.ray_folder)
    files = [path for top in places for path in top.rglob("*") if path.is_file()]
    # All the places that were to be searched are there.
    expected = {"command.txt", "config.yaml", "params.pkl", "result.json", "algorithm_state.pkl"}
    assert expected <= {path.name for path in files}
    assert any(path.suffix == ".wandb" for path in files)
    assert list(a_run.ray_folder.rglob("raylet.out"))
    assert [path for path in files if holds(path.read_bytes(), SECRET.encode())] == []


@pytest.mark.long
def test_an_episode_of_each_evaluation_is_filmed(tmp_path):
    config = {
        "num_env_runners": 0,
        "num_envs_per_env_runner": 4,
        "rollout_fragment_length": 256,
        "segment_length": 1,
        "env_config": {"distribution_mode": "easy", "num_levels": 20},
        "evaluation_config": {"env_config": {"distribution_mode": "easy", "num_levels": 0}},
        "evaluation_interval": 1,
        "evaluation_duration": 1,
        "n_pi": 0,
        "model_config": {"impala_channels": [4], "impala_dense": 8},
    }
    ended = run(
        *("train", "-a", "PPG", "-e", "procgen-fruitbot-v0", "-c", json.dumps(config)),
        *("--stop", '{"training_iteration": 1}', "--storage-path", tmp_path),
        *("--track", "--wandb-mode", "offline", "--wandb-videos"),
    )
    assert ended.returncode == 0, ended.stderr
    assert "logging offline" not in ended.stdout  # that is what was asked for
    [file] = tmp_path.glob("*/*/wandb/offline-run-*/*.wandb")
    [row] = [items(record) for kind, record in records(file) if kind == "history"]
    video = file.parent / "files" / row["evaluation/video/path"]
    assert video.read_bytes()[4:8] == b"ftyp"  # an MP4 file; what videos show: test_record.py
    # Procgen's own metrics are there, too.
    [result] = [json.loads(path.read_text()) for path in tmp_path.glob("*/*/result.json")]
    assert "generalization_gap" in result["evaluation"]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ("--wandb-project x", "--wandb-project has no effect without --track"),
        ("--track --wandb-videos", "--set evaluation_interval=N"),
        ("--track --wandb-videos -a PPO", "works with PPG only"),
        ("--track --wandb-mode of", "'of' is not one of 'online', 'offline'"),
    ],
)
def test_tracking_options_that_make_no_sense(rllib, options, complaint):
    ended = rllib("train", "-a", "PPG", "-e", "CartPole-v1", *options.split())
    assert ended.returncode == 2
    assert complaint in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.long
def test_a_sweep_ends_with_a_table_and_pictures_also_at_a_uri(tmp_path):
    """An fsspec filesystem is not pyarrow's local one, so it stands for a bucket."""
    storage = f"fsspec+file://{tmp_path}"
    config = CONFIG | {"n_pi": {"grid_search": [1, 2]}, "seed": {"grid_search": [0, 1]}}
    ended = run(
        *("train", "-a", "PPG", "-c", json.dumps(config), "-n", "sweep"),
        *("--stop", '{"training_iteration": 2}', "--storage-path", storage, "--checkpoint-at-end"),
    )
    assert ended.returncode == 0, ended.stderr
    assert f"results: {storage}/sweep\n" in ended.stdout
    head, *lines = ended.stdout[ended.stdout.index("environment ") :].splitlines()
    assert head.split("  ")[0] == "environment"
    results = [
        json.loads(path.read_text().splitlines()[-1])
        for path in (tmp_path / "sweep").glob("PPG_*/result.json")
    ]
    by_n_pi = {
        n_pi: [
            r["env_runners"]["episode_return_mean"] for r in results if r["config"]["n_pi"] == n_pi
        ]
        for n_pi in (1, 2)
    }
    best_first = sorted(by_n_pi, key=lambda n_pi: -statistics.fmean(by_n_pi[n_pi]))
    for line, n_pi in zip(lines, best_first, strict=False):
        returns = by_n_pi[n_pi]
        mean, spread = statistics.fmean(returns), statistics.stdev(returns)
        assert line.split()[1:6] == [f"n_pi={n_pi}", f"{mean:.1f}", "+-", f"{spread:.1f}", "2"]
    for picture in ("sweep", "curves"):
        assert f"plot: {storage}/sweep/{picture}.png" in ended.stdout
        assert (tmp_path / "sweep" / f"{picture}.png").read_bytes()[:4] == b"\x89PNG"

    [trial] = (tmp_path / "sweep").glob("PPG_*n_pi=2*seed=1*")
    restored = run(
        *("train", "-a", "PPG", "-c", json.dumps(CONFIG), "-n", "restored", "--checkpoint-at-end"),
        *("--stop", '{"training_iteration": 3}', "--storage-path", storage),
        *("--restore", f"{storage}/sweep/{trial.name}/checkpoint_000000"),
    )
    assert restored.returncode == 0, restored.stderr
    assert re.findall(r"^iteration (\d+)/3", restored.stdout, re.MULTILINE) == ["3"]
    [checkpoint] = re.findall("^checkpoint: (.*)", restored.stdout, re.MULTILINE)
    assert checkpoint.startswith(f"{storage}/restored/PPG_")
    assert f"--restore {checkpoint} --stop" in restored.stdout


@pytest.mark.parametrize("call", ["init", "log"])
def test_a_tracker_that_fails_does_not_fail_the_run(monkeypatch, tmp_path, capsys, call):
    error = wandb.errors.CommError("the service is down")
    of_run = Mock(log=Mock(side_effect=error), dir=str(tmp_path))
    init = Mock(side_effect=error) if call == "init" else Mock(return_value=of_run)
    monkeypatch.setattr(wandb, "init", init)
    logger = WandbLogger(mode="offline")
    trial = Mock(path=None, local_path=str(tmp_path))
    logger.setup()
    logger.log_trial_start(trial)
    logger.log_trial_result(1, trial, {"training_iteration": 1})
    logger.log_trial_save(trial)
    logger.log_trial_end(trial)
    out = capsys.readouterr().out
    assert out.startswith("W&B: the service is down; ")
    assert out.count("\n") == 1

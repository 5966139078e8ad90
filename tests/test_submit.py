"""`rllib submit`: what it checks here, what it sends, and what comes back."""

from pathlib import Path

import pytest
import yaml

from rllib_ppg_cli import job, main
from rllib_ppg_cli.outcome import SUBMITTED
from tests.support.command import run
from tests.support.nodes import Nodes, path_with_python

JOB = job.Job("x", 0)
NOWHERE = "http://127.0.0.1:9"  # nobody listens there


@pytest.fixture
def quiet(monkeypatch):
    """Leaves this process's logging, environment and warnings alone."""
    monkeypatch.setattr("rllib_ppg_cli.command.keep_quiet", lambda verbose: None)


@pytest.fixture
def experiment(tmp_path):
    """A Python experiment that needs a file beside it."""
    (tmp_path / "neighbour.py").write_text("STEPS = 32\n")
    file = tmp_path / "exp.py"
    file.write_text(
        "from neighbour import STEPS\n"
        "from rllib_ppg import PPGConfig\n"
        "config = PPGConfig().environment('CartPole-v1').debugging(seed=4)\n"
        "config.env_runners(num_env_runners=0, num_envs_per_env_runner=8,\n"
        "                   rollout_fragment_length=STEPS)\n"
        "config.training(n_pi=1, e_aux=1, num_aux_minibatches=4)\n"
    )
    return file


def runtime_env(folder, **content):
    file = folder / "env.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_a_job_server_that_is_not_there(rllib):
    done = rllib("submit", "cartpole", "--address", NOWHERE)
    assert done.returncode == 2
    assert f"no job server answers at {NOWHERE}" in done.stderr
    assert "ray[default]" in done.stderr
    done = rllib("submit", "--attach", "raysubmit_x", "--address", NOWHERE)
    assert done.returncode == 2


def test_the_address_that_is_given_is_the_one_that_counts(rllib, monkeypatch):
    """Ray would rather go by these; and RAY_ADDRESS is for `rllib train`."""
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:10")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:11")
    done = rllib("submit", "--attach", "raysubmit_x", "--address", "127.0.0.1:9")
    assert f"no job server answers at {NOWHERE}" in done.stderr
    done = rllib("submit", "--attach", "raysubmit_x")
    assert "no job server answers at http://127.0.0.1:11" in done.stderr


@pytest.mark.parametrize(
    "words, sentence",
    [
        (("cartpole", "--storage-path", "runs"), "an absolute path of the cluster"),
        (("--algo", "PPG", "--env", "CartPole-v1", "--resume"), "--resume needs the name"),
        (("cartpole", "--resume", "-n", "sweep/a"), "must be the name of a folder"),
        (
            ("cartpole", "--as-test", "--stop", "{training_iteration: 1}"),
            "--as-test needs a return",
        ),
        (("cartpole", "--attach", "raysubmit_x"), "file is for a new one"),
        (("cartpole", "--set", "n_pii=2"), "n_pi"),
        (("cartpol",), "did you mean 'cartpole'"),
        (("cartpole", "--ray-address", "auto"), "No such option '--ray-address'"),
        ((), "give an algorithm"),
    ],
)
def test_mistakes_are_found_before_anything_is_sent(rllib, words, sentence):
    done = rllib("submit", *words, "--address", NOWHERE)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "job server" not in done.stderr


def test_a_file_outside_of_the_working_dir(rllib, tmp_path, experiment):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    env = runtime_env(tmp_path, working_dir=str(folder))
    done = rllib("submit", experiment, "--runtime-env", env, "--address", NOWHERE)
    assert done.returncode == 2
    assert f"{experiment} must lie in the runtime environment's working_dir" in done.stderr


def test_a_runtime_env_that_is_none(rllib, tmp_path):
    file = tmp_path / "env.yaml"
    file.write_text("- pip\n")
    done = rllib("submit", "cartpole", "--runtime-env", file, "--address", NOWHERE)
    assert done.returncode == 2
    assert "must be a mapping" in done.stderr
    file.write_text("py_modules: foo\n")
    done = rllib("submit", "cartpole", "--runtime-env", file, "--address", NOWHERE)
    assert "must be a list, not 'foo'" in done.stderr
    file.write_text("a: !!python/object/apply:os.getcwd []\n")
    done = rllib("submit", "cartpole", "--runtime-env", file, "--address", NOWHERE)
    assert done.returncode == 2
    assert "is not valid YAML" in done.stderr


def test_the_extra_is_named_where_it_is_missing():
    with pytest.raises(ValueError, match=r"pip install 'rllib-ppg\[cluster\]'"), job._sentences(""):
        raise RuntimeError("The Ray jobs CLI & SDK require the ray[default] installation: ...")


def test_the_words_of_a_job(monkeypatch, quiet):
    """They are the user's own, without those that are for `submit`."""
    sent = {}
    monkeypatch.setattr(
        job.Job,
        "submit",
        lambda *args, **kwargs: sent.update(args=args, **kwargs) or job.Job("x", 0),
    )
    argv = ["submit", "--no-wait", "--address=http://a:1", "-n", "cartpole", "cartpole", "--seed"]
    argv += ["3", "--storage-path", "s3://bucket/runs", "--restore", "/there"]
    assert main(["".join(word) for word in argv]) == 0  # separate objects, as from a shell
    address, command, env = sent["args"]
    assert address == "http://a:1"
    assert command[:3] == ["train", "file", "cartpole.yaml"]
    rest = "-n cartpole --seed 3 --storage-path s3://bucket/runs --restore /there"
    assert command[3:] == rest.split()
    assert set(env) == {"working_dir", "py_modules", "env_vars"}
    assert {Path(folder).name for folder in env["py_modules"]} == {"rllib_ppg", "rllib_ppg_cli"}


@pytest.mark.parametrize(
    ("words", "results"),
    [
        ("-n mine", "results: ~/ray_results/mine on the cluster"),
        ("--storage-path /nfs/runs", "results: /nfs/runs/cartpole on the cluster"),
        (
            "--storage-path s3://bucket/runs",
            "results: s3://bucket/runs/cartpole\n"
            "to plot them: rllib plot s3://bucket/runs/cartpole\n",
        ),
    ],
)
def test_a_job_s_results_and_how_to_follow_it(monkeypatch, quiet, capsys, words, results):
    sent = []
    monkeypatch.setattr(job.Job, "submit", lambda _, __, env: sent.append(env) or JOB)
    monkeypatch.setattr(job.Job, "find", lambda *_: JOB)
    address = "--address http://a:1"
    assert main(f"submit cartpole --no-wait {words} {address}".split()) == 0
    out = capsys.readouterr().out
    assert f"submitted x to http://a:1\n{results}" in out
    follow = f"to follow it: rllib submit --attach x {address}\n"
    assert follow in out
    assert address in sent[0]["env_vars"][SUBMITTED]  # for the commands that the job prints
    assert main(f"submit --attach x --no-wait {address}".split()) == 0
    assert follow in capsys.readouterr().out


@pytest.mark.cluster  # it starts nodes, as the others of that suite
def test_a_job_trains_and_says_where_its_results_are(monkeypatch, tmp_path, experiment):
    path_with_python(monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with Nodes() as nodes:
        nodes.add_learner()
        env = runtime_env(tmp_path, working_dir=str(tmp_path))
        done = run(
            *("submit", experiment, "--runtime-env", env, "--address", nodes.job_server),
            *("--storage-path", f"file://{tmp_path}/runs"),
            *("--stop", "{training_iteration: 2}", "--checkpoint-at-end"),
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "512 steps" in done.stdout or "iteration 2/2" in done.stdout
    assert f"to plot them: rllib plot file://{tmp_path}/runs/exp\n" in done.stdout
    (trial,) = (tmp_path / "runs" / "exp").glob("PPG_*")
    assert (trial / "progress.csv").is_file()
    assert (trial / "experiment.py").read_text() == experiment.read_text()
    assert f"to continue: rllib submit {experiment} --address http" in done.stdout

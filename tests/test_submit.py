"""`rllib submit`: what it checks here, what it sends, and what comes back."""

import io
import subprocess
import sys
import tarfile
from types import SimpleNamespace

import pytest
import yaml

from rllib_ppg.cli import job, pack, submit
from rllib_ppg.cli.parser import make_parser
from rllib_ppg.cli.report import SUBMITTED
from tests.support.command import run
from tests.support.nodes import Nodes, path_with_python

JOB = job.Job("x", 0)
NOWHERE = "http://127.0.0.1:9"  # nobody listens there


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


def test_a_job_server_that_is_not_there():
    done = run("submit", "cartpole", "--address", NOWHERE)
    assert done.returncode == 2
    assert f"no job server answers at {NOWHERE}" in done.stderr
    assert "ray[default]" in done.stderr
    done = run("submit", "--attach", "raysubmit_x", "--address", NOWHERE)
    assert done.returncode == 2


def test_the_address_that_is_given_is_the_one_that_counts(monkeypatch):
    """Ray would rather go by these; and RAY_ADDRESS is for `rllib train`."""
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:10")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:11")
    done = run("submit", "--attach", "raysubmit_x", "--address", "127.0.0.1:9")
    assert f"no job server answers at {NOWHERE}" in done.stderr
    done = run("submit", "--attach", "raysubmit_x")
    assert "no job server answers at http://127.0.0.1:11" in done.stderr


@pytest.mark.parametrize(
    "words, sentence",
    [
        (("cartpole", "--storage-path", "runs"), "an absolute path of the cluster"),
        (("--algo", "PPG", "--env", "CartPole-v1", "--resume"), "--resume needs the name"),
        (
            ("cartpole", "--as-test", "--stop", "{training_iteration: 1}"),
            "--as-test needs a return",
        ),
        (("cartpole", "--attach", "raysubmit_x"), "file is for a new one"),
        (("cartpole", "--set", "n_pii=2"), "n_pi"),
        (("cartpol",), "did you mean 'cartpole'"),
        (("cartpole", "--ray-address", "auto"), "there is no option --ray-address"),
        ((), "give an algorithm"),
    ],
)
def test_mistakes_are_found_before_anything_is_sent(words, sentence):
    done = run("submit", *words, "--address", NOWHERE)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "job server" not in done.stderr


def test_a_file_outside_of_the_working_dir(tmp_path, experiment):
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    env = runtime_env(tmp_path, working_dir=str(folder))
    done = run("submit", experiment, "--runtime-env", env, "--address", NOWHERE)
    assert done.returncode == 2
    assert f"{experiment} must lie in the runtime environment's working_dir" in done.stderr


def test_a_runtime_env_that_is_none(tmp_path):
    file = tmp_path / "env.yaml"
    file.write_text("- pip\n")
    done = run("submit", "cartpole", "--runtime-env", file, "--address", NOWHERE)
    assert done.returncode == 2
    assert "must be a mapping" in done.stderr
    file.write_text("py_modules: foo\n")
    done = run("submit", "cartpole", "--runtime-env", file, "--address", NOWHERE)
    assert "must be a list, not 'foo'" in done.stderr
    file.write_text("a: !!python/object/apply:os.getcwd []\n")
    done = run("submit", "cartpole", "--runtime-env", file, "--address", NOWHERE)
    assert done.returncode == 2
    assert "is not valid YAML" in done.stderr


def test_the_extra_is_named_where_it_is_missing():
    with pytest.raises(ValueError, match=r"pip install 'rllib-ppg\[cluster\]'"), job._sentences(""):
        raise RuntimeError("The Ray jobs CLI & SDK require the ray[default] installation: ...")


def test_the_words_of_a_job(monkeypatch, tmp_path):
    """They are the user's own, without those that are for `submit`."""
    sent = {}
    monkeypatch.setattr(
        job.Job,
        "submit",
        lambda *args, **kwargs: sent.update(args=args, **kwargs) or job.Job("x", 0),
    )
    argv = ["submit", "--no-wait", "--address=http://a:1", "-n", "cartpole", "cartpole", "--seed"]
    argv += ["3", "--results", "here", "--storage-path", "s3://bucket/runs", "--restore", "/there"]
    argv = ["".join(word) for word in argv]  # objects of their own, as a shell's are
    args = make_parser().parse_args(argv)
    assert submit.main(args, argv) == 0
    address, command, env = sent["args"]
    assert address == "http://a:1"
    assert command[:3] == ["train", "file", "cartpole.yaml"]
    rest = "-n cartpole --seed 3 --storage-path s3://bucket/runs --restore /there"
    assert command[3:] == rest.split()
    assert sent["results"] == "s3://bucket/runs/cartpole"
    assert set(env) == {"working_dir", "py_modules", "env_vars"}


def test_how_to_follow_a_job_tells_where_its_results_go(monkeypatch, tmp_path, capsys):
    sent = []
    monkeypatch.setattr(job.Job, "submit", lambda _, __, env, **___: sent.append(env) or JOB)
    monkeypatch.setattr(job.Job, "find", lambda *_: JOB)
    there = f"--results {tmp_path / 'here'}"
    for words in (f"cartpole --no-wait {there}", f"--attach x --no-wait {there}"):
        argv = ["submit", *words.split(), "--address", "http://a:1"]
        assert submit.main(make_parser().parse_args(argv), argv) == 0
        follow = f"rllib submit --attach x --address http://a:1 {there}"
        assert f"to follow it: {follow}\n" in capsys.readouterr().out
    assert there in sent[0]["env_vars"][SUBMITTED]  # in what the job itself says of going on


@pytest.mark.cluster  # it starts nodes, as the others of that suite
def test_a_job_trains_and_its_results_come_here(monkeypatch, tmp_path, experiment):
    path_with_python(monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with Nodes() as nodes:
        nodes.add_learner()
        env = runtime_env(tmp_path, working_dir=str(tmp_path))
        done = run(
            *("submit", experiment, "--runtime-env", env, "--results", tmp_path / "here"),
            *("--address", nodes.job_server),
            *("--stop", "{training_iteration: 2}", "--checkpoint-at-end"),
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "512 steps" in done.stdout or "iteration 2/2" in done.stdout
    (trial,) = (tmp_path / "here" / "exp").glob("PPG_*")
    assert (trial / "progress.csv").is_file()
    assert (trial / "experiment.py").read_text() == experiment.read_text()
    assert f"to go on: rllib submit {experiment} --address http" in done.stdout


def test_a_run_of_this_machine_is_not_overwritten(tmp_path):
    there, here = results(tmp_path / "there", 13), tmp_path / "here"
    (here / "exp").mkdir(parents=True)
    (here / "exp" / "tuner.pkl").write_text("local")

    class Client:
        """A job server whose cluster is this machine."""

        def get_job_info(self, job_id):
            metadata = {"results": str(there)}
            return SimpleNamespace(
                metadata=metadata, driver_exit_code=0, status="SUCCEEDED", runtime_env={}
            )

        def submit_job(self, entrypoint, runtime_env):
            self.words = entrypoint.split()
            return "packing"

        def get_job_status(self, job_id):
            return SimpleNamespace(is_terminal=lambda: True)

        def get_job_logs(self, job_id):
            words = [sys.executable, *self.words[1:]]
            return subprocess.run(words, capture_output=True, text=True, check=True).stdout

    first = job.Job("raysubmit_1", Client())
    for _ in range(2):  # also when it is fetched again
        assert f"fetched to {here}/exp_raysubmit_1: 3 files" in first.fetch(here)
    assert (here / "exp" / "tuner.pkl").read_text() == "local"
    assert (here / "exp_raysubmit_1/trial/progress.csv").is_file()


# -- What is fetched ------------------------------------------------------------------------------


def results(folder, checkpoint_bytes):
    for name, size in {
        "exp/config.yaml": 5,
        "exp/trial/progress.csv": 7,
        "exp/trial/checkpoint_000000/state.pkl": checkpoint_bytes,
        "exp/trial/checkpoint_000000/replay/0000.npy": 11,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x" * size)
    return folder / "exp"


def packed(folder):
    words, archive = pack.pack(str(folder))
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return words, {member.name: member.size for member in tar}


@pytest.mark.parametrize("place", ["runs", "replay/checkpoint_7"])
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_all_but_replay_lists_is_fetched(tmp_path, scheme, place):
    words, files = packed(f"{scheme}{results(tmp_path / place, 13)}")
    assert files == {
        "config.yaml": 5,
        "trial/progress.csv": 7,
        "trial/checkpoint_000000/state.pkl": 13,
    }
    assert words == "3 files, 0.0 MB"


def test_large_checkpoints_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(pack, "_MAX_BYTES", 20)
    words, files = packed(results(tmp_path, 13))
    assert set(files) == {"config.yaml", "trial/progress.csv"}
    assert f"they stay in {tmp_path}/exp" in words


def test_a_run_that_is_too_large_for_a_log(tmp_path, monkeypatch):
    monkeypatch.setattr(pack, "_MAX_BYTES", 3)
    with pytest.raises(ValueError, match="too much for a log"):
        pack.pack(str(results(tmp_path, 13)))


def test_nothing_to_fetch(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        pack.pack(str(tmp_path / "exp"))

"""Keys in the environment do not end up in a run's settings; for its files see test_run.py."""

import io
import json
import zipfile
import zlib

import pytest

from rllib_ppg.experiments.experiment import Experiment
from rllib_ppg_cli import redact
from tests.support.secrets import holds

SECRET = "sentinel" + "0123456789" * 4
CONFIG = {
    "env": "CartPole-v1",
    "num_env_runners": 1,
    "num_envs_per_env_runner": 4,
    "rollout_fragment_length": 32,
    "segment_length": 1,
    "n_pi": 1,
    "e_aux": 1,
}


def test_a_key_is_found_where_it_is():
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a", f"x{SECRET}y")
    for data in (SECRET.encode(), packed.getvalue(), zlib.compress(SECRET.encode())):
        assert holds(data, SECRET.encode())
    assert not holds(b"sentinel", SECRET.encode())


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("train", ["--set", f"env_config.key={SECRET}"]),
        ("submit", ["--config", json.dumps({"env_config": {"url": f"https://me:{SECRET}@host"}})]),
        ("train", ["--set", "env_config.WANDB_API_KEY=unknown-to-the-environment"]),
        ("train", ["--storage-path", f"s3://me:{SECRET}@bucket"]),
    ],
)
def test_a_key_among_the_options_is_refused(rllib, monkeypatch, command, words, tmp_path):
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("HOME", str(tmp_path))
    ended = rllib(command, "-a", "PPG", "-e", "CartPole-v1", *words)
    assert ended.returncode == 2
    assert ended.stderr.startswith("rllib: error: the value of WANDB_API_KEY is in the run's")
    assert ended.stderr.count("\n") == 1
    assert SECRET not in ended.stdout + ended.stderr
    assert "unknown-to" not in ended.stderr


def test_a_key_in_a_file_is_refused(rllib, monkeypatch, tmp_path):
    file = tmp_path / "mine.yaml"
    config = CONFIG | {"env_config": {"nested": [SECRET]}}
    file.write_text(json.dumps({"mine": {"run": "PPG", "config": config}}))
    monkeypatch.setenv("MY_PASSWORD", SECRET)
    ended = rllib("train", "file", file)
    assert ended.returncode == 2
    assert "the value of MY_PASSWORD" in ended.stderr


@pytest.mark.parametrize(
    "secret", ['it\'s "quoted" 8', "back\\slash\\n", "two\nlines-of-it", "käse-kuchen"]
)
def test_a_key_is_found_however_it_is_spelled(rllib, monkeypatch, tmp_path, secret):
    monkeypatch.setenv("MY_TOKEN", secret)
    file = tmp_path / "mine.yaml"
    file.write_text(
        json.dumps({"mine": {"run": "PPG", "config": CONFIG | {"env_config": {"k": secret}}}})
    )
    python = tmp_path / "mine.py"
    python.write_text(f"TOKEN = {secret!r}\nconfig = {CONFIG!r}\n")
    config = json.dumps({"env_config": {"k": [secret]}})
    for words in (["file", file], ["file", python], ["-a", "PPG", "--config", config]):
        ended = rllib("train", *words)
        assert ended.returncode == 2
        assert "the value of MY_TOKEN" in ended.stderr, words
    assert secret not in redact.redact(f"no such file {secret!r}, {secret}, {json.dumps(secret)}")


def test_a_python_file_may_read_a_key_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("MY_TOKEN", SECRET)
    python = tmp_path / "mine.py"
    python.write_text(
        '"""Run it with MY_TOKEN=..."""\nimport os\nMY_TOKEN = os.environ["MY_TOKEN"]\n'
    )
    redact.check_run(["train"], Experiment("PPG"), python)


def test_a_complaint_does_not_repeat_a_key(rllib):
    ended = rllib("train", "-a", "PPG", f"WANDB_API_KEY={SECRET}")
    assert ended.returncode == 2
    assert "WANDB_API_KEY=***" in ended.stderr
    assert SECRET not in ended.stderr


def test_other_settings_are_left_alone(monkeypatch):
    monkeypatch.setenv("SHORT_TOKEN", "ppg")
    for text in ("pad_token: 3", "num_tokens=4", "ppg", "{'token': 'x'}", "n_pi=4"):
        redact.check([text])
        assert redact.redact(text) == text

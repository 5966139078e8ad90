"""`rllib export --out FOLDER`: the folder, its script without Ray or torch, and the Hub."""

import base64
import json
import pickle
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from ray.rllib.core.rl_module.rl_module import RLModule
from ray.tune.registry import register_env

from rllib_ppg import load_policy
from rllib_ppg.evaluation.onnx import compare, to_onnx
from rllib_ppg.experiments.experiment import Experiment
from rllib_ppg.networks.observation_filter import MeanStdFilter
from rllib_ppg.publishing.policy_folder import folder_texts
from rllib_ppg.publishing.returns import returns_of_training
from rllib_ppg_cli import main
from tests.support.checkpoints import SMALL_CNN, ppo
from tests.support.command import run
from tests.support.envs import AnySpaces, Masked, NextStepCounting, Target
from tests.support.trial_folders import write_trial

ROOT = Path(__file__).parents[1]
MODULE = "checkpoint_000000/learner_group/learner/rl_module/default_policy"
TOKEN = "hf_sentinel0123456789"

# A process that can't import Ray, torch and this package, whichever way they are installed.
ISOLATED = f"""
import pickle, runpy, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ray", "torch", "rllib_ppg", "rllib_ppg_cli"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
sys.path.insert(0, {str(ROOT)!r})  # for the tests' envs
for name in ("ray", "torch", "rllib_ppg"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{{name}} can be imported")
script, results, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = script
"""
# Records what the env is asked and answers; `observe` and `act` are gym3's.
PLAYS = """
import onnxruntime, numpy as np
seen = []
run = onnxruntime.InferenceSession.run
def record(self, names, inputs):
    outputs = run(self, names, inputs)
    seen.append((inputs, outputs))
    return outputs
onnxruntime.InferenceSession.run = record
played = runpy.run_path(script, run_name="__main__")
with open(results, "wb") as file:
    pickle.dump([(seen, played["total"])], file)
"""
# Calls the function that a script has instead, on the observations of an episode.
ACTS = """
import inspect
act = runpy.run_path(script)["act"]
has_state = "state" in inspect.signature(act).parameters
with open(results, "rb") as file:
    observations = pickle.load(file)
taken, state = [], ()
for obs in observations:
    taken.append(act(obs, *state, deterministic="--deterministic" in sys.argv))
    if has_state:
        taken[-1], *state = taken[-1]
with open(results, "wb") as file:
    pickle.dump(taken, file)
"""


def isolated(code, script, results, *words):
    ended = subprocess.run(
        [sys.executable, "-I", "-c", ISOLATED + code, str(script), str(results), *words],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert ended.returncode == 0, ended.stderr
    return pickle.loads(results.read_bytes()), ended.stdout


@pytest.fixture
def export(quiet, tmp_path, capsys):
    """Exports a checkpoint as a folder."""

    def export(path, *words):
        folder = tmp_path / "published"
        assert main(["export", path, "--out", str(folder), *words]) == 0, capsys.readouterr().err
        return folder

    return export


@pytest.fixture
def script(tmp_path):
    """Writes a policy's model and script, without the rest of the folder."""

    def write(path):
        policy = load_policy(path)
        model = to_onnx(policy, draws=True)
        assert compare(model, policy).is_rounding
        (tmp_path / "policy.onnx").write_bytes(model)
        (name,) = (texts := folder_texts(policy, ())).keys() - {"README.md", "config.yaml"}
        (tmp_path / name).write_text(texts[name])
        return tmp_path / name

    return write


def acts_as_predicted(path, script, tmp_path, n=12):
    """Compares the actions of an `act.py` with those of `predict`, in an episode of n steps."""
    assert script.name == "act.py"
    policy = load_policy(path)
    policy.observation_space.seed(0)
    observations = [policy.observation_space.sample() for _ in range(n)]
    for obs in observations:
        if isinstance(obs, dict) and "action_mask" in obs:
            obs["action_mask"][[0, -1]] = 1  # all parts of an action have one that is allowed
    (tmp_path / "results").write_bytes(pickle.dumps(observations))
    taken, _ = isolated(ACTS, script, tmp_path / "results", "--deterministic")
    state = None
    for obs, action in zip(observations, taken, strict=True):
        expected, state = policy.predict(obs, state, deterministic=True)
        assert policy.action_space.contains(action)
        for of_script, of_policy in zip(leaves(action), leaves(expected), strict=True):
            np.testing.assert_allclose(of_script, of_policy, rtol=1e-4, atol=1e-5)
    return observations, taken


def leaves(action):
    if isinstance(action, dict):
        return [leaf for key in sorted(action) for leaf in leaves(action[key])]
    if isinstance(action, tuple):
        return [leaf for part in action for leaf in leaves(part)]
    return [action]


EVERYTHING = Dict({
    "observations": Dict({
        "camera": Box(0, 255, (8, 8, 3), np.uint8),
        "gear": Discrete(3, start=2),
        "speed": Box(-100, 100, (2, 2)),
    }),
    "action_mask": MultiBinary(5),
})  # fmt: skip


def test_the_script_acts_as_the_policy_does(checkpoint, script, tmp_path, monkeypatch):
    """An image, a filtered vector with a Discrete part, a mask, and an LSTM, all at once."""
    make = MeanStdFilter.__init__

    def shifted(self, shape):
        make(self, shape)
        self.mean += 30.0
        self.std *= 7.0

    monkeypatch.setattr(MeanStdFilter, "__init__", shifted)
    path = checkpoint(
        AnySpaces,
        {"observation_space": EVERYTHING, "action_space": MultiDiscrete([2, 3])},
        observation_filter="MeanStdFilter",
        model_config=SMALL_CNN | {"use_lstm": True, "lstm_cell_size": 8},
    )
    monkeypatch.setattr(MeanStdFilter, "__init__", make)
    observations, taken = acts_as_predicted(path, script(path), tmp_path)
    for obs, action in zip(observations, taken, strict=True):
        mask = np.split(obs["action_mask"], [2])
        assert all(allowed[a] for allowed, a in zip(mask, action, strict=True))


def test_a_published_policy(checkpoint, export, hub, rllib, tmp_path):
    """The whole way: export, push, play without Ray, load, train again."""
    path = checkpoint("CartPole-v1", observation_filter="MeanStdFilter", iterations=2)
    folder = export(path, "--episodes", "3", "--push", "me/ppg-cartpole")
    names = {"policy.onnx", "play.py", "README.md", "config.yaml", "checkpoint_000000"}
    assert {file.name for file in folder.iterdir()} == names
    files = {f.relative_to(folder).as_posix(): f for f in folder.rglob("*") if f.is_file()}

    [(repo, pushed)] = hub.commits
    assert repo == "me/ppg-cartpole"
    assert pushed == {name: file.read_bytes() for name, file in files.items()}
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert not any(TOKEN.encode() in data for data in pushed.values())

    policy = load_policy(folder)
    assert policy.env_steps == load_policy(path).env_steps
    [(seen, total)], shown = isolated(PLAYS, folder / "play.py", tmp_path / "seen")
    assert shown == f"return: {total}\n" == f"return: {float(len(seen))}\n"
    rng = np.random.default_rng(0)
    module = RLModule.from_checkpoint(folder / MODULE)
    for inputs, [[action]] in seen:  # a draw by the Gumbel-max trick, with the script's seed
        with torch.no_grad():
            out = module.forward_inference({"obs": torch.from_numpy(inputs["obs"])})
        noise = rng.gumbel(size=(1, 2)).astype(np.float32)
        assert action == (out["action_dist_inputs"].numpy() + noise).argmax()

    text = (folder / "README.md").read_text()
    _, front, card = text.split("---\n", 2)
    about = yaml.safe_load(front)
    assert about["library_name"] == "rllib-ppg"
    assert {"reinforcement-learning", "CartPole-v1", "ppg"} <= {*about["tags"]}
    [[metric]] = [result["metrics"] for result in about["model-index"][0]["results"]]
    mean, deviation = map(float, metric["value"].split(" +/- "))
    assert f"| evaluation | 3 | {mean:.2f} ± {deviation / 3**0.5:.1f}" in card
    assert "| 0 | sampled |" in card and f"{policy.env_steps} env steps, with seed 0" in card

    Experiment.from_file(folder / "config.yaml").validate()
    [settings] = yaml.safe_load((folder / "config.yaml").read_text()).values()
    assert settings["config"] == {
        "env": "CartPole-v1",
        "num_env_runners": 0,
        "num_envs_per_env_runner": 16,
        "rollout_fragment_length": 2,
        "observation_filter": "MeanStdFilter",
        "seed": 0,
        "log_sys_usage": False,
    }
    given = ("--restore", folder / "checkpoint_000000", "--storage-path", tmp_path / "results")
    ended = rllib("train", "-a", "PPG", "-e", "CartPole-v1", *given)
    assert ended.returncode == 2
    assert "holds a policy without its training, which can't resume" in ended.stderr

    before = {name: file.read_bytes() for name, file in files.items()}
    ended = rllib("export", path, "--out", folder)
    assert ended.returncode == 2
    assert "there is a folder with files in it" in ended.stderr
    assert before == {name: file.read_bytes() for name, file in files.items()}


def test_names_that_are_no_folder_s(rllib, tmp_path):
    for name, word in (("model.pt", "model.pt/"), ("model.onx", "ends in .onnx")):
        ended = rllib("export", "nothing", "--out", tmp_path / name)
        assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
        assert word in ended.stderr
    (tmp_path / "file").touch()
    assert "there is a file" in rllib("export", "nothing", "--out", tmp_path / "file").stderr
    for name in ("model.pt/", "ppg-v1.5", "folder"):  # what is wrong then is the checkpoint
        assert "checkpoint" in rllib("export", "nothing", "--out", f"{tmp_path}/{name}").stderr


def test_what_can_t_be_pushed(rllib, hub, monkeypatch, tmp_path):
    def refused(*words, out=tmp_path / "folder"):
        ended = rllib("export", "nothing", "--out", out, *words)
        assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
        return ended.stderr

    assert "--push is for a folder" in refused("--push", "me/x", out=tmp_path / "a.onnx")
    assert "--episodes is for a folder" in refused("--episodes", "1", out=tmp_path / "a.onnx")
    for name in ("me/you/x", "me/x y", "https://huggingface.co/me/x"):
        assert "a repository is called OWNER/NAME" in refused("--push", name)
    monkeypatch.delenv("HF_TOKEN")
    assert "hf auth login" in refused("--push", "me/x")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install 'rllib-ppg[hub]'" in refused("--push", "me/x")


@pytest.mark.parametrize("status", [401, 500, None])
def test_a_push_that_fails(hub, tmp_path, status):
    from rllib_ppg.publishing.hub import PushError, push_folder

    (tmp_path / "README.md").write_text("# A policy")
    hub.status = status
    if status is None:
        hub.shutdown()
        hub.server_close()
    reason = {401: r"does not let this login write there \(401\)$"}.get(status, "Error: ")
    with pytest.raises(PushError, match=reason) as raised:
        push_folder(tmp_path, "me/x")
    assert "\n" not in str(raised.value)
    assert TOKEN not in str(raised.value)


@pytest.mark.unit
def test_returns_of_the_run_are_those_at_the_checkpoint(tmp_path):
    trial = write_trial(tmp_path, [1.0, 2.0, 3.0], steps=[100, 200, 300])
    config = SimpleNamespace(seed=7, explore=True, metrics_num_episodes_for_smoothing=100)

    def of(folder, env_steps):
        checkpoint = str(folder / "checkpoint_000000")
        return returns_of_training(
            SimpleNamespace(checkpoint=checkpoint, env_steps=env_steps, config=config)
        )

    [found] = of(trial, 200)
    assert (found.mean.mean, found.seed, found.episodes) == (2.0, 7, 100)
    assert of(trial, 99) == of(trial, None) == of(tmp_path, 200) == []


class Hub(ThreadingHTTPServer):
    """A stand-in for huggingface.co: keeps what is pushed."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Requests)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.commits, self.tokens, self.status = [], set(), 200


class _Requests(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self._body()
        hub = self.server
        if token := self.headers["authorization"]:
            hub.tokens.add(token)
        answer = {"error": "no"}
        if hub.status == 200:
            if self.path == "/api/repos/create":
                made = json.loads(body)
                self.server.repo = f"{made['organization']}/{made['name']}"
                answer = {"url": f"{hub.url}/{self.server.repo}"}
            elif self.path == f"/api/models/{hub.repo}/preupload/main":
                plain = {"uploadMode": "regular", "shouldIgnore": False}
                names = [file["path"] for file in json.loads(body)["files"]]
                answer = {"files": [{"path": name, **plain} for name in names]}
            elif self.path == f"/api/models/{hub.repo}/commit/main":
                lines = [json.loads(line) for line in body.splitlines()]
                files = [line["value"] for line in lines if line["key"] == "file"]
                pushed = {file["path"]: base64.b64decode(file["content"]) for file in files}
                hub.commits.append((hub.repo, pushed))
                answer = {"commitUrl": f"{hub.url}/{hub.repo}/commit/0", "commitOid": "0"}
            else:
                answer = {}
        data = json.dumps(answer).encode()
        self.send_response(hub.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST  # noqa: N815

    def _body(self):
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The stand-in, which huggingface_hub reads from its environment when it is imported."""
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
        monkeypatch.delitem(sys.modules, name)
    yield server
    server.shutdown()
    server.server_close()


NESTED = Dict({"b": Discrete(2), "a": Discrete(4)})
CASES = {
    "filter": ({}, {"observation_filter": "MeanStdFilter", "iterations": 1}),
    "box": ({"action_space": Box(np.array([0, -3.0]), np.array([np.inf, 1.0]))}, {}),
    "float64_actions": ({"action_space": Box(-3, 1, (2,), np.float64)}, {}),
    "clipped": (
        {"action_space": Box(-0.01, 0.01, (2,))},
        {"normalize_actions": False, "clip_actions": True},
    ),
    "discrete": ({"action_space": Discrete(3, start=5)}, {}),
    "multi_discrete": ({"action_space": MultiDiscrete([2, 3], start=[1, -1])}, {}),
    "tuple": ({"action_space": Tuple((Discrete(3), Box(-1, 2, (2,)), NESTED))}, {}),
    "flat": (
        {"observation_space": Tuple((Discrete(4), MultiDiscrete([2, 3]), MultiBinary(2)))},
        {},
    ),
    "matrix": ({"observation_space": Box(-1, 1, (3, 2), np.float64)}, {}),
    "float64": ({"observation_space": Box(-1, 1, (3,), np.float64)}, {}),
    "gru": ({}, {"model_config": {"use_lstm": True, "recurrent_cell": "gru", "lstm_cell_size": 8}}),
    "image": (
        {"observation_space": Box(0, 255, (16, 16, 3), np.uint8)},
        {"model_config": SMALL_CNN},
    ),
    "rllib_s_ppo": ({"action_space": Box(-3.0, 1.0, (2,))}, {"config": ppo}),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_scripts_act_as_policies_do(checkpoint, script, tmp_path, case):
    spaces, settings = CASES[case]
    spaces = {"observation_space": Box(-9, 9, (3,)), **spaces}
    path = checkpoint(AnySpaces, spaces, **settings)
    acts_as_predicted(path, script(path), tmp_path)


@pytest.mark.long
def test_sampled_actions_have_the_policy_s_probabilities(checkpoint, script, tmp_path):
    space = Tuple((Discrete(3), Box(-1000, 1000, (1,))))
    inputs = [*np.log([0.2, 0.5, 0.3]), 5.0, np.log(2.0)]
    path = checkpoint(AnySpaces, {"action_space": space}, inputs=inputs, normalize_actions=False)
    (tmp_path / "results").write_bytes(pickle.dumps([np.zeros(3, np.float32)] * 4000))
    taken, _ = isolated(ACTS, script(path), tmp_path / "results")
    discrete, real = (np.array(part) for part in zip(*taken, strict=True))
    # Four standard errors: sqrt(p (1 - p) / 4000) = 0.008, 2 / sqrt(4000) = 0.03.
    np.testing.assert_allclose(np.bincount(discrete) / 4000, [0.2, 0.5, 0.3], atol=0.032)
    assert abs(real.mean() - 5.0) < 0.13
    assert abs(real.std() - 2.0) < 0.1


@pytest.mark.long
@pytest.mark.parametrize(
    ("env", "env_config", "settings"),
    [
        (Masked, {}, {}),  # it raises at an action that the mask forbids
        (Target, {}, {}),
        ("CartPole-v1", {"max_episode_steps": 7}, {"model_config": {"use_lstm": True}}),
        ("FrozenLake-v1", {"is_slippery": False}, {}),
        ("Pendulum-v1", {}, {"observation_filter": "MeanStdFilter"}),
        ("procgen-coinrun-v0", {"distribution_mode": "easy"}, {"model_config": SMALL_CNN}),
        ("procgen-maze-v0", {"distribution_mode": "exploration"}, {"model_config": SMALL_CNN}),
        ("atari-pong-v5", {"max_num_frames_per_episode": 400}, {"model_config": SMALL_CNN}),
        ("tests.support.envs:KeywordCounting", {"length": 3}, {}),
    ],
)
def test_scripts_play(checkpoint, script, tmp_path, env, env_config, settings):
    path = checkpoint(env, env_config, **settings)
    script = script(path)
    assert script.name == "play.py"
    [(seen, _)], shown = isolated(PLAYS, script, tmp_path / "seen", "--deterministic")
    assert shown.splitlines()[-1].startswith("return: ")
    policy, state = load_policy(path), None
    if "obs" not in seen[0][0] or policy.module.observation_space != policy.observation_space:
        return  # the model's inputs are no observations of the env
    for inputs, outputs in seen:
        expected, state = policy.predict(inputs["obs"][0], state, deterministic=True)
        np.testing.assert_allclose(outputs[0][0], expected, rtol=1e-4, atol=1e-5)
    if "max_episode_steps" in env_config:
        assert len(seen) <= 7


def test_the_experiment_has_a_name_without_slashes(checkpoint):
    policy = load_policy(checkpoint("tests/support/envs.py:Counting", {"length": 3}))
    assert "PPG-tests_support_envs.py:Counting:" in folder_texts(policy, ())["config.yaml"]


@pytest.mark.long
def test_envs_that_need_ray_get_a_script_without_an_env(checkpoint, script):
    register_env("known-to-ray", lambda _: gym.make("CartPole-v1"))
    path = checkpoint("known-to-ray")
    file = script(path)
    assert file.name == "act.py"
    assert "Its env, 'known-to-ray', is known to Ray only." in file.read_text()
    policy = load_policy(path)
    policy.config.environment(NextStepCounting)
    assert "not a single gymnasium env" in folder_texts(policy, ())["act.py"]
    policy.config.environment("there.is:none")
    assert "there is no module there" in folder_texts(policy, ())["act.py"]


@pytest.mark.long
def test_the_commands_take_the_folder(checkpoint, export, tmp_path):
    path = checkpoint("CartPole-v1", iterations=1)
    folder = export(path)
    ended = run("evaluate", folder, "--episodes", "4", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "after 32 env steps" in ended.stdout
    ended = run("train", "file", folder / "config.yaml", "--dry-run", cwd=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")

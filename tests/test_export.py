"""`rllib export`: the model that is written, run by onnxruntime."""

import sys

import gymnasium as gym
import numpy as np
import onnxruntime
import pytest
import torch
from ray.rllib.connectors.env_to_module import MeanStdFilter
from ray.rllib.core.rl_module.rl_module import RLModule

from rllib_ppg import load_policy
from rllib_ppg.evaluation import onnx
from rllib_ppg_cli import main
from tests.support.checkpoints import SMALL_CNN, ppo
from tests.support.command import run
from tests.support.envs import AnySpaces

MODULE = "learner_group/learner/rl_module/default_policy"


@pytest.fixture
def quiet_main(quiet):
    return main


@pytest.fixture
def export(quiet_main, tmp_path):
    """Exports a checkpoint; returns what runs the model."""

    def export(path):
        out = str(tmp_path / "policy.onnx")
        assert quiet_main(["export", path, "--out", out]) == 0
        return runner(out)

    return export


def runner(out):
    session = onnxruntime.InferenceSession(out)
    names = [output.name for output in session.get_outputs()]

    def run(obs):
        inputs = obs if isinstance(obs, dict) else {"obs": obs}
        return dict(zip(names, session.run(None, inputs), strict=True))

    return run


def dist_inputs(path, obs):
    module = RLModule.from_checkpoint(f"{path}/{MODULE}")
    with torch.no_grad():
        return module.forward_inference({"obs": torch.from_numpy(obs)})[
            "action_dist_inputs"
        ].numpy()


def test_images_and_discrete_actions(checkpoint, tmp_path):
    path = checkpoint("procgen-maze-v0", {"distribution_mode": "easy"}, model_config=SMALL_CNN)
    out = tmp_path / "policy.onnx"
    ended = run("export", tmp_path, "--out", out)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert "largest difference between onnxruntime and torch: action_dist_inputs" in ended.stdout
    run_model = runner(out)
    for B in (1, 5):  # none of them a batch size that it was traced with
        obs = np.random.default_rng(B).integers(0, 256, (B, 64, 64, 3), np.uint8)
        found = run_model(obs)
        expected = dist_inputs(path, obs)
        np.testing.assert_allclose(found["action_dist_inputs"], expected, atol=1e-5)
        np.testing.assert_array_equal(found["actions"], expected.argmax(1))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, lambda mean: np.clip(-3 + (mean + 1) / 2 * 4, -3, 1)),
        (
            {"normalize_actions": False, "clip_actions": True},
            lambda mean: np.clip(mean, -3, 1),
        ),
        ({"normalize_actions": False}, lambda mean: mean),
    ],
)
def test_real_actions_are_as_the_env_takes_them(checkpoint, export, settings, expected):
    spaces = {"action_space": gym.spaces.Box(-3.0, 1.0, (3,))}
    means = np.array([0.25, -7.0, 7.0])
    path = checkpoint(AnySpaces, spaces, inputs=[*means, *[0.0] * 3], **settings)
    found = export(path)(np.zeros((2, 3), np.float32))
    np.testing.assert_allclose(found["actions"], [expected(means)] * 2, rtol=1e-6)


def test_each_dimension_has_its_own_bounds_in_the_model_and_in_predict(checkpoint, export):
    low, high = np.array([0, -np.inf, -1e10, -3.0]), np.array([np.inf, 3.0, 1e10, 1.0])
    space = gym.spaces.Box(low, high, dtype=np.float64)
    means = [-7.0, 0.25, 9.0, 0.5]
    path = checkpoint(AnySpaces, {"action_space": space}, inputs=[*means, *[0.0] * 4])
    found = export(path)(np.zeros((2, 3), np.float32))["actions"]
    np.testing.assert_allclose(found, [[0.0, 2.25, 9.0, 0.0]] * 2)
    action, _ = load_policy(path).predict(np.zeros(3, np.float32), deterministic=True)
    assert space.contains(action)
    np.testing.assert_array_equal(action, found[0])


def test_discrete_actions_count_from_their_start(checkpoint, export):
    spaces = {"action_space": gym.spaces.Discrete(3, start=5)}
    run_model = export(checkpoint(AnySpaces, spaces, inputs=[0.0, 2.0, 1.0]))
    np.testing.assert_array_equal(run_model(np.zeros((2, 3), np.float32))["actions"], [6, 6])


def test_the_observation_filter_is_in_the_model(checkpoint, export, monkeypatch):
    from rllib_ppg.networks.observation_filter import MeanStdFilter as Filter

    make = Filter.__init__

    def shifted(self, shape):
        make(self, shape)
        self.mean += 100.0
        self.std *= 7.0

    monkeypatch.setattr(Filter, "__init__", shifted)
    path = checkpoint("CartPole-v1", observation_filter="MeanStdFilter")
    monkeypatch.setattr(Filter, "__init__", make)
    obs = np.random.default_rng(0).normal(100, 7, (4, 4)).astype(np.float32)
    found = export(path)(obs)["action_dist_inputs"]
    expected = dist_inputs(path, obs)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(expected, axis=0).min() > 1e-4  # unfiltered, they would be clipped to the same


def test_other_actions_leave_the_distribution_s_inputs(checkpoint, export):
    spaces = {"action_space": gym.spaces.MultiDiscrete([2, 3])}
    found = export(checkpoint(AnySpaces, spaces))(np.zeros((2, 3), np.float32))
    assert list(found) == ["action_dist_inputs"]
    assert found["action_dist_inputs"].shape == (2, 5)


def test_the_parts_of_an_observation_are_inputs(checkpoint, export):
    spaces = gym.spaces.Dict({
        "camera": gym.spaces.Box(0, 255, (8, 8, 3), np.uint8),
        "action_mask": gym.spaces.MultiBinary(4),
        "speed": gym.spaces.Box(-1, 1, (2,)),
    })  # fmt: skip
    inner = gym.spaces.Dict({key: spaces[key] for key in ("camera", "speed")})
    space = gym.spaces.Dict({"observations": inner, "action_mask": spaces["action_mask"]})
    run = export(checkpoint(AnySpaces, {"observation_space": space}))
    found = run({
        "observations_camera": np.zeros((2, 8, 8, 3), np.uint8),
        "vector": np.zeros((2, 2), np.float32),
        "action_mask": np.array([[0, 0, 1, 0], [1, 0, 0, 0]], np.uint8),
    })  # fmt: skip
    assert found["actions"].tolist() == [2, 0]


@pytest.mark.unit
def test_observations_are_drawn_where_bounds_are_the_largest_numbers():
    limits = [np.finfo(dtype).max for dtype in (np.float32, np.float64)]
    for limit, dtype in zip(limits, (np.float32, np.float64), strict=True):
        low = np.array([-limit, -limit, 0.0, -1.0], dtype)
        high = np.array([limit, 5.0, limit, 1.0], dtype)
        box = gym.spaces.Box(low, high, dtype=dtype)
        obs = onnx._random_observations(box, 64)
        assert (obs >= low).all() and (obs <= high).all() and np.abs(obs).max() < 100
        parts = gym.spaces.Dict({"b": gym.spaces.Tuple([box]), "a": gym.spaces.Discrete(3)})
        assert [*onnx._sampled(parts)] == [*parts] and onnx._sampled(parts)["b"][0].sample().any()


def test_rllib_s_own_policies(checkpoint, export):
    path = checkpoint("CartPole-v1", config=ppo)
    obs = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    found = export(path)(obs)
    np.testing.assert_allclose(found["action_dist_inputs"], dist_inputs(path, obs), atol=1e-5)


@pytest.mark.parametrize("part", ["action_dist_inputs", "actions"])
def test_a_model_that_computes_something_else_is_not_written(
    checkpoint, quiet_main, monkeypatch, capsys, tmp_path, part
):
    forward = onnx._Network.forward

    def wrong(self, *parts):
        inputs, actions = forward(self, *parts)
        return (inputs + 0.01, actions) if part == "action_dist_inputs" else (inputs, 1 - actions)

    monkeypatch.setattr(onnx._Network, "forward", wrong)
    path = checkpoint("CartPole-v1")
    out = tmp_path / "policy.onnx"
    assert quiet_main(["export", path, "--out", str(out)]) == 1
    assert "beyond rounding" in capsys.readouterr().err
    assert not out.exists()


def test_without_the_extra(checkpoint, quiet_main, monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    path = checkpoint("CartPole-v1")
    assert quiet_main(["export", path, "--out", str(tmp_path / "policy.onnx")]) == 2
    assert "pip install 'rllib-ppg[onnx]'" in capsys.readouterr().err


def test_what_can_t_be_exported(checkpoint, quiet_main, capsys, tmp_path):
    path = checkpoint(
        "CartPole-v1",
        config=lambda: ppo().env_runners(
            env_to_module_connector=lambda env, spaces, device: MeanStdFilter()
        ),
    )
    assert quiet_main(["export", path, "--out", str(tmp_path / "policy.onnx")]) == 2
    assert "env_to_module_connector" in capsys.readouterr().err
    assert quiet_main(["export", path, "--out", str(tmp_path / "policy.pt")]) == 2
    assert "ends in .onnx" in capsys.readouterr().err
    assert quiet_main(["export", path]) == 2
    assert "Missing option '--out'" in capsys.readouterr().err

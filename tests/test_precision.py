"""`aux_precision="auto"`: the learners take bfloat16 where it is native, and a run keeps it."""

import logging

import gymnasium as gym
import numpy as np
import pytest

from rllib_ppg import PPGConfig
from rllib_ppg.learning import precision
from rllib_ppg_cli import precision_hint
from tests.support.learners import make_learner, make_rollout, phases

pytestmark = pytest.mark.unit

IMAGES = gym.spaces.Box(0, 255, (16, 16, 3), np.uint8)


@pytest.fixture(params=[True, False], ids=["native", "emulated"])
def native(request, monkeypatch):
    monkeypatch.setattr(precision, "has_native_bfloat16", lambda device="cpu": request.param)
    return request.param


def trained(**settings):
    """Metrics of the auxiliary phase of a learner, and its weights."""
    weights, _, aux = phases(make_learner(obs=IMAGES, **settings), make_rollout(obs=IMAGES))
    return weights, aux


def test_auto_trains_as_what_it_takes(native):
    weights, aux = trained(aux_precision="auto")
    expected, _ = trained(aux_precision="bfloat16" if native else "float32")
    assert all((w == expected[name]).all() for name, w in weights.items())
    assert {metrics["aux/bfloat16"] for metrics in aux} == {float(native)}


def test_the_choice_is_a_metric_of_auto_alone():
    _, aux = trained()
    assert "aux/bfloat16" not in aux[0]


@pytest.mark.parametrize("devices", [[True, True], [True, False]])
def test_all_learners_need_it(devices):
    class Sums:
        def sums(self, values, device):
            return [float(sum(not native for native in devices))]

    assert precision.choose("auto", Sums(), "cpu") == ("bfloat16" if all(devices) else "float32")


@pytest.mark.parametrize("saved_natively", [True, False])
@pytest.mark.parametrize("setting", ["auto", "float32"])
def test_a_run_keeps_what_its_checkpoint_was_trained_with(
    monkeypatch, caplog, saved_natively, setting
):
    has = "has_native_bfloat16"
    monkeypatch.setattr(precision, has, lambda device: saved_natively)
    state = make_learner(aux_precision="auto").get_state()
    monkeypatch.setattr(precision, has, lambda device: not saved_natively)
    learner = make_learner(aux_precision=setting)
    with caplog.at_level(logging.WARNING):
        learner.set_state(state)
    kept = "bfloat16" if setting == "auto" and saved_natively else "float32"
    assert learner.aux_precision == kept
    # It is emulated here.
    assert ("set aux_precision='float32'" in caplog.text) == (kept == "bfloat16")


@pytest.mark.parametrize(
    ("env", "settings", "said"),
    [
        ("procgen-coinrun-v0", {}, True),
        ("procgen-coinrun-v0", {"aux_precision": "auto"}, False),
        ("procgen-coinrun-v0", {"n_pi": 0}, False),
        ("CartPole-v1", {}, False),
    ],
)
def test_a_machine_that_has_it_is_told_of(native, env, settings, said):
    config = PPGConfig().environment(env).training(**settings)
    space = gym.make(env).observation_space
    assert bool(precision_hint.hint(config, space)) == (said and native)

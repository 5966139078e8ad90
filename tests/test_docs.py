"""The documentation against the code."""

import importlib
import re
from pathlib import Path

import numpy as np
import pytest
from gymnasium.spaces import Box

import rllib_ppg
from rllib_ppg import PPGConfig
from rllib_ppg.metrics import METRICS
from tests.support.envs import AnySpaces

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]


def test_documented_metrics_are_those_of_a_run(build):
    default = (
        PPGConfig()
        .environment(
            AnySpaces, env_config={"observation_space": Box(0, 255, (16, 16, 3), np.uint8)}
        )
        .env_runners(num_env_runners=0, num_envs_per_env_runner=4, rollout_fragment_length=64)
        .rl_module(model_config={"impala_channels": [4], "impala_dense": 16})
        .training(n_pi=1, e_aux=1, segment_length=1, num_minibatches=2, num_aux_minibatches=2)
        .training(augmentation="cutout", augmentation_phase="both")
    )
    successors = default.copy().training(
        arch="shared",
        vf_phase="auxiliary",
        proximal="ewma",
        target_kl=0.01,
        aux_precision="auto",
    )
    recurrent = (
        default.copy()
        .training(segment_length=16)
        .rl_module(model_config={"impala_channels": [4], "use_lstm": True, "lstm_cell_size": 4})
    )
    tanh_units = (
        PPGConfig()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=0, num_envs_per_env_runner=4, rollout_fragment_length=64)
        .training(n_pi=1, e_aux=1, segment_length=1, num_minibatches=2, num_aux_minibatches=2)
    )
    configs = (default, successors, recurrent, tanh_units)
    metrics = {name for config in configs for name in flat(build(config).train())}
    documented = {name for group in METRICS.values() for name in group if "normalized" not in name}
    documented.remove("evaluation/generalization_gap")
    assert documented <= metrics
    of_rllib = re.compile(r"num_|_throughput|timers/(training|restore)|/epoch_\d+/")
    ours = re.compile("ppg/|timers/|learners/default_policy/|env_runners/episode_")
    undocumented = {m for m in metrics - documented if ours.match(m) and not of_rllib.search(m)}
    assert undocumented == set()


def flat(result, prefix=""):
    for key, value in result.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}/")
        else:
            yield prefix + key


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_name_what_exists(page):
    text = page.read_text()
    for path in re.findall(
        r"`((?:rllib_ppg|rllib_ppg_cli|benchmarks|tests|tuned_examples|cluster)/[\w./]*)`", text
    ):
        assert (ROOT / path).exists(), path
    for name in re.findall(r"\brllib_ppg\.([A-Z]\w+|load_policy)", text):
        assert hasattr(rllib_ppg, name), name
    for module, names in re.findall(r"^from (rllib_ppg[\w.]*) import ([\w, ]+)$", text, re.M):
        for name in names.split(", "):
            assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "cluster/README.md"])
def test_links_outside_the_site(page):
    """`mkdocs build --strict` checks those within it."""
    path = ROOT / page
    for link in re.findall(r"\]\((?!http)([^)#\s]+)", path.read_text()):
        assert (path.parent / link).exists(), link

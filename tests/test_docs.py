"""The documentation against the code."""

import re

from rllib_ppg import PPGConfig
from rllib_ppg.metrics import METRICS


def test_documented_metrics_are_those_of_a_run(build):
    config = (
        PPGConfig()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=0, num_envs_per_env_runner=4, rollout_fragment_length=64)
        .training(n_pi=1, e_aux=1, segment_length=1, num_minibatches=2, num_aux_minibatches=2)
    )
    metrics = set(flat(build(config).train()))
    documented = {name for group in METRICS.values() for name in group if "normalized" not in name}
    documented.remove("evaluation/generalization_gap")
    assert documented <= metrics
    of_rllib = re.compile(r"num_|_throughput|timers/(training|restore)")
    ours = re.compile("ppg/|timers/|learners/default_policy/|env_runners/episode_")
    undocumented = {m for m in metrics - documented if ours.match(m) and not of_rllib.search(m)}
    assert undocumented == set()


def flat(result, prefix=""):
    for key, value in result.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}/")
        else:
            yield prefix + key

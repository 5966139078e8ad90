"""Names of the results that `stop`, a scheduler or a checkpoint's score refers to."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches

from rllib_ppg.did_you_mean import did_you_mean
from rllib_ppg.metrics import METRICS

_STEPS = "num_env_steps_sampled_lifetime"
_RETURN = "env_runners/episode_return_mean"
# Names of older versions of RLlib, and of other projects.
_INSTEAD = {
    "episode_reward_mean": _RETURN,
    "episode_reward_min": "env_runners/episode_return_min",
    "episode_reward_max": "env_runners/episode_return_max",
    "sampler_results/episode_reward_mean": _RETURN,
    "evaluation/episode_reward_mean": f"evaluation/{_RETURN}",
    "evaluation/sampler_results/episode_reward_mean": f"evaluation/{_RETURN}",
    "env_runner_results/episode_return_mean": _RETURN,
    "env_runners/episode_reward_mean": _RETURN,
    "episode_return_mean": _RETURN,
    "episode_return_min": "env_runners/episode_return_min",
    "episode_return_max": "env_runners/episode_return_max",
    "episode_len_mean": "env_runners/episode_len_mean",
    "mean_reward": _RETURN,
    "reward": _RETURN,
    "rollout/ep_rew_mean": _RETURN,
    "charts/episodic_return": _RETURN,
    "eval/mean_reward": f"evaluation/{_RETURN}",
    "episodes_total": "env_runners/num_episodes_lifetime",
    "episodes_this_iter": "env_runners/num_episodes",
    "timesteps_total": _STEPS,
    "agent_timesteps_total": _STEPS,
    "num_env_steps_sampled": _STEPS,
    "num_agent_steps_sampled": _STEPS,
    "num_env_steps_trained": "learners/__all_modules__/num_env_steps_trained_lifetime",
    "time/total_timesteps": _STEPS,
    "total_timesteps": _STEPS,
    "global_step": _STEPS,
    "iterations": "training_iteration",
    "num_iterations": "training_iteration",
    "num_healthy_workers": "fault_tolerance/num_healthy_workers",
}
# RLlib's and Tune's own results, in addition to the documented metrics.
_KNOWN = {
    *(name for names in METRICS.values() for name in names),
    _STEPS, "training_iteration", "iterations_since_restore", "time_total_s", "time_this_iter_s",
    "time_since_restore", "timestamp", "env_runners/num_episodes",
    "env_runners/num_episodes_lifetime", "env_runners/num_env_steps_sampled",
    f"env_runners/{_STEPS}", "fault_tolerance/num_healthy_workers",
}  # fmt: skip


def check_result_name(name: str, setting: str, *, all_known: bool) -> None:
    """Checks a name before a run starts.

    Args:
        name: The result's name, with slashes.
        setting: The setting that refers to it.
        all_known: Whether nothing of the user's adds results of its own.

    Raises:
        ValueError: No run has such a result.
    """
    if not all_known or name in _KNOWN:
        return
    if name in _INSTEAD:
        raise ValueError(f"no result is called {name!r}: {setting} means {_INSTEAD[name]}")
    # Modules, agents and losses have names of their own, and so have an evaluation's results.
    if name.startswith(("learners/", "evaluation/")):
        return
    alike = [known for known in _KNOWN if known.count("/") == name.count("/")]
    if near := get_close_matches(name, alike, n=1, cutoff=0.85):
        raise ValueError(f"no result is called {name!r}: did {setting} mean {near[0]}?")


def may_come(name: str) -> bool:
    """Whether a result that the first iteration lacks may come: after an episode or a phase."""
    return name in _KNOWN or name.startswith("evaluation/") or "/aux/" in name


def instead_of(name: str, known: Collection[str]) -> str:
    """The end of an error about a result that is not there: what it is called, if that is known."""
    if name in _INSTEAD:
        return f": it is called {_INSTEAD[name]}"
    return did_you_mean(name, known)


def missing_results(names: Iterable[tuple[str, str]], result: Collection[str]) -> list[str]:
    """A line for each name that the first result lacks, and that is not to come.

    Args:
        names: Names of results, and the settings that refer to them.
        result: Names of the results that there are.
    """
    return [
        f"no result is called {name} so far, and {setting} refers to it{instead_of(name, result)}"
        for name, setting in names
        if name not in result and not may_come(name)
    ]

"""Folders like those that Tune writes of a run, with returns known beforehand."""

import json

import numpy as np


def write_trial(
    run,
    returns,
    *,
    algo="PPG",
    env="CartPole-v1",
    name="0",
    steps=None,
    started=0,
    first_iteration=1,
    defaults=None,
    results=(),
    **given,
):
    """Writes a trial's folder in that of its run.

    Args:
        returns: One an iteration; None where no episode has ended yet.
        steps: Env steps after each iteration; 1000 an iteration.
        defaults: Settings that the algorithm's config has besides those given.
        results: Results in addition to the return, a dict an iteration.
        given: The settings that the user gave.
    """
    folder = run / f"{algo}_{env.replace('/', '_')}_{name}_2026-11-24"
    folder.mkdir(parents=True)
    given = {"env": env, **given}
    (folder / "params.json").write_text(json.dumps(given))
    steps = [1000.0 * (i + 1) for i in range(len(returns))] if steps is None else steps
    with (folder / "result.json").open("w") as file:
        for i, (n, value) in enumerate(zip(steps, returns, strict=True)):
            result = {
                "env_runners": {} if value is None else {"episode_return_mean": value},
                "num_env_steps_sampled_lifetime": n,
                "training_iteration": first_iteration + i,
                "timestamp": started + i,
                "config": {"seed": None, **(defaults or {}), **given},
            }
            if results:
                result["env_runners"] |= results[i].get("env_runners", {})
                result = {**results[i], **result}
            file.write(json.dumps(result) + "\n")
    return folder


def ramp(end, n=20):
    """Returns n returns that grow evenly to `end`."""
    return list(np.linspace(0, end, n + 1)[1:])

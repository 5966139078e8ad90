"""`rllib evaluate`: a checkpoint's returns, on training levels and held-out levels side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ray.rllib.algorithms import AlgorithmConfig

from rllib_ppg._version import versions
from rllib_ppg.envs.procgen_levels import ALL, HELD_OUT, TRAINING, describe
from rllib_ppg.evaluation.scores import NUM_ENVS, Mean, Score, columns, score
from rllib_ppg.evaluation.trained_policy import ANY, TrainedPolicy
from rllib_ppg_cli import exit_code
from rllib_ppg_cli.checkpoint import check_out, load_player, play_config
from rllib_ppg_cli.play_progress import PlayProgress


def main(
    checkpoint: str,
    *,
    episodes: int,
    steps: int | None,
    out: str | None,
    env: str | None,
    env_config: Mapping[str, Any] | None,
    config: Mapping[str, Any] | None,
    explore: bool | None,
    seed: int,
) -> int:
    """Evaluates a policy.

    Args:
        checkpoint: The policy's checkpoint.
        episodes: Number of episodes on training levels, and on held-out levels.
        steps: Number of env steps after which to stop; None plays all episodes.
        out: A JSON file to write, too.
        env: Another environment than the training's.
        env_config: Settings that replace those of the environment.
        config: Settings that replace the training's.
        explore: Whether to sample actions; None does what the training's evaluation does.
        seed: Seed of the environment and the actions.

    Returns:
        The exit code.

    Raises:
        ValueError: For bad input.
    """
    file = None if out is None else check_out(out)
    policy = load_player(checkpoint, num_envs=NUM_ENVS, module_id=ANY)
    played = play_config(policy, env=env, env_config=env_config, config=config)
    explore = played.explore if explore is None else explore
    print(_headline(policy, played, explore, seed), flush=True)
    scores = {
        name: score(
            policy,
            of_column,
            episodes=episodes,
            max_steps=steps,
            seed=seed,
            explore=explore,
            on_progress=PlayProgress(name, episodes, steps),
        )
        for name, of_column in columns(policy, played).items()
    }
    print(f"\n{table(scores)}")
    for name, of_column in scores.items():
        if len(of_column.episodes) < episodes:
            print(
                f"{name}: --steps ended it after {len(of_column.episodes)} of {episodes} episodes, "
                "so short episodes count too much"
            )
    if ALL in scores and not policy.config.env_config.get("num_levels"):
        print("with num_levels=0 there are no held-out levels: all are training levels")
    if file:
        about = {
            "checkpoint": policy.checkpoint,
            "algorithm": _algorithm(policy),
            "env": played.env if isinstance(played.env, str) else played.env.__name__,
            "env_steps_trained": policy.env_steps,
            "explore": explore,
            "seed": seed,
            "versions": versions("ray", "torch"),
        }
        file.write_text(json.dumps(about | as_json(scores), indent=2, default=str) + "\n")
        print(f"written: {file}")
    return exit_code.OK


def table(scores: Mapping[str, Score]) -> str:
    """Returns the means as a table, with a third column for the gap between two."""
    names = [*scores, *["gap"] * (len(scores) == 2)]
    rows = {"": names}
    if len(scores) == 2:
        levels = [describe(column.env_config) for column in scores.values()]
        rows["levels"] = [text.removeprefix("levels ") for text in levels]
    rows["episodes"] = [str(len(column.episodes)) for column in scores.values()]
    for key, means in _means(scores).items():
        rows[key.replace("_", " ").replace("ized", "ised")] = [_text(mean) for mean in means]
    widths = [max(len(row[i]) for row in rows.values() if i < len(row)) for i in range(len(names))]
    lines = [
        f"{label:<17}" + "".join(f"   {cell:>{widths[i]}}" for i, cell in enumerate(cells))
        for label, cells in rows.items()
    ]
    return "\n".join([*lines, "(mean ± its standard error)"])


def as_json(scores: Mapping[str, Score]) -> dict[str, Any]:
    """Returns the means, their gap and all episodes as data for JSON."""
    keys = {TRAINING: "training_levels", HELD_OUT: "held_out_levels"}
    means = _means(scores)
    results: dict[str, Any] = {}
    for i, (name, column) in enumerate(scores.items()):
        results[keys.get(name, name)] = {
            "env_config": dict(column.env_config),
            "episodes": len(column.episodes),
            **_flat({key: of_key[i] for key, of_key in means.items()}),
            "returns": [episode.episode_return for episode in column.episodes],
            "lengths": [episode.length for episode in column.episodes],
        }
    if len(scores) < 2:
        return {"results": results}
    return {"results": results, "gap": _flat({key: of_key[2] for key, of_key in means.items()})}


def _means(scores: Mapping[str, Score]) -> dict[str, list[Mean]]:
    """The means of each column by name, followed by the gap if there are two columns."""
    of_columns = [column.means for column in scores.values()]
    rows = {key: [means[key] for means in of_columns] for key in of_columns[0]}
    if len(of_columns) == 2:
        rows = {key: [*means, means[0].minus(means[1])] for key, means in rows.items()}
    return rows


def _flat(means: Mapping[str, Mean]) -> dict[str, float | None]:
    return {
        f"{key}_{field}": value
        for key, mean in means.items()
        for field, value in mean._asdict().items()
    }


def _text(mean: Mean) -> str:
    # The error decides how many digits of the mean are significant.
    error = mean.std_error
    digits = 3 if max(abs(mean.mean), error or 0) < 10 else 1
    return f"{mean.mean:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def _headline(policy: TrainedPolicy, config: AlgorithmConfig, explore: bool, seed: int) -> str:
    trained = "" if policy.env_steps is None else f" after {policy.env_steps:,} env steps"
    actions = "sampled actions" if explore else "most probable actions"
    return f"{_algorithm(policy)} on {config.env}{trained}; {actions}, seed {seed}"


def _algorithm(policy: TrainedPolicy) -> str:
    return policy.config.algo_class.__name__

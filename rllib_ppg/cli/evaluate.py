"""`rllib evaluate`: a checkpoint's returns, on training levels and held-out levels side by side."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rllib_ppg._version import versions
from rllib_ppg.cli import exit_code
from rllib_ppg.cli.checkpoint_options import (
    add_command,
    add_play_options,
    check_out,
    check_positive,
    load_policy,
    play_config,
)
from rllib_ppg.cli.quiet import keep_quiet

if TYPE_CHECKING:
    from ray.rllib.algorithms import AlgorithmConfig

    from rllib_ppg.evaluation.scores import Mean, Score
    from rllib_ppg.evaluation.trained_policy import TrainedPolicy

_EPISODES = 100


def add_parser(commands: Any) -> None:
    """Adds `rllib evaluate`."""
    parser = add_command(
        commands, "evaluate", "play episodes with a trained policy and print its mean returns"
    )
    parser.set_defaults(main=main)
    parser.add_argument(
        "--episodes",
        type=int,
        metavar="N",
        help=f"how many, of each of training and held-out levels ({_EPISODES})",
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="env steps after which to stop short of --episodes"
    )
    parser.add_argument("--out", "-o", metavar="FILE", help="write all of it as JSON, too")
    add_play_options(parser)


def main(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """Evaluates.

    Args:
        args: The parsed options; those not given are missing.
        argv: Not used.

    Returns:
        The exit code.

    Raises:
        ValueError: For bad input.
    """
    options = vars(args)
    keep_quiet(options.get("verbose", 0))
    check_positive(options, "episodes", "steps")
    out = check_out(options["out"]) if "out" in options else None

    from rllib_ppg.envs.procgen_levels import ALL
    from rllib_ppg.evaluation.scores import NUM_ENVS, columns, score

    policy = load_policy(options, num_envs=NUM_ENVS)
    config = play_config(policy, options)
    explore = options.get("explore", config.explore)
    seed, episodes = options.get("seed", 0), options.get("episodes", _EPISODES)
    print(_headline(policy, config, explore, seed), flush=True)
    scores = {
        name: score(
            policy,
            of_column,
            episodes=episodes,
            max_steps=options.get("steps"),
            seed=seed,
            explore=explore,
            on_progress=_Progress(name, episodes),
        )
        for name, of_column in columns(policy, config).items()
    }
    print(f"\n{table(scores)}")
    for name, of_column in scores.items():
        if len(of_column.episodes) < episodes:
            print(
                f"{name}: --steps ended it after {len(of_column.episodes)} of {episodes} episodes; "
                "of those, short ones are more than their share"
            )
    if ALL in scores and not policy.config.env_config.get("num_levels"):
        print("with num_levels=0 there are no held-out levels: all are training levels")
    if out:
        about = {
            "checkpoint": policy.checkpoint,
            "algorithm": _algorithm(policy),
            "env": config.env if isinstance(config.env, str) else config.env.__name__,
            "env_steps_trained": policy.env_steps,
            "explore": explore,
            "seed": seed,
            "versions": versions("ray", "torch"),
        }
        out.write_text(json.dumps(about | as_json(scores), indent=2, default=str) + "\n")
        print(f"written: {out}")
    return exit_code.OK


def table(scores: Mapping[str, Score]) -> str:
    """Returns the means as lines for a person, with the gap between two columns beside them."""
    from rllib_ppg.envs.procgen_levels import describe

    names = [*scores, *["gap"] * (len(scores) == 2)]
    rows = {"": names}
    if len(scores) == 2:
        levels = [describe(score.env_config) for score in scores.values()]
        rows["levels"] = [text.removeprefix("levels ") for text in levels]
    rows["episodes"] = [str(len(score.episodes)) for score in scores.values()]
    for key, means in _means(scores).items():
        rows[key.replace("_", " ").replace("ized", "ised")] = [_text(mean) for mean in means]
    widths = [max(len(row[i]) for row in rows.values() if i < len(row)) for i in range(len(names))]
    lines = [
        f"{label:<17}" + "".join(f"   {cell:>{widths[i]}}" for i, cell in enumerate(cells))
        for label, cells in rows.items()
    ]
    return "\n".join([*lines, "(mean ± its standard error)"])


def as_json(scores: Mapping[str, Score]) -> dict[str, Any]:
    """Returns the means, their gap and all episodes, as JSON can hold them."""
    from rllib_ppg.envs.procgen_levels import HELD_OUT, TRAINING

    keys = {TRAINING: "training_levels", HELD_OUT: "held_out_levels"}
    means = _means(scores)
    results: dict[str, Any] = {}
    for i, (name, score) in enumerate(scores.items()):
        results[keys.get(name, name)] = {
            "env_config": dict(score.env_config),
            "episodes": len(score.episodes),
            **_flat({key: of_key[i] for key, of_key in means.items()}),
            "returns": [episode.episode_return for episode in score.episodes],
            "lengths": [episode.length for episode in score.episodes],
        }
    if len(scores) < 2:
        return {"results": results}
    return {"results": results, "gap": _flat({key: of_key[2] for key, of_key in means.items()})}


def _means(scores: Mapping[str, Score]) -> dict[str, list[Mean]]:
    """The means by what they are of, those of each column and then the gap of two."""
    of_columns = [score.means for score in scores.values()]
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
    # The error says how many digits of the mean mean something.
    error = mean.std_error
    digits = 3 if max(abs(mean.mean), error or 0) < 10 else 1
    return f"{mean.mean:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def _headline(policy: TrainedPolicy, config: AlgorithmConfig, explore: bool, seed: int) -> str:
    trained = "" if policy.env_steps is None else f" after {policy.env_steps:,} env steps"
    actions = "sampled actions" if explore else "most probable actions"
    return f"{_algorithm(policy)} on {config.env}{trained}; {actions}, seed {seed}"


def _algorithm(policy: TrainedPolicy) -> str:
    return policy.config.algo_class.__name__


class _Progress:
    """A line on the terminal that is written over; nothing elsewhere."""

    def __init__(self, name: str, episodes: int):
        self._name, self._episodes = name, episodes
        self._shown = -1

    def __call__(self, done: int, steps: int) -> None:
        if not sys.stderr.isatty() or (steps // 1000 == self._shown and done < self._episodes):
            return
        self._shown = steps // 1000
        line = f"{self._name}: {done} of {self._episodes} episodes, {steps:,} steps"
        end = "\r" if done < self._episodes else f"\r{'':<{len(line)}}\r"
        print(line, end=end, file=sys.stderr, flush=True)

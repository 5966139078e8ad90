"""`rllib record`: a video of a checkpoint's episodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rllib_ppg.evaluation.trained_policy import ANY
from rllib_ppg.evaluation.video import check_video_file, film
from rllib_ppg_cli import exit_code
from rllib_ppg_cli.checkpoint import check_out, load_player, play_config
from rllib_ppg_cli.play_progress import PlayProgress


def main(
    checkpoint: str,
    *,
    out: str,
    episodes: int,
    steps: int | None,
    fps: int | None,
    env: str | None,
    env_config: Mapping[str, Any] | None,
    config: Mapping[str, Any] | None,
    explore: bool | None,
    seed: int,
) -> int:
    """Records a video.

    Args:
        checkpoint: The policy's checkpoint.
        out: The file to write.
        episodes: Number of episodes.
        steps: Number of env steps after which to stop; None plays all episodes.
        fps: Steps per second; None takes the environment's own.
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
    file = check_out(out)
    check_video_file(file)
    policy = load_player(checkpoint, module_id=ANY)
    played = play_config(policy, env=env, env_config=env_config, config=config)
    returns, count, shown_fps = film(
        policy,
        played,
        file,
        episodes=episodes,
        seed=seed,
        explore=played.explore if explore is None else explore,
        fps=fps,
        max_steps=steps,
        on_progress=PlayProgress("video", episodes, steps),
    )
    print(f"returns: {', '.join(f'{r:.4g}' for r in returns) or '-'}")
    if len(returns) < episodes:
        print(f"--steps ended it after {len(returns)} of {episodes} episodes")
    print(f"written: {file} ({count} frames, {count / shown_fps:.0f} s)")
    return exit_code.OK

"""`rllib record`: a video of a checkpoint's episodes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

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

_EPISODES = 3


def add_parser(commands: Any) -> None:
    """Adds `rllib record`."""
    parser = add_command(commands, "record", "record a video of a trained policy's episodes")
    parser.set_defaults(main=main)
    parser.add_argument("--out", "-o", metavar="FILE", help="the video, an .mp4 or .gif")
    parser.add_argument("--episodes", type=int, metavar="N", help=f"how many ({_EPISODES})")
    parser.add_argument(
        "--fps", type=int, metavar="N", help="steps shown a second (the env's own, or 30)"
    )
    add_play_options(parser)


def main(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """Records.

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
    check_positive(options, "episodes", "fps")
    if "out" not in options:
        raise ValueError("name the video to write, as in --out episodes.mp4")
    out = check_out(options["out"])

    from rllib_ppg.evaluation.video import check_video_file, film

    check_video_file(out)
    policy = load_policy(options)
    config = play_config(policy, options)
    returns, count, fps = film(
        policy,
        config,
        out,
        episodes=options.get("episodes", _EPISODES),
        seed=options.get("seed", 0),
        explore=options.get("explore", config.explore),
        fps=options.get("fps"),
    )
    print(f"returns: {', '.join(f'{r:.4g}' for r in returns)}")
    print(f"written: {out} ({count} frames, {count / fps:.0f} s)")
    return exit_code.OK

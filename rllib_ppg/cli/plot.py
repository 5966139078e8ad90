"""`rllib plot`: learning curves and sweeps of finished and running runs, as a picture."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from typing import Any

from rllib_ppg.cli import exit_code
from rllib_ppg.cli.checkpoint_options import check_out
from rllib_ppg.cli.options import add_verbose
from rllib_ppg.experiments.experiment import EPISODE_RETURN_MEAN


def add_parser(commands: Any) -> None:
    """Adds `rllib plot`."""
    about = "draw the learning curves of runs, or a sweep's final returns"
    parser = commands.add_parser(
        "plot",
        help=about,
        description=about.capitalize() + ".",
        usage="rllib plot RUN... [options]",
    )
    parser.set_defaults(main=main)
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="the folder of an experiment or of one trial"
    )
    parser.add_argument(
        "--out", "-o", metavar="FILE", help="the picture: .png, .pdf or .svg (plot.png)"
    )
    parser.add_argument(
        "--against",
        metavar="SETTING",
        help="draw final returns against this setting of the config, as in n_pi, not curves",
    )
    parser.add_argument(
        "--reference",
        choices=["openai"],
        help="add OpenAI's published curves, where a run is on the same game in hard mode",
    )
    parser.add_argument(
        "--reference-experiments",
        metavar="A,B,...",
        help="which of them: ppg, ppo, ppg_single, ppgkl, n_pi=2, ... (ppg,ppo; with --against, "
        "their sweep)",
    )
    parser.add_argument(
        "--metric", metavar="PATH", help="what to draw (env_runners/episode_return_mean)"
    )
    add_verbose(parser)


def main(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """Draws, and prints the final returns.

    Args:
        args: The parsed options; those not given are missing.
        argv: The command line as it was given; not used.

    Returns:
        The exit code.

    Raises:
        ValueError: For bad input.
    """
    options = vars(args)
    if not options.get("verbose"):  # at first use it tells of the fonts that it looks for
        logging.getLogger("matplotlib").setLevel(logging.ERROR)

    from rllib_ppg.plots import panels, pictures
    from rllib_ppg.plots.final_table import final_table
    from rllib_ppg.plots.results import read_trials

    out = check_out(options.get("out", "plot.png"))
    if out.suffix not in pictures.SUFFIXES:
        raise ValueError(f"{out} must end in {', '.join(pictures.SUFFIXES)}, for its format")
    metric = options.get("metric", EPISODE_RETURN_MEAN)
    trials = read_trials(options["runs"], metric)
    against = options.get("against") and panels.find_setting(trials, options["against"])
    shown = panels.by_environment(trials, against)
    returns = metric == EPISODE_RETURN_MEAN
    experiments = _reference_experiments(options, against)
    if experiments and returns:
        shown = panels.add_reference(shown, experiments, against)
    if returns:
        shown += panels.mean_over_games(shown)

    y_label = pictures.EPISODE_RETURN if returns else metric
    if against:
        figure = pictures.sweep(shown, options["against"], y_label)
    else:
        figure = pictures.learning_curves(shown, y_label)
    pictures.save(figure, out)
    print(final_table(shown, options.get("against")))
    if experiments and not any(curve.reference for panel in shown for curve in panel.curves):
        print(
            "no curve of OpenAI's fits: they are returns in Procgen's hard mode with all levels, "
            "from 65,536 steps on"
        )
    print(f"plot: {out}")
    return exit_code.OK


def _reference_experiments(options: dict[str, Any], against: str | None) -> Sequence[str]:
    """Returns the names of OpenAI's experiments that are asked for."""
    from rllib_ppg.plots import openai_curves

    names = options.get("reference_experiments")
    if "reference" not in options:
        if names:
            raise ValueError("--reference-experiments goes with --reference openai")
        return ()
    if names:
        for name in names.split(","):
            openai_curves.check_experiment(name)
        return names.split(",")
    return openai_curves.sweep(against or "") or openai_curves.DEFAULT

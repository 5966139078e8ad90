"""`rllib plot`: learning curves and sweeps of finished and running runs, as a picture."""

from __future__ import annotations

from collections.abc import Sequence

from rllib_ppg.experiments.settings import EPISODE_RETURN_MEAN
from rllib_ppg.plots import openai_curves, panels, pictures
from rllib_ppg.plots.final_table import final_table
from rllib_ppg.plots.results import read_trials
from rllib_ppg_cli import exit_code
from rllib_ppg_cli.checkpoint import check_out


def main(
    runs: Sequence[str],
    *,
    out: str,
    metric: str | None,
    against: str | None,
    reference: str | None,
    reference_experiments: str | None,
) -> int:
    """Draws a picture and prints the final returns.

    Args:
        runs: Folders or URIs of experiments or trials.
        out: The picture to write.
        metric: The result to draw; None means the mean return of the training episodes.
        against: The setting to draw final returns against; None draws curves.
        reference: "openai" adds OpenAI's published curves.
        reference_experiments: Names of these, separated by commas.

    Returns:
        The exit code.

    Raises:
        ValueError: For bad input.
    """
    file = check_out(out)
    if file.suffix not in pictures.SUFFIXES:
        raise ValueError(f"{file} must end in {', '.join(pictures.SUFFIXES)}")
    metric = metric or EPISODE_RETURN_MEAN
    trials = read_trials(runs, metric)
    setting = panels.find_setting(trials, against) if against else None
    shown = panels.by_environment(trials, setting)
    returns = metric == EPISODE_RETURN_MEAN
    experiments = _reference_experiments(reference, reference_experiments, setting)
    if experiments and returns:
        shown = panels.add_reference(shown, experiments, setting)
    if returns:
        shown += panels.mean_over_games(shown)

    y_label = pictures.EPISODE_RETURN if returns else metric
    if against:
        figure = pictures.sweep(shown, against, y_label)
    else:
        figure = pictures.learning_curves(shown, y_label)
    pictures.save(figure, file)
    print(final_table(shown, against))
    if experiments and not any(curve.reference for panel in shown for curve in panel.curves):
        print(
            "none of OpenAI's curves match: they are returns in Procgen's hard mode with all "
            "levels, from 65,536 steps on"
        )
    print(f"plot: {file}")
    return exit_code.OK


def _reference_experiments(
    reference: str | None, names: str | None, against: str | None
) -> Sequence[str]:
    """Returns the names of OpenAI's experiments to draw."""
    if reference is None:
        if names:
            raise ValueError("--reference-experiments needs --reference openai")
        return ()
    if names:
        for name in names.split(","):
            openai_curves.check_experiment(name)
        return names.split(",")
    return openai_curves.sweep(against or "") or openai_curves.DEFAULT

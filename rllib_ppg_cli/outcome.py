"""What a run prints when it ends: where its results are, how to continue, and if it passed."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from rllib_ppg.experiments.experiment import Experiment
from rllib_ppg.experiments.run_folder import unused_name
from rllib_ppg.experiments.settings import is_budget
from rllib_ppg_cli import exit_code, schedule_hint
from rllib_ppg_cli.words import without

# Variable of a job's environment with the words `submit ...` that the user gave.
SUBMITTED = "RLLIB_PPG_SUBMITTED"
_NAME = ("-n", "--experiment-name")
_BEST = "best.yaml"  # in a search's folder
_CURVES = 10  # of a search that are drawn

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from ray.tune import Result, ResultGrid

    from rllib_ppg.plots.panels import Panel
    from rllib_ppg.plots.results import Trial


def show(
    results: ResultGrid, experiment: Experiment, argv: Sequence[str], signum: int | None = None
) -> int:
    """Prints how the run ended, where its results are and how to continue it.

    Args:
        results: The Tuner's results.
        experiment: The experiment.
        argv: The command line.
        signum: Signal that ended the run; None: none did, or Ctrl-C did.

    Returns:
        The exit code.
    """
    # A trial that failed before its first result has no metrics at all.
    finished = all((result.metrics or {}).get("done", False) for result in results)
    alone = len(results) == 1
    if not alone:
        try:
            _show_sweep(results, experiment)
        except Exception as error:  # the run is what it is, with its pictures or without
            print(f"no plot: {type(error).__name__}: {error}")
    elif finished and (reached := _reached(results[0], experiment.stop)):
        print(f"ended: {reached}")
    results_path = results[0].path if alone else results.experiment_path
    print(f"results: {_place(results_path, experiment)}")
    if alone and results[0].checkpoint:
        print(f"checkpoint: {_place(results[0].checkpoint.path, experiment)}")
    if not finished or results.num_errors:
        folder = PurePath(results.experiment_path).name
        print(f"to resume: {to_resume(folder, argv)}")
    elif alone:
        print(_how_to_continue(results, experiment, _as_given(argv)))
    for result in results:
        if result.error:
            reason = str(result.error).strip().splitlines()[-1]
            print(
                f"rllib: error: the run failed: {reason} (all of it is in {result.path}/error.txt)",
                file=sys.stderr,
            )
    if results.num_errors:
        return exit_code.FAILED
    if finished:
        return exit_code.OK
    code = exit_code.SIGNAL + (signum or signal.SIGINT)
    print(exit_code.last_line(code), end="", file=sys.stderr)
    return code


def _reached(result: Result, stop: Mapping[str, float]) -> str:
    """Returns which of the stop criteria ended a trial."""
    from ray.tune.utils import flatten_dict

    flat = flatten_dict(result.metrics or {}, delimiter="/")
    reached = [
        f"{key} reached {stop[key]:g}" for key in stop if flat.get(key, -math.inf) >= stop[key]
    ]
    return " and ".join(reached)


def _show_sweep(results: ResultGrid, experiment: Experiment) -> None:
    """Prints several trials' final returns, best first, and the best trial, and draws them."""
    from rllib_ppg.plots import panels, pictures
    from rllib_ppg.plots.final_table import sweep_table
    from rllib_ppg.plots.results import read_trials

    folders = [result.path for result in results if result.metrics]
    if not folders:
        return
    try:
        trials = read_trials(folders, filesystem=results.filesystem)
    except ValueError as error:  # for example, no episode has ended
        print(error)
        return
    print(sweep_table(trials))
    if search := experiment.parsed_search:
        _show_found(results, experiment, search.metric)
        best = sorted(trials, key=lambda trial: trial.curve.final())[-_CURVES:]
        figures = {"curves": pictures.learning_curves(_panels(best))}
        figures |= _importance(results.experiment_path, search.metric)
    else:
        _show_best(trials, results, experiment)
        swept = {path for paths in panels.swept_settings(trials).values() for path in paths if path}
        against = min(swept, default=None)
        figures = {"curves": pictures.learning_curves(_panels(trials))}
        if against:
            figures["sweep"] = pictures.sweep(_panels(trials, against), against.split("/")[-1])
    for name, figure in figures.items():
        file = f"{results.experiment_path}/{name}.png"
        pictures.save(figure, file, results.filesystem)
        print(f"plot: {_place(file, experiment)}")


def _importance(folder: str, metric: str) -> dict[str, Figure]:
    """The picture of a search's importances; none if too few trials have ended."""
    from rllib_ppg.experiments.study import count_pruned, importances
    from rllib_ppg.plots import pictures

    if pruned := count_pruned(folder):
        print(f"{pruned} invalid combination{'s were' if pruned > 1 else ' was'} skipped")
    shares = importances(folder)
    if not shares:
        print("no importances: too few trials have finished, or all have the same result")
        return {}
    return {"importance": pictures.importance(shares, metric)}


def _show_found(results: ResultGrid, experiment: Experiment, metric: str) -> None:
    """Prints a search's best trial, and writes its settings as an experiment."""
    from rllib_ppg.experiments.study import best_trial

    found = best_trial(results.experiment_path)
    if found is None:
        return
    trial_id, value = found
    [best] = [result for result in results if f"_{trial_id}_" in PurePath(result.path).name]
    print(f"best trial: {best.path} ({metric} {value:.4g})")
    file = Path(results.experiment_path, _BEST)
    shutil.copyfile(Path(best.path, "config.yaml"), file)
    print(f"its settings: {file}")
    if (file.parent / "experiment.py").exists():  # its config may hold more than data
        print("to train with them: put them into the experiment's Python file")
    else:
        print(f"to train with them: {shlex.join([_program(), 'train', 'file', str(file)])}")
    _show_checkpoint(best, experiment)


def _show_best(trials: Sequence[Trial], results: ResultGrid, experiment: Experiment) -> None:
    from rllib_ppg.plots.best_trials import best_trials, in_words

    by_name = {PurePath(result.path).name: result for result in results}
    best = best_trials(trials)
    for env, trial in best.items():
        result = by_name[PurePath(trial.folder).name]
        where = f" on {env}" if len(best) > 1 else ""
        print(f"best trial{where}: {_place(result.path, experiment)} ({in_words(trial)})")
        _show_checkpoint(result, experiment)


def _show_checkpoint(result: Result, experiment: Experiment) -> None:
    if result.checkpoint:
        checkpoint = _place(result.checkpoint.path, experiment)
        print(f"its checkpoint: {checkpoint}")
        print(f"to evaluate it: {shlex.join([_program(), 'evaluate', checkpoint])}")
    else:
        print("no checkpoint of it to evaluate: save one with --checkpoint-at-end")


def _panels(trials: Sequence[Trial], against: str | None = None) -> list[Panel]:
    from rllib_ppg.plots import panels

    shown = panels.by_environment(trials, against)
    return [*shown, *panels.mean_over_games(shown)]


def goals(stop: Mapping[str, float]) -> dict[str, float]:
    """Returns the stop criteria that are goals to reach; the others limit the budget."""
    return {key: value for key, value in stop.items() if not is_budget(key)}


def judge(results: ResultGrid, stop: Mapping[str, float]) -> int:
    """Checks whether each trial reached a goal before its budget was spent.

    Args:
        results: The Tuner's results.
        stop: The stop criteria of each trial.

    Returns:
        The exit code.
    """
    from ray.tune.utils import flatten_dict

    code = exit_code.OK
    for result in results:
        flat = flatten_dict(result.metrics or {}, delimiter="/")
        ends = {key: flat.get(key) for key in goals(stop)}
        if not any(end is not None and end >= stop[key] for key, end in ends.items()):
            code = exit_code.FAILED
            short = ", ".join(f"{key} is {end}, not {stop[key]:g}" for key, end in ends.items())
            print(f"rllib: error: not reached: {short} ({result.path})", file=sys.stderr)
    return code


def _as_given(argv: Sequence[str]) -> list[str]:
    """Returns the words that the user typed: in a job, those of `rllib submit`."""
    submitted = os.environ.get(SUBMITTED)
    if submitted is None:
        return list(argv)
    rest = argv[3:] if list(argv[:2]) == ["train", "file"] else argv[1:]
    return [*shlex.split(submitted), *rest]


def _program() -> str:
    # `make run` calls the script by its path, since the environment is not activated. A job calls
    # the module, so that argv[0] is the path of `__main__.py`.
    if shutil.which("rllib") or sys.argv[0].endswith("__main__.py"):
        return "rllib"
    return sys.argv[0]


def to_resume(folder: str, argv: Sequence[str]) -> str:
    """Returns the command that resumes a run.

    Args:
        folder: The name of the run's folder.
        argv: The command line.
    """
    words = without(_as_given(argv), _NAME, ("--resume",))
    return shlex.join([_program(), *words, "-n", folder, "--resume"])


def _how_to_continue(results: ResultGrid, experiment: Experiment, argv: Sequence[str]) -> str:
    from ray.tune.utils import flatten_dict

    [result] = results
    if result.checkpoint is None:
        return "no checkpoint to continue from: save one with --checkpoint-at-end"
    argv = without(argv, ("--restore",), ("--resume",))
    if without(argv, _NAME) != argv:  # a name has one run
        other = unused_name(results.experiment_path, results.filesystem)
        argv = [*without(argv, _NAME), "-n", other]
    command = [_program(), *argv, "--restore", _place(result.checkpoint.path, experiment)]
    if experiment.stop:
        # Budgets double; a return that was already reached would end the run at once.
        flat = flatten_dict(result.metrics or {}, delimiter="/")
        stop = {
            key: 2 * value if is_budget(key) else value
            for key, value in experiment.stop.items()
            if is_budget(key) or flat.get(key, -math.inf) < value
        }
        command = [*without(command, ("--stop", "-s")), "--stop", json.dumps(stop)]
    done = (result.metrics or {}).get("num_env_steps_sampled_lifetime", 0)
    ended = schedule_hint.hint(result.config or {}, 2 * int(done))
    return "\n".join([*filter(None, [ended]), f"to continue: {shlex.join(command)}"])


def _place(path: str, experiment: Experiment) -> str:
    """Returns a path in the experiment's storage with the scheme that Tune leaves out."""
    scheme, separator, _ = (experiment.storage_path or "").partition("://")
    return f"{scheme}://{path}" if separator else path

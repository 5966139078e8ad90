"""`rllib train`: runs an experiment that the options describe."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.tune import ResultGrid

from rllib_ppg.callbacks import ProcgenMetrics
from rllib_ppg.evaluation.evaluation_videos import EvaluationVideos
from rllib_ppg.experiments.experiment import Experiment
from rllib_ppg.experiments.experiment_file import find_experiment_file
from rllib_ppg.experiments.run_folder import RunFolder, claim, has_results, numbered_runs
from rllib_ppg.experiments.settings import EPISODE_RETURN_MEAN
from rllib_ppg.experiments.tuner import find_saved_run, make_tuner, resume_tuner
from rllib_ppg.resources.ray_processes import adopt_orphans, kill_ray_processes
from rllib_ppg.tune_callbacks.crash_recovery import (
    ResumeFromLatestCheckpoint,
    SavedTrial,
    StoreResults,
    iteration_of,
    read_saved_trials,
)
from rllib_ppg.tune_callbacks.csv_logger import CSVLogger
from rllib_ppg.tune_callbacks.progress import AuxiliaryProgress, Progress
from rllib_ppg.tune_callbacks.run_files import RunFiles
from rllib_ppg.tune_callbacks.save_on_interrupt import GRACE_S, SaveOnInterrupt
from rllib_ppg_cli import client, dry_run, exit_code, outcome, precision_hint, redact, signals
from rllib_ppg_cli.outcome import goals, judge, to_resume


def main(options: dict[str, Any], argv: Sequence[str]) -> int:
    """Trains.

    Args:
        options: The options that were given, by their long names with underscores.
        argv: The command line, for the command that resumes the run.

    Returns:
        The exit code.

    Raises:
        ValueError: For bad input.
    """
    experiment = experiment_from(options)
    check_options(experiment, options)
    # Absolute, since Ray may change the working directory.
    file = find_experiment_file(options["file"]).absolute() if "file" in options else None
    redact.check_run(argv, experiment, file)
    if client.is_client(_address(options)):
        searches = {"search": True} if experiment.search else {}
        client.check_options({**options, **searches})
    with _run_folder(experiment, options) as folder:
        saved = _saved_trials(experiment, options, folder)
        if "dry_run" in options:
            return _dry_run(experiment, options, saved)
        if saved and all(trial.is_finished for trial in saved) and _is_whole(experiment, saved):
            print("the run is finished, so there is nothing to resume")
            tuner, experiment = _saved_run(experiment, [])
            return _end(tuner.get_results(), experiment, options, argv)
        return _train(experiment, options, argv, file, folder)


def _run_folder(
    experiment: Experiment, options: Mapping[str, Any]
) -> AbstractContextManager[RunFolder | None]:
    """The folder of the run's results; None if this process writes none."""
    is_named = "experiment_name" in options
    if "resume" in options:
        place = find_saved_run(experiment)
        if not is_named and (others := numbered_runs(place)):
            raise ValueError(
                f"there are several runs of {experiment.name}: say which one to resume, as in "
                f"-n {others[-1]}"
            )
        return RunFolder(place, lock="dry_run" not in options)
    experiment.validate()
    if "dry_run" in options or client.is_client(_address(options)):
        return nullcontext()
    folder = claim(experiment, may_number=not is_named)
    if experiment.name and not is_named and folder.name != experiment.name:
        print(f"name: {folder.name}, as {experiment.name} is an earlier run", flush=True)
    return folder


def _saved_trials(
    experiment: Experiment, options: dict[str, Any], folder: RunFolder | None
) -> list[SavedTrial]:
    """The trials that --resume resumes; if nothing was saved of them, it becomes a new run."""
    if folder is None or "resume" not in options:  # a resumed run keeps its settings
        return []
    saved = read_saved_trials(folder.place)
    if saved and saved[0].algorithm != experiment.run:
        raise ValueError(
            f"the run in {folder.place} trains {saved[0].algorithm}, not {experiment.run}"
        )
    if not saved:
        if has_results(folder.place):
            raise ValueError(
                f"the run in {folder.place} can't be resumed, because Tune's files of it are "
                "damaged: start another one from its last checkpoint with --restore"
            )
        print("nothing of the run was saved, so it starts from the beginning", flush=True)
        del options["resume"]
        experiment.validate()
    return saved


def _is_whole(experiment: Experiment, saved: Sequence[SavedTrial]) -> bool:
    """Whether a run has all its trials: a search makes them one after another."""
    _, experiment = _saved_run(experiment, [])
    search = experiment.parsed_search
    return search is None or len(saved) >= search.num_samples


def _train(
    experiment: Experiment,
    options: Mapping[str, Any],
    argv: Sequence[str],
    file: Path | None,
    folder: RunFolder | None,
) -> int:
    saving = _save_on_interrupt(options, argv)
    with _ray(options):
        if "resume" in options:
            callbacks = _callbacks(experiment, options, saving)
            tuner, experiment = _saved_run(experiment, [ResumeFromLatestCheckpoint(), *callbacks])
            results = tuner.fit()
        else:
            experiment.validate_cluster()
            if not _address(options):  # the learners are on this machine
                precision_hint.show(experiment)
            is_drawn = experiment.config.get("seed") is None and experiment.num_samples == 1
            experiment = experiment.with_seed()
            results = _run(experiment, options, argv, file, saving, folder)
            if is_drawn:  # a run that continues this one needs the same seed
                argv = [*argv, "--seed", str(experiment.config["seed"])]
    return _end(results, experiment, options, argv, saving.signum)


def _end(
    results: ResultGrid,
    experiment: Experiment,
    options: Mapping[str, Any],
    argv: Sequence[str],
    signum: int | None = None,
) -> int:
    code = outcome.show(results, experiment, argv, signum)
    if code == exit_code.OK and "as_test" in options:
        return judge(results, experiment.stop)
    return code


def _dry_run(
    experiment: Experiment, options: Mapping[str, Any], saved: Sequence[SavedTrial]
) -> int:
    done: Iterable[int] = [trial.iterations for trial in saved]
    if saved:
        _, experiment = _saved_run(experiment, [])
    elif experiment.restore:
        done = repeat(iteration_of(experiment.restore))
    with _ray(options):
        return exit_code.OK if dry_run.show(experiment, done) else exit_code.BAD_INPUT


def _address(options: Mapping[str, Any]) -> str | None:
    return options.get("ray_address") or os.environ.get("RAY_ADDRESS")


@contextmanager
def _ray(options: Mapping[str, Any]) -> Iterator[None]:
    """Starts Ray, or connects to a cluster, and leaves no process of it behind."""
    # On a cluster's head, a run ends when the connection is closed.
    is_client = client.is_client(_address(options))
    handle_signals = signals.raise_them if is_client else signals.end_at_once
    handle_signals()
    adopt_orphans()
    try:
        # Ray's processes inherit this. A closed terminal must not end them before the checkpoint.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
        try:
            _start_ray(options)
        except SystemExit:  # Ray's own handler of SIGTERM
            signals.end_at_once()
            signal.raise_signal(signal.SIGTERM)
        handle_signals()  # Ray has replaced the one of SIGTERM
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])
        yield
    finally:
        ray.shutdown()
        kill_ray_processes()


def _start_ray(options: Mapping[str, Any]) -> None:
    verbose, address = options["verbose"], _address(options)
    try:
        ray.init(
            # Without an address, start a new Ray instead of using one that happens to run here.
            address=address or "local",
            num_cpus=options.get("ray_num_cpus"),
            num_gpus=options.get("ray_num_gpus"),
            object_store_memory=options.get("ray_object_store_memory"),
            include_dashboard=None if address else False,
            log_to_driver=verbose > 0,
            logging_level=logging.INFO if verbose else logging.ERROR,
        )
    except OSError as error:
        if error.filename is None:  # a cluster that does not answer
            raise
        raise ValueError(
            f"Ray can't write to {error.filename} ({error.strerror}): {_way_out(error.filename)}"
        ) from error


def _way_out(path: str) -> str:
    if Path.home().is_relative_to(path) or Path(path).is_relative_to(Path.home() / ".ray"):
        return (
            "it keeps a token there by which its processes know each other; set HOME to a folder "
            "that can be written, or RAY_AUTH_MODE=disabled to do without the token"
        )
    return "set RAY_TMPDIR to a folder that can be written, with a short name"


def _save_on_interrupt(options: Mapping[str, Any], argv: Sequence[str]) -> SaveOnInterrupt:
    return SaveOnInterrupt(options.get("grace_time", GRACE_S), partial(to_resume, argv=argv))


def _run(
    experiment: Experiment,
    options: Mapping[str, Any],
    argv: Sequence[str],
    file: Path | None,
    saving: SaveOnInterrupt,
    folder: RunFolder | None,
) -> ResultGrid:
    python = file if file and file.suffix == ".py" else None
    remote = client.is_client(_address(options))
    with client.lines_from_head() if remote else nullcontext() as show:
        tuner = make_tuner(
            replace(experiment, name=folder.name) if folder else experiment,
            callbacks=[
                *_callbacks(experiment, options, saving, show),
                RunFiles(experiment, argv, python),
            ],
            rllib_callbacks=_rllib_callbacks(experiment, options),
        )
        if not experiment.stop:
            print("training until Ctrl-C, as there is no --stop", flush=True)
        return tuner.fit()


def _saved_run(
    experiment: Experiment, callbacks: Iterable[tune.Callback]
) -> tuple[tune.Tuner, Experiment]:
    """The Tuner of an earlier run, and the experiment as it was started, where it is now.

    Raises:
        ValueError: There is nothing to resume, or a script started it.
    """
    tuner, kept = resume_tuner(experiment, callbacks, keep=RunFiles)
    started = [callback.experiment for callback in kept if isinstance(callback, RunFiles)]
    if not started:
        raise ValueError(
            f"the run {experiment.name!r} was not started by `rllib train`: resume it where it "
            "was, with tune.Tuner.restore"
        )
    [first] = started
    return tuner, replace(first, name=experiment.name, storage_path=experiment.storage_path)


def _callbacks(
    experiment: Experiment,
    options: Mapping[str, Any],
    saving: SaveOnInterrupt,
    show: Callable[[str], object] | None = None,
) -> list[tune.Callback]:
    progress = Progress(experiment.run == "PPG", show, experiment.result_names)
    return [progress, saving, CSVLogger(), StoreResults(), *_tracking(options)]


def _rllib_callbacks(
    experiment: Experiment, options: Mapping[str, Any]
) -> list[type[RLlibCallback]]:
    callbacks: list[type[RLlibCallback]] = [ProcgenMetrics]
    if experiment.run == "PPG":
        callbacks.append(AuxiliaryProgress)
    if "wandb_videos" in options:
        callbacks.append(EvaluationVideos)
    return callbacks


def _tracking(options: Mapping[str, Any]) -> list[tune.Callback]:
    """Returns the W&B logger if --track is given."""
    if "track" not in options:
        return []
    from rllib_ppg.tune_callbacks.wandb_logger import WandbLogger

    names = ("project", "group", "mode")
    given = {name: options[f"wandb_{name}"] for name in names if f"wandb_{name}" in options}
    return [WandbLogger(**given, upload_checkpoints="wandb_checkpoints" in options)]


def check_options(experiment: Experiment, options: Mapping[str, Any]) -> None:
    """Raises ValueError for options that contradict each other or the experiment."""
    if "as_test" in options and not goals(experiment.stop):
        raise ValueError(
            f"--as-test needs a return to reach in stop, as in '{{\"{EPISODE_RETURN_MEAN}\": 450}}'"
        )
    if options.get("grace_time", 0) < 0:
        raise ValueError(f"--grace-time must be 0 or more, not {options['grace_time']:g}")
    given = sorted(key for key in options if key.startswith("wandb_"))
    if given and "track" not in options:
        raise ValueError(f"--{given[0].replace('_', '-')} has no effect without --track")
    if "wandb_videos" not in options:
        return
    if experiment.run != "PPG":
        raise ValueError("--wandb-videos works with PPG only")
    if not experiment.config.get("evaluation_interval"):
        raise ValueError("--wandb-videos needs evaluations: --set evaluation_interval=N")


def experiment_from(options: dict[str, Any]) -> Experiment:
    """Returns the experiment that the command line describes.

    Args:
        options: The options given, by their long names with underscores.

    Raises:
        ValueError: If the file cannot be used, or neither file nor algorithm is given.
    """
    if "file" in options:
        experiment = Experiment.from_file(options["file"])
    elif "algo" in options:
        experiment = Experiment(run=options["algo"])
    else:
        raise ValueError(
            "give an algorithm, as in `rllib train --algo PPG --env procgen-coinrun-v0`, "
            "or an experiment, as in `rllib train file procgen_small`"
        )
    experiment = experiment.override(config=options.get("config", {}))
    if device := options.get("device"):
        gpus = experiment.config.get("num_gpus_per_learner") or 1
        gpus = gpus if device == "cuda" else 0
        experiment = experiment.override(config={"num_gpus_per_learner": gpus})
    names = ("env", "env_config", "seed")
    experiment = experiment.override(config={key: options[key] for key in names if key in options})
    for one in options.get("set", ()):
        experiment = experiment.override(config=one)
    score = options.get("checkpoint_score_attr", "")
    checkpoint = {
        "checkpoint_frequency": options.get("checkpoint_freq"),
        "checkpoint_at_end": options.get("checkpoint_at_end"),
        "num_to_keep": options.get("keep_checkpoints_num"),
        "checkpoint_score_attribute": score.removeprefix("min-") or None,
        "checkpoint_score_order": score and ("min" if score.startswith("min-") else "max"),
    }
    return experiment.override(
        run=options.get("algo"),
        name=options.get("experiment_name"),
        stop=options.get("stop"),
        num_samples=options.get("num_samples"),
        max_failures=options.get("max_failures"),
        checkpoint_config={k: v for k, v in checkpoint.items() if v not in (None, "")},
        scheduler=options.get("scheduler"),
        scheduler_config=options.get("scheduler_config"),
        search=options.get("search"),
        storage_path=options.get("storage_path"),
        restore=options.get("restore"),
    )

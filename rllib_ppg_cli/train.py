"""`rllib train`: runs an experiment that the options describe."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
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
from rllib_ppg.experiments.settings import EPISODE_RETURN_MEAN
from rllib_ppg.experiments.tuner import find_saved_run, make_tuner, resume_tuner
from rllib_ppg.resources.ray_processes import adopt_orphans, kill_ray_processes
from rllib_ppg.tune_callbacks.crash_recovery import (
    ResumeFromLatestCheckpoint,
    StoreResults,
    has_saved_trials,
)
from rllib_ppg.tune_callbacks.csv_logger import CSVLogger
from rllib_ppg.tune_callbacks.progress import AuxiliaryProgress, Progress
from rllib_ppg.tune_callbacks.run_files import RunFiles
from rllib_ppg.tune_callbacks.save_on_interrupt import GRACE_S, SaveOnInterrupt
from rllib_ppg_cli import client, dry_run, exit_code, precision_hint, redact, signals
from rllib_ppg_cli.report import goals, judge, report, to_resume


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
    redact.check([*argv, str(experiment)])
    if client.is_client(_address(options)):
        client.check_options(options)
    if "resume" in options and not has_saved_trials(find_saved_run(experiment)):
        print("nothing of the run was saved, so it starts from the beginning", flush=True)
        del options["resume"]
    if "resume" not in options:  # a resumed run keeps its settings
        experiment.validate()

    # Absolute, since Ray may change the working directory.
    file = find_experiment_file(options["file"]).absolute() if "file" in options else None
    saving = _save_on_interrupt(experiment, options, argv)
    with _ray(options):
        if "dry_run" in options:
            return exit_code.OK if dry_run.show(experiment) else exit_code.BAD_INPUT
        if "resume" in options:
            results, stop = _resume(experiment, options, saving)
            experiment = replace(experiment, stop=stop)
        else:
            experiment.validate_cluster()
            if not _address(options):  # the learners are on this machine
                precision_hint.show(experiment)
            is_drawn = experiment.config.get("seed") is None and experiment.num_samples == 1
            experiment = experiment.with_seed()
            results = _run(experiment, options, argv, file, saving)
            if is_drawn:  # a run that continues this one needs the same seed
                argv = [*argv, "--seed", str(experiment.config["seed"])]
    code = report(results, experiment, argv, saving.signum)
    if code == exit_code.OK and "as_test" in options:
        return judge(results, experiment.stop)
    return code


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


def _save_on_interrupt(
    experiment: Experiment, options: Mapping[str, Any], argv: Sequence[str]
) -> SaveOnInterrupt:
    command = partial(to_resume, experiment=experiment, argv=argv)
    return SaveOnInterrupt(options.get("grace_time", GRACE_S), command)


def _run(
    experiment: Experiment,
    options: Mapping[str, Any],
    argv: Sequence[str],
    file: Path | None,
    saving: SaveOnInterrupt,
) -> ResultGrid:
    python = file if file and file.suffix == ".py" else None
    remote = client.is_client(_address(options))
    with client.lines_from_head() if remote else nullcontext() as show:
        tuner = make_tuner(
            experiment,
            callbacks=[
                *_callbacks(experiment, options, saving, show),
                RunFiles(experiment, argv, python),
            ],
            rllib_callbacks=_rllib_callbacks(experiment, options),
        )
        if not experiment.stop:
            print("training until Ctrl-C, as there is no --stop", flush=True)
        return tuner.fit()


def _resume(
    experiment: Experiment, options: Mapping[str, Any], saving: SaveOnInterrupt
) -> tuple[ResultGrid, Mapping[str, float]]:
    callbacks = [ResumeFromLatestCheckpoint(), *_callbacks(experiment, options, saving)]
    tuner, stop = resume_tuner(experiment, callbacks, keep=RunFiles)
    return tuner.fit(), stop


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
    in_config: dict[str, Any] = {key: options[key] for key in ("env", "seed") if key in options}
    experiment = experiment.override(config={**options.get("config", {}), **in_config})
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
        storage_path=options.get("storage_path"),
        restore=options.get("restore"),
    )

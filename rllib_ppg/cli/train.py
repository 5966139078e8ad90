"""`rllib train`: from options to a trained, saved, or clearly failed run."""

from __future__ import annotations

import argparse
import logging
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rllib_ppg.cli import client, exit_code, redact
from rllib_ppg.cli.options import add_verbose, mapping, setting
from rllib_ppg.cli.quiet import keep_quiet
from rllib_ppg.cli.report import goals, judge, report, to_resume
from rllib_ppg.experiments.experiment import EPISODE_RETURN_MEAN, Experiment
from rllib_ppg.experiments.experiment_file import find_experiment_file

if TYPE_CHECKING:
    from ray import tune
    from ray.rllib.callbacks.callbacks import RLlibCallback
    from ray.tune import ResultGrid

    from rllib_ppg.tune_callbacks.save_on_interrupt import SaveOnInterrupt


def add_parser(commands: Any) -> None:
    """Adds `rllib train`, and `rllib train file` below it."""
    about = "train an algorithm on an environment, or run an experiment file"
    parser = commands.add_parser(
        "train",
        help=about,
        description=about.capitalize() + ".",
        usage="rllib train --algo NAME --env ID [options]\n       rllib train file FILE [options]",
    )
    parser.set_defaults(main=main)
    add_options(parser)
    about = "run an experiment file; the options above, if given, override what it says"
    parser_file = parser.add_subparsers(metavar="file").add_parser(
        "file",
        help=about,
        description=about.capitalize() + ".",
        usage="rllib train file FILE [options]",
    )
    parser_file.add_argument(
        "file", help="a .yaml or .py file (which is run), or the name of a shipped example"
    )
    # The options may stand before `file`, after it, or both; argparse would keep the last list.
    add_options(parser_file, dest_of_set="set_after")


def add_options(parser: argparse.ArgumentParser, dest_of_set: str = "set") -> None:
    """Adds all options: what to train, for how long, and where.

    Args:
        parser: The parser to add them to.
        dest_of_set: Where the values of --set are collected.
    """
    add_experiment_options(parser, dest_of_set)
    where = parser.add_argument_group("where")
    where.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="a Ray cluster: auto, HOST:6379 or ray://HOST:10001 (RAY_ADDRESS, or a new one)",
    )
    where.add_argument("--ray-num-cpus", type=int, metavar="N", help="CPUs of the new one (all)")
    where.add_argument("--ray-num-gpus", type=int, metavar="N", help="its GPUs (all)")
    where.add_argument(
        "--ray-object-store-memory", type=int, metavar="BYTES", help="its object store's size"
    )


def add_experiment_options(parser: argparse.ArgumentParser, dest_of_set: str = "set") -> None:
    """Adds the options that say what to train and for how long, wherever it is."""
    what = parser.add_argument_group("what to train")
    what.add_argument(
        "--algo", "--run", "-a", "-r", metavar="NAME", help="PPG, or one of RLlib's own, as in PPO"
    )
    what.add_argument("--env", "-e", metavar="ID", help="a gymnasium id, as in procgen-coinrun-v0")
    what.add_argument(
        "--config",
        "-c",
        type=mapping,
        metavar="{...}",
        help="the algorithm's config as JSON or YAML, as in '{\"n_pi\": 4}'",
    )
    what.add_argument(
        "--set",
        dest=dest_of_set,
        type=setting,
        action="append",
        metavar="KEY=VALUE",
        help="one setting of the config, as in n_pi=4 or env_config.num_levels=200; repeat it",
    )
    what.add_argument("--seed", type=int, metavar="N", help="the config's seed")
    what.add_argument(
        "--num-samples",
        type=int,
        metavar="N",
        help="how often to run the config or its grid, each time with another seed (1)",
    )
    what.add_argument(
        "--scheduler",
        metavar="NAME",
        help="what ends or changes trials on the way, as in async_hyperband or pbt (none)",
    )
    what.add_argument(
        "--scheduler-config", type=mapping, metavar="{...}", help="its arguments as JSON or YAML"
    )
    what.add_argument(
        "--dry-run",
        action="store_true",
        help="show settings, phases, replay list and resources, and train nothing",
    )

    how_long = parser.add_argument_group("for how long, and what to keep")
    how_long.add_argument(
        "--stop",
        "-s",
        type=mapping,
        metavar="{...}",
        help="results at which to stop, as in '{\"num_env_steps_sampled_lifetime\": 100000}'",
    )
    how_long.add_argument(
        "--checkpoint-freq", type=int, metavar="N", help="save every N iterations (never)"
    )
    how_long.add_argument(
        "--checkpoint-at-end", action=argparse.BooleanOptionalAction, help="save at the end (no)"
    )
    how_long.add_argument(
        "--as-test", action="store_true", help="fail if the run ends short of a return in --stop"
    )
    how_long.add_argument(
        "--keep-checkpoints-num", type=int, metavar="N", help="keep only so many (all)"
    )
    how_long.add_argument(
        "--checkpoint-score-attr",
        metavar="RESULT",
        help="keep those that are best by this result, or with min-RESULT lowest (the last)",
    )
    how_long.add_argument(
        "--max-failures",
        type=int,
        metavar="N",
        help="start a run that fails again, up to N times, from its last checkpoint (0)",
    )
    how_long.add_argument(
        "--grace-time",
        type=float,
        metavar="SECONDS",
        help="how long to wait for a checkpoint after SIGTERM (25)",
    )
    how_long.add_argument("--restore", metavar="PATH", help="go on from this checkpoint")
    how_long.add_argument(
        "--resume",
        action="store_true",
        help="go on with an experiment that was interrupted, with the settings it was started with",
    )
    how_long.add_argument("--storage-path", metavar="PATH", help="where results go (~/ray_results)")
    how_long.add_argument(
        "--experiment-name", "-n", metavar="NAME", help="their folder's name (algorithm and date)"
    )

    tracking = parser.add_argument_group("Weights & Biases")
    tracking.add_argument("--track", action="store_true", help="log to W&B (no)")
    tracking.add_argument("--wandb-project", metavar="NAME", help="its project (rllib_ppg)")
    tracking.add_argument("--wandb-group", metavar="NAME", help="its group (the experiment's name)")
    tracking.add_argument(
        "--wandb-mode",
        choices=("online", "offline"),
        help="offline keeps the data on disk (online, and offline without a key or network)",
    )
    tracking.add_argument(
        "--wandb-checkpoints", action="store_true", help="keep checkpoints there, too (no)"
    )
    tracking.add_argument(
        "--wandb-videos", action="store_true", help="film an episode of each evaluation (no)"
    )

    add_verbose(parser)


def main(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """Trains.

    Args:
        args: The parsed options; those not given are missing.
        argv: The command line as it was given, to say how to go on.

    Returns:
        The exit code.

    Raises:
        ValueError: For bad input.
    """
    options = vars(args)
    keep_quiet(options.get("verbose", 0))
    experiment = experiment_from(options)
    check_options(experiment, options)
    redact.check([*argv, str(experiment)])
    if client.is_client(_address(options)):
        client.check_options(options)
    if "resume" in options and not _has_saved_trials(experiment):
        print("nothing of the run was saved: it begins anew", flush=True)
        del options["resume"]
    if "resume" not in options:  # if it is, it goes on with the settings it was started with
        experiment.validate()

    import ray

    from rllib_ppg.cli import dry_run
    from rllib_ppg.tune_callbacks.save_on_interrupt import exit_on_sigterm

    # Now, as Ray may have another working directory.
    file = find_experiment_file(options["file"]).absolute() if "file" in options else None
    _start_ray(options)
    exit_on_sigterm()
    saving = _save_on_interrupt(experiment, options, argv)
    try:
        if "dry_run" in options:
            return exit_code.OK if dry_run.show(experiment) else exit_code.BAD_INPUT
        if "resume" in options:
            results, stop = _resume(experiment, options, saving)
            experiment = replace(experiment, stop=stop)
        else:
            experiment.validate_cluster()
            is_drawn = experiment.config.get("seed") is None and experiment.num_samples == 1
            experiment = experiment.with_seed()
            results = _run(experiment, options, argv, file, saving)
            if is_drawn:  # what goes on from this run is to be one with it
                argv = [*argv, "--seed", str(experiment.config["seed"])]
    finally:
        ray.shutdown()
    code = report(results, experiment, argv, terminated=saving.signum == signal.SIGTERM)
    if code == exit_code.OK and "as_test" in options:
        return judge(results, experiment.stop)
    return code


def _address(options: Mapping[str, Any]) -> str | None:
    return options.get("ray_address") or os.environ.get("RAY_ADDRESS")


def _start_ray(options: Mapping[str, Any]) -> None:
    import ray

    verbose, address = options.get("verbose", 0), _address(options)
    ray.init(
        # Without an address, a Ray of its own: not one that somebody else left running here.
        address=address or "local",
        num_cpus=options.get("ray_num_cpus"),
        num_gpus=options.get("ray_num_gpus"),
        object_store_memory=options.get("ray_object_store_memory"),
        include_dashboard=None if address else False,
        log_to_driver=verbose > 0,
        logging_level=logging.INFO if verbose else logging.ERROR,
    )


def _has_saved_trials(experiment: Experiment) -> bool:
    from rllib_ppg.tune_callbacks.crash_recovery import has_saved_trials

    return has_saved_trials(experiment.resumable())


def _save_on_interrupt(
    experiment: Experiment, options: Mapping[str, Any], argv: Sequence[str]
) -> SaveOnInterrupt:
    from rllib_ppg.tune_callbacks.save_on_interrupt import GRACE_S, SaveOnInterrupt

    command = partial(to_resume, experiment=experiment, argv=argv)
    return SaveOnInterrupt(options.get("grace_time", GRACE_S), command)


def _run(
    experiment: Experiment,
    options: Mapping[str, Any],
    argv: Sequence[str],
    file: Path | None,
    saving: SaveOnInterrupt,
) -> ResultGrid:
    from rllib_ppg.tune_callbacks.run_files import RunFiles

    python = file if file and file.suffix == ".py" else None
    remote = client.is_client(_address(options))
    with client.lines_from_head() if remote else nullcontext() as show:
        tuner = experiment.to_tuner(
            callbacks=[
                *_callbacks(experiment, options, saving, show),
                RunFiles(experiment, argv, python),
            ],
            rllib_callbacks=_rllib_callbacks(experiment, options),
        )
        if not experiment.stop:
            print("training until Ctrl-C, for want of --stop", flush=True)
        return tuner.fit()


def _resume(
    experiment: Experiment, options: Mapping[str, Any], saving: SaveOnInterrupt
) -> tuple[ResultGrid, Mapping[str, float]]:
    from rllib_ppg.tune_callbacks.crash_recovery import ResumeFromLatestCheckpoint
    from rllib_ppg.tune_callbacks.run_files import RunFiles

    callbacks = [ResumeFromLatestCheckpoint(), *_callbacks(experiment, options, saving)]
    tuner, stop = experiment.to_resumed_tuner(callbacks, keep=RunFiles)
    return tuner.fit(), stop


def _callbacks(
    experiment: Experiment,
    options: Mapping[str, Any],
    saving: SaveOnInterrupt,
    show: Callable[[str], object] | None = None,
) -> list[tune.Callback]:
    from rllib_ppg.tune_callbacks.crash_recovery import StoreResults
    from rllib_ppg.tune_callbacks.csv_logger import CSVLogger
    from rllib_ppg.tune_callbacks.progress import Progress

    progress = Progress(experiment.run == "PPG", show, experiment.result_names)
    return [progress, saving, CSVLogger(), StoreResults(), *_tracking(options)]


def _rllib_callbacks(
    experiment: Experiment, options: Mapping[str, Any]
) -> list[type[RLlibCallback]]:
    from rllib_ppg.callbacks import ProcgenMetrics
    from rllib_ppg.evaluation.evaluation_videos import EvaluationVideos
    from rllib_ppg.tune_callbacks.progress import AuxiliaryProgress

    callbacks: list[type[RLlibCallback]] = [ProcgenMetrics]
    if experiment.run == "PPG":
        callbacks.append(AuxiliaryProgress)
    if "wandb_videos" in options:
        callbacks.append(EvaluationVideos)
    return callbacks


def _tracking(options: Mapping[str, Any]) -> list[tune.Callback]:
    """W&B, if it is asked for."""
    if "track" not in options:
        return []
    from rllib_ppg.tune_callbacks.wandb_logger import WandbLogger

    names = ("project", "group", "mode")
    given = {name: options[f"wandb_{name}"] for name in names if f"wandb_{name}" in options}
    return [WandbLogger(**given, upload_checkpoints="wandb_checkpoints" in options)]


def check_options(experiment: Experiment, options: Mapping[str, Any]) -> None:
    """Raises ValueError for options that go ill with each other, or with the experiment."""
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
        raise ValueError("--wandb-videos films PPG's episodes only")
    if not experiment.config.get("evaluation_interval"):
        raise ValueError("--wandb-videos films evaluations: --set evaluation_interval=N")


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
    for one in (*options.get("set", ()), *options.get("set_after", ())):
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

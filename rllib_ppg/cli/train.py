"""`rllib train`: from options to a trained, saved, or clearly failed run."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rllib_ppg.cli import exit_code
from rllib_ppg.cli.options import add_verbose, mapping
from rllib_ppg.cli.quiet import keep_quiet
from rllib_ppg.experiment import Experiment

if TYPE_CHECKING:
    from ray.tune import Result, ResultGrid


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
    parser_file.add_argument("file", help="a .yaml file, or the name of a shipped example")
    add_options(parser_file)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say what to train, for how long, and where."""
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
    what.add_argument("--seed", type=int, metavar="N", help="the config's seed")
    what.add_argument(
        "--num-samples", type=int, metavar="N", help="how often to run the config or its grid (1)"
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
    how_long.add_argument("--restore", metavar="PATH", help="go on from this checkpoint")
    how_long.add_argument("--storage-path", metavar="PATH", help="where results go (~/ray_results)")
    how_long.add_argument(
        "--experiment-name", "-n", metavar="NAME", help="their folder's name (algorithm and date)"
    )

    where = parser.add_argument_group("where")
    where.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="a Ray cluster (the one that runs here, or a new one)",
    )
    where.add_argument("--ray-num-cpus", type=int, metavar="N", help="CPUs of the new one (all)")
    where.add_argument(
        "--ray-object-store-memory", type=int, metavar="BYTES", help="its object store's size"
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
    verbose = options.get("verbose", 0)
    keep_quiet(verbose)
    experiment = experiment_from(options)
    experiment.validate()

    import ray

    from rllib_ppg.cli.progress import AuxiliaryProgress, Progress

    address = options.get("ray_address") or os.environ.get("RAY_ADDRESS")
    ray.init(
        # Without an address, a Ray of its own: not one that somebody else left running here.
        address=address or "local",
        num_cpus=options.get("ray_num_cpus"),
        object_store_memory=options.get("ray_object_store_memory"),
        include_dashboard=None if address else False,
        log_to_driver=verbose > 0,
        logging_level=logging.INFO if verbose else logging.ERROR,
    )
    try:
        experiment.validate_resources()
        is_ppg = experiment.run == "PPG"
        tuner = experiment.to_tuner(
            callbacks=[Progress(auxiliary=is_ppg)],
            rllib_callbacks=[AuxiliaryProgress] if is_ppg else [],
        )
        if not experiment.stop:
            print("training until Ctrl-C, for want of --stop", flush=True)
        results = tuner.fit()
    finally:
        ray.shutdown()
    return report(results, experiment, argv)


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
    checkpoint = {
        "checkpoint_frequency": options.get("checkpoint_freq"),
        "checkpoint_at_end": options.get("checkpoint_at_end"),
    }
    return experiment.override(
        run=options.get("algo"),
        name=options.get("experiment_name"),
        config={**options.get("config", {}), **in_config},
        stop=options.get("stop"),
        num_samples=options.get("num_samples"),
        checkpoint_config={k: v for k, v in checkpoint.items() if v is not None},
        storage_path=options.get("storage_path"),
        restore=options.get("restore"),
    )


def report(results: ResultGrid, experiment: Experiment, argv: Sequence[str]) -> int:
    """Prints what came of the run and how to go on.

    Args:
        results: What the Tuner returned.
        experiment: What it ran.
        argv: The command line that asked for it.

    Returns:
        The exit code.
    """
    # A trial that failed in its first iteration has no metrics at all.
    finished = all((result.metrics or {}).get("done", False) for result in results)
    print(f"results: {results.experiment_path if len(results) > 1 else results[0].path}")
    for result in results:
        if result.checkpoint:
            print(f"checkpoint: {result.checkpoint.path}")
    if len(results) == 1:
        print(_how_to_go_on(results[0], experiment.stop if finished else {}, argv))
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
    print("rllib: interrupted", file=sys.stderr)
    return exit_code.INTERRUPTED


def _how_to_go_on(result: Result, reached: Mapping[str, float], argv: Sequence[str]) -> str:
    if result.checkpoint is None:
        return "nothing was saved to go on from: --checkpoint-at-end or --checkpoint-freq does"
    # As `make run` calls it, out of an environment that is not activated, by its path.
    program = "rllib" if shutil.which("rllib") else sys.argv[0]
    command = [program, *_without(argv, ("--restore",)), "--restore", result.checkpoint.path]
    if reached:
        # A return to reach stays, a budget grows by as much again.
        budgets = ("training_iteration", "num_env_steps_sampled_lifetime", "time_total_s")
        stop = {key: 2 * n if key in budgets else n for key, n in reached.items()}
        command = [*_without(command, ("--stop", "-s")), "--stop", json.dumps(stop)]
    return f"to go on: {shlex.join(command)}"


def _without(argv: Sequence[str], options: Sequence[str]) -> list[str]:
    """Returns a command line without some options and their values."""
    kept: list[str] = []
    skip_value = False
    for word in argv:
        if not skip_value and word.split("=")[0] not in options:
            kept.append(word)
        skip_value = not skip_value and word in options
    return kept

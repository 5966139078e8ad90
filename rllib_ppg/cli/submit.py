"""`rllib submit`: `rllib train` on a cluster, through its job server."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from rllib_ppg.cli import exit_code, redact, train
from rllib_ppg.cli.job import Job
from rllib_ppg.cli.options import without
from rllib_ppg.cli.quiet import keep_quiet
from rllib_ppg.cli.report import SUBMITTED
from rllib_ppg.experiments.experiment import Experiment
from rllib_ppg.experiments.experiment_file import find_experiment_file, parse_yaml

_DEFAULT_ADDRESS = "http://127.0.0.1:8265"
_DEFAULT_STORAGE = "~/ray_results"
_OWN_OPTIONS = ("--address", "--runtime-env", "--results", "--attach")
_OWN_FLAGS = ("--no-wait",)


def add_parser(commands: Any) -> None:
    """Adds `rllib submit`."""
    about = "run an experiment on a Ray cluster, follow it, and fetch its results"
    parser = commands.add_parser(
        "submit",
        help=about,
        description="Run an experiment on a Ray cluster, follow it, and fetch its results.",
        usage="rllib submit FILE --address http://HEAD:8265 [options of rllib train]\n"
        "       rllib submit --algo NAME --env ID --address http://HEAD:8265 [options]\n"
        "       rllib submit --attach JOB --address http://HEAD:8265",
    )
    parser.set_defaults(main=main)
    parser.add_argument("file", nargs="?", metavar="FILE", help="as for `rllib train file`")
    job = parser.add_argument_group("the job")
    job.add_argument(
        "--address",
        metavar="URL",
        help=f"the cluster's job server (RAY_API_SERVER_ADDRESS, or {_DEFAULT_ADDRESS})",
    )
    job.add_argument(
        "--runtime-env",
        metavar="YAML",
        help="what the cluster's nodes lack, as a Ray runtime environment (nothing); the package "
        "and the experiment file are always sent",
    )
    job.add_argument(
        "--results",
        metavar="PATH",
        help=f"where to put what is fetched when the job has ended ({_DEFAULT_STORAGE})",
    )
    job.add_argument("--no-wait", action="store_true", help="only submit it")
    job.add_argument("--attach", metavar="JOB", help="follow a job that was submitted before")
    train.add_experiment_options(parser)


def main(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """Submits, follows and fetches.

    Args:
        args: The parsed options; those not given are missing.
        argv: The command line as it was given.

    Returns:
        The job's exit code.

    Raises:
        ValueError: For bad input, or a job server that cannot be reached.
    """
    options = vars(args)
    options = {key: value for key, value in options.items() if value is not None}  # no FILE
    keep_quiet(options.get("verbose", 0))
    address = options.get("address") or os.environ.get("RAY_API_SERVER_ADDRESS")
    address = address or _DEFAULT_ADDRESS
    if "://" not in address:
        address = f"http://{address}"  # Ray would take it for that of the cluster itself
    results = Path(options.get("results", _DEFAULT_STORAGE)).expanduser()
    results.mkdir(parents=True, exist_ok=True)
    if "attach" in options:
        others = set(options) - {"attach", "address", "results", "no_wait", "verbose", "main"}
        if others:
            raise ValueError(
                f"--attach follows a job as it is; {sorted(others)[0]} is for a new one"
            )
        job = Job.find(address, options["attach"])
    else:
        job = _submit(address, options, argv)
        print(f"submitted {job.id} to {address}", flush=True)
    follow = ["rllib", "submit", "--attach", job.id, "--address", address]
    if "results" in options:
        follow += ["--results", str(results)]
    again = shlex.join(follow)
    stop = shlex.join(["ray", "job", "stop", job.id, "--address", address])
    if "no_wait" in options:
        print(f"to follow it: {again}\nto stop it: {stop}")
        return exit_code.OK
    try:
        job.follow()
        code = job.exit_code()
    except KeyboardInterrupt:
        print(f"\nthe job goes on\nto follow it: {again}\nto stop it: {stop}", flush=True)
        return exit_code.INTERRUPTED
    except ConnectionError as error:
        raise ValueError(f"{error}; the job goes on, to follow it: {again}") from error
    if "dry_run" not in options:
        try:
            print(job.fetch(results), flush=True)
        except OSError as error:  # the run has ended, and well or not is what its code says
            print(f"nothing was fetched: {error}; to try again: {again}", file=sys.stderr)
    return code


def _submit(address: str, options: dict[str, Any], argv: Sequence[str]) -> Job:
    """Checks all that can be checked here, and sends the job."""
    experiment = train.experiment_from(options)
    redact.check([*argv, str(experiment)])
    _check(experiment, options)
    runtime_env = _runtime_env(options.get("runtime_env"))
    words = without(argv[1:], _OWN_OPTIONS, _OWN_FLAGS)
    with tempfile.TemporaryDirectory() as folder:
        command = ["train"]
        if "file" in options:
            # The word itself, not one like it, such as -n's.
            words = [word for word in words if word is not options["file"]]
            file = find_experiment_file(options["file"])
            command += ["file", _in_working_dir(file, runtime_env, Path(folder))]
        # Named here, so that its results are found again.
        name = experiment.name or f"{experiment.run}_{datetime.now():%Y-%m-%d_%H-%M-%S}"
        named = [] if experiment.name else ["-n", name]
        return Job.submit(
            address,
            [*command, *words, *named],
            _with_original_command(runtime_env, options),
            results=f"{experiment.storage_path or _DEFAULT_STORAGE}/{name}",
        )


def _check(experiment: Experiment, options: dict[str, Any]) -> None:
    train.check_options(experiment, options)
    place = experiment.storage_path
    if place and "://" not in place and not place.startswith(("/", "~")):
        raise ValueError(
            f"--storage-path {place} would be in a folder that Ray may delete: give "
            "an absolute path of the cluster, or a URI"
        )
    if "resume" in options:  # with the settings that it was started with
        if experiment.name is None:
            raise ValueError("--resume needs the name of the experiment that it resumes: -n NAME")
        return
    replace(experiment, restore=None).validate()  # the cluster reads its checkpoint


def _with_original_command(runtime_env: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Has the job say how to go on in the words of this command."""
    given = ["submit", *([options["file"]] if "file" in options else [])]
    for option in ("address", "runtime_env", "results"):
        if option in options:
            given += [f"--{option.replace('_', '-')}", options[option]]
    env_vars = {**runtime_env.get("env_vars", {}), SUBMITTED: shlex.join(given)}
    return {**runtime_env, "env_vars": env_vars}


def _runtime_env(file: str | None) -> dict[str, Any]:
    """Reads a runtime environment and adds this package to it."""
    import rllib_ppg

    runtime_env: Any = {}
    if file is not None:
        try:
            runtime_env = parse_yaml(Path(file).expanduser().read_text(), file) or {}
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is no text") from error
        if not isinstance(runtime_env, dict):
            raise ValueError(f"{file} must be a mapping, as in `pip: [ale_py]`")
    runtime_env = {key: value for key, value in runtime_env.items() if value is not None}
    modules = runtime_env.get("py_modules", [])
    if not isinstance(modules, list):
        raise ValueError(f"py_modules in {file} must be a list, not {modules!r}")
    return {**runtime_env, "py_modules": [*modules, str(Path(rllib_ppg.__file__).parent)]}


def _in_working_dir(file: Path, runtime_env: dict[str, Any], folder: Path) -> str:
    """Has the job find the experiment file; returns its path there.

    Args:
        file: The file here.
        runtime_env: If it has no `working_dir`, it is given one with the file alone.
        folder: For that one.
    """
    if "working_dir" not in runtime_env:
        shutil.copyfile(file, folder / file.name)
        runtime_env["working_dir"] = str(folder)
        return file.name
    if "://" in runtime_env["working_dir"]:
        raise ValueError("the runtime environment's working_dir must be a folder of this machine")
    working_dir = Path(runtime_env["working_dir"]).expanduser().absolute()
    if not file.absolute().is_relative_to(working_dir):
        raise ValueError(f"{file} must lie in the runtime environment's working_dir, {working_dir}")
    runtime_env["working_dir"] = str(working_dir)
    return str(file.absolute().relative_to(working_dir))

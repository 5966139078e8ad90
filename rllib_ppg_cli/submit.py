"""`rllib submit`: `rllib train` on a cluster, through its job server."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import rllib_ppg
import rllib_ppg_cli
from rllib_ppg.experiments.experiment import Experiment
from rllib_ppg.experiments.experiment_file import find_experiment_file, parse_yaml
from rllib_ppg.experiments.run_folder import check_run_name
from rllib_ppg_cli import exit_code, redact, train
from rllib_ppg_cli.job import Job
from rllib_ppg_cli.outcome import SUBMITTED
from rllib_ppg_cli.words import without

_DEFAULT_ADDRESS = "http://127.0.0.1:8265"
_DEFAULT_STORAGE = "~/ray_results"
_OWN_OPTIONS = ("--address", "--runtime-env", "--attach")
_OWN_FLAGS = ("--no-wait",)


def main(options: dict[str, Any], argv: Sequence[str]) -> int:
    """Submits a job and follows it.

    Args:
        options: The options that were given, by their long names with underscores.
        argv: The command line.

    Returns:
        The job's exit code.

    Raises:
        ValueError: For bad input, or a job server that cannot be reached.
    """
    address = options.get("address") or os.environ.get("RAY_API_SERVER_ADDRESS")
    address = address or _DEFAULT_ADDRESS
    if "://" not in address:
        address = f"http://{address}"  # otherwise Ray takes it for the cluster's own address
    if "attach" in options:
        others = set(options) - {"attach", "address", "no_wait", "verbose"}
        if others:
            raise ValueError(f"--attach follows a running job: {min(others)} is for a new one")
        job = Job.find(address, options["attach"])
    else:
        job = _submit(address, options, argv)
    again = shlex.join(["rllib", "submit", "--attach", job.id, "--address", address])
    stop = shlex.join(["ray", "job", "stop", job.id, "--address", address])
    if "no_wait" in options:
        print(f"to follow it: {again}\nto stop it: {stop}")
        return exit_code.OK
    try:
        job.follow()
        return job.exit_code()
    except KeyboardInterrupt:
        print(f"\nthe job continues\nto follow it: {again}\nto stop it: {stop}", flush=True)
        return exit_code.INTERRUPTED
    except ConnectionError as error:
        raise ValueError(f"{error}; the job continues, to follow it: {again}") from error


def _submit(address: str, options: dict[str, Any], argv: Sequence[str]) -> Job:
    """Checks all that can be checked here, submits the job, and prints where its results go."""
    experiment = train.experiment_from(options)
    file = find_experiment_file(options["file"]) if "file" in options else None
    redact.check_run(argv, experiment, file)
    _check(experiment, options)
    runtime_env = _runtime_env(options.get("runtime_env"))
    words = without(argv[1:], _OWN_OPTIONS, _OWN_FLAGS)
    # The job gets a name here, so that it can be printed and resumed.
    name = experiment.name or f"{experiment.run}_{datetime.now():%Y-%m-%d_%H-%M-%S}"
    named = [] if experiment.name else ["-n", name]
    with tempfile.TemporaryDirectory() as folder:
        command = ["train"]
        if file is not None:
            # Compares objects, since an option such as -n may have the same value.
            words = [word for word in words if word is not options["file"]]
            command += ["file", _in_working_dir(file, runtime_env, Path(folder))]
        job = Job.submit(
            address,
            [*command, *words, *named],
            _with_original_command(runtime_env, options),
        )
    print(f"submitted {job.id} to {address}", flush=True)
    if "dry_run" not in options:
        print(_results(f"{experiment.storage_path or _DEFAULT_STORAGE}/{name}"), flush=True)
    return job


def _results(place: str) -> str:
    """Returns where a job's results go and how to read them."""
    if "://" in place:
        return f"results: {place}\nto plot them: {shlex.join(['rllib', 'plot', place])}"
    return (
        f"results: {place} on the cluster (to read them from here, give --storage-path a URI, as "
        "in s3://BUCKET/runs)"
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
            raise ValueError("--resume needs the name of the experiment: -n NAME")
        check_run_name(experiment.name)
        return
    replace(experiment, restore=None).validate()  # the cluster reads its checkpoint


def _with_original_command(runtime_env: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Returns a runtime environment in which the job prints `rllib submit` commands."""
    given = ["submit", *([options["file"]] if "file" in options else [])]
    for option in ("address", "runtime_env"):
        if option in options:
            given += [f"--{option.replace('_', '-')}", options[option]]
    env_vars = {**runtime_env.get("env_vars", {}), SUBMITTED: shlex.join(given)}
    return {**runtime_env, "env_vars": env_vars}


def _runtime_env(file: str | None) -> dict[str, Any]:
    """Reads a runtime environment and adds this package and its command to it."""
    runtime_env: Any = {}
    if file is not None:
        try:
            runtime_env = parse_yaml(Path(file).expanduser().read_text(), file) or {}
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not a text file") from error
        if not isinstance(runtime_env, dict):
            raise ValueError(f"{file} must be a mapping, as in `pip: [ale_py]`")
    runtime_env = {key: value for key, value in runtime_env.items() if value is not None}
    modules = runtime_env.get("py_modules", [])
    if not isinstance(modules, list):
        raise ValueError(f"py_modules in {file} must be a list, not {modules!r}")
    packages = [package.__path__[0] for package in (rllib_ppg, rllib_ppg_cli)]
    return {**runtime_env, "py_modules": [*modules, *packages]}


def _in_working_dir(file: Path, runtime_env: dict[str, Any], folder: Path) -> str:
    """Puts the experiment file into the job's working directory.

    Args:
        file: The experiment file.
        runtime_env: The runtime environment. Without a `working_dir` it gets one that holds only
            the file.
        folder: An empty folder for that.

    Returns:
        The file's path in the job.
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

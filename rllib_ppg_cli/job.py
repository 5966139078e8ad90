"""A run as a job of a Ray cluster: submitted and followed."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayError

from rllib_ppg_cli import exit_code

_PROGRAM = ("python", "-m", "rllib_ppg_cli")  # a job has the package without its script
_POLL_S = 0.5
_START_S = 60.0


@dataclass(frozen=True)
class Job:
    """A job that was submitted.

    Attributes:
        id: Ray's "submission id".
        client: The connection to the job server.
    """

    id: str
    client: Any

    @classmethod
    def submit(cls, address: str, command: Sequence[str], runtime_env: dict[str, Any]) -> Job:
        """Submits a job.

        Args:
            address: The job server's URL.
            command: The words after `rllib`.
            runtime_env: Ray's runtime environment, whose local folders are uploaded.

        Raises:
            ValueError: If there is no job server, or it refuses the job.
        """
        client = _connect(address)
        with _sentences(address):
            job_id = _send(
                client,
                entrypoint=shlex.join([*_PROGRAM, *command]),
                runtime_env=runtime_env,
            )
        return cls(job_id, client)

    @classmethod
    def find(cls, address: str, job_id: str) -> Job:
        """Finds a job that was submitted before.

        Raises:
            ValueError: If there is no such job.
        """
        client = _connect(address)
        with _sentences(address):
            client.get_job_info(job_id)
        return cls(job_id, client)

    def follow(self) -> None:
        """Prints the job's log until it ends.

        Raises:
            ConnectionError: If the connection to the job server was lost.
        """

        async def show() -> None:
            async for text in self.client.tail_job_logs(self.id):
                print(text, end="", flush=True)

        with _connection():
            asyncio.run(show())
        while not self._info().status.is_terminal():  # its log ends a little before it does
            time.sleep(_POLL_S)

    def exit_code(self) -> int:
        """Returns the exit code of the job's command after the job has ended.

        Raises:
            ConnectionError: If the connection to the job server was lost.
        """
        info = self._info()
        if info.status == "SUCCEEDED":
            return exit_code.OK
        if info.status == "STOPPED":
            print("the job was stopped")
            return exit_code.INTERRUPTED
        if info.driver_exit_code is None or info.driver_exit_code < 0:
            print(f"the job failed: {info.message}")
            return exit_code.FAILED
        return int(info.driver_exit_code)

    def _info(self) -> Any:
        with _connection():
            return self.client.get_job_info(self.id)


def _send(client: Any, **job: Any) -> str:
    """Submits a job, and waits for a cluster that is still starting."""
    give_up = time.monotonic() + _START_S
    while True:
        try:
            return str(client.submit_job(**job))
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > give_up:
                raise
        time.sleep(_POLL_S)


def _connect(address: str) -> Any:
    from ray.job_submission import JobSubmissionClient

    for name in ("dashboard_sdk", "job.sdk"):  # they log each upload and connection
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
    # Ray would use these variables instead of the given address.
    others = {
        name: os.environ.pop(name, None) for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
    }
    try:
        with _sentences(address):
            return JobSubmissionClient(address)
    finally:
        os.environ.update({name: value for name, value in others.items() if value is not None})


@contextmanager
def _connection() -> Iterator[None]:
    """Turns what the job server's client raises into a ConnectionError."""
    import aiohttp

    try:
        yield
    except (RuntimeError, OSError, aiohttp.ClientError) as error:
        raise ConnectionError(f"lost the connection to the job server: {error}") from error


@contextmanager
def _sentences(address: str) -> Iterator[None]:
    """Turns what the job server's client raises into a ValueError."""
    try:
        yield
    except ConnectionError as error:
        raise ValueError(
            f"no job server answers at {address}: it is on port 8265 of the cluster's head, if "
            "ray[default] is installed there"
        ) from error
    except (RuntimeError, RayError) as error:  # a RayError for a missing or wrong token
        text = str(error)
        if "ray[default]" in text:
            text = "`rllib submit` needs ray[default] here: pip install 'rllib-ppg[cluster]'"
        raise ValueError(text) from error

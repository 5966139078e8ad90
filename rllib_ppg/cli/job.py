"""A run as a job of a Ray cluster: sent, followed, and its results brought here."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import shlex
import tarfile
import time
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.exceptions import RayError

from rllib_ppg.cli import exit_code
from rllib_ppg.cli.pack import BEGIN, END

_PROGRAM = ("python", "-m", "rllib_ppg")  # the package is sent along, its script is not
_POLL_S = 0.5
_START_S = 60.0
_FETCHED_FROM = ".fetched_from"


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
    def submit(
        cls, address: str, command: Sequence[str], runtime_env: dict[str, Any], results: str
    ) -> Job:
        """Sends a job.

        Args:
            address: The job server's URL.
            command: The words after `rllib`.
            runtime_env: Ray's runtime environment; local folders in it are sent.
            results: Where the job will put its results, for `fetch`.

        Raises:
            ValueError: If there is no job server, or it refuses the job.
        """
        client = _connect(address)
        with _sentences(address):
            job_id = _send(
                client,
                entrypoint=shlex.join([*_PROGRAM, *command]),
                runtime_env=runtime_env,
                metadata={"results": results},
            )
        return cls(job_id, client)

    @classmethod
    def find(cls, address: str, job_id: str) -> Job:
        """Finds a job that was submitted before.

        Raises:
            ValueError: If there is none of that id.
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
        """Returns that of the job's command; the job has ended.

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

    def fetch(self, folder: Path) -> str:
        """Brings the results here, through the job server: nothing else need be reachable.

        Args:
            folder: They get a folder in it, of the experiment's name.

        Returns:
            What came of it, in words.

        Raises:
            ConnectionError: If the connection to the job server was lost.
        """
        info = self._info()
        there = (info.metadata or {}).get("results")
        if there is None:
            return "this job is none of `rllib submit`, nothing was fetched"
        if info.driver_exit_code is None and info.status == "FAILED":
            return "the job did not begin, and there is nothing to fetch"
        with _connection():
            packing = _send(
                self.client,
                entrypoint=shlex.join(["python", "-m", "rllib_ppg.cli.pack", there]),
                runtime_env=info.runtime_env,
            )
            while not self.client.get_job_status(packing).is_terminal():
                time.sleep(_POLL_S)
            log = self.client.get_job_logs(packing)
        if BEGIN not in log or END not in log:
            reason = log.strip().splitlines()[-1:] or ["no log"]
            return f"nothing was fetched of {there}: {reason[0]}"
        words, archive = log.split(BEGIN)[1].split(END)[0].strip().split("\n", 1)
        target = folder / Path(there).name
        if target.exists() and not _is_of(target, there):  # a run of this machine, say
            target = folder / f"{target.name}_{self.id}"
        with tarfile.open(fileobj=io.BytesIO(b64decode(archive))) as tar:
            tar.extractall(target, filter="data")
        (target / _FETCHED_FROM).write_text(there)
        return f"fetched to {target}: {words}"

    def _info(self) -> Any:
        with _connection():
            return self.client.get_job_info(self.id)


def _is_of(folder: Path, there: str) -> bool:
    """Whether what is in a folder was fetched from that place on the cluster."""
    note = folder / _FETCHED_FROM
    return note.is_file() and note.read_text() == there


def _send(client: Any, **job: Any) -> str:
    """Submits a job; waits for a cluster whose job server is up, and all of it not yet."""
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

    for name in ("dashboard_sdk", "job.sdk"):  # which tell of each upload and connection
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
    # Ray would prefer what they say to the address that is given.
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
    """Calls what the job server's client raises by its name."""
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
            f"no job server answers at {address}: its port is 8265 of the cluster's head, which "
            "has one if ray[default] is installed there"
        ) from error
    except (RuntimeError, RayError) as error:  # a RayError: of a token that is missing or wrong
        text = str(error)
        if "ray[default]" in text:
            text = "submitting needs ray[default] here, too: pip install 'rllib-ppg[cluster]'"
        raise ValueError(text) from error

"""A run as a job of a Ray cluster: sent, followed, and its results brought here."""

from __future__ import annotations

import asyncio
import io
import logging
import shlex
import tarfile
import time
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rllib_ppg.cli import exit_code
from rllib_ppg.cli.pack import BEGIN, END

_PROGRAM = ("python", "-m", "rllib_ppg")  # the package is sent along, its script is not
_POLL_S = 0.5


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
            job_id = client.submit_job(
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
        import aiohttp

        async def show() -> None:
            async for text in self.client.tail_job_logs(self.id):
                print(text, end="", flush=True)

        try:
            asyncio.run(show())
            while not self._info().status.is_terminal():  # its log ends a little before it does
                time.sleep(_POLL_S)
        except (RuntimeError, OSError, aiohttp.ClientError) as error:
            raise ConnectionError(f"lost the connection to the job server: {error}") from error

    def exit_code(self) -> int:
        """Returns that of the job's command; the job has ended."""
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
        """
        info = self._info()
        there = (info.metadata or {}).get("results")
        if there is None:
            return "this job is none of `rllib submit`, nothing was fetched"
        packing = self.client.submit_job(
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
        with tarfile.open(fileobj=io.BytesIO(b64decode(archive))) as tar:
            tar.extractall(target, filter="data")
        return f"fetched to {target}: {words}"

    def _info(self) -> Any:
        return self.client.get_job_info(self.id)


def _connect(address: str) -> Any:
    from ray.job_submission import JobSubmissionClient

    for name in ("dashboard_sdk", "job.sdk"):  # which tell of each upload and connection
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
    with _sentences(address):
        return JobSubmissionClient(address)


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
    except RuntimeError as error:
        text = str(error)
        if "ray[default]" in text:
            text = "submitting needs ray[default] here, too: pip install 'rllib-ppg[cluster]'"
        raise ValueError(text) from error

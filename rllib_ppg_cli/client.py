"""A run over a Ray client connection, as in `--ray-address ray://head:10001`.

Ray then runs Tune and its callbacks on the cluster's head, and this module prints their lines here.
The run ends when the connection does, and Ctrl-C closes it. `rllib submit` has neither limit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any


def is_client(address: str | None) -> bool:
    """Returns whether an address is that of a Ray client server."""
    return (address or "").startswith("ray://")


def check_options(options: Mapping[str, Any]) -> None:
    """Raises ValueError for options that need Tune to run on this machine."""
    for option in ("resume", "search", "track"):
        if option in options:
            raise ValueError(
                f"--{option} does not work over ray://, where Tune runs on the head: use "
                "`rllib submit`, which runs the whole command there"
            )


@contextmanager
def lines_from_head() -> Iterator[Callable[[str], object]]:
    """Yields a function that, called on the head, prints a line here."""
    from ray.exceptions import RayError
    from ray.util.queue import Queue

    queue = Queue(actor_options={"num_cpus": 0})

    def show() -> None:
        with suppress(RayError, ConnectionError):  # the run reports a lost connection itself
            while (line := queue.get()) is not None:
                print(line, flush=True)

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield queue.put
    finally:
        with suppress(RayError, ConnectionError):
            queue.put(None)
            thread.join()

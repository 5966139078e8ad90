"""A run over a Ray client connection, as in `--ray-address ray://head:10001`.

Ray then runs Tune on the cluster's head, and its callbacks with it: what they print is brought
here. The run ends with the connection, and Ctrl-C closes it; `rllib submit` has neither limit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any


def is_client(address: str | None) -> bool:
    """Whether an address is that of a Ray client server."""
    return (address or "").startswith("ray://")


def check_options(options: Mapping[str, Any]) -> None:
    """Raises ValueError for what needs Tune to run here."""
    for option in ("resume", "track"):
        if option in options:
            raise ValueError(
                f"--{option} does not work over ray://, as Tune runs on the head then: use "
                "`rllib submit`, which runs all of the command there"
            )


@contextmanager
def lines_from_head() -> Iterator[Callable[[str], object]]:
    """Prints lines here that are given to the function on the head."""
    from ray.exceptions import RayError
    from ray.util.queue import Queue

    queue = Queue(actor_options={"num_cpus": 0})

    def show() -> None:
        with suppress(RayError, ConnectionError):  # the connection's end is told elsewhere
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

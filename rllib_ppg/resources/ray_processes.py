"""The processes of a Ray that this process has started."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import ray

_PACKAGE = os.path.dirname(ray.__file__).encode()
_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Makes this process the parent of all that its dead descendants leave behind (Linux).

    So `kill_ray_processes` finds Ray's agents after their raylet has died.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill_ray_processes() -> None:
    """Kills those that are left; none if Ray was not started here.

    If a busy machine delays the end of Ray's raylet for a second, `ray.shutdown` kills it, and the
    agents and workers that it started notice that only a minute later.
    """
    while found := [pid for pid in _descendants() if _is_ray(pid)]:  # they may start others
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in found:
            with suppress(ChildProcessError):  # a descendant's child; it may become ours
                os.waitpid(pid, 0)


def _descendants() -> Iterator[int]:
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(path.parent.name))
    new = children.get(os.getpid(), [])
    while new:
        yield from new
        new = [child for pid in new for child in children.get(pid, [])]


def _is_ray(pid: int) -> bool:
    with suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        return command.startswith(b"ray::") or _PACKAGE in command
    return False

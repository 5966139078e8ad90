"""How Ctrl-C, SIGTERM and a closed terminal end the command, except while something trains.

Training ends after a checkpoint: see `rllib_ppg.tune_callbacks.save_on_interrupt`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from rllib_ppg_cli import exit_code

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def raise_them() -> None:
    """Makes signals raise an exception, so that whatever runs can clean up."""
    _handle(_raise)


def end_at_once() -> None:
    """Makes signals end this process and all processes of a Ray that it has started.

    An exception would leave some of them behind if it came while Ray starts or stops.
    """
    _handle(_kill_ray_and_exit)


def _handle(handler: Callable[[int, FrameType | None], NoReturn]) -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    for signum in _SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup's SIGHUP stays ignored
            signal.signal(signum, handler)


def _raise(signum: int, frame: FrameType | None) -> NoReturn:
    code = exit_code.SIGNAL + signum
    if _is_importing(frame):  # which may print the exception, or raise another one
        _exit(code)
    if signum == signal.SIGINT:
        raise KeyboardInterrupt
    _write_last_line(code)
    raise SystemExit(code)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _kill_ray_and_exit(signum: int, frame: FrameType | None) -> NoReturn:
    from rllib_ppg.resources.ray_processes import kill_ray_processes

    kill_ray_processes()
    _exit(exit_code.SIGNAL + signum)


def _exit(code: int) -> NoReturn:
    _write_last_line(code)
    os._exit(code)


def _write_last_line(code: int) -> None:
    with suppress(OSError):  # not by `print`, which the signal may have interrupted
        os.write(2, exit_code.last_line(code).encode())

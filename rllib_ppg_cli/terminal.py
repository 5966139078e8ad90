"""The command's output, which may go away while it runs: a pipe, a terminal, a full disk."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from types import FrameType
from typing import Any, TextIO

STDIN, STDOUT, STDERR = range(3)


def survive() -> None:
    """Keeps the process going when its output can't be written.

    A pipe whose reader has gone does what SIGTERM does, with the exit code of SIGPIPE. A terminal
    that has gone sends SIGHUP itself, unless the user told it not to. What can't be written to
    stdout then goes to stderr, if there is one.
    """
    for fd in (STDIN, STDOUT, STDERR):
        try:
            os.fstat(fd)
        except OSError:  # closed, as by `>&-`; the next file that is opened would take its place
            os.open(os.devnull, os.O_RDWR)
    signal.signal(signal.SIGPIPE, _on_broken_pipe)
    sys.stdout, sys.stderr = _stream(sys.stdout, STDOUT), _stream(sys.stderr, STDERR)


def _stream(before: TextIO | None, fd: int) -> TextIO:
    """Returns a stream in place of Python's own, which also writes what its encoding lacks."""
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(fd)),
        encoding=before.encoding if before else "utf-8",
        errors="replace",
        line_buffering=fd == STDERR or os.isatty(fd),
    )


class _Output(io.FileIO):
    is_broken_pipe = False

    def __init__(self, fd: int) -> None:
        super().__init__(fd, "w", closefd=False)
        self._may_use_stderr = fd == STDOUT

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self._replace(error)
            return self.write(data)

    def _replace(self, error: OSError) -> None:
        """Replaces what can't be written by stderr, or by nothing if stderr can't either."""
        _redirect(self.fileno(), os.open(os.devnull, os.O_WRONLY))
        if error.errno == errno.EPIPE:
            _Output.is_broken_pipe = True
            signal.raise_signal(signal.SIGPIPE)
        if self._may_use_stderr:
            self._may_use_stderr = False
            _redirect(self.fileno(), os.dup(STDERR))
            if error.errno not in (errno.EPIPE, errno.EIO):
                print(f"rllib: the output continues here: {error.strerror}", file=sys.stderr)


def _redirect(fd: int, to: int) -> None:
    os.dup2(to, fd)
    os.close(to)


def _on_broken_pipe(signum: int, frame: FrameType | None) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    if _Output.is_broken_pipe and callable(handler):  # connections break, too
        handler(signum, frame)

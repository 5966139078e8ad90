"""How far `rllib evaluate` and `rllib record` are, and what to do about episodes that never end."""

from __future__ import annotations

import math
import shutil
import sys
import time

_REFRESH_S = 0.2  # of the line in a terminal
_LINE_S = 30.0  # between lines in a log file
_PATIENCE_S = 30.0  # without the end of an episode


class PlayProgress:
    """Writes to stderr: a line that is overwritten in a terminal, elsewhere one now and then.

    Args:
        name: What is played.
        episodes: Number of episodes to play.
        max_steps: Number of env steps after which they end, or None.
    """

    def __init__(self, name: str, episodes: int, max_steps: int | None) -> None:
        self._name, self._episodes, self._max_steps = name, episodes, max_steps
        self._live = sys.stderr.isatty()
        self._done, self._hinted = 0, max_steps is not None
        self._last_line = self._last_end = time.monotonic()

    def __call__(self, done: int, steps: int) -> None:
        """Takes the numbers of episodes and env steps so far."""
        now = time.monotonic()
        if done > self._done:
            self._done, self._last_end = done, now
        if done >= self._episodes or steps >= (self._max_steps or math.inf):
            self._clear()
            return
        if not self._hinted and now - self._last_end >= _PATIENCE_S:
            self._hinted = True
            self._clear()
            print(
                f"{self._name}: no episode has ended for {_PATIENCE_S:g} s; if they never end, "
                "--steps N sets a limit",
                file=sys.stderr,
                flush=True,
            )
        if now - self._last_line < (_REFRESH_S if self._live else _LINE_S):
            return
        self._last_line = now
        line = f"{self._name}: {done} of {self._episodes} episodes, {steps:,} steps"
        if self._live:
            line = f"\r\x1b[K{line[: shutil.get_terminal_size().columns - 1]}"
        print(line, end="" if self._live else "\n", file=sys.stderr, flush=True)

    def _clear(self) -> None:
        if self._live:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

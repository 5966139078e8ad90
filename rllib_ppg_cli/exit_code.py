"""Exit codes of the command; 128 + N after signal N, as shells report it."""

from signal import SIGINT, SIGPIPE

OK = 0
FAILED = 1
BAD_INPUT = 2
SIGNAL = 128
INTERRUPTED = SIGNAL + SIGINT


def last_line(code: int) -> str:
    """Returns the line that a signal's exit code goes with; none after a closed pipe."""
    if code == SIGNAL + SIGPIPE:  # other tools are silent then
        return ""
    return f"rllib: {'interrupted' if code == INTERRUPTED else 'terminated'}\n"

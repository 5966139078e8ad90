"""Exit codes of the command; 128 + N after signal N, as shells report it."""

OK = 0
FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130
TERMINATED = 143

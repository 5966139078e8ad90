"""What lets a run have its fair share of a machine that other programs use, too.

What a run makes there is in `docs/performance.md`.
"""

from __future__ import annotations

import os

# For the OpenMP of GNU (GOMP), and of Intel and LLVM (KMP).
_PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}


def wait_passively() -> None:
    """Sets OpenMP's variables for this process and those that it starts.

    OpenMP's threads wait for work in a loop. Next to other busy processes, such a loop takes the
    CPU from the thread that it waits for.

    OpenMP reads the variables when it is loaded, with torch. If torch was imported before, they
    apply to new processes only. If the user has set one of them, all are left as they are.
    """
    if not _PASSIVE.keys() & os.environ.keys():
        os.environ.update(_PASSIVE)


def keep_priority() -> None:
    """Makes workers of a Ray that this process starts as important as this process.

    Ray adds 15 to their niceness, so that its own processes come first on an overloaded node. With
    that they get 3 % of a CPU that any other busy program uses. A user's own value wins.
    """
    os.environ.setdefault("RAY_worker_niceness", "0")

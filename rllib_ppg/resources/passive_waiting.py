"""Threads that sleep while they wait, so that processes can share a machine.

OpenMP's threads wait for work in a loop. Next to other busy processes, such a loop takes the CPU
from the thread that it waits for. What a run makes there is in `docs/performance.md`.
"""

from __future__ import annotations

import os

# For the OpenMP of GNU (GOMP), and of Intel and LLVM (KMP).
_PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}


def wait_passively() -> None:
    """Sets OpenMP's variables for this process and those that it starts.

    OpenMP reads them when it is loaded, with torch. If torch was imported before, they apply to
    new processes only. If the user has set one of them, all are left as they are.
    """
    if not _PASSIVE.keys() & os.environ.keys():
        os.environ.update(_PASSIVE)

"""State of a process's global random generators: Python's, numpy's and torch's.

PPG itself does not draw from them. They are saved for users' code: networks with dropout, envs and
callbacks.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def get_state() -> dict[str, Any]:
    """The state of all global generators of this process, including those of its GPUs."""
    version, words, gauss = random.getstate()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {
        "python": {"version": version, "words": np.array(words), "gauss": gauss},
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.get_rng_state().numpy(),
        "cuda": [state.numpy() for state in cuda],
    }


def set_state(state: dict[str, Any]) -> None:
    """Restores what `get_state` returned, for as many GPUs as there are now."""
    python = state["python"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    np.random.set_state(state["numpy"])
    torch.set_rng_state(torch.from_numpy(state["torch"]))
    for device, cuda in enumerate(state["cuda"]):
        if torch.cuda.is_available() and device < torch.cuda.device_count():
            torch.cuda.set_rng_state(torch.from_numpy(cuda), device)

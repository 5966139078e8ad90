"""Leaves the terminal to this command's own lines."""

from __future__ import annotations

import logging
import os
import warnings


def keep_quiet(verbose: int) -> None:
    """Silences what a user of the command could not act on; with -v nothing is silenced.

    Args:
        verbose: How many -v there were.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Tune's newer output prints its banner at every verbosity, the older one keeps to verbose=0.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    if verbose:
        return
    for name in ("ray", "ray.rllib", "matplotlib", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Tune logs the traceback of a failed trial; it is in the error file that we name.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"(ray|gym|gymnasium|gym3|torch|procgen)(\.|$)")

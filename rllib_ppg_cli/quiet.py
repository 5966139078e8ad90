"""Silences other packages, so that the terminal shows this command's own lines."""

from __future__ import annotations

import logging
import os
import warnings


def keep_quiet(verbose: int) -> None:
    """Silences logs and warnings that a user cannot act on, unless -v is given.

    Args:
        verbose: Number of -v options.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Tune's new output prints a banner even with verbose=0; the old one does not.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    if verbose:
        return
    for name in ("ray", "ray.rllib", "matplotlib", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Tune logs the traceback of a failed trial, which is also in the error file that we name.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", module=r"(ray|gym|gymnasium|gym3|torch|procgen)(\.|$)")

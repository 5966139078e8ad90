"""`rllib export`: a checkpoint's policy as an ONNX model."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from rllib_ppg.cli import exit_code
from rllib_ppg.cli.checkpoint_options import add_command, check_out, load_policy
from rllib_ppg.cli.quiet import keep_quiet


def add_parser(commands: Any) -> None:
    """Adds `rllib export`."""
    parser = add_command(
        commands, "export", "write a trained policy as an ONNX model, checked against torch"
    )
    parser.set_defaults(main=main)
    parser.add_argument("--out", "-o", metavar="FILE", help="the model, an .onnx")


def main(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """Exports.

    Args:
        args: The parsed options; those not given are missing.
        argv: Not used.

    Returns:
        The exit code.

    Raises:
        ValueError: For bad input.
    """
    options = vars(args)
    keep_quiet(options.get("verbose", 0))
    if "out" not in options:
        raise ValueError("name the model to write, as in --out policy.onnx")
    out = check_out(options["out"])
    if out.suffix != ".onnx":
        raise ValueError(f"a model's name ends in .onnx, not as {out.name}")

    from rllib_ppg.evaluation.onnx import TOLERANCE, compare, to_onnx

    if not options.get("verbose"):  # of parts of torch that are not in use
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        warnings.simplefilter("ignore", FutureWarning)
    policy = load_policy(options)
    model = to_onnx(policy)
    parity = compare(model, policy)
    found = ", ".join(f"{k} {v:.1e}" for k, v in parity._asdict().items() if v is not None)
    print(f"largest difference between onnxruntime and torch: {found}")
    if not parity.is_rounding:
        print(
            f"rllib: error: that is beyond rounding ({TOLERANCE:g}); nothing was written",
            file=sys.stderr,
        )
        return exit_code.FAILED
    out.write_bytes(model)
    print(f"written: {out} ({len(model) / 2**20:.1f} MiB)")
    return exit_code.OK

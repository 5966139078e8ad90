"""`rllib export`: a checkpoint's policy as an ONNX model."""

from __future__ import annotations

import sys
import warnings

from rllib_ppg.evaluation.onnx import TOLERANCE, compare, to_onnx
from rllib_ppg_cli import exit_code
from rllib_ppg_cli.checkpoint import check_out, load_player


def main(checkpoint: str, *, out: str, module_id: str | None = None) -> int:
    """Exports a policy and compares the model with torch.

    Args:
        checkpoint: The policy's checkpoint.
        out: The .onnx file to write.
        module_id: Which policy of a multi-agent run.

    Returns:
        The exit code.

    Raises:
        ValueError: For bad input.
    """
    file = check_out(out)
    if file.suffix != ".onnx":
        raise ValueError(f"a model's name ends in .onnx, not as {file.name}")
    warnings.simplefilter("ignore", FutureWarning)  # of parts of torch that are not in use
    policy = load_player(checkpoint, module_id=module_id)
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
    file.write_bytes(model)
    print(f"written: {file} ({len(model) / 2**20:.1f} MiB)")
    return exit_code.OK

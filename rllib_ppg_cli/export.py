"""`rllib export`: a checkpoint's policy as an ONNX model, or as a folder to publish."""

from __future__ import annotations

import sys
import warnings
from functools import partial
from pathlib import Path

from rllib_ppg.evaluation.onnx import TOLERANCE, compare, to_onnx
from rllib_ppg.evaluation.scores import NUM_ENVS
from rllib_ppg.evaluation.trained_policy import TrainedPolicy
from rllib_ppg.publishing.hub import PushError, check_push, push_folder
from rllib_ppg.publishing.policy_folder import check_folder, folder_texts, write_policy_folder
from rllib_ppg.publishing.returns import returns_of_evaluation, returns_of_training
from rllib_ppg_cli import exit_code, redact
from rllib_ppg_cli.checkpoint import check_out, load_player
from rllib_ppg_cli.play_progress import PlayProgress


def main(
    checkpoint: str,
    *,
    out: str,
    module_id: str | None = None,
    episodes: int | None = None,
    push: str | None = None,
) -> int:
    """Exports a policy and compares the model with torch.

    Args:
        checkpoint: The policy's checkpoint.
        out: The .onnx file or the folder to write.
        module_id: Which policy of a multi-agent run.
        episodes: Episodes to play for the folder's model card.
        push: A repository of the Hugging Face Hub to push the folder to.

    Returns:
        The exit code.

    Raises:
        ValueError: For bad input.
    """
    path, is_folder = _check_out(out)
    if not is_folder and (episodes or push):
        option = "--push" if push else "--episodes"
        raise ValueError(f"{option} is for a folder, and {path.name} is a single file")
    if push is not None:
        check_push(push)
    warnings.simplefilter("ignore", FutureWarning)  # of parts of torch that are not in use
    policy = load_player(checkpoint, num_envs=NUM_ENVS if episodes else 1, module_id=module_id)
    model = to_onnx(policy, draws=is_folder)
    parity = compare(model, policy)
    found = ", ".join(f"{k} {v:.1e}" for k, v in parity._asdict().items() if v is not None)
    print(f"largest difference between onnxruntime and torch: {found}")
    if not parity.is_rounding:
        print(
            f"rllib: error: that is beyond rounding ({TOLERANCE:g}); nothing was written",
            file=sys.stderr,
        )
        return exit_code.FAILED
    if is_folder:
        return _publish(policy, model, path, episodes, push)
    path.write_bytes(model)
    print(f"written: {path} ({len(model) / 2**20:.1f} MiB)")
    return exit_code.OK


def _check_out(out: str) -> tuple[Path, bool]:
    """The path, and whether it is a folder's."""
    path = check_out(out)
    if out.endswith("/") or not path.suffix[1:2].isalpha():
        check_folder(path)
        return path, True
    if path.suffix != ".onnx":
        raise ValueError(
            f"a model's name ends in .onnx, not as {path.name}; for a folder of that name, write "
            f"{path.name}/"
        )
    return path, False


def _publish(
    policy: TrainedPolicy, model: bytes, folder: Path, episodes: int | None, repo: str | None
) -> int:
    returns = returns_of_training(policy)
    if episodes:
        # A limit, so that nobody is told of --steps.
        progress = partial(PlayProgress, episodes=episodes, max_steps=sys.maxsize)
        returns = [*returns_of_evaluation(policy, episodes, progress), *returns]
    texts = folder_texts(policy, returns)
    redact.check(texts.values())
    write_policy_folder(folder, policy, model, texts)
    print(f"written: {folder} ({', '.join(sorted(file.name for file in folder.iterdir()))})")
    if repo is None:
        return exit_code.OK
    try:
        print(f"pushed: {push_folder(folder, repo)}")
    except PushError as e:
        print(
            f"rllib: error: {folder} is written, and was not pushed to {repo}: {e} (to try again: "
            f"hf upload {repo} {folder})",
            file=sys.stderr,
        )
        return exit_code.FAILED
    return exit_code.OK

"""Pushes a folder to the Hugging Face Hub, with the login that its own tools keep."""

from __future__ import annotations

from pathlib import Path


class PushError(Exception):
    """The folder could not be pushed; the text says why, in a line."""


def check_push(repo: str) -> None:
    """Checks what can be checked before there is something to push.

    Args:
        repo: Name of the repository, as in "me/ppg-cartpole".

    Raises:
        ValueError: The extra is not installed, nobody is logged in, or there is no such name.
    """
    try:
        from huggingface_hub import get_token
        from huggingface_hub.utils import HFValidationError, validate_repo_id
    except ModuleNotFoundError as e:
        raise ValueError(f"--push needs the package {e.name}: pip install 'rllib-ppg[hub]'") from e
    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise ValueError(
            f"--push {repo}: a repository is called OWNER/NAME, of letters, digits, '-', '_' and "
            "'.', as in me/ppg-cartpole"
        ) from None
    if get_token() is None:
        raise ValueError(
            "--push needs a login at the Hugging Face Hub: run `hf auth login`, or set HF_TOKEN"
        )


def push_folder(folder: Path, repo: str) -> str:
    """Pushes a folder and returns the repository's address. It is made if there is none.

    Raises:
        PushError: It failed.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    api = HfApi()
    try:
        url = api.create_repo(repo, exist_ok=True)
        api.upload_folder(
            repo_id=url.repo_id, folder_path=folder, commit_message="Push a policy with rllib_ppg"
        )
    except Exception as e:  # the HTTP library, and so its errors, differ between versions
        status = getattr(getattr(e, "response", None), "status_code", None)
        if status in (401, 403):
            raise PushError(f"the Hub does not let this login write there ({status})") from e
        [reason, *_] = [line.strip() for line in f"{e}".splitlines() if line.strip()] or [repr(e)]
        raise PushError(f"{type(e).__name__}: {reason}") from e
    return str(url)

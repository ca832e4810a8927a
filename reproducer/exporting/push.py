"""Handing an exported folder to the hub, for those who have a token."""

from __future__ import annotations

from pathlib import Path

from reproducer.errors import UserError


def check_repository(repository: str) -> None:
    """UserError unless the hub could have a repository of this name."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UserError(f"--push {repository}: {error}", "name it as organisation/name") from None


def push(folder: Path, repository: str) -> str:
    """Upload a folder, to a repository that is made where there is none; returns its address.

    Raises:
        UserError: it cannot be uploaded; the folder stays.
    """
    from huggingface_hub import HfApi

    try:
        hub = HfApi(library_name="reproducer")
        made = hub.create_repo(repository, exist_ok=True)
        hub.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message="A pruned model")
    except Exception as error:  # connection libraries below the hub's have exceptions of their own
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        hint = f"log in with `hf auth login` or set HF_TOKEN, then `hf upload {repository} {folder}`"
        raise UserError(f"{folder} is written, but cannot be pushed to {repository}: {reason}", hint) from error
    return str(made)

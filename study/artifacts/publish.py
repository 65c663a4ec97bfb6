"""Upload an exported folder to the Hugging Face hub."""

import logging
import re
from pathlib import Path

from huggingface_hub import HfApi, get_token

from objectives.errors import ExportError

from .model_card import STUDY_FILE

log = logging.getLogger(__name__)

_NAME = re.compile(r"(?=.{1,96}$)[A-Za-z0-9][\w-]*/[A-Za-z0-9](?:[\w.-]*[\w])?", re.ASCII)
"""A repository of the hub, USER/NAME."""


def check_repository(repository: str, overwrite: bool) -> None:
    """Check that a folder can be pushed to `USER/NAME`, before anything slow begins.

    A repository that exists needs `overwrite`. Raises ExportError.
    """
    if not _NAME.fullmatch(repository):
        raise ExportError(f"--push {repository[:80]!r}: must be USER/NAME, as on the hub")
    if get_token() is None:
        raise ExportError(
            f"--push {repository}: there is no token; set HF_TOKEN, or log in with `hf auth login`"
        )
    try:
        exists = HfApi().repo_exists(repository)
    except Exception as error:  # the HTTP library differs between versions of huggingface_hub
        raise _failure(repository, error) from None
    if exists and not overwrite:
        raise ExportError(
            f"--push {repository}: this repository exists; choose another name, or pass "
            "--overwrite to add a commit to it"
        )


def upload(folder: Path, repository: str, public: bool, message: str) -> str:
    """Upload the folder as one commit to `USER/NAME`; return its address.

    A new repository is private unless `public` is set. Raises ExportError.
    """
    api = HfApi(library_name="merge-study")
    if public:
        log.warning(
            "the repository is public, with %s, which names the study file and the database",
            STUDY_FILE,
        )
    try:
        address = api.create_repo(repository, private=not public, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
    except Exception as error:
        failure = _failure(repository, error)
        raise ExportError(f"{failure}; the merge is in {folder}") from None
    return str(address)


def _failure(repository: str, error: Exception) -> ExportError:
    """Return the error with the hub's reason, which does not contain the token."""
    reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
    token = get_token()
    if token:
        reason = reason.replace(token, "***")
    return ExportError(f"--push {repository}: the hub refused or cannot be reached: {reason}")

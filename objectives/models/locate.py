"""Find the files of a model: a local folder or a hub id, each optionally with an adapter.

References are written as in mergekit: `model` or `model+adapter`.
"""

import re
from pathlib import Path

from objectives.errors import SourceError
from objectives.files.model_files import CONFIG

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(?:@[\w./-]+)?")
_DOWNLOADED = ["*.safetensors", "*.json", "*.model", "*.jinja", "merges.txt"]


def locate(reference: str, folder: Path) -> Path:
    """Return the model's folder: relative to `folder`, or downloaded from the hub.

    A hub id may pin a revision: `org/name@revision`. With HF_HUB_OFFLINE=1 only the hub's cache is
    used. An adapter is merged into its model, in the cache of adapter.py. Raises SourceError.
    """
    parts = parts_of(reference, folder)
    if len(parts) == 1:
        return _locate(reference, folder)
    from .adapter import with_adapter  # takes seconds

    return with_adapter(*(_locate(part, folder) for part in parts))


def absolute_reference(reference: str, folder: Path) -> str:
    """Return a reference by which mergekit finds the same model from any folder."""
    return "+".join(
        str(snapshot_of(local)) if (local := _local(part, folder)).is_dir() else part
        for part in parts_of(reference, folder)
    )


def parts_of(reference: str, folder: Path) -> list[str]:
    """Split a reference into a model and, if there is one, its adapter. Raises SourceError.

    A folder may have a plus sign in its name.
    """
    if _local(reference, folder).is_dir():
        return [reference]
    parts = reference.split("+")
    if len(parts) > 2 or not all(parts):
        raise SourceError(f"{reference}: must be a model, or model+adapter")
    return parts


def check_exists(reference: str, folder: Path) -> None:
    """Check that a model is an existing folder, relative to `folder`, or may be a hub id.

    It reads no file and does not use the network. Raises SourceError.
    """
    for part in parts_of(reference, folder):
        local = _local(part, folder)
        if not local.is_dir() and (reason := _no_hub_id(part, local)):
            raise SourceError(f"{part}: there is no folder {local}, and {reason}")


def _no_hub_id(reference: str, local: Path) -> str | None:
    """Return the reason why a reference to a missing folder is no hub id; None if it may be one."""
    if local.exists() or not _HUB_ID.fullmatch(reference):
        return "it is not a hub id (org/name)"
    if "@" not in reference and local.parent.is_dir():
        return (
            f"it is not read as a hub id, because {local.parent} exists; for a model of the hub, "
            f"write {reference}@main"
        )
    return None


def _local(reference: str, folder: Path) -> Path:
    try:
        local = (folder / Path(reference).expanduser()).resolve()
        local.is_dir()
    except (OSError, ValueError, RuntimeError) as error:
        raise SourceError(f"{reference[:80]!r} is not a valid folder: {error}") from None
    return local


def _locate(reference: str, folder: Path) -> Path:
    local = _local(reference, folder)
    if local.is_dir():
        return snapshot_of(local)
    check_exists(reference, folder)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name, _, revision = reference.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=_DOWNLOADED))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise SourceError(
            f"{reference}: there is no folder {local}, and it cannot be downloaded from the hub "
            f"({reason}); download it and use its folder"
        ) from None


def snapshot_of(folder: Path) -> Path:
    """Return the snapshot in a models--ORG--NAME folder of the hub's cache.

    It is the snapshot of the branch main, or else the only one. Any other folder is returned
    unchanged. Raises SourceError.
    """
    snapshots = folder / "snapshots"
    if not folder.name.startswith("models--") or (folder / CONFIG).exists():
        return folder
    if not snapshots.is_dir():
        return folder
    available = sorted(path for path in snapshots.iterdir() if path.is_dir())
    try:
        main = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        main = ""
    candidates = [path for path in available if path.name == main] or available
    if len(candidates) == 1:
        return candidates[0]
    names = ", ".join(path.name for path in available[:4]) or "none"
    raise SourceError(
        f"{folder} is a folder of the hub's cache with several snapshots or none ({names}); "
        "choose one of them, as snapshots/NAME, or use the hub id"
    )

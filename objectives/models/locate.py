"""Where a model's files are: a local folder, a hub id and the hub's cache, or either with an
adapter, in mergekit's notation: `model+adapter`.
"""

import re
from pathlib import Path

from objectives.errors import SourceError
from objectives.files.model_files import CONFIG

from .adapter import with_adapter

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(?:@[\w./-]+)?")
_WANTED = ["*.safetensors", "*.json", "*.model", "*.jinja", "merges.txt"]


def locate(reference: str, folder: Path) -> Path:
    """The model's folder: relative to `folder`, or downloaded from the hub. Raises SourceError.

    A hub id may pin a revision: `org/name@revision`. HF_HUB_OFFLINE=1 keeps to the cache. A model
    with an adapter is merged in a cache of ours.
    """
    parts = parts_of(reference, folder)
    if len(parts) == 1:
        return _locate(reference, folder)
    return with_adapter(*(_locate(part, folder) for part in parts))


def located(reference: str, folder: Path) -> str:
    """What mergekit finds the same model by, from any folder."""
    return "+".join(
        str(snapshot_of(local)) if (local := _local(part, folder)).is_dir() else part
        for part in parts_of(reference, folder)
    )


def parts_of(reference: str, folder: Path) -> list[str]:
    """A model, or a model and its adapter. A folder may have a plus in its name."""
    if _local(reference, folder).is_dir():
        return [reference]
    parts = reference.split("+")
    if len(parts) > 2 or not all(parts):
        raise SourceError(f"{reference}: must be a model, or model+adapter")
    return parts


def _local(reference: str, folder: Path) -> Path:
    try:
        local = (folder / Path(reference).expanduser()).resolve()
        local.is_dir()
    except (OSError, ValueError, RuntimeError) as error:
        raise SourceError(f"{reference[:80]!r} names no folder: {error}") from None
    return local


def _locate(reference: str, folder: Path) -> Path:
    local = _local(reference, folder)
    if local.is_dir():
        return snapshot_of(local)
    if local.exists() or not _HUB_ID.fullmatch(reference):
        raise SourceError(f"{reference}: there is no folder {local}, and it is no hub id")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name, _, revision = reference.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=_WANTED))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise SourceError(
            f"{reference}: no folder {local}, and the hub does not give it ({reason}); "
            "download it and name its folder"
        ) from None


def snapshot_of(folder: Path) -> Path:
    """The snapshot of a models--ORG--NAME folder of the hub's cache: that of main, or the only one.
    Any other folder is returned as it is. Raises SourceError."""
    snapshots = folder / "snapshots"
    if not folder.name.startswith("models--") or (folder / CONFIG).exists():
        return folder
    if not snapshots.is_dir():
        return folder
    there = sorted(path for path in snapshots.iterdir() if path.is_dir())
    try:
        main = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        main = ""
    chosen = [path for path in there if path.name == main] or there
    if len(chosen) == 1:
        return chosen[0]
    names = ", ".join(path.name for path in there[:4]) or "none"
    raise SourceError(
        f"{folder} is a folder of the hub's cache with several snapshots or none ({names}); "
        "name one of them, as snapshots/NAME, or use the hub id"
    )

"""Where a model's files are: a local folder, or a hub id and the hub's cache."""

import re
from pathlib import Path

from .errors import SourceError

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(?:@[\w./-]+)?")
_WANTED = ["*.safetensors", "*.json", "*.model", "*.jinja", "merges.txt"]


def locate(reference: str, folder: Path) -> Path:
    """The model's folder: relative to `folder`, or downloaded from the hub. Raises SourceError.

    A hub id may pin a revision: `org/name@revision`. HF_HUB_OFFLINE=1 keeps to the cache.
    """
    try:
        local = (folder / Path(reference).expanduser()).resolve()
        if local.is_dir():
            return local
    except (OSError, ValueError, RuntimeError) as error:
        raise SourceError(f"{reference[:80]!r} names no folder: {error}") from None
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

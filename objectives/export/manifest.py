"""Which files an export has written, with their digests: nothing else is ever replaced or removed.

`manifest.json` lists them. Folders from before it have their weights in SHA256SUMS, and files whose
names are known.
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from objectives.errors import ExportError
from objectives.files.export_files import json_of, sha256, text_of, write_json
from objectives.files.model_files import TOKENIZER_FILES

MERGEKIT_FILE, RECIPE_FILE, SUMS_FILE = "mergekit_config.yml", "recipe.json", "SHA256SUMS"
MANIFEST_FILE = "manifest.json"
EXPORTING = ".exporting"
"""The file that is locked in a folder while an export writes into it."""
_PROGRAM = "merge-study"
_EARLIER = (
    *TOKENIZER_FILES, MERGEKIT_FILE, RECIPE_FILE, SUMS_FILE, "README.md", "config.json",
    "generation_config.json", "model.safetensors.index.json", "study.json", "verdict.json",
)  # fmt: skip
_SUM = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")
_SHOWN = 5

Digests = Mapping[str, str | None]
"""SHA-256 by path in the folder; None where it was not recorded."""


def write_manifest(folder: Path) -> None:
    """Record every file of an export, the weights in the format of sha256sum too."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != EXPORTING)
    digests = {path.relative_to(folder).as_posix(): sha256(path) for path in paths}
    weights = {name: digest for name, digest in digests.items() if name.endswith(".safetensors")}
    sums = "".join(f"{digest}  {name}\n" for name, digest in weights.items())
    (folder / SUMS_FILE).write_text(sums, encoding="utf-8")
    digests[SUMS_FILE] = sha256(folder / SUMS_FILE)
    write_json(folder / MANIFEST_FILE, {"written_by": _PROGRAM, "files": digests})


def read_sums(folder: Path) -> dict[str, str]:
    """The digests in SHA256SUMS by name. Raises ExportError with the line that is none."""
    path, sums = folder / SUMS_FILE, {}
    for number, line in enumerate(text_of(path).splitlines(), 1):
        match = _SUM.fullmatch(line)
        if match is None:
            raise ExportError(f"{path}:{number}: {line[:60]!r} is not a line of sha256sum")
        digest, name = match.groups()
        if not _is_inside(name):
            raise ExportError(f"{path}:{number}: {name[:60]!r} is not the name of a file beside it")
        sums[name] = digest.lower()
    return sums


def recorded(folder: Path) -> Digests:
    """The files that an export has written into a folder. Raises ExportError where none has."""
    try:
        if (folder / MANIFEST_FILE).is_symlink() or not (folder / MANIFEST_FILE).exists():
            return _recorded_earlier(folder)
        data = json_of(folder / MANIFEST_FILE)
        digests = data["files"]
        recipe_is_there = (folder / RECIPE_FILE).is_file()
        if (
            data["written_by"] != _PROGRAM
            or not recipe_is_there
            or not all(
                isinstance(digest, str) and _is_inside(name) for name, digest in digests.items()
            )
        ):
            raise ValueError
    except (ExportError, AttributeError, KeyError, TypeError, ValueError):
        raise ExportError(
            f"{folder} is no exported merge and is not overwritten; choose another folder"
        ) from None
    return {**digests, MANIFEST_FILE: None}


def check_replaceable(folder: Path) -> None:
    """Raise ExportError where a folder holds anything but what an export has written there."""
    digests = recorded(folder)
    strange = [*_strange(folder, digests)]
    if not strange:
        changed = (n for n, digest in digests.items() if digest and _differs(folder / n, digest))
        strange = [f"{name} (changed since it was exported)" for name in changed]
    if strange:
        more = f" and {len(strange) - _SHOWN} more" if strange[_SHOWN:] else ""
        raise ExportError(
            f"{folder} is not overwritten, for it holds what no export wrote: "
            f"{', '.join(strange[:_SHOWN])}{more}; move that away, or choose another folder"
        )


def remove(folder: Path) -> None:
    """Remove an exported folder, file by file, as recorded. Raises ExportError and OSError."""
    digests = recorded(folder)
    last = (RECIPE_FILE, SUMS_FILE, MANIFEST_FILE)  # by which the rest is known
    for name in sorted(digests, key=last.__contains__):
        (folder / name).unlink(missing_ok=True)
    for parent, _, _ in os.walk(folder, topdown=False):
        os.rmdir(parent)


def _recorded_earlier(folder: Path) -> Digests:
    """What an export before manifest.json has written."""
    recipe = json_of(folder / RECIPE_FILE)
    if not isinstance(recipe, dict) or recipe.keys() != {"recipe", "sources"}:
        raise ExportError(f"{folder / RECIPE_FILE} is not the recipe of a merge")
    sums = read_sums(folder)
    if any(not name.endswith(".safetensors") or "/" in name for name in sums):
        raise ExportError(f"{folder / SUMS_FILE} names other files than weights")
    return {**dict.fromkeys(_EARLIER), **sums}


def _strange(folder: Path, digests: Digests) -> Iterator[str]:
    """What is there and not recorded: files, folders, links and whatever else."""
    parents = {str(parent) for name in digests for parent in PurePosixPath(name).parents}
    for entry in _entries(folder, parents):
        name = entry.relative_to(folder).as_posix()
        mode = entry.lstat().st_mode
        if stat.S_ISDIR(mode):
            if name not in parents:
                yield f"{name}/"
        elif stat.S_ISLNK(mode):
            yield f"{name} (a link)"
        elif name not in digests or not stat.S_ISREG(mode):
            yield name


def _entries(folder: Path, parents: set[str]) -> Iterator[Path]:
    """What is in the folder, and in those of its folders that have recorded files."""
    for entry in sorted(folder.iterdir()):
        yield entry
        if entry.is_dir() and not entry.is_symlink() and entry.name in parents:
            yield from sorted(entry.rglob("*"))


def _differs(path: Path, digest: str) -> bool:
    return path.exists() and sha256(path) != digest


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in name and name != "."

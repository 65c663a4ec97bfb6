"""The list of files that an export has written. No other file is ever replaced or removed.

`manifest.json` lists the files with their digests. Older exports lack it; they list their weights
in SHA256SUMS, and the names of their other files are known.
"""

import os
import re
import stat
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from objectives.errors import ExportError
from objectives.files.export_files import json_of, sha256, text_of, write_json
from objectives.files.model_files import TOKENIZER_FILES

MERGEKIT_FILE, RECIPE_FILE, SUMS_FILE = "mergekit_config.yml", "recipe.json", "SHA256SUMS"
MANIFEST_FILE = "manifest.json"
EXPORTING = ".exporting"
"""The name of a file that an export locks while it writes into the folder."""
_PROGRAM = "merge-study"
_OLDER_FILES = (
    *TOKENIZER_FILES, MERGEKIT_FILE, RECIPE_FILE, SUMS_FILE, "README.md", "config.json",
    "generation_config.json", "model.safetensors.index.json", "study.json", "verdict.json",
)  # fmt: skip
_SUM = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")
_MAX_NAMES = 5

Digests = Mapping[str, str | None]
"""SHA-256 by path in the folder; None if it is not recorded."""


def write_manifest(folder: Path) -> None:
    """Write manifest.json, which lists all files, and SHA256SUMS, which lists the weights."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != EXPORTING)
    names = [path.relative_to(folder).as_posix() for path in paths]
    with ThreadPoolExecutor() as pool:
        digests = dict(zip(names, pool.map(sha256, paths), strict=True))
    weights = {name: digest for name, digest in digests.items() if name.endswith(".safetensors")}
    sums = "".join(f"{digest}  {name}\n" for name, digest in weights.items())
    (folder / SUMS_FILE).write_text(sums, encoding="utf-8")
    digests[SUMS_FILE] = sha256(folder / SUMS_FILE)
    write_json(folder / MANIFEST_FILE, {"written_by": _PROGRAM, "files": digests})


def read_sums(folder: Path) -> dict[str, str]:
    """Return the digests in SHA256SUMS by file name. Raises ExportError with the invalid line."""
    path, sums = folder / SUMS_FILE, {}
    for number, line in enumerate(text_of(path).splitlines(), 1):
        match = _SUM.fullmatch(line)
        if match is None:
            raise ExportError(f"{path}:{number}: {line[:60]!r} is not a line of sha256sum")
        digest, name = match.groups()
        if not _is_inside(name) or "/" in name:
            raise ExportError(f"{path}:{number}: {name[:60]!r} is not the name of a file beside it")
        sums[name] = digest.lower()
    return sums


def recorded(folder: Path) -> Digests:
    """Return the files that an export has written. Raises ExportError if the folder is not one."""
    try:
        if (folder / MANIFEST_FILE).is_symlink() or not (folder / MANIFEST_FILE).exists():
            return _recorded_by_older(folder)
        data = json_of(folder / MANIFEST_FILE)
        digests = data["files"]
        has_recipe = (folder / RECIPE_FILE).is_file()
        if (
            data["written_by"] != _PROGRAM
            or not has_recipe
            or not all(
                isinstance(digest, str) and _is_inside(name) for name, digest in digests.items()
            )
        ):
            raise ValueError
    except (ExportError, AttributeError, KeyError, TypeError, ValueError):
        raise ExportError(
            f"{folder} is not an exported merge and is not overwritten; choose another folder"
        ) from None
    return {**digests, MANIFEST_FILE: None}


def check_replaceable(folder: Path) -> None:
    """Check that a folder holds only unchanged files of an export. Raises ExportError."""
    digests = recorded(folder)
    foreign = [*_foreign(folder, digests)]
    if not foreign:
        changed = (n for n, digest in digests.items() if digest and _differs(folder / n, digest))
        foreign = [f"{name} (changed since the export)" for name in changed]
    if foreign:
        more = f" and {len(foreign) - _MAX_NAMES} more" if foreign[_MAX_NAMES:] else ""
        raise ExportError(
            f"{folder} is not overwritten, because it contains files that no export wrote: "
            f"{', '.join(foreign[:_MAX_NAMES])}{more}; move them, or choose another folder"
        )


def remove(folder: Path) -> None:
    """Remove an exported folder, but only its recorded files. Raises ExportError and OSError."""
    digests = recorded(folder)
    last = (RECIPE_FILE, SUMS_FILE, MANIFEST_FILE)  # the other files are identified by these
    for name in sorted(digests, key=last.__contains__):
        (folder / name).unlink(missing_ok=True)
    for parent, _, _ in os.walk(folder, topdown=False):
        os.rmdir(parent)


def _recorded_by_older(folder: Path) -> Digests:
    """Return the files of an export of a version without manifest.json. Raises ExportError."""
    recipe = json_of(folder / RECIPE_FILE)
    if not isinstance(recipe, dict) or recipe.keys() != {"recipe", "sources"}:
        raise ExportError(f"{folder / RECIPE_FILE} is not the recipe of a merge")
    sums = read_sums(folder)
    if any(not name.endswith(".safetensors") for name in sums):
        raise ExportError(f"{folder / SUMS_FILE} lists files that are not weights")
    return {**dict.fromkeys(_OLDER_FILES), **sums}


def _foreign(folder: Path, digests: Digests) -> Iterator[str]:
    """Yield the names of files, folders, links and special files that are not recorded."""
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
    """Yield the entries of the folder and of its subfolders that have recorded files."""
    for entry in sorted(folder.iterdir()):
        yield entry
        if entry.is_dir() and not entry.is_symlink() and entry.name in parents:
            yield from sorted(entry.rglob("*"))


def _differs(path: Path, digest: str) -> bool:
    return path.exists() and sha256(path) != digest


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in name and name != "."

"""The keys of a JSON document."""

from collections.abc import Collection
from typing import Any


def key_paths(data: Any, names: Collection[str], path: str = "") -> set[str]:
    """Return the paths of all keys, such as `merge.values.*`; `*` replaces the keys of the
    objects at the paths `names`, which are names of tasks, models or parameters."""
    if isinstance(data, list):
        return {key for item in data for key in key_paths(item, names, path)}
    if not isinstance(data, dict):
        return set()
    keys = set()
    for key, value in data.items():
        inner = f"{path}.{'*' if path in names else key}".removeprefix(".")
        keys |= {inner} | key_paths(value, names, inner)
    return keys

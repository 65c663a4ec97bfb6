"""Advice on keys of mergekit-evolve, and on keys that belong to another section."""

from collections.abc import Mapping
from typing import Union, get_args, get_origin

from pydantic.fields import FieldInfo

from .section import Section

_OPTIONS = {
    "max_fevals": "study.trials",
    "timeout": "--timeout",
    "random_seed": "study.seed",
    "sigma0": "study.sigma",
    "force_population_size": "study.population",
    "storage_path": "study.storage, a database",
    "task_search_path": "--task-search-path",
    "wandb": "--wandb",
    "wandb_project": "--wandb-project",
    "wandb_entity": "--wandb-entity",
    "vllm": "engine.kind: vllm",
    "num_gpus": "--workers",
    "batch_size": "engine.batch_tokens",
    "strategy": "--workers",
}
"""Options of mergekit-evolve's command line, with their replacements."""
_UNNEEDED = (
    *("in_memory", "merge_cuda", "load_in_8bit", "load_in_4bit", "reshard"),
    *("trust_remote_code", "allow_crimes", "save_final_model"),
)
WITHOUT_EFFECT = ("model_name",)
"""Top-level keys that mergekit-evolve accepts and ignores, and so does a study."""


def advice(key: str, sections: Mapping[str, list[str]]) -> str | None:
    """Return what to do about an unknown top-level key, or None if the key is not recognised.

    `sections` has the keys of each section.
    """
    if paths := [f"{name}.{key}" for name, keys in sections.items() if key in keys]:
        return f"is not a top-level key; use {' or '.join(paths)}"
    option = key.replace("-", "_").lstrip("_")
    if option in _OPTIONS:
        return f"is an option of mergekit-evolve's command line; use {_OPTIONS[option]} instead"
    if option in _UNNEEDED:
        return "is an option of mergekit-evolve's command line that is not needed here; remove it"
    return None


def keys_of_sections(fields: Mapping[str, FieldInfo]) -> dict[str, list[str]]:
    """Return the keys of each field that is a section, or one of several kinds of sections."""
    keys: dict[str, list[str]] = {}
    for name, field in fields.items():
        annotation = field.annotation
        kinds = get_args(annotation) if get_origin(annotation) is Union else (annotation,)
        for kind in kinds:
            section = getattr(kind, "__origin__", kind)
            if isinstance(section, type) and issubclass(section, Section):
                keys.setdefault(name, [])
                keys[name] += [f.alias or key for key, f in section.model_fields.items()]
    return keys

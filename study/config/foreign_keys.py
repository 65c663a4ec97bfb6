"""Keys of a study file that stand in another place here, or that only other programs know."""

from collections.abc import Mapping

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
"""Of mergekit-evolve's command line, and what takes their place (docs/from-mergekit-evolve.md)."""
_GONE = (
    *("in_memory", "merge_cuda", "load_in_8bit", "load_in_4bit", "reshard"),
    *("trust_remote_code", "allow_crimes", "save_final_model"),
)
WITHOUT_EFFECT = ("model_name",)
"""Keys at the top of mergekit-evolve's files that it reads over, and so does a study."""


def advice(key: str, sections: Mapping[str, list[str]]) -> str | None:
    """What to do about an unknown key at the top of a file; None of one that nobody knows.

    `sections` are the keys of each section.
    """
    if homes := [f"{name}.{key}" for name, keys in sections.items() if key in keys]:
        return f"does not belong at the top; write {' or '.join(homes)}"
    option = key.replace("-", "_").lstrip("_")
    if option in _OPTIONS:
        return f"is an option of mergekit-evolve's command line; here it is {_OPTIONS[option]}"
    if option in _GONE:
        return "is an option of mergekit-evolve's command line that is not needed here; remove it"
    return None

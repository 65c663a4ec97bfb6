import re, sys
from pathlib import Path
root = Path(sys.argv[1]); p = root/"pyproject.toml"; s = p.read_text()
i = s.index("[[tool.importlinter.contracts]]")
s = s[:i] + '''[[tool.importlinter.contracts]]
name = "study uses objectives and storage, which do not know each other"
type = "layers"
layers = ["study", "objectives | storage"]

[[tool.importlinter.contracts]]
name = "layers of study"
type = "layers"
containers = ["study"]
layers = [
    "(__main__)",
    "run | plan | status | report | export | verify | dashboard",
    "artifacts",
    "reporting | worker",
    "verdict | monitors | planning",
    "setup",
    "search | cli",
    "config",
]
exhaustive = true

[[tool.importlinter.contracts]]
name = "layers of objectives"
type = "layers"
containers = ["objectives"]
layers = ["scoring", "sampling", "tasks", "engines", "merge", "models", "errors | atomic_files"]
exhaustive = true

[[tool.importlinter.contracts]]
name = "layers of storage"
type = "layers"
containers = ["storage"]
layers = [
    "heartbeat",
    "workers",
    "claims",
    "scores",
    "answers | trials | dashboard",
    "studies",
    "database",
    "errors | processes",
]
exhaustive = true

[[tool.importlinter.contracts]]
name = "the storage never sees a tensor"
type = "forbidden"
source_modules = ["storage"]
forbidden_modules = ["torch", "transformers", "mergekit", "vllm"]

[[tool.importlinter.contracts]]
name = "the search never sees a tensor"
type = "forbidden"
source_modules = ["study.search", "study.config", "study.cli"]
forbidden_modules = ["torch", "transformers", "vllm"]
allow_indirect_imports = true

[[tool.importlinter.contracts]]
name = "lm-eval is used in one package"
type = "forbidden"
source_modules = ["study", "storage", "objectives.scoring", "objectives.engines", "objectives.merge", "objectives.models"]
forbidden_modules = ["lm_eval", "datasets"]
allow_indirect_imports = true

[[tool.importlinter.contracts]]
name = "wandb is used in one module"
type = "forbidden"
source_modules = [
    "study.run", "study.worker", "study.search", "study.setup", "study.verdict", "study.reporting",
    "study.artifacts", "storage", "objectives",
]
forbidden_modules = ["wandb"]
allow_indirect_imports = true

[[tool.importlinter.contracts]]
name = "typer is used by commands and cli alone"
type = "forbidden"
source_modules = [
    "study.artifacts", "study.reporting", "study.worker", "study.verdict", "study.monitors",
    "study.planning", "study.setup", "study.search", "study.config", "storage", "objectives",
]
forbidden_modules = ["typer"]
allow_indirect_imports = true
'''
p.write_text(s)

"""Tasks of lm-eval on the demo's questions, one of each kind that a study supports."""

import json
from pathlib import Path

from tests.support.paths import DEMO

HOOKS = """
import re


def prompt(doc):
    return doc["input_field"].strip()


def graded(doc, results):
    said = results[0].strip()[:1]
    return {"acc": float(said == str(doc["output_field"])), "length": float(len(said))}


def worded(docs):
    def one(doc):
        options = re.findall(r"^\\d\\. (.*)$", doc["input_field"], re.MULTILINE)
        stem = doc["input_field"].split("\\n")[0]
        return {"stem": stem, "options": options, "label": doc["output_field"]}

    return docs.map(one)
"""
DATA = (
    "dataset_path: json\ntest_split: train\ndataset_kwargs: {{data_files: {0}, cache_dir: {1}}}\n"
)
TASKS = {
    "hooked": """
output_type: generate_until
doc_to_text: !function hooks.prompt
doc_to_target: "{{output_field}}"
process_results: !function hooks.graded
generation_kwargs: {max_gen_toks: 1}
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
""",
    "options": """
output_type: multiple_choice
process_docs: !function hooks.worded
doc_to_text: "{{stem}}\\nAnswer:"
doc_to_choice: "{{options}}"
doc_to_target: label
fewshot_split: train
num_fewshot: 1
metric_list: [{metric: acc}, {metric: acc_norm}, {metric: brier_score}]
""",
    "numbers": """
output_type: multiple_choice
doc_to_text: "{{input_field}}"
doc_to_choice: ["0", "1", "2", "3"]
doc_to_target: output_field
target_delimiter: ""
metric_list: [{metric: acc}]
""",
    "likely": """
output_type: loglikelihood
process_docs: !function hooks.worded
doc_to_text: "{{stem}}"
doc_to_target: " {{options[label]}} and {{options[0]}}"
metric_list: [{metric: perplexity}, {metric: acc}]
""",
    "long": """
output_type: multiple_choice
doc_to_text: "{{ input_field * 14 }}"
doc_to_choice: ["0 noodles", "1 soap", "2", "3"]
doc_to_target: output_field
metric_list: [{metric: acc}, {metric: brier_score}]
""",
    "tail": """
output_type: generate_until
doc_to_text: "{{ input_field * 14 }}"
doc_to_target: "{{output_field}}"
generation_kwargs: {until: [], max_gen_toks: 3}
metric_list: [{metric: exact_match}]
filter_list:
  - {name: none, filter: [{function: regex, regex_pattern: "([0-3])"}, {function: take_first}]}
""",
    "searched": """
output_type: generate_until
doc_to_text: "{{input_field}}"
doc_to_target: "{{output_field}}"
generation_kwargs: {until: ["5", "0 3"], max_gen_toks: 6, do_sample: false}
filter_list:
  - name: digit
    filter: [{function: regex, regex_pattern: "([0-3])"}, {function: take_first}]
  - name: whole
    filter: [{function: take_first}]
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
""",
}
GROUPS = {
    "both": "group: both\ntask: [hooked, numbers]\naggregate_metric_list: "
    "[{metric: acc, weight_by_size: true}]\n",
    "alike": "group: alike\ntask: [hooked, options]\naggregate_metric_list: "
    "[{metric: acc, weight_by_size: false}]\n",
}


def write_tasks(folder: Path, documents: int = 24) -> Path:
    """Write the tasks with `documents` of the demo's questions; return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = (DEMO / "questions" / "choice.jsonl").read_text().splitlines()
    chosen = lines[:: len(lines) // documents][:documents]
    (folder / "all.jsonl").write_text("\n".join(chosen))
    (folder / "few.jsonl").write_text("\n".join(chosen[: documents // 3]))
    (folder / "hooks.py").write_text(HOOKS)
    for name, text in TASKS.items():
        data = "few.jsonl" if name == "options" else "all.jsonl"
        head = f"task: {name}\n" + DATA.format(data, folder / "cache")
        (folder / f"{name}.yaml").write_text(head + text)
    for name, text in GROUPS.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


def study_text(*tasks: object, **more: object) -> str:
    """Return an evol_merge_config.yaml with the demo's models."""
    genome = {
        "models": [str(DEMO / "models" / name) for name in ("numeric", "relations")],
        "base_model": str(DEMO / "models" / "base"),
        "merge_method": "dare_ties",
        "layer_granularity": 16,
    }
    return json.dumps({"genome": genome, "tasks": list(tasks), **more})

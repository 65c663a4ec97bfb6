"""After move.py: docstrings, strings, contracts. Usage: post.py ROOT"""
import re, sys
from pathlib import Path
root = Path(sys.argv[1])
DOC = {
"study/artifacts/__init__.py": "What a study leaves on disk: exported merges with their model cards, and the end of a run.",
"study/reporting/__init__.py": "The report of a study: its data, and the page and figures drawn from them.",
"study/worker/__init__.py": "Worker processes: how they start, the loop that evaluates trials, and held-out scoring.",
"study/verdict/__init__.py": "Which merge a study chooses, and whether it is better than the models it came from.",
"study/monitors/__init__.py": "Observers of a running study: progress line, Weights & Biases, dashboard.",
"study/planning/__init__.py": "What a study will cost, estimated before it runs.",
"study/setup/__init__.py": "Everything that is prepared before the first trial: tasks, engine, fingerprint, stored study.",
"study/search/__init__.py": "The search: genome, sampler, schedule of questions, and the jobs that remain.",
"study/cli/__init__.py": "What the commands share: options, logging, error messages and signals.",
"study/config/__init__.py": "The study file: its schema, and how it is read.",
"objectives/tasks/lm_eval/__init__.py": "Tasks of lm-evaluation-harness.",
"objectives/engines/vllm/__init__.py": "vLLM in a process of its own.",
"objectives/models/__init__.py": "Model folders: where they are, what they hold, and how tensors and vocabularies are read.",
"storage/database/__init__.py": "Database URLs, connections, tables and retries.",
"objectives/tasks/split.py": "Which questions are held out from the search.",
"objectives/engines/vllm/settings.py": "What the process that runs vLLM is started with.",
"objectives/engines/vllm/entry.py": "The entry point of the process that runs vLLM.",
"storage/errors.py": "Errors of the storage.",
"storage/processes.py": "How a process is identified, and whether it is still alive.",
"study/planning/estimate.py": "What a study will take: parameters, generations, memory, tokens and time.",
"study/config/errors.py": "Errors in a study file or on the command line.",
"study/worker/held_out.py": "Which trials have answers to the held-out questions.",
"study/search/stored_scores.py": "Stored answers as scores, and scores as stored answers.",
"study/cli/text.py": "Text for people.",
"study/cli/options.py": "Options that several commands share.",
"study/setup/fingerprint.py": "Whether a stored study was created with the same settings.",
"study/setup/enter.py": "How a process enters a study: create or join it, and register as a worker.",
"study/artifacts/export.py": "Which trial to export, and the folder that it is written to.",
}
for name, text in DOC.items():
    p = root/name
    if not p.exists(): print("no", name); continue
    s = p.read_text()
    if '"""TODO."""' in s: p.write_text(s.replace('"""TODO."""', f'"""{text}"""', 1))
def sub(name, *pairs):
    p = root/name
    if not p.exists(): print("no", name); return
    s = p.read_text()
    for a, b in pairs:
        if a not in s: print("absent in", name, ":", a[:60])
        s = s.replace(a, b)
    p.write_text(s)
sub("study/setup/engine.py", ("vllm_child.Settings", "Settings"), ("from objectives.engines.vllm import child as vllm_child\n", "from objectives.engines.vllm import child as vllm_child\nfrom objectives.engines.vllm.settings import Settings\n"))
sub("study/worker/process.py", ('"study.engine_choice"', '"study.setup.engine"'), ('("study.setup", "study.questions", "objectives.tasks")', '("study.setup.setup", "study.setup.tasks", "objectives.tasks")'))
import subprocess
for p in [*root.rglob("*.py"), *root.rglob("*.md"), root/"pyproject.toml"]:
    if ".venv" in p.parts or "results" in p.parts: continue
    s = p.read_text(); t = s
    for a, b in {"docs/LOG.md":"benchmarks/results", "study/findings.py":"study/reporting/data.py"}.items(): t = t.replace(a, b)
    if t != s: p.write_text(t)

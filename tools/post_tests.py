import re, sys
from pathlib import Path
root = Path(sys.argv[1])
(root/"tests/support/paths.py").write_text('"""Folders that tests read."""\n\nfrom pathlib import Path\n\nROOT = Path(__file__).parents[2]\nDEMO = ROOT / "examples" / "demo"\n')
DOC = {
"questions": "Small questions and a tokenizer of characters.",
"architectures": "Tiny random models of several architectures.",
"commands": "The commands run as a user runs them, on a small study of the demo's models.",
"simulated_verdicts": "Verdicts on simulated answers whose truth is known.",
"searches": "A search whose objective takes microseconds.",
"models": "Tiny checkpoints, points of a search space, and mergekit's own merges.",
"kills": "A study whose workers are killed at random."}
for n, t in DOC.items():
    p = root/f"tests/support/{n}.py"; s = p.read_text(); p.write_text(s.replace('"""TODO."""', f'"""{t}"""', 1))
for p in (root/"tests").rglob("*.py"):
    s = t = p.read_text()
    if p.name == "paths.py": continue
    if "ROOT = Path(__file__).parent.parent\n" in t:
        t = t.replace("ROOT = Path(__file__).parent.parent\n", "")
        i = t.index("\nimport ") if "\nimport " in t else t.index("\nfrom ")
        t = t[:i] + "\nfrom tests.support.paths import ROOT" + t[i:]
    t = t.replace('DEMO = Path(__file__).parent.parent / "examples" / "demo"\n', "")
    t = re.sub(r"from tests\.support\.models import ([^(\n]*)\n", lambda m: (lambda ns: ("from tests.support.paths import DEMO\n" if "DEMO" in ns else "") + (f"from tests.support.models import {', '.join(n for n in ns if n != 'DEMO')}\n" if [n for n in ns if n != "DEMO"] else ""))([x.strip() for x in m[1].split(",")]), t)
    t = t.replace('"broken_worker.BrokenExtension"', '"tests.support.broken_extension.BrokenExtension"')
    t = t.replace('STORED = Path(__file__).parent / "stored"', 'STORED = ROOT / "tests" / "stored"')
    t = t.replace("benchmarks/tiny.py", "tests/support/sleeping_study.py") if p.name != "sleeping_study.py" else t.replace("python benchmarks/tiny.py", "python -m tests.support.sleeping_study")
    if "ROOT /" in t and "import ROOT" not in t and p.name == "test_stored.py":
        t = t.replace("from storage.", "from tests.support.paths import ROOT\nfrom storage.", 1)
    t = t.replace("from benchmarks.verdict import Floats\n", "from numpy.typing import NDArray\n")
    if p.name == "simulated_verdicts.py" and "Floats =" not in t:
        t = t.replace("WEIGHTS = ", "Floats = NDArray[np.float64]\nWEIGHTS = ", 1)
    if t != s: p.write_text(t)
for p in [*(root/"benchmarks").glob("*.py"), *(root/"docs").glob("*.md"), root/"README.md", *(root/"examples").rglob("*.md"), *(root/"examples").rglob("*.yaml"), *(root/"study").rglob("*.py"), *(root/"tests").rglob("*.py")]:
    s = p.read_text(); t = re.sub(r"python benchmarks/(\w+)\.py", r"python -m benchmarks.\1", s)
    if t != s: p.write_text(t)

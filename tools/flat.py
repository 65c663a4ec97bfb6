"""Turn flat imports of tests and benchmarks into tests.X / benchmarks.X."""
import re, sys
from pathlib import Path
root = Path(sys.argv[1])
names = {p.stem: f"{d}.{p.stem}" for d in ("benchmarks","tests") for p in (root/d).glob("*.py")}
for d in ("tests","benchmarks"):
    for p in (root/d).rglob("*.py"):
        s = p.read_text()
        t = re.sub(r"^(\s*)from (\w+) import", lambda m: f"{m[1]}from {names[m[2]]} import" if m[2] in names and m[2] not in ("search",) or (m[2]=="search" and d=="benchmarks") else m[0], s, flags=re.M)
        t = re.sub(r"^import (interpreted)\b", "import tests.interpreted", t, flags=re.M)
        if t != s: p.write_text(t)

"""Move modules and symbols of a Python tree and rewrite every import. Usage: move.py ROOT MOVES"""
import ast, re, subprocess, sys
from pathlib import Path
root = Path(sys.argv[1]); MOVES = Path(sys.argv[2]).read_text().splitlines()
TOP = ("study", "objectives", "storage")
mods, syms = {}, []   # old path->new path ; (src path, dst path, names)
for line in MOVES:
    line = line.strip()
    if m := re.match(r"(\S+\.py) moves to (\S+\.py)$", line): mods[m[1]] = m[2]
    elif m := re.match(r"from (\S+\.py) to (\S+\.py): (.+)$", line): syms.append((m[1], m[2], [n.strip() for n in m[3].split(",")]))
def dotted(path):
    parts = list(Path(path).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
modmap = {dotted(a): dotted(b) for a, b in mods.items()}
files = [p for t in (*TOP, "tests", "benchmarks") for p in sorted((root/t).rglob("*.py"))] if True else []
known_old = {dotted(p.relative_to(root)) for p in files}
symmap = {}
for src, dst, names in syms:
    for n in names:
        if "." in n: continue
        symmap[dotted(src), n] = dotted(dst)
def new_module(old): return modmap.get(old, old)
def emit(indent, module, pairs, here_pkg):
    """pairs: (name, asname)"""
    pkg, _, last = module.rpartition(".")
    names = ", ".join(n if a in (None, n) else f"{n} as {a}" for n, a in sorted(set(pairs), key=lambda x: x[0]))
    if here_pkg and pkg == here_pkg: target = "." + last
    elif here_pkg and module == here_pkg: target = "."
    else: target = module
    one = f"{indent}from {target} import {names}"
    if len(one) <= 100: return one
    return f"{indent}from {target} import (\n" + "".join(f"{indent}    {n},\n" for n in names.split(", ")) + f"{indent})"
def rewrite(text, old_path, new_path):
    tree = ast.parse(text); lines = text.split("\n")
    old_dot = dotted(old_path); new_dot = dotted(new_path)
    is_init = Path(old_path).name == "__init__.py"
    old_pkg = old_dot if is_init else old_dot.rpartition(".")[0]
    here_pkg = new_dot.rpartition(".")[0] if new_path.split("/")[0] in TOP else ""
    edits = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = old_pkg.split("."); base = base[: len(base) - (node.level - 1)]
                module = ".".join(base + ([node.module] if node.module else []))
            else: module = node.module
            if module.split(".")[0] not in TOP: continue
            groups = {}
            for alias in node.names:
                sub = f"{module}.{alias.name}"
                if sub in known_old or sub in modmap:
                    target = new_module(sub); pkg, _, last = target.rpartition(".")
                    groups.setdefault(pkg, []).append((last, alias.asname or (alias.name if last != alias.name else None)))
                else:
                    target = symmap.get((module, alias.name), new_module(module))
                    if target == new_dot: continue
                    groups.setdefault(target, []).append((alias.name, alias.asname))
            indent = " " * node.col_offset
            tail = ""
            seg = "\n".join(lines[node.lineno-1:node.end_lineno])
            if m := re.search(r"(\s+# .*)$", lines[node.end_lineno-1]): tail = m[1]
            out = [emit(indent, mod, pairs, "" if node.col_offset else here_pkg) for mod, pairs in sorted(groups.items())]
            if out and tail: out[0] += tail
            edits.append((node.lineno-1, node.end_lineno, out or [indent + "pass"] if node.col_offset else out))
        elif isinstance(node, ast.Import):
            new = [(new_module(a.name), a.asname) for a in node.names]
            if [n for n, _ in new] != [a.name for a in node.names]:
                edits.append((node.lineno-1, node.end_lineno, [" "*node.col_offset + "import " + ", ".join(n if a is None else f"{n} as {a}" for n, a in new)]))
    for start, end, out in sorted(edits, reverse=True):
        lines[start:end] = [l for o in out for l in o.split("\n")]
    return "\n".join(lines)
# 1. texts, rewritten, at their new paths
for p in files:
    old = str(p.relative_to(root)); new = mods.get(old, old)
    text = rewrite(p.read_text(), old, new)
    if new != old:
        (root/new).parent.mkdir(parents=True, exist_ok=True)
# a package may take the name of a module: move in two steps
import os
tmp = {}
for p in files:
    old = str(p.relative_to(root)); new = mods.get(old, old)
    text = rewrite(p.read_text(), old, new)
    tmp[old] = (new, text)
for old, (new, text) in tmp.items():
    if new != old: subprocess.run(["git", "mv", old, new], cwd=root, check=True)
for old, (new, text) in tmp.items(): (root/new).write_text(text)
# 2. symbols
def top_nodes(tree):
    body = tree.body; out = {}
    for i, node in enumerate(body):
        names = []
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)): names = [node.name]
        elif isinstance(node, ast.Assign): names = [n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name): names = [node.target.id]
        end = node.end_lineno
        if names and not isinstance(node, (ast.FunctionDef, ast.ClassDef)) and i+1 < len(body):
            nxt = body[i+1]
            if isinstance(nxt, ast.Expr) and isinstance(nxt.value, ast.Constant) and isinstance(nxt.value.value, str): end = nxt.end_lineno
        start = min([node.lineno] + [d.lineno for d in getattr(node, "decorator_list", [])])
        for n in names: out[n] = (start, end, node)
    return out
def used(nodes): 
    s = set()
    for n in nodes:
        for x in ast.walk(n):
            if isinstance(x, ast.Name): s.add(x.id)
            elif isinstance(x, ast.Constant) and isinstance(x.value, str) and re.fullmatch(r"[\w\[\], |.]+", x.value): s |= set(re.findall(r"\w+", x.value))
    return s
def header_end(text):
    tree = ast.parse(text); last = 0
    for i, n in enumerate(tree.body):
        if isinstance(n, (ast.Import, ast.ImportFrom)): last = n.end_lineno
        elif i == 0 and isinstance(n, ast.Expr): last = n.end_lineno
        elif isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test): last = n.end_lineno
    return last
def add_import(text, line):
    at = header_end(text); L = text.split("\n"); L.insert(at, line); return "\n".join(L)
touched = set()
for src, dst, names in syms:
    names = [n for n in names if "." not in n]
    s = mods.get(src, src)
    st = (root/s).read_text(); tree = ast.parse(st); tops = top_nodes(tree)
    missing = [n for n in names if n not in tops]
    if missing: print("MISSING", src, missing)
    names = [n for n in names if n in tops]
    L = st.split("\n"); pieces = []; cut = set()
    for n in sorted(names, key=lambda n: tops[n][0]):
        a, b, _ = tops[n]
        if a in {c for c, _ in cut}: continue
        cut.add((a, b)); pieces.append("\n".join(L[a-1:b]))
    for a, b in sorted(cut, reverse=True): del L[a-1:b]
    rest = "\n".join(L)
    moved_nodes = [tops[n][2] for n in names]
    back = (used(moved_nodes) & set(tops)) - set(names)
    d = root/dst
    fresh = not d.exists()
    if fresh:
        d.parent.mkdir(parents=True, exist_ok=True)
        d.write_text('"""TODO."""\n\n'); subprocess.run(["git","add","-N",dst],cwd=root)
    dt = d.read_text(); dtree = ast.parse(dt)
    bound = set(top_nodes(dtree))
    for n in ast.walk(dtree):
        if isinstance(n, (ast.Import, ast.ImportFrom)): bound |= {x.asname or x.name for x in n.names}
    needed = used(moved_nodes)
    spkg = dotted(s).rpartition(".")[0]
    lines_, typing_ = [], []
    def gather(body, out):
        for n in body:
            if isinstance(n, ast.ImportFrom):
                base = spkg.split("."); mod = n.module
                if n.level: mod = ".".join(base[:len(base)-(n.level-1)] + ([n.module] if n.module else []))
                for x in n.names:
                    nm = x.asname or x.name
                    if nm in needed and nm not in bound and mod != dotted(dst): out.append(f"from {mod} import {x.name}" + (f" as {x.asname}" if x.asname else "")); bound.add(nm)
            elif isinstance(n, ast.Import):
                for x in n.names:
                    nm = (x.asname or x.name).split(".")[0]
                    if nm in needed and nm not in bound: out.append(f"import {x.name}" + (f" as {x.asname}" if x.asname else "")); bound.add(nm)
            elif isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test): gather(n.body, typing_)
    gather(tree.body, lines_)
    if back - bound: lines_.append(f"from {dotted(s)} import {', '.join(sorted(back - bound))}")
    if typing_: lines_ += ["from typing import TYPE_CHECKING", "if TYPE_CHECKING:"] + ["    "+t for t in typing_]
    at = header_end(dt); DL = dt.split("\n")
    first = [p for p in pieces if not re.match(r"(@\w|def )", p)]; last = [p for p in pieces if p not in first]
    DL[at:at] = lines_ + ["", *"\n\n\n".join(first).split("\n"), "", ""]
    d.write_text("\n".join(DL).rstrip("\n") + "\n\n\n" + "\n\n\n".join(last) + "\n")
    rest_tree = ast.parse(rest)
    fwd = used([n for n in rest_tree.body]) & set(names)
    if fwd: rest = add_import(rest, f"from {dotted(dst)} import {', '.join(sorted(fwd))}")
    (root/s).write_text(rest)
    touched |= {s, dst}
for d in sorted({str(Path(x).parent) for x in [*mods.values(), *(b for _, b, _ in syms)]}):
    init = root/d/"__init__.py"
    if d.split("/")[0] in TOP and not init.exists(): init.write_text('"""TODO."""\n'); subprocess.run(["git","add","-N",str(init.relative_to(root))],cwd=root)
print("done", len(mods), len(syms))

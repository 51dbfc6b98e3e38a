"""Moves modules as the table of moves has it, and rewrites every import by the syntax tree: see build.py."""

import ast, pathlib, re, subprocess, sys

REPO, MOVES = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
PKG = "imagebind_jax"
TABLE = MOVES.read_text()
rows = []
sec = None
for line in TABLE.split("## Every file")[1].split("250 files.")[0].splitlines():
    m = re.match(r"\| \*\*(.+?)\*\* \|", line)
    if m:
        sec = m[1]
        continue
    m = re.match(r"\| (\+ )?(\S+\.py) \| \d+ \| (\S+) \|", line)
    if m:
        rows.append((sec, bool(m[1]), m[2], m[2] if m[3] == "stays" else m[3]))


def dotted(path):
    parts = list(pathlib.PurePosixPath(path).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join([PKG, *parts])


MOVE = {old: new for _, plus, old, new in rows if not plus}


def run(*a):
    return subprocess.run(a, cwd=REPO, check=True, capture_output=True, text=True).stdout


class Line:
    def __init__(s, text):
        s.text = text
        s.starts = [0]
        for l in text.splitlines(keepends=True):
            s.starts.append(s.starts[-1] + len(l))
        s.lines = text.splitlines(keepends=True)

    def pos(s, line, col):  # col in utf8 bytes
        return s.starts[line - 1] + len(s.lines[line - 1].encode()[:col].decode())


def rewrite(text, modmap, own_old=None, warn=print, where=""):
    """modmap: {old dotted: new dotted} of changed modules."""
    tree = ast.parse(text)
    L = Line(text)
    edits = []
    idents = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} | {
        a.arg for a in ast.walk(tree) if isinstance(a, ast.arg)
    }
    idents |= {n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    for n in ast.walk(tree):
        if isinstance(n, (ast.Import, ast.ImportFrom)):
            for a in n.names:
                idents.add((a.asname or a.name).split(".")[0])
    rename = {}
    for n in ast.walk(tree):
        if (
            isinstance(n, ast.ImportFrom)
            and n.module
            and n.level == 0
            and (n.module == PKG or n.module.startswith(PKG + "."))
        ):
            out = {}  # module -> [names]
            changed = False
            for a in n.names:
                full = f"{n.module}.{a.name}"
                if full in modmap:
                    changed = True
                    new = modmap[full]
                    parent, _, leaf = new.rpartition(".")
                    if a.asname:
                        name = f"{leaf} as {a.asname}" if a.asname != leaf else leaf
                    elif leaf == a.name:
                        name = leaf
                    elif leaf in idents and rename.get(a.name) != leaf:
                        name = f"{leaf} as {a.name}"
                        warn(f"{where}: {leaf} is taken; kept as {a.name}")
                    else:
                        name = leaf
                        rename[a.name] = leaf
                    out.setdefault(parent, []).append(name)
                else:
                    here = REPO / (full.replace(".", "/") + ".py")
                    mod = n.module if here.exists() else modmap.get(n.module, n.module)
                    if mod != n.module:
                        changed = True
                    out.setdefault(mod, []).append(a.name + (f" as {a.asname}" if a.asname else ""))
            if changed:
                ind = " " * n.col_offset
                new = ("\n" + ind).join(
                    f"from {m} import " + (f"({', '.join(ns)})" if len(ns) > 1 else ns[0])
                    for m, ns in out.items()
                )
                seg = text[L.pos(n.lineno, n.col_offset) : L.pos(n.end_lineno, n.end_col_offset)]
                if "#" in seg:
                    warn(f"{where}:{n.lineno}: comment in import lost: {seg!r}")
                edits.append(
                    (L.pos(n.lineno, n.col_offset), L.pos(n.end_lineno, n.end_col_offset), new)
                )
        elif isinstance(n, ast.Import):
            for a in n.names:
                if a.name in modmap:
                    edits.append(
                        (
                            L.pos(a.lineno, a.col_offset),
                            L.pos(a.end_lineno, a.end_col_offset),
                            modmap[a.name] + (f" as {a.asname}" if a.asname else ""),
                        )
                    )
        elif isinstance(n, ast.Attribute):
            full = ast.unparse(n) if isinstance(n.value, (ast.Name, ast.Attribute)) else ""
            if full in modmap and full.startswith(PKG + "."):
                edits.append(
                    (
                        L.pos(n.lineno, n.col_offset),
                        L.pos(n.end_lineno, n.end_col_offset),
                        modmap[full],
                    )
                )

    def bound(fn):
        args = fn.args
        names = {
            x.arg
            for x in [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
            if x
        }
        if isinstance(fn, ast.Lambda):
            return names
        stack = list(fn.body)
        while stack:
            n = stack.pop()
            if isinstance(n, ast.Name) and isinstance(n.ctx, (ast.Store, ast.Del)):
                names.add(n.id)
            if isinstance(n, (ast.FunctionDef, ast.ClassDef)):
                names.add(n.name)
                continue
            if isinstance(
                n, (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
            ):
                continue
            stack.extend(ast.iter_child_nodes(n))
        return names

    def visit(n, hidden):
        if isinstance(n, (ast.FunctionDef, ast.Lambda)):
            inner = hidden | bound(n)
            for d in getattr(n, "decorator_list", []):
                visit(d, hidden)
            for d in [*n.args.defaults, *[k for k in n.args.kw_defaults if k]]:
                visit(d, hidden)
            if not isinstance(n, ast.Lambda):
                for arg in ast.walk(n.args):
                    if isinstance(arg, ast.arg) and arg.annotation:
                        visit(arg.annotation, hidden)
                if n.returns:
                    visit(n.returns, hidden)
                for c in n.body:
                    visit(c, inner)
            else:
                visit(n.body, inner)
            return
        if isinstance(n, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
            names = {
                x.id for g in n.generators for x in ast.walk(g.target) if isinstance(x, ast.Name)
            }
            for i, g in enumerate(n.generators):
                visit(g.iter, hidden if i == 0 else hidden | names)
                for c in g.ifs:
                    visit(c, hidden | names)
            for c in [n.key, n.value] if isinstance(n, ast.DictComp) else [n.elt]:
                visit(c, hidden | names)
            return
        if (
            isinstance(n, ast.Name)
            and n.id in rename
            and isinstance(n.ctx, ast.Load)
            and n.id not in hidden
        ):
            edits.append(
                (L.pos(n.lineno, n.col_offset), L.pos(n.end_lineno, n.end_col_offset), rename[n.id])
            )
        for c in ast.iter_child_nodes(n):
            visit(c, hidden)

    for n in tree.body:
        for t in ast.walk(n):
            if (
                isinstance(t, ast.Name)
                and isinstance(t.ctx, ast.Store)
                and t.id in rename
                and isinstance(n, (ast.Assign, ast.For, ast.With))
            ):
                warn(f"{where}: {t.id} is also a global")
    if rename:
        visit(tree, frozenset())
    done = []
    for s, e, new in sorted(set(edits), reverse=True):
        if done and e > done[-1]:
            warn(f"{where}: overlapping edit skipped {new}")
            continue
        text = text[:s] + new + text[e:]
        done.append(s)
    return text, rename


def in_text(text, modmap, pathmap):
    names = sorted(modmap, key=len, reverse=True)

    def one(x):
        new = modmap[x]
        tail = new[len(x) :] if new.startswith(x + ".") else None
        return (
            r"(?<![\w./])"
            + re.escape(x)
            + (f"(?!{re.escape(tail)}\\b)" if tail else "")
            + r"(?![\w])"
        )

    pat = re.compile("|".join(map(one, names)))
    text = pat.sub(lambda m: modmap[m[0]], text)
    paths = sorted(pathmap, key=len, reverse=True)
    pat = re.compile("|".join(r"(?<![\w])" + re.escape(f"{PKG}/{x}") for x in paths))
    return pat.sub(lambda m: f"{PKG}/{pathmap[m[0].removeprefix(PKG + '/')]}", text)


def in_strings(text, modmap, pathmap):
    import io, tokenize

    L = Line(text)
    out = text
    toks = [
        t
        for t in tokenize.generate_tokens(io.StringIO(text).readline)
        if t.type in (tokenize.STRING, tokenize.COMMENT)
    ]
    for t in reversed(toks):
        new = in_text(t.string, modmap, pathmap)
        if new != t.string:
            s = L.starts[t.start[0] - 1] + t.start[1]
            out = out[:s] + new + out[s + len(t.string) :]
    return out


def main():
    chosen = sys.argv[3:]
    pick = [
        (old, new)
        for sec, plus, old, new in rows
        if sec in chosen and not plus and old != new and (REPO / PKG / old).exists()
    ]
    modmap = {dotted(o): dotted(n) for o, n in pick}
    pathmap = dict(pick)
    for old, new in pick:
        dst = REPO / PKG / new
        dst.parent.mkdir(parents=True, exist_ok=True)
        run("git", "mv", f"{PKG}/{old}", f"{PKG}/{new}")
    files = [REPO / f for f in run("git", "ls-files").splitlines()]
    for f in files:
        if not f.exists() or f.is_symlink():
            continue
        if f.suffix == ".py":
            t = f.read_text()
            if "imagebind_jax" not in t:
                continue
            new, _ = rewrite(t, modmap, where=str(f.relative_to(REPO)))
            new = in_strings(new, modmap, pathmap)
            if new != t:
                f.write_text(new)
        elif (
            f.suffix in (".md", ".toml", ".cfg", ".ipynb", ".yml", "")
            and f.stat().st_size < 3e6
            and "golden" not in str(f)
        ):
            try:
                t = f.read_text()
            except UnicodeDecodeError:
                continue
            new = in_text(t, modmap, pathmap)
            if new != t:
                f.write_text(new)


if __name__ == "__main__":
    main()

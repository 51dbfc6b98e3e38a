"""merge(repo, target, source, rename): puts source's body at the end of target; rewrites importers."""

import ast, pathlib, subprocess, sys
import move

PKG = "imagebind_jax"


def split(text):
    """(docstring, imports text, body text)"""
    tree = ast.parse(text)
    L = text.splitlines(keepends=True)
    doc = tree.body[0]
    assert isinstance(doc, ast.Expr)
    rest = tree.body[1:]
    last = doc.end_lineno
    imports = []
    for n in rest:
        if isinstance(n, (ast.Import, ast.ImportFrom)):
            imports.append("".join(L[n.lineno - 1 : n.end_lineno]))
            last = n.end_lineno
        else:
            break
    return "".join(L[: doc.end_lineno]), imports, "".join(L[last:])


def names(text):
    out = set()
    for n in ast.parse(text).body:
        if isinstance(n, (ast.FunctionDef, ast.ClassDef)):
            out.add(n.name)
        elif isinstance(n, (ast.Assign, ast.AnnAssign)):
            for t in n.targets if isinstance(n, ast.Assign) else [n.target]:
                for x in ast.walk(t):
                    if isinstance(x, ast.Name):
                        out.add(x.id)
    return out


def merge(repo, target, source, first=False):
    repo = pathlib.Path(repo)
    t, s = repo / PKG / target, repo / PKG / source
    tt, st = t.read_text(), s.read_text()
    both = names(split(tt)[2]) & names(split(st)[2])
    assert not both, (target, source, both)
    tm, sm = move.dotted(target), move.dotted(source)
    # all importers of source now import target
    for f in repo.rglob("*.py"):
        if ".git" in f.parts or f in (t, s):
            continue
        text = f.read_text()
        new, _ = move.rewrite(text, {sm: tm}, where=str(f.relative_to(repo)))
        new = move.in_strings(new, {sm: tm}, {source: target})
        if new != text:
            f.write_text(new)

    def own(text):
        """drop imports of the other, and turn module.NAME into NAME"""
        tree = ast.parse(text)
        L = move.Line(text)
        edits = []
        mods = set()
        for n in ast.walk(tree):
            if isinstance(n, ast.ImportFrom) and n.module in (tm, sm):
                edits.append((n, ""))
            elif isinstance(n, ast.ImportFrom):
                keep = [a for a in n.names if f"{n.module}.{a.name}" not in (tm, sm)]
                gone = [a for a in n.names if a not in keep]
                for a in gone:
                    mods.add(a.asname or a.name)
                if gone:
                    edits.append(
                        (
                            n,
                            f"from {n.module} import "
                            + ", ".join(
                                a.name + (f" as {a.asname}" if a.asname else "") for a in keep
                            )
                            if keep
                            else "",
                        )
                    )
        for n in ast.walk(tree):
            if (
                isinstance(n, ast.Attribute)
                and isinstance(n.value, ast.Name)
                and n.value.id in mods
            ):
                edits.append((n, n.attr))
        for n, new in sorted(edits, key=lambda e: -L.pos(e[0].lineno, e[0].col_offset)):
            text = (
                text[: L.pos(n.lineno, n.col_offset)]
                + new
                + text[L.pos(n.end_lineno, n.end_col_offset) :]
            )
        return text

    td, ti, tb = split(own(tt))
    _, si, sb = split(own(st))
    body = sb + "\n\n" + tb if first else tb.rstrip() + "\n\n\n" + sb.lstrip()
    t.write_text(td + "\n" + "".join(ti) + "".join(si) + body)
    subprocess.run(["git", "rm", "-qf", str(s)], cwd=repo, check=True)

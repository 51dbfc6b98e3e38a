"""move_symbols(repo, src, dst, names, doc): top-level definitions go to another file; everybody follows."""

import ast, pathlib, re

from move import PKG, Line, dotted


def defined(node):
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, ast.Assign):
        return {x.id for t in node.targets for x in ast.walk(t) if isinstance(x, ast.Name)}
    if isinstance(node, ast.AnnAssign):
        return {node.target.id}
    return set()


def span(node, lines):
    first = min([node.lineno] + [d.lineno for d in getattr(node, "decorator_list", [])])
    while first > 1 and lines[first - 2].startswith("#"):
        first -= 1
    return first - 1, node.end_lineno


def add_import(text, stmt):
    tree = ast.parse(text)
    n = tree.body[0]
    at = n.end_lineno if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant) else 0
    L = text.splitlines(keepends=True)
    return "".join(L[:at]) + stmt + "\n" + "".join(L[at:])


def move_symbols(repo, src, dst, names, doc=""):
    repo = pathlib.Path(repo)
    s, d = repo / PKG / src, repo / PKG / dst
    names = set(names)
    text = s.read_text()
    lines = text.splitlines(keepends=True)
    tree = ast.parse(text)
    picked = [n for n in tree.body if defined(n) & names]
    assert {x for n in picked for x in defined(n)} == names, (
        src,
        names - {x for n in picked for x in defined(n)},
    )
    body = "\n\n".join("".join(lines[slice(*span(n, lines))]) for n in picked)
    keep = list(lines)
    for n in reversed(picked):
        a, b = span(n, lines)
        del keep[a:b]
    rest = "".join(keep)
    imports = [ast.unparse(n) for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))]
    stay = {x for n in tree.body for x in defined(n)} - names
    used = {n.id for n in ast.walk(ast.parse(body)) if isinstance(n, ast.Name)}
    back = used & stay
    sm, dm = dotted(src), dotted(dst)
    sp, sleaf = sm.rsplit(".", 1)
    dp, dleaf = dm.rsplit(".", 1)
    if not d.exists():
        d.parent.mkdir(parents=True, exist_ok=True)
        d.write_text(f'"""{doc}"""\n')
    simple = [n for n in picked if isinstance(n, (ast.Assign, ast.AnnAssign))]
    part = lambda ns: "\n\n".join("".join(lines[slice(*span(n, lines))]) for n in ns)
    t = d.read_text().rstrip() + "\n\n\n" + part([n for n in picked if n not in simple])
    if simple:  # constants stand before what uses them
        tr = ast.parse(t)
        at = max(
            [n.end_lineno for n in tr.body if isinstance(n, (ast.Import, ast.ImportFrom))]
            or [tr.body[0].end_lineno]
        )
        ls = t.splitlines(keepends=True)
        t = (
            "".join(ls[:at])
            + "\n"
            + "".join("".join(lines[slice(*span(n, lines))]) for n in simple)
            + "".join(ls[at:])
        )
    own = {x for n in ast.parse(t).body for x in defined(n)}

    def lean(i):
        n = ast.parse(i).body[0]
        if isinstance(n, ast.ImportFrom):
            n.names = [a for a in n.names if (a.asname or a.name) not in own]
            return ast.unparse(n) if n.names else ""
        return i

    # what dst imported under these names from elsewhere is its own now
    tr = ast.parse(t)
    ls = t.splitlines(keepends=True)
    for n in reversed(tr.body):
        if isinstance(n, ast.ImportFrom) and any(a.name in names for a in n.names):
            n2 = (
                ast.unparse(
                    ast.ImportFrom(n.module, [a for a in n.names if a.name not in names], 0)
                )
                + "\n"
                if any(a.name not in names for a in n.names)
                else ""
            )
            ls[n.lineno - 1 : n.end_lineno] = [n2] if n2 else []
    t = "".join(ls)
    imports = [x for x in map(lean, imports) if x]
    for i in imports + ([f"from {sm} import {', '.join(sorted(back))}"] if back else []):
        if f"from {dm} import" not in i:
            t = add_import(t, i)
    d.write_text(t)
    still = {n.id for n in ast.walk(ast.parse(rest)) if isinstance(n, ast.Name)} & names
    if still:
        rest = add_import(rest, f"from {dm} import {', '.join(sorted(still))}")
    s.write_text(rest)
    for f in repo.rglob("*.py"):
        if f == s or ".git" in f.parts or "venv" in f.parts:
            continue
        o = new = f.read_text()
        if not any(x in o for x in names):
            continue
        tr = ast.parse(o)
        L = Line(o)
        edits = []
        need = set()
        bind = set()
        for n in ast.walk(tr):
            if isinstance(n, ast.ImportFrom) and n.module == sm:
                mine = [a for a in n.names if a.name in names]
                other = [a for a in n.names if a.name not in names]
                if mine:
                    fmt = lambda a: a.name + (f" as {a.asname}" if a.asname else "")
                    out = []
                    if other:
                        out.append(f"from {sm} import " + (f"({', '.join(map(fmt, other))})"))
                    if f != d:
                        out.append(f"from {dm} import " + (f"({', '.join(map(fmt, mine))})"))
                    edits.append(
                        (n, ("\n" + " " * n.col_offset).join(out) or "pass" * (n.col_offset > 0))
                    )
            elif isinstance(n, ast.ImportFrom) and n.module == sp:
                for a in n.names:
                    if a.name == sleaf:
                        bind.add((a.asname or a.name, n))
        localnames = {b for b, _ in bind}
        idents = (
            {n.id for n in ast.walk(tr) if isinstance(n, ast.Name)}
            | {a.arg for a in ast.walk(tr) if isinstance(a, ast.arg)}
            | {n.name for n in ast.walk(tr) if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
        )
        for n in ast.walk(tr):
            if isinstance(n, (ast.Import, ast.ImportFrom)):
                idents |= {a.asname or a.name for a in n.names}
        direct = dleaf in idents
        wanted = set()
        for n in ast.walk(tr):
            if (
                isinstance(n, ast.Attribute)
                and isinstance(n.value, ast.Name)
                and n.value.id in localnames
                and n.attr in names
            ):
                if f == d or direct:
                    if f != d:
                        assert n.attr not in idents, (f, n.attr)
                    edits.append((n, n.attr))
                    wanted.add(n.attr)
                else:
                    edits.append((n.value, dleaf))
                need.add(n.value.id)
        for n, r in sorted(edits, key=lambda e: -L.pos(e[0].lineno, e[0].col_offset)):
            new = (
                new[: L.pos(n.lineno, n.col_offset)]
                + r
                + new[L.pos(n.end_lineno, n.end_col_offset) :]
            )
        if need and f != d:
            for b, imp in bind:  # beside each import of the old module
                if b in need:
                    tr2 = ast.parse(new)
                    stmt = (
                        f"from {dm} import {', '.join(sorted(wanted))}"
                        if direct
                        else f"from {dp} import {dleaf}"
                    )
                    ls = new.splitlines(keepends=True)
                    for n in ast.walk(tr2):
                        if (
                            isinstance(n, ast.ImportFrom)
                            and n.module == sp
                            and any((a.asname or a.name) == b and a.name == sleaf for a in n.names)
                        ):
                            ls.insert(n.end_lineno, " " * n.col_offset + stmt + "\n")
                            break
                    new = "".join(ls)
        pat = re.compile(re.escape(sm) + r"\.(" + "|".join(map(re.escape, names)) + r")\b")
        new = pat.sub(lambda m: f"{dm}.{m[1]}", new)
        if new != o:
            f.write_text(new)

"""docs/api.md out of the docstrings: python docs/make_api.py (a test says when it is to be run again)."""

import ast
import inspect
import pathlib
import textwrap

HERE = pathlib.Path(__file__).parent
PACKAGE = HERE.parent / "imagebind_jax"
PARTS = {
    "The model": ("models/imagebind", "models/encoder", "models/patch_embeddings", "losses/contrastive", "models/masked_autoencoder"),
    "Files in": (
        "inputs/loaders", "inputs/transforms/text", "inputs/transforms/vision", "inputs/transforms/audio", "inputs/transforms/depth", "inputs/transforms/thermal",
        "inputs/transforms/imu", "inputs/transforms/augment", "inputs/decoders/media", "inputs/transforms/tiles",
    ),
    "Records and batches": (
        "inputs/sources/record", "inputs/sources/manifest", "inputs/sources/prepared", "inputs/sources/tar",
        "inputs/sources/tfds", "inputs/pipeline/pairs", "inputs/pipeline/examples", "inputs/pipeline/batches",
    ),
    "Weights": ("porting/load", "porting/lora", "porting/convert"),
    "Training": ("config", "optimizer", "training/fit", "checkpointing/checkpointer", "distributed/sharding"),
    "Evaluation": (
        "evaluation/benchmark", "evaluation/tasks/zero_shot", "evaluation/tasks/retrieval", "evaluation/tasks/few_shot",
        "evaluation/tasks/arithmetic", "evaluation/tasks/detection", "evaluation/tasks/external_detectors", "evaluation/trained/fusion",
        "evaluation/tasks/linear_probe", "evaluation/metrics/bootstrap", "evaluation/metrics/similarity",
    ),
    "Your own files": ("search/encoders", "search/embed_files", "search/store", "search/exact", "search/query", "search/approximate"),
    "The world": ("inputs/world/world", "inputs/world/multi_object", "inputs/world/export", "demo/run"),
}  # fmt: skip
BEGIN = """# API reference

Made of the docstrings by `python docs/make_api.py`; do not edit. `import imagebind_jax as ib` has the names that most people need:
`load`, `embed`, `similarity`, `tokenize`, `load_images`, `load_videos`, `load_audio`, `load_depth`, `load_thermal`, `load_imu`, `init`,
`ImageBind`, `ImageBindConfig`, `HUGE`, `BASE`, `TINY`, `UserError`, `MediaError`. Shapes are jaxtyping's: `Float[Array, "b e"]`.
"""


def page() -> str:
    """The whole page."""
    lines = [BEGIN]
    lines.append(" · ".join(f"[{part}](#{part.lower().replace(' ', '-')})" for part in PARTS))
    for part, names in PARTS.items():
        lines.append(f"\n## {part}")
        for name in names:
            lines += module(PACKAGE / f"{name}.py", f"imagebind_jax.{name.replace('/', '.')}")
    return "\n".join(lines) + "\n"


def module(path: pathlib.Path, name: str) -> list[str]:
    source = path.read_text()
    tree = ast.parse(source)
    lines = [f"\n### `{name}`\n", _said(tree)]
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and _is_public(node):
            lines += _class(node, source)
        elif isinstance(node, ast.FunctionDef) and _is_public(node):
            lines += _function(node)
    return lines


def _class(node: ast.ClassDef, source: str) -> list[str]:
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    lines = [f"\n**class `{node.name}{f'({bases})' if bases else ''}`**\n", _said(node)]
    fields = [each for each in node.body if isinstance(each, ast.AnnAssign) and _is_public(each)]
    if fields:
        text = source.splitlines()
        lines.append("\n```python")
        lines += [
            text[each.lineno - 1].strip() for each in fields if each.lineno == each.end_lineno
        ]
        lines.append("```")
    for each in node.body:
        if not isinstance(each, ast.FunctionDef) or not ast.get_docstring(each):
            continue
        if _is_public(each) or each.name == "__init__":
            lines += _function(each, f"{node.name}.")
    return lines


def _function(node: ast.FunctionDef, prefix: str = "") -> list[str]:
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    name = prefix.rstrip(".") if node.name == "__init__" else f"{prefix}{node.name}"
    signature = f"{name}({ast.unparse(node.args)}){'' if node.name == '__init__' else returns}"
    wrapped = textwrap.wrap(
        signature.replace("self, ", "").replace("(self)", "()"), 110, subsequent_indent="    "
    )
    return ["\n```python", *wrapped, "```\n", _said(node)]


def _said(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> str:
    return inspect.cleandoc(ast.get_docstring(node) or "").replace("<", "&lt;")


def _is_public(node: ast.ClassDef | ast.FunctionDef | ast.AnnAssign) -> bool:
    if isinstance(node, ast.AnnAssign):
        return isinstance(node.target, ast.Name) and not node.target.id.startswith("_")
    return not node.name.startswith("_") and bool(ast.get_docstring(node))


if __name__ == "__main__":
    (HERE / "api.md").write_text(page())

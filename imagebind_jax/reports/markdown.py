"""Text and tables in Markdown."""

from collections.abc import Iterable, Sequence

from imagebind_jax.errors import one_line


def escape_markdown(text: str) -> str:
    """Text on one line, in or out of a table, without any markup."""
    line = one_line(text)
    for special in "\\|*`[]":
        line = line.replace(special, f"\\{special}")
    return line.replace("&", "&amp;").replace("<", "&lt;")


def markdown_table(head: Sequence[str], body: Iterable[Sequence[str]], right: Iterable[int]) -> str:
    """Cells are Markdown already. right: the columns that are numbers."""
    rule = ["---:" if i in set(right) else "---" for i in range(len(head))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))

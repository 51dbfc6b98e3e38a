"""The compiler's final text of a program, as instructions by computation, and the bytes of shapes."""

import dataclasses
import math
import re

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_NAMED = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](?:\{([^}]*)\})?")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: %name = shape op(operands), rest."""

    name: str
    shape: str
    op: str
    operands: tuple[str, ...]
    rest: str
    root: bool

    def called(self, key: str) -> str:
        """The name of the computation that it calls as `key`, or an empty text."""
        found = re.search(rf"\b{key}=%?([\w.\-]+)", self.rest)
        return found[1] if found else ""

    @property
    def source(self) -> str:
        """Which line of the model's it comes from, as JAX names it."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""


Computation = dict[str, Instruction]


def parse_hlo(text: str) -> tuple[dict[str, Computation], str]:
    """({name: computation}, name of the entry)."""
    computations: dict[str, Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if (head := _COMPUTATION.match(line)) and not line.startswith(" "):
            current = computations[head[2]] = {}
            entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (named := _NAMED.match(line)):
            shape, rest = _split_shape(named[3])
            op, _, rest = rest.partition("(")
            operands, rest = _split_operands(rest)
            names = tuple(re.findall(r"%([\w.\-]+)", operands))
            if op in ("constant", "parameter"):
                rest = f"{operands}|{rest}"
            current[named[2]] = Instruction(named[2], shape, op, names, rest, bool(named[1]))
    return computations, entry


def _split_shape(text: str) -> tuple[str, str]:
    """(shape, the rest): a tuple's shape ends where its bracket does."""
    if not text.startswith("("):
        shape, _, rest = text.partition(" ")
        return shape, rest
    end = _closing(text)
    return text[:end], text[end:].lstrip()


def _split_operands(text: str) -> tuple[str, str]:
    """(between the brackets, the rest) of what follows the first bracket."""
    end = _closing(text, depth=1)
    return text[: end - 1], text[end:]


def _closing(text: str, depth: int = 0) -> int:
    """The position after the bracket that closes the first one; `depth`: how many are open before."""
    for found in re.finditer(r"[()]", text):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.end()
    return len(text)


# ---- sizes


def shape_bytes(shape: str, *, padded: bool = False, only_hbm: bool = False) -> int:
    """Bytes of a shape, or of all arrays of a tuple.

    padded: as it lies in memory, in tiles of 8 x 128. only_hbm: what lies in main memory, and so
    without single numbers.
    """
    total = 0.0
    for dtype, dims, layout in _ARRAY.findall(shape):
        if only_hbm and (not dims or re.search(r"S\(\d+\)", layout)):
            continue
        lengths = [int(n) for n in dims.split(",") if n]
        if padded:
            lengths = _padded(lengths, layout)
        total += math.prod(lengths) * _width(dtype)
    return round(total)


def _width(dtype: str) -> float:
    if dtype == "pred":
        return 1.0
    bits = re.match(r"[a-z]+(\d+)", dtype)  # bf16, f32, s8, f8e4m3fn
    return int(bits[1]) / 8 if bits else 0.0  # a token has no bytes


def _padded(lengths: list[int], layout: str) -> list[int]:
    order, _, tiles = layout.partition(":")
    tile = re.search(r"T\(([\d,]+)\)", tiles)
    if not tile or not order:
        return lengths
    lengths = list(lengths)
    # The last number of the tile belongs to the axis that varies fastest, which comes first.
    for axis, length in zip(map(int, order.split(",")), reversed(tile[1].split(","))):
        lengths[axis] = -(-lengths[axis] // int(length)) * int(length)
    return lengths

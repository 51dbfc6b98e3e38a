"""Bytes that a compiled instruction moves to and from a device's main memory."""

from imagebind_jax.plan import hlo_parser
from imagebind_jax.plan.hlo_parser import Computation, Instruction

# What moves no data, or whose parts are counted for themselves.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call",
    "after-all", "partition-id", "replica-id", "opt-barrier", "add-dependency",
}  # fmt: skip


def hbm_bytes(
    computations: dict[str, Computation], computation: Computation, each: Instruction
) -> int:
    """Bytes that one run of an instruction reads from and writes to the device's main memory.

    Arrays in on-chip memory cost none; of an array that is only sliced, or only updated in part,
    the part counts. A copy in the background counts where it ends.
    """
    if each.op in _FREE or each.op.endswith("-start") or each.op == "async-update":
        return 0
    given = [computation[name].shape for name in each.operands if name in computation]
    if each.op.endswith("-done"):
        start = computation[each.operands[0]]
        source = computation[start.operands[0]].shape if start.operands else ""
        return _memory(each.shape) + (_memory(each.shape, like=source))
    if each.op in ("dynamic-slice", "slice", "gather"):
        return _memory(each.shape) + _memory(each.shape, like=given[0])
    if each.op == "dynamic-update-slice":
        return _memory(given[1]) + _memory(given[1], like=given[0])
    inner = computations.get(each.called("calls"))
    if each.op != "fusion" or inner is None:
        return _memory(each.shape) + sum(map(_memory, given))
    return _written(inner, each.shape) + sum(_read(inner, i, s) for i, s in enumerate(given))


def _memory(shape: str, like: str | None = None) -> int:
    """Bytes of a shape in main memory; with `like`, of all of it if that one lies there."""
    if like is None:
        return hlo_parser.shape_bytes(shape, padded=True, only_hbm=True)
    return (
        hlo_parser.shape_bytes(shape, padded=True)
        if hlo_parser.shape_bytes(like, only_hbm=True)
        else 0
    )


def _read(fused: Computation, index: int, shape: str) -> int:
    """What a fusion reads of one of its arguments."""
    whole = _memory(shape)
    parameter = next(
        (e for e in fused.values() if e.op == "parameter" and e.rest.startswith(f"{index}|")), None
    )
    if not whole or parameter is None:
        return whole
    part = 0
    for use in _uses(fused, parameter.name):
        if use.op == "dynamic-update-slice" and use.operands[0] == parameter.name:
            continue  # updated where it lies
        if use.op not in ("dynamic-slice", "slice", "gather") or use.operands[0] != parameter.name:
            return whole
        part += hlo_parser.shape_bytes(use.shape, padded=True)
    return min(part, whole)


def _uses(fused: Computation, name: str) -> list[Instruction]:
    return [each for each in fused.values() if name in each.operands]


def _written(fused: Computation, shape: str) -> int:
    """What a fusion writes: of what it updates in part, the part."""
    whole = _memory(shape)
    root = next(each for each in fused.values() if each.root)
    ends = [fused[name] for name in root.operands] if root.op == "tuple" else [root]
    for end in ends:
        while end.op == "bitcast" and end.operands[0] in fused:
            end = fused[end.operands[0]]
        if end.op == "dynamic-update-slice" and whole:
            whole += hlo_parser.shape_bytes(
                fused[end.operands[1]].shape, padded=True
            ) - hlo_parser.shape_bytes(end.shape, padded=True)
    return max(whole, 0)

"""The opcodes that torch writes, and what each of them does; nothing here imports or runs anything.

Python's own unpickler runs what a file names. This one knows about forty opcodes of protocols 2
to 5, only ever fills containers that it made itself, and calls only the functions it is handed.
"""

import struct
from collections.abc import Callable
from typing import Any

from imagebind_jax.errors import UserError
from imagebind_jax.porting.machine import MAX_DEPTH, OPAQUE, Machine, Names


def build(data: bytes, names: Names, load: Callable[[Any], Any], bags: bool = False) -> Any:
    """The object that `data` describes: dicts with str or int keys, lists, tuples, plain scalars.

    `names` says which globals exist ("module.name") and what a call with a tuple of arguments
    makes of each, None where it may not be called. `load` turns a persistent id into an object;
    both raise UserError on what they do not like. `bags`: objects of TorchScript are read too, as a
    `Bag` each. Objects may contain themselves. Raises UserError, without the file's name, on
    everything that is not on a list.
    """
    top = Machine(data, names, load, bags).run(STEPS | BAG_STEPS if bags else STEPS)
    _check_depth(top)
    return top


def _check_depth(top) -> None:
    """Every object must be within MAX_DEPTH steps of the top. Not recursive: there may be cycles."""
    layer = [top] if isinstance(top, (dict, list, tuple)) else []
    seen = {id(top)}
    for _ in range(MAX_DEPTH):
        deeper = []
        for node in layer:
            for child in node.values() if isinstance(node, dict) else node:
                if isinstance(child, (dict, list, tuple)) and id(child) not in seen:
                    seen.add(id(child))
                    deeper.append(child)
        if not deeper:
            return
        layer = deeper
    raise UserError(f"its data.pkl nests deeper than {MAX_DEPTH}")


def _number(form):
    code = struct.Struct(form)
    return lambda m: code.unpack(m.take(code.size))[0]


_U1, _U2, _U4, _U8, _I4 = (_number(form) for form in ("<B", "<H", "<L", "<Q", "<i"))
_FLOAT = _number(">d")

# Not here, and so refused: everything of protocols 0 and 1 that is text (INT, LONG, FLOAT, STRING,
# UNICODE, PERSID, INST, GET, PUT), OBJ, NEWOBJ_EX, EXT1 to EXT4, LONG4, POP, POP_MARK, DUP,
# NEXT_BUFFER, READONLY_BUFFER; and NEWOBJ but for TorchScript.
STEPS: dict[bytes, Callable[[Machine], None]] = {
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.push(_U1(m)),
    b"M": lambda m: m.push(_U2(m)),
    b"J": lambda m: m.push(_I4(m)),
    b"\x8a": lambda m: m.push(int.from_bytes(m.take(_U1(m)), "little", signed=True)),
    b"G": lambda m: m.push(_FLOAT(m)),
    b"\x8c": lambda m: m.push(m.text(_U1(m))),
    b"X": lambda m: m.push(m.text(_U4(m))),
    b"\x8d": lambda m: m.push(m.text(_U8(m))),
    b"C": lambda m: m.skip(_U1(m)),
    b"B": lambda m: m.skip(_U4(m)),
    b"\x8e": lambda m: m.skip(_U8(m)),
    b"\x96": lambda m: m.skip(_U8(m)),  # bytearray
    b"]": lambda m: m.new([]),
    b"}": lambda m: m.new({}),
    b")": lambda m: m.push(()),
    b"\x8f": lambda m: m.push(OPAQUE),  # set
    b"(": Machine.mark,
    b"t": lambda m: m.new(tuple(m.pop_mark())),
    b"\x85": lambda m: m.tuple(1),
    b"\x86": lambda m: m.tuple(2),
    b"\x87": lambda m: m.tuple(3),
    b"a": lambda m: m.append([m.pop()]),
    b"e": lambda m: m.append(m.pop_mark()),
    b"s": Machine.set_item,
    b"u": lambda m: m.set_items(m.pop_mark()),
    b"\x90": Machine.set_add,
    b"\x91": Machine.frozen_set,
    b"b": Machine.set_state,
    b"q": lambda m: m.put(_U1(m)),
    b"r": lambda m: m.put(_U4(m)),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"h": lambda m: m.get(_U1(m)),
    b"j": lambda m: m.get(_U4(m)),
    b"c": lambda m: m.find(m.line(), m.line()),
    b"\x93": Machine.find_on_stack,
    b"R": Machine.call,
    b"Q": lambda m: m.push(m.load(m.pop())),
    b"\x95": lambda m: m.frame(_U8(m)),
}
BAG_STEPS: dict[bytes, Callable[[Machine], None]] = {b"\x81": Machine.new_bag}

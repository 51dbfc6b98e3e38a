"""The stack machine that builds containers from a pickle's opcodes, within limits."""

import struct
from collections.abc import Callable, Mapping
from typing import Any

from imagebind_jax.errors import UserError

MAX_OPCODES = 1_000_000  # a tensor takes about 30: 33,000 tensors
MAX_NODES = 200_000  # containers and objects; a tensor takes about 6
MAX_DEPTH = 100  # of containers in containers
MAX_TEXT = 1 << 20  # bytes
MAX_NAME = 1000  # characters, of a class
MAX_KEY = 1 << 20  # of integer keys: greater ones can be made to collide in a dict, by the million
DAMAGED = "its data.pkl is damaged or was made by hand"
REMEDY = (
    "save it again, on a machine where it is trusted, as "
    "torch.save({k: v for k, v in model.state_dict().items()}, path)"
)


class OrderedDictStub(dict):
    """An OrderedDict: the one container that may be given attributes, which are dropped."""


class TorchScriptObject(dict):
    """An object of TorchScript: its attributes by name, which are set on nothing else."""


class TorchScriptClass:
    """A class of TorchScript, whatever its name and its code: its objects are bags."""


class OpaqueStub:
    """Something harmless that nobody reads: bytes, a set, a device."""


class AllowedGlobal:
    """A name that was on the list, with what a call of it does, if it may be called."""

    __slots__ = ("name", "call")

    def __init__(self, name: str, call: Callable[[tuple], Any] | None):
        self.name, self.call = name, call


OPAQUE = OpaqueStub()
BAG_CLASS = TorchScriptClass()
Names = Mapping[str, Callable[[tuple], Any] | None]


class PickleVM:
    """One run over one description: `steps` are what its opcodes do."""

    def __init__(self, data, names, load, bags=False):
        self.data, self.names, self.load, self.bags = data, names, load, bags
        self.at = 0
        self.nodes = 0
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # a stack for every open mark
        self.memo: dict[int, Any] = {}

    def run(self, steps: Mapping[bytes, Callable[["PickleVM"], None]]) -> Any:
        if self.take(1) != b"\x80" or self.take(1)[0] not in (2, 3, 4, 5):
            raise UserError(f"its data.pkl is not of pickle protocol 2 to 5; {REMEDY}")
        for _ in range(MAX_OPCODES):
            code = self.take(1)
            if code == b".":
                break
            step = steps.get(code)
            if step is None:
                raise UserError(f"its data.pkl has the opcode {code!r}, which is not allowed")
            step(self)
        else:
            raise UserError(f"its data.pkl has more than {MAX_OPCODES:,} opcodes; {REMEDY}")
        if self.below or len(self.stack) != 1 or self.at != len(self.data):
            raise UserError(DAMAGED)
        return self.stack[0]

    # ---- bytes in

    def take(self, count):
        """The next `count` bytes. The file's own lengths come here before anything is allocated."""
        data = self.data[self.at : self.at + count]
        if len(data) != count:
            raise UserError(f"{DAMAGED}: it ends in the middle")
        self.at += count
        return data

    def text(self, count):
        if count > MAX_TEXT:
            raise UserError(f"its data.pkl has a text of {count:,} bytes, more than {MAX_TEXT:,}")
        return _decoded(self.take(count))

    def line(self):
        end = self.data.find(b"\n", self.at, self.at + 1000)
        if end < 0:
            raise UserError(f"{DAMAGED}: a name has no end")
        return _decoded(self.take(end + 1 - self.at)[:-1])

    def frame(self, count):
        if count > len(self.data) - self.at:
            raise UserError(f"{DAMAGED}: it ends in the middle")

    def skip(self, count):
        self.frame(count)
        self.at += count
        self.stack.append(OPAQUE)

    # ---- the stack

    def push(self, value):
        self.stack.append(value)

    def pop(self):
        if not self.stack:
            raise UserError(f"{DAMAGED}: it takes more than it put")
        return self.stack.pop()

    def pop_mark(self):
        if not self.below:
            raise UserError(f"{DAMAGED}: it takes more than it put")
        items, self.stack = self.stack, self.below.pop()
        return items

    def mark(self):
        if len(self.below) >= MAX_DEPTH:
            raise UserError(f"its data.pkl nests deeper than {MAX_DEPTH}")
        self.below.append(self.stack)
        self.stack = []

    def count(self, nodes):
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            raise UserError(f"its data.pkl has more than {MAX_NODES:,} objects; {REMEDY}")

    def new(self, node):
        self.count(1)
        self.stack.append(node)

    def put(self, index):
        if not self.stack or index > MAX_OPCODES:
            raise UserError(f"{DAMAGED}: it stores nothing, or at {index:,}")
        self.memo[index] = self.stack[-1]

    def get(self, index):
        if index not in self.memo:
            raise UserError(f"{DAMAGED}: it asks for what it did not store")
        self.stack.append(self.memo[index])

    # ---- containers

    def target(self, *kinds):
        """The container on top of the stack, which this machine made: nothing else is filled."""
        if not self.stack or type(self.stack[-1]) not in kinds:
            kind = type(self.stack[-1]).__name__ if self.stack else "nothing"
            raise UserError(f"{DAMAGED}: it changes an object that is no container ({kind})")
        return self.stack[-1]

    def tuple(self, count):
        items = [self.pop() for _ in range(count)]
        self.new(tuple(items[::-1]))

    def append(self, items):
        self.target(list).extend(items)

    def set_items(self, items):
        target = self.target(dict, OrderedDictStub)
        if len(items) % 2:
            raise UserError(f"{DAMAGED}: a key has no value")
        for key, value in zip(items[::2], items[1::2]):
            if type(key) is not str and not (type(key) is int and -MAX_KEY < key < MAX_KEY):
                raise UserError(f"a key in its data.pkl is of type {type(key).__name__}; {REMEDY}")
            if key in target:
                raise UserError(f"{DAMAGED}: the key {key!a:.60} comes twice")
            target[key] = value

    def set_item(self):
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def set_state(self):
        state = self.pop()
        target = self.target(OrderedDictStub, TorchScriptObject)
        if type(target) is TorchScriptObject:
            self.fill(target, state)
        # state_dict() hangs the modules' versions there.
        elif type(state) is not dict or state.keys() != {"_metadata"}:
            raise UserError(f"{DAMAGED}: it sets attributes of an object")

    def fill(self, bag, state):
        if type(state) is not dict or bag:
            raise UserError(f"{DAMAGED}: an object's attributes are no dict, or come twice")
        self.count(len(state))  # they are copied, and may be those of many objects
        if not all(type(key) is str for key in state):
            raise UserError(f"{DAMAGED}: an object's attribute has no name")
        bag.update(state)

    def new_bag(self):
        arguments, kind = self.pop(), self.pop()
        if kind is not BAG_CLASS or type(arguments) is not tuple or arguments:
            raise UserError(f"{DAMAGED}: it makes an object of what is no class of TorchScript")
        self.new(TorchScriptObject())

    def set_add(self):
        self.pop_mark()
        self.target(OpaqueStub)

    def frozen_set(self):
        self.pop_mark()
        self.stack.append(OPAQUE)

    # ---- names

    def find(self, module, name):
        if type(module) is not str or type(name) is not str:
            raise UserError(f"{DAMAGED}: a name is no text")
        full = f"{module}.{name}"
        if self.bags and full.startswith("__torch__."):
            if len(full) > MAX_NAME:
                raise UserError(f"{DAMAGED}: a class has a name of {len(full):,} characters")
            return self.new(BAG_CLASS)
        if full not in self.names:
            shown = full if full.isprintable() else ascii(full)
            raise UserError(
                f"refuses to import {shown[:100]}: only tensors and plain containers are read; "
                + REMEDY
            )
        return self.new(AllowedGlobal(full, self.names[full]))

    def find_on_stack(self):
        name, module = self.pop(), self.pop()
        self.find(module, name)

    def call(self):
        arguments, function = self.pop(), self.pop()
        if (
            type(function) is not AllowedGlobal
            or function.call is None
            or type(arguments) is not tuple
        ):
            raise UserError(f"{DAMAGED}: it calls what is no function")
        self.new(function.call(arguments))


def _decoded(data):
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{DAMAGED}: a text is not UTF-8") from error


def unpickle(data: bytes, names: Names, load: Callable[[Any], Any], bags: bool = False) -> Any:
    """The object that `data` describes: dicts with str or int keys, lists, tuples, plain scalars.

    `names` says which globals exist ("module.name") and what a call with a tuple of arguments
    makes of each, None where it may not be called. `load` turns a persistent id into an object;
    both raise UserError on what they do not like. `bags`: objects of TorchScript are read too, as a
    `TorchScriptObject` each. Objects may contain themselves. Raises UserError, without the file's name, on
    everything that is not on a list.
    """
    top = PickleVM(data, names, load, bags).run(STEPS | BAG_STEPS if bags else STEPS)
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
STEPS: dict[bytes, Callable[[PickleVM], None]] = {
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
    b"(": PickleVM.mark,
    b"t": lambda m: m.new(tuple(m.pop_mark())),
    b"\x85": lambda m: m.tuple(1),
    b"\x86": lambda m: m.tuple(2),
    b"\x87": lambda m: m.tuple(3),
    b"a": lambda m: m.append([m.pop()]),
    b"e": lambda m: m.append(m.pop_mark()),
    b"s": PickleVM.set_item,
    b"u": lambda m: m.set_items(m.pop_mark()),
    b"\x90": PickleVM.set_add,
    b"\x91": PickleVM.frozen_set,
    b"b": PickleVM.set_state,
    b"q": lambda m: m.put(_U1(m)),
    b"r": lambda m: m.put(_U4(m)),
    b"\x94": lambda m: m.put(len(m.memo)),
    b"h": lambda m: m.get(_U1(m)),
    b"j": lambda m: m.get(_U4(m)),
    b"c": lambda m: m.find(m.line(), m.line()),
    b"\x93": PickleVM.find_on_stack,
    b"R": PickleVM.call,
    b"Q": lambda m: m.push(m.load(m.pop())),
    b"\x95": lambda m: m.frame(_U8(m)),
}
BAG_STEPS: dict[bytes, Callable[[PickleVM], None]] = {b"\x81": PickleVM.new_bag}

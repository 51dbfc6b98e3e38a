"""What a torch.save file may name: storages, tensors over them, and harmless plain objects."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from imagebind_jax.errors import UserError
from imagebind_jax.porting.torch_pickle.unpickler import (
    DAMAGED,
    MAX_DEPTH,
    MAX_NODES,
    MAX_OPCODES,
    OPAQUE,
    AllowedGlobal,
    OrderedDictStub,
    TorchScriptObject,
)
from imagebind_jax.porting.torch_pickle.zip_archive import ZipMember

MAX_RANK = 32  # NumPy ends at 64
MAX_INDEX = 1 << 48  # of sizes, strides and offsets; also keeps NumPy's own products in 64 bits

STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
    "ComplexFloatStorage": np.complex64,
    "ComplexDoubleStorage": np.complex128,
}
DTYPES = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "float8_e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "float8_e8m0fnu": ml_dtypes.float8_e8m0fnu,
    "int64": np.int64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint64": np.uint64,
    "uint32": np.uint32,
    "uint16": np.uint16,
    "uint8": np.uint8,
    "bool": np.bool_,
    "complex64": np.complex64,
    "complex128": np.complex128,
}
UNTYPED = "torch.storage.UntypedStorage"
_TYPE_OF = {f"torch.{name}": np.dtype(kind) for name, kind in (STORAGES | DTYPES).items()}


@dataclasses.dataclass(frozen=True, slots=True)
class Storage:
    """A record that tensors lie in; `dtype` is None where every tensor brings its own."""

    record: ZipMember
    dtype: np.dtype | None


@dataclasses.dataclass(frozen=True, slots=True)
class Tensor:
    """A strided window on a record that lies inside of it. `offset`, `strides` count elements."""

    record: ZipMember
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class TorchTypes:
    """The names and the persistent ids of one file, over the records of its archive."""

    def __init__(self, records: Mapping[str, ZipMember]):
        self._records = records
        self._dtypes: dict[str, np.dtype] = {}  # of every record that a tensor lies in
        self.names: dict[str, Callable[[tuple], Any] | None] = {
            "torch._utils._rebuild_tensor_v2": self._tensor_v2,
            "torch._utils._rebuild_tensor_v3": self._tensor_v3,
            "torch._utils._rebuild_parameter": _parameter,
            "torch.Size": _size,
            "collections.OrderedDict": _ordered,
            UNTYPED: None,
            **dict.fromkeys(_TYPE_OF),
            **dict.fromkeys(IGNORED_GLOBALS, lambda arguments: OPAQUE),
        }

    def storage(self, key: Any) -> Storage:
        """The storage of a persistent id ("storage", type, key, device, number of elements)."""
        match key if type(key) is tuple else None:
            case ("storage", AllowedGlobal(name=kind), str(key), str(), int(count)) if (
                len(key) < 100
            ):
                pass
            case _:
                raise UserError(f"{DAMAGED}: a storage is described in an unknown way")
        if type(count) is bool or not 0 <= count < MAX_INDEX:
            raise UserError(f"{DAMAGED}: a storage has an impossible size")
        record = self._records.get(f"data/{key}")
        if record is None:
            raise UserError(f"its record data/{key!a} is missing; download or copy it again")
        if kind.removeprefix("torch.") not in STORAGES and kind != UNTYPED:
            raise UserError(f"{DAMAGED}: {kind} is no storage")
        dtype = _TYPE_OF.get(kind)
        if count * (dtype.itemsize if dtype else 1) != record.size:
            raise UserError(f"its {record.name} is {record.size:,} bytes, not {count:,} elements")
        return Storage(record, dtype)

    def _tensor_v2(self, arguments: tuple) -> Tensor:
        if len(arguments) not in (6, 7) or type(arguments[0]) is not Storage:
            raise UserError(f"{DAMAGED}: a tensor has no storage")
        return self._tensor(arguments[0].dtype, *arguments)

    def _tensor_v3(self, arguments: tuple) -> Tensor:
        if len(arguments) not in (7, 8) or type(arguments[0]) is not Storage:
            raise UserError(f"{DAMAGED}: a tensor has no storage")
        *head, kind = arguments[:7]
        name = kind.name if type(kind) is AllowedGlobal else ""
        if name.removeprefix("torch.") not in DTYPES or arguments[0].dtype:
            raise UserError(f"{DAMAGED}: a tensor has no dtype")
        return self._tensor(_TYPE_OF[name], *head, *arguments[7:])

    def _tensor(self, dtype, storage, offset, shape, strides, grad, hooks, more=None) -> Tensor:
        if dtype is None or type(grad) is not bool or type(hooks) is not OrderedDictStub or hooks:
            raise UserError(f"{DAMAGED}: a tensor is described in an unknown way")
        if more is not None and (type(more) is not dict or more):  # conjugated or negated on use
            raise UserError(
                "a tensor is stored as the conjugate or negative of itself: "
                "save tensor.resolve_conj().resolve_neg()"
            )
        if not (type(shape) is type(strides) is tuple and len(shape) == len(strides) <= MAX_RANK):
            raise UserError(f"{DAMAGED}: a tensor's shape and strides do not fit together")
        numbers = (offset, *shape, *strides)
        if not all(type(n) is int and 0 <= n < MAX_INDEX for n in numbers):
            raise UserError(f"{DAMAGED}: a tensor's size, stride or offset is no possible number")
        record = storage.record
        if 0 in shape:
            if math.prod(n for n in shape if n) >= MAX_INDEX:
                raise UserError(f"{DAMAGED}: an empty tensor is too large")
        else:
            last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides))
            if (last + 1) * dtype.itemsize > record.size:
                raise UserError(f"{DAMAGED}: a tensor reaches beyond its storage")
        if record.size and self._dtypes.setdefault(record.name, dtype) != dtype:
            raise UserError(f"{DAMAGED}: {record.name} is read as two types")
        return Tensor(record, dtype, offset, shape, strides)


def _parameter(arguments: tuple) -> Tensor:
    match arguments:
        case (Tensor() as tensor, bool(), OrderedDictStub()):
            return tensor
    raise UserError(f"{DAMAGED}: a parameter has no tensor")


def _size(arguments: tuple) -> tuple:
    match arguments:
        # The length first: the same long tuple could come a million times.
        case (tuple(numbers),) if len(numbers) <= MAX_RANK and all(type(n) is int for n in numbers):
            return numbers
    raise UserError(f"{DAMAGED}: a torch.Size has no numbers")


def _ordered(arguments: tuple) -> OrderedDictStub:
    if arguments:
        raise UserError(f"{DAMAGED}: an OrderedDict is not empty when it is made")
    return OrderedDictStub()


# Plain data that training scripts leave beside the weights: it is passed over, and never made.
IGNORED_GLOBALS = (
    "torch.device",
    "_codecs.encode",  # how protocol 2 writes bytes
    "collections.Counter",
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in (
        "bytes", "bytearray", "set", "frozenset", "complex"
    )),
)  # fmt: skip


MAX_NAME = 500  # characters, of a tensor; CLIP's take 60
# Named tensors, the plain scalars beside them, and the names of what is neither.
StateDictParts = tuple[dict[str, Tensor], dict[str, Any], list[str]]


class TorchScriptLists:
    """The functions that torch.jit.save names: each tells a list's type, and the list stays."""

    def __init__(self):
        self._seen = 0  # items: one long list could come a million times
        kinds = {"int": int, "double": float, "bool": bool, "tensor": Tensor}
        self.names: dict[str, Callable[[tuple], Any]] = {
            f"torch.jit._pickle.build_{name}list": functools.partial(self._list, kind)
            for name, kind in kinds.items()
        } | {"torch.jit._pickle.restore_type_tag": _tagged}

    def _list(self, kind: type, arguments: tuple) -> list:
        if len(arguments) == 1 and type(arguments[0]) is list:
            (items,) = arguments
            self._seen += len(items)
            if self._seen > MAX_OPCODES:  # a good file needs an opcode for each
                raise UserError(f"{DAMAGED}: its lists have more than {MAX_OPCODES:,} items")
            if all(type(item) is kind for item in items):
                return items
        raise UserError(f"{DAMAGED}: a list of {kind.__name__} holds something else")


def _tagged(arguments: tuple) -> list | dict:
    match arguments:
        case (value, str()) if type(value) in (list, dict):
            return value
    raise UserError(f"{DAMAGED}: a type is given to what is no list or dict")


def state_dict(top: Any) -> StateDictParts:
    """The tensors of a module and of all objects in its attributes: "visual.conv1.weight".

    As `state_dict()` of the loaded module names them; which of them are parameters or buffers, only
    the code would tell, so a plain attribute is here too where it is a tensor, but not where it is
    a list. Of the scalars, the module's own numbers and texts are returned; nothing is left out.
    """
    if type(top) is not TorchScriptObject:
        raise UserError(f"{DAMAGED}: it comes with code, as of TorchScript, but is no module")
    tensors: dict[str, Tensor] = {}
    for name, value in _attributes(top):
        if type(value) is Tensor:
            if name in tensors:
                raise UserError(f"{DAMAGED}: the name {name[:60]!a} comes twice")
            tensors[name] = value
    if not tensors:
        raise UserError("is a TorchScript archive that holds no tensors")
    extra = {key: value for key, value in top.items() if type(value) in (int, float, str)}
    return tensors, extra, []


def _attributes(top: TorchScriptObject) -> Iterator[tuple[str, Any]]:
    """Every attribute that is no object, with the names that lead to it."""
    count, path = 0, [("", iter(top.items()))]
    while path:
        prefix, items = path[-1]
        for key, value in items:
            count += 1  # an object may be in many others, and they in many
            name = prefix + key
            if count > MAX_NODES or len(name) > MAX_NAME:
                limit = f"{MAX_NODES:,} attributes, or a name of more than {MAX_NAME} characters"
                raise UserError(f"its objects have more than {limit}")
            if type(value) is TorchScriptObject:
                if len(path) == MAX_DEPTH:
                    raise UserError(f"its objects nest deeper than {MAX_DEPTH}, or in themselves")
                path.append((f"{name}.", iter(value.items())))
                break
            yield name, value
        else:
            path.pop()

"""What a TorchScript archive holds beside its code: objects in objects, with tensors in them."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

from imagebind_jax.errors import UserError
from imagebind_jax.porting.machine import DAMAGED, MAX_DEPTH, MAX_NODES, MAX_OPCODES, Bag
from imagebind_jax.porting.torch_objects import Tensor

MAX_NAME = 500  # characters, of a tensor; CLIP's take 60
# Named tensors, the plain scalars beside them, and the names of what is neither.
Choice = tuple[dict[str, Tensor], dict[str, Any], list[str]]


class TypedLists:
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


def state_dict(top: Any) -> Choice:
    """The tensors of a module and of all objects in its attributes: "visual.conv1.weight".

    As `state_dict()` of the loaded module names them; which of them are parameters or buffers, only
    the code would tell, so a plain attribute is here too where it is a tensor, but not where it is
    a list. Of the scalars, the module's own numbers and texts are returned; nothing is left out.
    """
    if type(top) is not Bag:
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


def _attributes(top: Bag) -> Iterator[tuple[str, Any]]:
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
            if type(value) is Bag:
                if len(path) == MAX_DEPTH:
                    raise UserError(f"its objects nest deeper than {MAX_DEPTH}, or in themselves")
                path.append((f"{name}.", iter(value.items())))
                break
            yield name, value
        else:
            path.pop()

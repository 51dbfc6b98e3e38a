"""Hostile TorchScript archives, made out of raw bytes when they are needed; nothing is a file."""

import zlib

from torch_bytes import (
    FALSE,
    FOUR,
    NONE,
    ORDERED,
    TRUE,
    bag,
    called,
    description,
    items,
    mapping,
    name,
    number,
    script_file,
    tensor,
    text,
    torch_file,
)

LOADS = ""
NET = name("__torch__.Net")
NEWOBJ = b")\x81"
PICKLE = "torch.jit._pickle"
SPECIAL = (
    "__class__", "__dict__", "__reduce__", "__init__", "__setattr__", "__getattr__", "__slots__",
    "__builtins__", "__globals__", "__setstate__", "__del__", "__iter__", "items", "_metadata",
)  # fmt: skip


def module(value: bytes = b"", **more: bytes) -> bytes:
    """A good module, and something beside its tensor."""
    return bag(w=tensor(), **({"x": value} if value else {}), **more)


def names(canary: str):
    """Names that a TorchScript archive has no more than any other."""
    touch = text(f"touch {canary}")
    for function in (
        "os.system", "builtins.getattr", "builtins.setattr", "operator.attrgetter",
        "operator.methodcaller", "torch.jit.load", "torch.jit._pickle.build_tensor_from_id",
        "torch.jit._pickle.__builtins__", "torch.jit._recursive.create_script_module",
        "torch._C._jit_pass_inline", "__torchx__.Net", "torch.__torch__.Net", "__main__.Net",
        "copyreg._reconstructor", "torch.classes.quantized.LinearPackedParamsBase",
    ):  # fmt: skip
        call = script_file(module(called(function, touch)))
        yield f"script: {function}", call, f"refuses to import {function}: only"
    long = "a" * (1 << 20)
    stacked = text("__torch__") + text(long) + b"\x93"
    yield "script: a name of 1 MB", script_file(module(stacked)), "a name of 1,048,586 characters"
    yield "script: a line of 1 MB", script_file(module(name(f"__torch__.{long}"))), "has no end"
    once = text("__torch__") + b"q\1" + text("a" * 985) + b"q\2\x93"
    again = once + b"h\1h\2\x93" * 150_000
    yield "script: a long name often", script_file(bag(w=tensor(), x=b"](" + again + b"e")), LOADS
    yield "script: a class and no object", script_file(module(NET)), LOADS
    for what, kind in {
        "two bytes": "__torch__.\u00e9", "no name": "__torch__.", "a terminal": "__torch__.\x1b[2J",
        "os": "__torch__.os.system", "dunder": "__torch__.__class__.__base__",
    }.items():  # fmt: skip
        yield f"script: a class named {what}", script_file(module(bag(kind=kind))), LOADS
        file = script_file(module(called(kind, touch)))
        yield f"script: a call of a class named {what}", file, "calls what is no function"
    yield "script: no code, bags", torch_file(module()), "refuses to import __torch__.Net"
    yield "script: no code, NEWOBJ", torch_file(mapping(w=tensor(), x=ORDERED + NEWOBJ)), "opcode"
    typed = mapping(w=tensor(), x=called(f"{PICKLE}.build_intlist", b"]"))
    yield "script: no code, a list", torch_file(typed), "refuses to import"


def objects():
    """Objects that are more than attributes, or not even that."""
    yield "script: special names", script_file(module(**dict.fromkeys(SPECIAL, TRUE))), LOADS
    yield "script: a special tensor", script_file(bag(__class__=tensor())), LOADS
    inner = bag(dict.fromkeys(SPECIAL, NET), __dict__=mapping(__class__=NET))
    yield "script: special objects", script_file(module(inner, __class__=inner)), LOADS
    good = mapping(a=NONE) + b"b"
    for what, target in {
        "a dict": b"}", "a list": b"]", "a tensor": tensor(), "a class": NET, "None": NONE,
        "a tuple": b")", "a text": text("a"), "a name": name("torch.FloatStorage"),
        "a function": name("torch._utils._rebuild_tensor_v2"),
    }.items():  # fmt: skip
        yield f"script: BUILD on {what}", script_file(module(target + good)), "no container"
    yield "script: BUILD on an OrderedDict", script_file(module(ORDERED + good)), "sets attributes"
    for what, state in {
        "a list": b"]", "a tuple": b")", "slots": NONE + mapping(a=NONE) + b"\x86", "None": NONE,
        "a text": text("a"), "an object": bag(), "an OrderedDict": ORDERED, "a tensor": tensor(),
    }.items():  # fmt: skip
        file = script_file(module(NET + NEWOBJ + state + b"b"))
        yield f"script: BUILD with {what}", file, "attributes are no dict, or come twice"
    numbered = NET + NEWOBJ + b"}K\1Nsb"
    yield "script: BUILD with a number", script_file(module(numbered)), "attribute has no name"
    yield "script: BUILD twice", script_file(module(bag(a=NONE) + good)), "or come twice"
    for what, kind in {
        "an OrderedDict": name("collections.OrderedDict"), "a storage": name("torch.FloatStorage"),
        "a function": name("torch._utils._rebuild_tensor_v2"), "a text": text("__torch__.Net"),
        "an object": bag(), "a tensor": tensor(), "a device": name("torch.device"), "None": NONE,
    }.items():  # fmt: skip
        yield f"script: NEWOBJ of {what}", script_file(module(kind + NEWOBJ)), "no class of Torch"
    for what, arguments in {"one": b"N\x85", "a list": b"]", "a dict": b"}", "none": NONE}.items():
        file = script_file(module(NET + arguments + b"\x81"))
        yield f"script: NEWOBJ with {what}", file, "no class of TorchScript"
    for what, opcodes in {"NEWOBJ_EX": NET + b")}\x92", "OBJ": b"(" + NET + b"o",
                          "INST": b"(i__torch__\nNet\n"}.items():  # fmt: skip
        yield f"script: {what}", script_file(module(opcodes)), "which is not allowed"
    for what, opcodes in {
        "SETITEM": text("a") + NONE + b"s", "SETITEMS": items({"a": NONE}),
        "APPEND": b"Na", "APPENDS": b"(Ne", "ADDITEMS": b"(N\x90",
    }.items():  # fmt: skip
        yield f"script: {what} on an object", script_file(module(bag() + opcodes)), "no container"
    state = b"}q\1" + items({"w": tensor()})
    later = NET + NEWOBJ + b"q\2" + state + b"bNh\1" + items({"v": tensor()}) + b"\x87"
    yield "script: attributes added later", script_file(module(later)), LOADS


def graphs():
    """Objects in objects, without an end."""
    itself = NET + NEWOBJ + b"q\1}" + items({"w": tensor(), "a": b"h\1"}) + b"b"
    yield "script: an object in itself", script_file(itself), "or in themselves"
    pair = NET + NEWOBJ + b"q\1}" + items({"w": tensor(), "a": bag(b=b"h\1")}) + b"b"
    yield "script: objects in each other", script_file(pair), "or in themselves"
    own = NET + NEWOBJ + b"}q\1" + items({"w": tensor(), "a": b"h\1"}) + b"b"
    yield "script: a dict in itself", script_file(own), LOADS

    def nested(depth):
        return (NET + NEWOBJ + b"}" + text("a")) * depth + tensor() + b"sb" * depth

    yield "script: 99 objects deep", script_file(nested(99)), LOADS
    yield "script: 101 objects deep", script_file(nested(101)), "nests? deeper"
    yield "script: 40,000 objects deep", script_file(nested(40_000)), "nests deeper"
    for what, key in {"": "a", ", long names": "a" * 10}.items():
        layers = module() + b"q\0" + b"".join(
            bag({f"{key}{i}": b"h" + bytes([level]) for i in range(9)}) + b"q" + bytes([level + 1])
            for level in range(40)
        )  # fmt: skip
        top = bag(z=b"](" + layers + b"e", a=b"h\x28", w=tensor())
        yield f"script: billion names{what}", script_file(top), "more than 200,000 attributes"
    wide = text("a" * (1 << 20)) + b"q\1" + NONE + b"s"
    several = b"".join(text(str(i)) + NET + NEWOBJ + b"}" + b"h\1Nsb" for i in range(30_000))
    top = NET + NEWOBJ + b"}(" + text("w") + tensor() + text("x") + b"}" + wide + several + b"ub"
    yield "script: a name of 1 MB often", script_file(top), "more than 500 characters"
    shared = b"}(" + b"".join(text(f"a{i}") + NONE for i in range(9_000)) + b"uq\1"
    often = NET + b"q\2" + (b"h\2" + NEWOBJ + b"h\1b") * 90_000
    file = script_file(module(b"](" + shared + often + b"e"))
    yield "script: one dict of 90,000 objects", file, "objects"
    colliding = bag({"a.w": tensor(), "a": bag(w=tensor())})
    yield "script: one name of two tensors", script_file(colliding), "the name 'a.w' comes twice"


def lists():
    """Lists that are not of the type that they are given."""
    one = name(f"{PICKLE}.build_intlist") + b"q\1](" + b"K\1" * 100_000 + b"e\x85q\2R"
    often = script_file(module(b"](" + one + b"h\1h\2R" * 90_000 + b"e"))
    yield "script: one long list often", often, "its lists have more than 1,000,000 items"
    for kind, item in {
        "int": TRUE, "double": number(1), "bool": number(1), "tensor": NONE,
    }.items():  # fmt: skip
        function = f"{PICKLE}.build_{kind}list"
        for what, argument in {
            "another type": b"](" + item + b"e", "a tuple": item + b"\x85", "None": NONE,
            "two lists": b"]]", "nothing": b"", "a dict": b"}", "an object": bag(),
        }.items():  # fmt: skip
            file = script_file(module(called(function, argument)))
            yield f"script: {kind}list of {what}", file, "a list of .* holds something else"
    tag = f"{PICKLE}.restore_type_tag"
    for what, arguments in {
        "a tensor": [tensor(), text("Tensor")], "an object": [bag(), text("Net")],
        "a class": [NET, text("Net")], "a number": [b"]", number(1)], "nothing": [],
        "a list": [b"]"], "three": [b"]", text("List[int]"), NONE],
    }.items():  # fmt: skip
        file = script_file(module(called(tag, *arguments)))
        yield f"script: type of {what}", file, "a type is given to what"


def archives():
    """Containers that could be read in two ways, or to the last byte of memory."""
    top = module()
    raw = description(top)

    for member, data in {"data.pkl": raw, "data/0": FOUR, "version": b"3\n"}.items():
        lie = {"method": 8, "size": len(data), "crc": zlib.crc32(data)}
        file = script_file(
            top, records={member: zlib.compress(data, 9, -15)}, each={f"top/{member}": lie}
        )
        yield f"script: deflated {member}", file, f"member 'top/{member}' is compressed"
    for what, member in {"other": "note", "data": "data/1", "case": "CODE/a", "inner": "a/code/b",
                         "constants": "constants.pkl/a", "name": "codes/a"}.items():  # fmt: skip
        lie = {f"top/{member}": {"method": 8}}
        file = script_file(top, records={member: b"\3\0"}, each=lie)
        yield f"script: deflated {what}", file, "is compressed"
    for member in ("code/a.py", "constants.pkl", "constants/0", "extra/a", "code/a.py.debug_pkl"):
        lie = {f"top/{member}": {"method": 8}}
        for what, data in {"empty": b"\3\0", "garbage": b"\xff" * 99}.items():
            file = script_file(top, records={member: data}, each=lie)
            yield f"script: {what} in deflated {member}", file, LOADS
        lie = {f"top/{member}": {"method": 99}}
        file = script_file(top, records={member: b"\3\0"}, each=lie)
        yield f"script: {member} in method 99", file, "is compressed"
    for member, reason in {"extra/a": "is compressed", "constants.pkl": "lost its code"}.items():
        lie = {f"top/{member}": {"method": 8}} if member == "extra/a" else {}
        file = torch_file(mapping(w=tensor()), records={member: b"\3\0"}, each=lie)
        yield f"script: no code, {member}", file, reason
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    part = packer.compress(bytes(1 << 24)) + packer.flush(zlib.Z_FULL_FLUSH)
    for size in (99, 2**32 - 2):
        bomb = {"top/code/bomb.py": {"method": 8, "size": size}}
        file = script_file(top, records={"code/bomb.py": part * 1000 + b"\3\0"}, each=bomb)
        yield f"script: 16 GB in code, {size} announced", file, LOADS
    lie = {"method": 8, "size": 990, "packed": 2**31}
    file = script_file(top, each={"top/code/__torch__.py": lie})
    yield "script: packed beyond the file", file, "reaches into the next"
    for field in ("crc", "size", "packed", "method"):
        lie = {"method": 8, "size": 990, f"local_{field}": 7}
        file = script_file(top, each={"top/code/__torch__.py": lie})
        yield f"script: local {field} of code", file, "contradicts the zip directory"
    lie = {"method": 8, "size": 990, "central_size": 991}
    file = script_file(top, each={"top/code/__torch__.py": lie}, descriptors=True)
    yield "script: descriptor of code", file, "no descriptor of it"
    yield "script: zip64", script_file(top, zip64=True), LOADS
    for what, bad in {
        "upwards": "code/../data/0", "further": "code/../../x", "double": "code//x.py",
        "a folder": "code/", "backslash": "code/a\\b", "line": "code/a\nb",
    }.items():  # fmt: skip
        file = script_file(top, records={bad: b"a"})
        yield f"script: code named {what}", file, "a member of the zip archive is named"
    for member, reason in {"code/data.pkl": "not one of", "code/__TORCH__.py": "same name"}.items():
        yield f"script: {member} too", script_file(top, records={member: raw}), reason
    for key in ("../constants/0", "../code/__torch__.py", "constants/0"):
        yield f"script: storage {key}", script_file(bag(w=tensor(key=key))), "is missing"
    as_ints = bag(a=bag(w=tensor()), b=bag(w=tensor(kind="torch.IntStorage")))
    yield "script: one storage, two types", script_file(as_ints), "read as two types"
    of_class = tensor(kind="__torch__.FloatStorage")
    yield "script: a storage of a class", script_file(bag(w=of_class)), "in an unknown way"
    for what, empty in {"": bag(), " but scalars": bag(training=FALSE, n=number(1)),
                        " but in lists": bag(x=b"](" + tensor() + b"e")}.items():  # fmt: skip
        yield f"script: no tensors{what}", script_file(empty), "that holds no tensors"
    for what, odd in {"a dict": mapping(w=tensor()), "a tensor": tensor(), "a class": NET,
                      "a list": b"](" + module() + b"e", "in a dict": mapping(model=module()),
                      "None": NONE}.items():  # fmt: skip
        yield f"script: the top is {what}", script_file(odd), "but is no module"


def corpus(canary: str):
    """A part of `hostile.corpus`."""
    yield from names(canary)
    yield from objects()
    yield from graphs()
    yield from lists()
    yield from archives()

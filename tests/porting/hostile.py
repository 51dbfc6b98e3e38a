"""Hostile checkpoints, made out of raw bytes when they are needed; nothing of it is a file."""

import gzip
import io
import os
import pathlib
import random
import struct
import tarfile
import zipfile
import zlib

import hostile_script
import numpy as np
from torch_bytes import (
    FALSE,
    FOUR,
    NONE,
    ORDERED,
    TRUE,
    V2,
    called,
    description,
    items,
    mapping,
    name,
    number,
    numbers,
    storage,
    tensor,
    text,
    torch_file,
    zipped,
)

LOADS = ""  # an expectation: the file is odd, but right
# Each takes from a tenth of a second on, and a shorter one meets the same bound: for the fuzz tier alone.
LONG = frozenset({
    "100,001 members", "90,000 members", "many keys", "many sizes", "many tensors", "nested lists",
    "nested tuples", "script: 40,000 objects deep", "script: a long name often",
    "script: a name of 1 MB often", "script: billion names, long names",
})  # fmt: skip
PARAMETER = "torch._utils._rebuild_parameter"
V3 = "torch._utils._rebuild_tensor_v3"
UNTYPED = name("torch.storage.UntypedStorage")


def weights(value: bytes = b"", **more: bytes) -> bytes:
    """A good state dict, and something beside the weights."""
    return mapping(w=tensor(), **({"x": value} if value else {}), **more)


def code(canary: str):
    """Files that would run something, with Python's unpickler."""
    touch = text(f"touch {canary}")
    python = text(f"open({canary!r}, 'w')")
    for function, arguments in {
        "os.system": [touch],
        "posix.system": [touch],
        "nt.system": [touch],
        "subprocess.check_output": [text("touch"), text(canary)],
        "builtins.exec": [python],
        "builtins.eval": [python],
        "__builtin__.eval": [python],
        "builtins.open": [text(canary), text("w")],
        "builtins.getattr": [ORDERED, text("__class__")],
        "builtins.__import__": [text("os")],
        "importlib.import_module": [text("antigravity")],
        "runpy._run_code": [python, b"}"],
        "timeit.timeit": [python],
        "code.InteractiveInterpreter": [],
        "pickle.loads": [text("x")],
        "torch.load": [text(canary)],
        "torch.hub.load": [text("a/b"), text("c")],
        "torch.storage._load_from_bytes": [text("x")],
        "numpy.load": [text(canary)],
        "numpy.core.multiarray.scalar": [text("x")],
        "torch.jit.load": [text(canary)],
        "torch.nn.modules.linear.Linear": [number(1), number(1)],
        "argparse.Namespace": [],
        "collections.defaultdict": [name("os.system")],
        "functools.partial": [name("os.system"), touch],
        "operator.attrgetter": [text("__class__")],
        "collections.OrderedDict.__init__.__globals__": [],
        "torch._utils.__builtins__": [],
        "webbrowser.open": [text("http://127.0.0.1")],
        "shutil.rmtree": [text(canary)],
    }.items():
        yield (
            f"call {function}",
            torch_file(weights(called(function, *arguments))),
            (f"refuses to import {function}: only tensors and plain containers are read; save it "),
        )
    system = text("os") + text("system") + b"\x93"
    yield "STACK_GLOBAL", torch_file(weights(system + touch + b"\x85R")), "import os.system"
    yield "at the top", torch_file(called("os.system", touch)), "import os.system"
    yield "after STOP", torch_file(weights(), raw=description(weights()) + touch), "damaged"
    yield "popped again", torch_file(weights(called("os.system", touch) + b"0" + NONE)), "os.system"
    yield "in the state", torch_file(ORDERED + mapping(x=called("os.system")) + b"b"), "os.system"
    yield "name of two lines", torch_file(weights(text("o\ns") + text("x") + b"\x93")), "'o.ns.x'"
    escape = text("\x1b[2J") + text("\u202egnp") + b"\x93"
    yield "name for a terminal", torch_file(weights(escape)), r"x1b\[2J.*u202e"
    yield "names are numbers", torch_file(weights(b"K\1K\2\x93")), "a name is no text"
    yield "endless name", torch_file(weights(b"c" + b"a" * 5000)), "a name has no end"
    for opcode, bytes_ in {
        "INST": b"(" + touch + b"ios\nsystem\n",
        "OBJ": b"(" + name("collections.OrderedDict") + b"o",
        "NEWOBJ": name("collections.OrderedDict") + b")\x81",
        "NEWOBJ_EX": name("collections.OrderedDict") + b")}\x92",
        "EXT1": b"\x82\x01",
        "EXT4": b"\x84\x01\0\0\0",
        "PERSID": b"Pstorage\n",
        "INT": b"I" + b"9" * 100_000 + b"\n",
        "LONG": b"L" + b"9" * 100_000 + b"L\n",
        "FLOAT": b"F1\n",
        "STRING": b"S'a'\n",
        "UNICODE": b"Va\n",
        "LONG4": b"\x8b\xff\xff\xff\xff",
        "GET": b"g0\n",
        "PUT": b"Np0\n",
        "DUP": b"N2",
        "POP": b"NN0",
        "POP_MARK": b"N(N1",
        "NEXT_BUFFER": b"\x97",
        "PROTO": b"\x80\x02N",
    }.items():
        reason = r"has the opcode b'.*', which is not allowed"
        yield f"opcode {opcode}", torch_file(weights(bytes_)), reason
    for what, call in {
        "a text": text("os.system"),
        "a dtype": name("torch.float32"),
        "a storage": name("torch.FloatStorage"),
        "a tensor": tensor(),
        "a dict": b"}",
    }.items():
        yield f"call of {what}", torch_file(weights(call + b")R")), "calls what is no function"
    yield "arguments are a list", torch_file(weights(name("torch.Size") + b"]R")), "no function"


def machine():
    """Descriptions that lie to the machine that reads them, or keep it busy."""
    state = mapping(__class__=name("torch.Size"))
    yield "BUILD of a class", torch_file(ORDERED + items({"w": tensor()}) + state + b"b"), "sets at"
    hidden = b"N" + mapping(_metadata=NONE) + b"\x86b"
    yield "BUILD of slots", torch_file(ORDERED + items({"w": tensor()}) + hidden), "sets attributes"
    good = mapping(_metadata=NONE) + b"b"
    yield "BUILD of metadata", torch_file(ORDERED + items({"w": tensor()}) + good), LOADS
    for what, target in {
        "a dict": b"}",
        "a tensor": tensor(),
        "a name": name("torch.Size"),
        "a storage": storage(),
        "bytes": b"C\1a",
    }.items():
        yield f"BUILD on {what}", torch_file(weights(target + good)), "no container"
    # CVE-2026-24747: what torch's own safe unpickler did to tensors
    for what, target in {"a tensor": tensor(), "a tuple": b")", "a list": b"]"}.items():
        for opcode in (text("k") + NONE + b"s", items({"k": NONE})):
            yield f"SETITEM{opcode[-1:]} on {what}", torch_file(weights(target + opcode)), "no cont"
    for what, target in {"a tensor": tensor(), "a tuple": b")", "a dict": b"}"}.items():
        for opcode in (b"Na", b"(Ne"):
            yield f"APPEND{opcode[-1:]} on {what}", torch_file(weights(target + opcode)), "no cont"
    sets = b"](\x8f(K\1\x90(K\2\x91" + called("builtins.set", b"]") + b"e"
    yield "sets", torch_file(weights(sets)), LOADS
    filled = called("collections.OrderedDict", b"]")
    yield "an OrderedDict of something", torch_file(weights(filled)), "not empty when it is made"
    yield "ADDITEMS on a list", torch_file(weights(b"](N\x90")), "no container"
    yield "a key alone", torch_file(b"}(" + text("w") + b"u"), "a key has no value"
    yield "a key twice", torch_file(b"}" + items({"w": tensor()}) * 2), "comes twice"
    for what, key in {"tuple": b"K\1\x85", "NoneType": NONE, "float": b"G" + bytes(8)}.items():
        yield f"a key is a {what}", torch_file(weights(b"}" + key + b"Ns")), f"of type {what}"
    colliding = b"".join(number((2**61 - 1) * i) + NONE for i in range(1, 50_000))
    yield "colliding keys", torch_file(weights(b"}(" + colliding + b"u")), "of type int"

    for opcode, lie in {
        "BINUNICODE": b"X\xff\xff\xff\xff",
        "BINUNICODE8": b"\x8d" + struct.pack("<Q", 2**63),
        "SHORT_BINUNICODE": b"\x8c\xff",
        "BINBYTES": b"B\xff\xff\xff\xff",
        "BINBYTES8": b"\x8e" + struct.pack("<Q", 2**40),
        "BYTEARRAY8": b"\x96" + struct.pack("<Q", 2**64 - 1),
        "FRAME": b"\x95" + struct.pack("<Q", 2**63),
        "LONG1": b"\x8a\xff\x01",
    }.items():
        reason = "ends in the middle|a text of"
        yield f"length of {opcode}", torch_file(b"", raw=b"\x80\x04}" + lie), reason
    yield "PUT far away", torch_file(weights(b"Nr\xff\xff\xff\x7f")), "stores nothing, or at"
    yield "PUT of nothing", torch_file(b"q\0" + weights()), "stores nothing"
    yield "GET of nothing", torch_file(weights(b"h\x63")), "asks for what"
    yield "stack underflow", torch_file(weights(b"\x87\x87\x87")), "more than it put"
    yield "no mark", torch_file(b"t"), "more than it put"
    yield "mark left open", torch_file(b"(" + weights()), "damaged"
    yield "two objects", torch_file(weights() + weights()), "damaged"
    yield "no object", torch_file(b""), "damaged"
    yield "no STOP", torch_file(b"", raw=b"\x80\x02" + weights()), "ends in the middle"
    yield "no bytes", torch_file(b"", raw=b""), "ends in the middle"
    for protocol in (0, 1, 6, 255):
        raw = b"\x80" + bytes([protocol]) + weights() + b"."
        yield f"protocol {protocol}", torch_file(b"", raw=raw), "protocol 2 to 5"
    yield "protocol unsaid", torch_file(b"", raw=weights() + b"."), "protocol 2 to 5"

    yield "a list in itself", torch_file(weights(b"]q\1h\1a")), LOADS
    yield "a dict in itself", torch_file(b"}q\1" + items({"w": tensor(), "x": b"h\1"})), LOADS
    cycle = b"}q\1" + items({"w": tensor(), "state_dict": b"h\1", "model": b"h\1"})
    yield "a state dict in itself", torch_file(cycle), LOADS
    laughs = b"]q\0" + b"".join(
        b"](" + b"h" + bytes([i]) + (b"h" + bytes([i])) * 9 + b"eq" + bytes([i + 1])
        for i in range(50)
    )
    yield "billion laughs", torch_file(weights(b"](" + laughs + b"e")), LOADS
    yield "nested lists", torch_file(weights(b"]" * 190_000 + b"a" * 189_999)), "nests deeper"
    yield "nested tuples", torch_file(weights(b"N" + b"\x85" * 190_000)), "nests deeper"
    yield "nested dicts", torch_file(weights((b"}" + text("a")) * 900 + NONE + b"s" * 900)), "nests"
    yield "nested marks", torch_file(weights(b"(" * 300_000)), "nests deeper"
    yield "many opcodes", torch_file(weights(b"](" + b"N" * 1_200_000 + b"e")), "opcodes"
    yield "many lists", torch_file(weights(b"](" + b"]" * 900_000 + b"e")), "objects"
    many = b"(h\5h\6\x85q\x06" + b"h\5h\6R" * 300_000 + b"t"
    size = name("torch.Size") + b"q\5" + numbers(range(30)) + b"q\6"
    yield "many sizes", torch_file(weights(size + many)), "more than it put|objects"
    again = b"h\1h\2R" * 190_000
    arguments = tensor()[len(name(V2)) : -1]
    call = name(V2) + b"q\1" + arguments + b"q\2R"
    yield "many tensors", torch_file(weights(b"](" + call + again + b"e")), LOADS
    keys = b"".join(number(i) + NONE for i in range(490_000))
    yield "many keys", torch_file(weights(b"}(" + keys + b"u")), LOADS
    long = name("torch.Size") + b"q\1" + b"(" + b"K\1" * 100_000 + b"t\x85q\2R"
    yield (
        "one long size often",
        torch_file(weights(b"](" + long + b"h\1h\2R" * 190_000 + b"e")),
        ("torch.Size"),
    )
    wide = text("a" * 1_000_000 + "\U0001f600")
    yield "wide texts", torch_file(weights(b"](" + wide * 31 + b"e")), LOADS
    yield "a long text", torch_file(weights(text("a" * 2_000_000))), "a text of"
    yield "33 MiB of description", torch_file(weights(b"B" + struct.pack("<L", 33 << 20)
          + bytes(33 << 20))), "data.pkl is .* bytes, more than"  # fmt: skip
    yield "a wide integer", torch_file(weights(b"\x8a\xff" + b"\x7f" * 255)), LOADS
    yield "not UTF-8", torch_file(b"}" + text(b"\xff\xfe") + tensor() + b"s"), "not UTF-8"
    yield "a surrogate", torch_file(b"}" + text(b"\xed\xa0\x80") + tensor() + b"s"), "not UTF-8"


def tensors():
    """Storages and tensors that are not what they say."""
    for what, count in {
        "negative": number(-4),
        "huge": number(2**62),
        "wider than 64 bits": number(2**2000),
        "too small": number(3),
        "too large": number(5),
        "a bool": TRUE,
        "a float": b"G" + struct.pack(">d", 4.0),
        "a text": text("4"),
        "nothing": NONE,
    }.items():
        reason = "elements|impossible size|unknown way"
        yield f"storage count {what}", torch_file(mapping(w=tensor(count=count))), reason
    good = {"word": text("storage"), "kind": name("torch.FloatStorage"), "key": text("0")}
    pid = b"".join(good.values()) + text("cpu") + number(4)
    for what, key in {
        "of four": b"(" + pid[: -len(number(4))] + b"tQ",
        "of six": b"(" + pid + NONE + b"tQ",
        "a list": b"](" + pid + b"eQ",
        "a text": text("storage") + b"Q",
        "of another word": storage(word=text("module")),
        "of a text kind": storage(kind=text("torch.FloatStorage")[5:]),
        "of a dtype": storage(kind="torch.float32"),
        "of an integer key": storage(word=text("storage"), key="0").replace(text("0"), number(0)),
        "of no device": storage(device=NONE),
    }.items():
        reason = "unknown way|is no storage|ends in the middle|refuses to import|opcode"
        yield f"storage id {what}", torch_file(mapping(w=tensor(storage=key))), reason
    for key in ("1", "../data.pkl", "/0", "", "0/", "0\0", "a\nb", "x" * 70_000):
        yield (
            f"storage key {key[:20]!r}",
            torch_file(mapping(w=tensor(key=key))),
            ("is missing|unknown way"),
        )
    long = "x" * 60_000
    slow = mapping(
        w=tensor(), x=b"](" + storage(key=long)[:-1] + b"q\1Q" + b"h\1Q" * 400_000 + b"e"
    )
    yield "long key often", torch_file(slow, data={"0": FOUR, long: FOUR}), "unknown way"
    for kind in ("QInt8Storage", "ComplexHalfStorage", "FloatTensor"):
        yield kind, torch_file(mapping(w=tensor(kind=f"torch.{kind}"))), f"import torch.{kind}"
    meta = called("torch._utils._rebuild_meta_tensor_no_storage", name("torch.float32"))
    yield "meta tensor", torch_file(mapping(w=meta)), "refuses to import torch._utils._rebuild_meta"
    for what, call in {
        "offset negative": tensor(offset=-1),
        "offset beyond": tensor(offset=1),
        "offset huge": tensor(offset=2**62),
        "stride negative": tensor(strides=(-1,)),
        "stride beyond": tensor(strides=(2,)),
        "stride overflows": tensor((3,), (2**62,)),
        "stride wraps to zero": tensor((5,), (2**61,)),
        "shape negative": tensor((-4,)),
        "shape overflows": tensor((2**33, 2**33), (0, 0)),
        "two sizes, one stride": tensor((2, 2), (1,)),
        "100 axes": tensor((1,) * 100, (1,) * 100),
        "empty, but huge": tensor((0, 2**40, 2**40), (1, 1, 1)),
        "negative, but empty": tensor((0, -1), (1, 1)),
    }.items():
        reason = "reaches beyond|no possible number|do not fit|too large|would take"
        yield f"tensor {what}", torch_file(mapping(w=call)), reason
    terabytes = mapping(w=tensor((10**6, 10**6), (0, 0)))
    yield "4 TB out of 16 bytes", torch_file(terabytes), "would take 4,000,000,000,000 bytes"
    repeated = b"}(" + b"".join(
        text(f"w{i}") + tensor((1000, 4), (0, 1)) for i in range(2000)
    )  # fmt: skip
    yield "32 MB out of 16 bytes", torch_file(repeated + b"u"), "would take 32,000,000 bytes"
    yield "16 kB out of 16 bytes", torch_file(mapping(w=tensor((1000, 4), (0, 1)))), LOADS
    yield "empty, with an offset", torch_file(mapping(w=tensor((0, 2), (2, 1), 4))), LOADS
    for what, parts in {
        "grad a number": {"grad": number(1)},
        "grad a text": {"grad": text("yes")},
        "hooks a dict": {"hooks": b"}"},
        "hooks of something": {"hooks": ORDERED + items({"a": NONE})},
        "shape a list": {"shape": b"](K\4e"},
        "shape of bools": {"shape": TRUE + b"\x85", "strides": numbers([1])},
        "shape of floats": {"shape": b"G" + struct.pack(">d", 4.0) + b"\x85"},
        "offset a bool": {"offset": FALSE},
        "storage a text": {"storage": text("0")},
        "storage a tensor": {"storage": tensor()},
    }.items():
        reason = "unknown way|no possible number|do not fit|has no storage"
        yield f"tensor with {what}", torch_file(mapping(w=tensor(**parts))), reason
    yield "conjugated", torch_file(mapping(w=tensor(more=mapping(conj=TRUE)))), "conjugate"
    yield "metadata a text", torch_file(mapping(w=tensor(more=text("conj")))), "conjugate"
    yield "nine arguments", torch_file(mapping(w=tensor(more=b"}NN"))), "no storage"
    yield "no arguments", torch_file(mapping(w=name(V2) + b")R")), "no storage"
    both = mapping(a=tensor(), b=tensor(kind="torch.IntStorage"))
    yield "one storage, two dtypes", torch_file(both), "read as two types"
    untyped = {"kind": UNTYPED, "count": number(16)}
    for first, second in (("float32", "int32"), ("float8_e4m3fn", "uint8")):
        both = mapping(**{
            kind: tensor(function=V3, storage=storage(**untyped), shape=(1,),
                         more=name(f"torch.{kind}"))
            for kind in (first, second)
        })  # fmt: skip
        yield f"untyped as {first} and {second}", torch_file(both), "read as two types"
    for what, more in {"a text": text("float32"), "a storage": name("torch.FloatStorage"),
                       "missing": b"", "packed": name("torch.float4_e2m1fn_x2")}.items():  # fmt: skip
        call = tensor(function=V3, storage=storage(**untyped), more=more)
        yield f"v3 dtype {what}", torch_file(mapping(w=call)), "no dtype|no storage|refuses to imp"
    yield "v2 of untyped", torch_file(mapping(w=tensor(**untyped))), "unknown way"
    for what, call in {
        "a text": called(PARAMETER, text("w"), TRUE, ORDERED),
        "itself": called(PARAMETER, tensor()),
    }.items():
        yield f"parameter of {what}", torch_file(mapping(w=call)), "a parameter has no tensor"
    bools = mapping(w=tensor(kind="torch.BoolStorage"))
    yield "bool of two", torch_file(bools, data={"0": b"\0\1\2\1"}), "not of zeros and ones"
    yield "bool", torch_file(bools, data={"0": b"\0\1\1\1"}), LOADS


def choices():
    """Sound files without a state dict."""
    yield "a list", torch_file(b"](" + tensor() + b"e"), "holds a list, not a dict of tensors"
    yield "one tensor", torch_file(tensor()), "holds a single tensor"
    yield "a text", torch_file(text("w")), "holds a str"
    yield "nothing", torch_file(NONE), "holds a NoneType"
    yield "a dict of nothing", torch_file(b"}"), "holds no tensors by name, only nothing"
    yield "a dict of texts", torch_file(mapping(a=text("a"))), "holds no tensors by name, only 'a'"
    yield "number as a name", torch_file(b"}K\1" + tensor() + b"s"), "names a tensor 1"
    yield "tensors in a tensor's place", torch_file(mapping(net=weights())), "only 'net'"


def archives():
    """Zip archives that can be read in more than one way, or not at all."""
    top = weights()

    def lying(member, **lie):
        return torch_file(top, each={f"top/{member}": lie})

    raw = description(top)
    deflated = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = deflated.compress(raw) + deflated.flush()
    yield "deflated", lying("data.pkl", method=8, data=packed, packed=len(packed)), "is compressed"
    yield "method 99", lying("data/0", method=99), "is compressed"
    yield "packed size", lying("data/0", packed=4), "is compressed"
    yield "encrypted", lying("data/0", flags=0x801), "is encrypted"
    yield "strongly encrypted", lying("data/0", flags=0x841), "is encrypted"
    yield "masked", lying("data/0", flags=0x2800), "is compressed"
    for record in ("data.pkl", "data/0", "version"):
        yield f"checksum of {record}", lying(record, crc=1), "is damaged .CRC-32."
    for what, bad in {
        "absolute": "/top/x", "upwards": "top/../x", "in place": "top/./x", "empty": "",
        "a folder": "top/x/", "backslash": "top\\x", "zero byte": "top/x\0.pkl",
        "line": "top/x\ny", "double": "top//x", "bytes": b"top/\xff\xfe",
    }.items():  # fmt: skip
        file = zipped([("top/data.pkl", raw), (bad, b"a"), ("top/version", b"3")])
        yield f"member name {what}", file, "a member of the zip archive is named"
    for what, members in {
        "same name": [("top/data.pkl", raw), ("top/data.pkl", raw), ("top/version", b"3")],
        "same name but for case": [("top/data.pkl", raw), ("top/DATA.pkl", raw)],
        "two folders": [("top/data.pkl", raw), ("pot/version", b"3")],
        "no folder": [("data.pkl", raw), ("version", b"3")],
        "no description": [("top/version", b"3")],
        "two descriptions": [("top/data.pkl", raw), ("top/a/data.pkl", raw), ("top/version", b"3")],
        "no version": [("top/data.pkl", raw)],
    }.items():
        yield what, zipped(members), "the same name|not one of torch.save"
    for what, version in {"new": b"11", "old": b"0", "odd": b"x", "long": b"9" * 99}.items():
        yield f"{what} version", torch_file(top, records={"version": version}), "version"
    yield "big-endian", torch_file(top, records={"byteorder": b"big"}), "big-endian"
    yield "no byte order", torch_file(top, records={"byteorder": None}), LOADS
    yield "one more member", torch_file(top, records={".note": b"hello"}), LOADS

    yield "local name", lying("data/0", local_name=b"top/data/1"), "contradicts"
    yield "local checksum", lying("data/0", local_crc=1), "contradicts"
    yield "local size", lying("data/0", local_size=4, local_packed=4), "contradicts"
    yield "local flags", lying("data/0", local_flags=0), "contradicts"
    yield "local method", lying("data/0", local_method=8), "contradicts"
    yield "local extra", lying("data/0", local_extra=b"\1\0\x10\0" + bytes(16)), LOADS
    yield "size", lying("data/0", size=20, packed=20), "reaches into the next|contradicts"
    yield "size of 4 GiB", lying("data/0", size=2**32 - 2, packed=2**32 - 2), "reaches into"
    yield "into the directory", lying("version", size=60, packed=60), "reaches into"
    yield "no such offset", lying("data/0", offset=2**31), "are in no member|lies outside"
    yield (
        "offset of another",
        lying("data/0", central_offset=0),
        "are in no member|contradicts|reaches into",
    )
    yield "overlap", lying("data/0", central_offset=20), "are in no member|reaches into"
    yield "on another disk", lying("data/0", disk=1), "directory is damaged"
    yield "hidden bytes", torch_file(top, gap=b"#!/bin/sh\n"), "are in no member"
    yield "wrong descriptor", torch_file(top, descriptors=True, each={"top/data/0": {
        "local_crc": 5}}), "no descriptor"  # fmt: skip
    yield "extra field damaged", lying("data/0", central_extra=b"\1\0\xff\0"), "damaged extra field"
    for what, extra in {
        "twice": struct.pack("<2HQ2HQ", 1, 8, 16, 1, 8, 16),
        "without need": struct.pack("<2HQ", 1, 8, 16),
        "of odd length": struct.pack("<2HQL", 1, 12, 16, 0),
    }.items():
        yield f"zip64 block {what}", lying("data/0", central_extra=extra), "extra field|contradict"
    wide = {"central_size": 2**32 - 1, "central_packed": 2**32 - 1}
    for what, sizes in {
        "": (16, 16),
        " contradicts": (16, 17),
        " of 2**63": (2**63, 2**63),
    }.items():
        extra = struct.pack("<2H2Q", 1, 16, *sizes)
        file = lying("data/0", **wide, central_extra=extra)
        yield f"zip64 size{what}", file, "is compressed|reaches into|contradicts" if what else LOADS
    yield "zip64 size missing", lying("data/0", **wide), "contradict"
    yield "zip64", torch_file(top, zip64=True), LOADS
    for field, value in {"place": 0, "count": 3, "start": 9, "length": 1, "disk": 7}.items():
        file = torch_file(top, zip64=True, **{f"end64_{field}": value})
        yield f"zip64 end {field}", file, "contradicts itself|directory is damaged"
    large = {"end64_count": 2**60, "count": 0xFFFF}
    yield "zip64 count", torch_file(top, zip64=True, **large), "names 1,152,921,504,606,846,976"
    for field, value in {"count": 3, "start": 9, "length": 1, "disk": 7}.items():
        yield f"end {field}", torch_file(top, **{field: value}), "directory is damaged"
    yield "no members", b"PK\3\4" + zipped([])[:0] + zipped([]), "damaged|names 0"
    yield "count of 65535", torch_file(top, count=0xFFFF), "directory is damaged"
    good = torch_file(top)
    other = torch_file(mapping(w=tensor((2,))))
    yield "bytes before", b"#!/bin/sh\nexit\n" + good, "it begins with b'#!/bin/s'"
    yield "a member before", b"PK\3\4" + good, "directory is damaged"
    yield "bytes behind", good + b"\n", "bytes follow the end"
    yield "a comment", torch_file(top, comment=b"hello"), "bytes follow the end"
    yield "a comment with an end", torch_file(top, comment=other[-22:]), "damaged"
    yield "an archive as comment", torch_file(top, comment=other), "damaged"
    yield "two archives", good + other, "damaged"
    yield "two ends", good + good[-22:], "damaged"
    yield "a comment announced", good[:-2] + b"\5\0", "directory is damaged"
    zeros = [m for m in ("data.pkl", "byteorder", "data/0", "version")]
    file = torch_file(top, each={f"top/{m}": {"crc": 0} for m in zeros})
    yield "no checksums", file, LOADS
    some = torch_file(top, each={f"top/{m}": {"crc": 0} for m in zeros[1:]})
    yield "few checksums", some, "is damaged .CRC-32."
    crowd = [(f"top/data/{i}", b"") for i in range(100_001)]
    yield "100,001 members", zipped_quickly(crowd), "names 100,001 members"
    crowd = [("top/data.pkl", raw), ("top/version", b"3"), ("top/data/0", FOUR), *crowd[1:90_000]]
    yield "90,000 members", zipped_quickly(crowd), LOADS


def zipped_quickly(members):
    """What writes a file as `zipped`, of many members."""

    def write(path: pathlib.Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for key, data in members:
                archive.writestr(zipfile.ZipInfo(key), data)

    return write


def others():
    """Files of other kinds, and things that are no files."""
    good = torch_file(weights())
    yield "empty", b"", "is empty"
    yield "web page", b"\n<!DOCTYPE html><html>Not found</html>", "is a web page"
    yield "error text", b'{"error": "not found"}', "is a text"
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4803584173\n"
    yield "LFS pointer", pointer, "is a Git LFS pointer.*git lfs pull"
    legacy = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03." + bytes(99)
    yield "legacy format", legacy, "format from before 1.6"
    yield "bare pickle", description(weights()), "is a bare pickle"
    yield "gzip", gzip.compress(good), "is compressed with gzip"
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("sys_info"))
    yield "tar", file.getvalue(), "is a tar archive"
    header = b'{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
    yield "safetensors", struct.pack("<Q", len(header)) + header + FOUR, "is a safetensors file"
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    yield "npy", file.getvalue(), "is a NumPy array"
    file = io.BytesIO()
    np.savez(file, w=np.zeros(3))
    yield "npz", file.getvalue(), "is a zip archive, but not one of torch.save"
    yield "HDF5", b"\x89HDF\r\n\x1a\n" + bytes(99), "is an HDF5 file"
    yield "zeros", bytes(5000), "begins with"
    yield "noise", random.Random(1).randbytes(5000), "begins with"
    for part in (1, 3, 30, 90, 99):
        yield f"first {part} %", good[: len(good) * part // 100], "is cut short|begins with"
    yield "without its end", good[:-22], "is cut short"
    yield "last half", good[len(good) // 2 :], "begins with"
    yield "directory", pathlib.Path.mkdir, "is a directory"
    yield "FIFO", os.mkfifo, "is not a regular file"
    yield "device", lambda path: path.symlink_to("/dev/zero"), "is not a regular file"
    yield "link to itself", lambda path: path.symlink_to(path.name), "cannot be read"
    yield "missing", lambda path: None, "cannot be read: No such file"


def corpus(canary: str):
    """(name, bytes or what makes the file, expected message or LOADS)."""
    yield from code(canary)
    yield from machine()
    yield from tensors()
    yield from choices()
    yield from archives()
    yield from hostile_script.corpus(canary)
    yield from others()

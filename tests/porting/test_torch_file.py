import gc
import json
import mmap
import os
import pathlib
import struct
import subprocess
import sys
import time
import zlib

import ml_dtypes
import numpy as np
import pytest
from torch_bytes import (
    FALSE,
    FOUR,
    NONE,
    ORDERED,
    bag,
    called,
    description,
    items,
    mapping,
    number,
    script_file,
    tensor,
    text,
    torch_file,
    zipped,
)

from imagebind_jax.errors import UserError
from imagebind_jax.porting.torch_pickle import unpickler
from imagebind_jax.porting.torch_pickle.torch_file import TensorSpec, TorchFile

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "torch"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())


@pytest.fixture
def saved(tmp_path):
    """Writes bytes to a file and opens it."""

    def save(content: bytes) -> TorchFile:
        path = tmp_path / "some weights.pth"
        path.write_bytes(content)
        return TorchFile(path)

    return save


def test_reading_needs_neither_torch_nor_jax_nor_the_pickle_module():
    code = (
        "import sys, imagebind_jax.porting.torch_pickle.torch_file as t; "
        f"print(sum(a.size for a in t.TorchFile({str(GOLDEN / 'state_dict.pt')!r}).values()), "
        "[m for m in ('torch', 'jax', 'zipfile') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "17 []\n"


# ---- what torch wrote


@pytest.mark.goal("G24")
@pytest.mark.parametrize("name", EXPECTED["files"])
def test_files_of_torch_hold_what_torch_put_there(name):
    expected = EXPECTED["files"][name]
    with TorchFile(GOLDEN / name) as file:
        assert list(file) == list(file.specs) == list(expected["tensors"])
        assert file.extra == expected["extra"]
        for key, wanted in expected["tensors"].items():
            array, dtype = file[key], np.dtype(getattr(ml_dtypes, wanted["dtype"], wanted["dtype"]))
            assert file.specs[key] == TensorSpec(tuple(wanted["shape"]), dtype)
            assert (array.shape, array.dtype) == (tuple(wanted["shape"]), dtype)
            assert array.tobytes().hex() == wanted["hex"], key
            assert file.specs[key].nbytes == array.nbytes


@pytest.mark.goal("G24")
def test_the_files_of_torch_are_all_there(measured):
    """Each is compared above, byte for byte, with what torch said of it when it wrote it."""
    there = {path.name for path in GOLDEN.glob("*.pt")}
    assert there == EXPECTED["files"].keys() | EXPECTED["refused"].keys()
    tensors = sum(len(each["tensors"]) for each in EXPECTED["files"].values())
    measured(f"{len(EXPECTED['files'])} files that torch wrote, {tensors} tensors: bitwise equal")


@pytest.mark.parametrize("name", EXPECTED["refused"])
def test_files_of_torch_that_are_more_than_tensors_are_refused_in_one_line(name):
    with pytest.raises(UserError, match=EXPECTED["refused"][name]) as refusal:
        TorchFile(GOLDEN / name)
    assert str(refusal.value).startswith(f"{GOLDEN / name}: ")
    assert "\n" not in str(refusal.value)


def test_a_file_without_checksums_says_so():
    assert TorchFile(GOLDEN / "state_dict.pt").warnings == []
    (line,) = TorchFile(GOLDEN / "no_checksums.pt").warnings
    assert (
        line
        == f"{GOLDEN / 'no_checksums.pt'}: was written without checksums: damage cannot be noticed"
    )


def test_what_is_no_tensor_is_named():
    (line,) = TorchFile(GOLDEN / "odd.pt").warnings
    assert line.endswith("left out, as no tensors: 'sizes', 'bytes', 'kind', 'set'")


# ---- arrays


def test_arrays_are_read_only_views_of_one_another_where_tensors_are():
    with TorchFile(GOLDEN / "views.pt") as file:
        whole, part = file["whole"], file["every_other"]
        assert file["transposed"].strides == whole.strides[::-1]
        assert np.shares_memory(whole, part)
        assert file["expanded"].strides == (4, 0)
        assert file["channels_last"].strides[1] == 4
        for array in file.values():
            assert not array.flags.writeable and not array.flags.owndata
    with TorchFile(GOLDEN / "tied.pt") as file:
        assert np.shares_memory(file["token.weight"], file["head.weight"])


def test_an_empty_tensor_has_its_shape_and_a_scalar_no_axis():
    with TorchFile(GOLDEN / "odd.pt") as file:
        assert file["empty"].shape == (0, 3)
        assert file["rest"].shape == (0, 2)
        assert file["scalar"].shape == ()
        assert not file["empty"].flags.writeable


def test_it_is_a_mapping(saved):
    file = saved(torch_file(mapping(w=tensor())))
    assert list(file) == ["w"] and len(file) == 1 and "w" in file and "v" not in file
    assert file.get("v") is None
    with pytest.raises(KeyError):
        file["v"]
    assert repr(file).endswith("some weights.pth', 1 tensors)")


def test_arrays_outlive_the_file(saved):
    file = saved(torch_file(mapping(w=tensor(), v=tensor((2,)))))
    array = file["w"]
    file.close()
    file.close()
    with pytest.raises(ValueError, match="is closed"):
        file["v"]
    file.release("w")
    del file
    gc.collect()
    np.testing.assert_array_equal(array, [1, 2, 3, 4])


def test_released_pages_leave_memory_and_come_back(saved):
    size = 16 << 20
    data = np.full(size // 4, 3, np.float32).tobytes()
    file = saved(torch_file(mapping(w=tensor((size // 4,), count=size // 4)), data={"0": data}))
    del data
    array = file["w"]
    before = resident()
    file.release("w")
    if hasattr(mmap, "MADV_DONTNEED") and before:
        assert before - resident() > size // 2
    assert array.sum(dtype=np.float64) == 3 * size // 4


def resident() -> int:
    """Bytes of this process in memory, 0 where the system does not say."""
    statm = pathlib.Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * mmap.PAGESIZE if statm.exists() else 0


# ---- checks


def test_a_flipped_bit_is_found_when_its_tensor_is_used_and_not_before(saved):
    data = {"0": FOUR, "1": FOUR}
    top = mapping(good=tensor(), bad=tensor(key="1"), empty=tensor((0,), key="1"))
    file = saved(torch_file(top, data=data, each={"top/data/1": {"data": FOUR[:-1] + b"\x41"}}))
    np.testing.assert_array_equal(file["good"], [1, 2, 3, 4])
    assert file["empty"].size == 0
    for _ in range(2):
        with pytest.raises(
            UserError, match=r"some weights.pth: its record 'data/1' is damaged \(CRC"
        ):
            file["bad"]


def test_a_tensor_may_reach_its_records_last_element_and_none_beyond(saved):
    last = mapping(a=tensor((2, 2), (2, 1)), b=tensor((1,), offset=3))
    assert [array.max() for array in saved(torch_file(last)).values()] == [4, 4]
    for beyond in (tensor((5,)), tensor(offset=1), tensor((2, 2), (3, 1)), tensor((), (), 4)):
        with pytest.raises(UserError, match="reaches beyond its storage"):
            saved(torch_file(mapping(w=beyond)))


@pytest.mark.parametrize("container", [b"]", b"}", b"N\x85"], ids=["lists", "dicts", "tuples"])
def test_a_description_may_make_only_so_many_objects(saved, container, monkeypatch):
    monkeypatch.setattr(unpickler, "MAX_NODES", 1000)
    few, many = (mapping(w=tensor(), x=b"](" + container * n + b"e") for n in (900, 1000))
    assert list(saved(torch_file(few))) == ["w"]
    with pytest.raises(UserError, match="some weights.pth: .* has more than 1,000 objects"):
        saved(torch_file(many))


@pytest.mark.parametrize("member", ["data.pkl", "byteorder", "data/0", "version"])
def test_no_bytes_hide_behind_a_member(saved, member):
    """Not even behind one alone, the others following one another without a gap."""
    hidden = b"#!/bin/sh\n"
    told = {"data.pkl": description(mapping(w=tensor())), "byteorder": b"little", "data/0": FOUR}
    data = told.get(member, b"3\n")
    lie = {"packed": len(data), "size": len(data), "crc": zlib.crc32(data), "data": data + hidden}
    with pytest.raises(UserError, match="bytes .* are in no member"):
        saved(torch_file(mapping(w=tensor()), each={f"top/{member}": lie}))


def test_only_zeros_and_ones_are_bools(saved):
    top = mapping(w=tensor(kind="torch.BoolStorage"))
    np.testing.assert_array_equal(
        saved(torch_file(top, data={"0": b"\0\1\1\0"}))["w"], [0, 1, 1, 0]
    )
    with pytest.raises(UserError, match="its tensor 'w' is bool"):
        saved(torch_file(top, data={"0": b"\0\1\2\0"}))["w"]


def test_a_path_stays_on_one_line(tmp_path):
    path = tmp_path / "a\nb.pth"
    path.write_bytes(b"")
    with pytest.raises(UserError, match="b.pth': is empty") as refusal:
        TorchFile(path)
    assert "\n" not in str(refusal.value)
    with pytest.raises(UserError, match="is no path"):
        TorchFile("a\0b.pth")


def test_a_refused_file_is_not_held_open(saved, tmp_path):
    for _ in range(3):
        with pytest.raises(UserError):
            saved(torch_file(mapping(w=text("w"))))
    maps = pathlib.Path("/proc/self/maps")
    assert not maps.exists() or str(tmp_path) not in maps.read_text()


def test_compressed_by_another_program_says_what_to_do(saved):
    content = torch_file(mapping(w=tensor()), each={"top/data/0": {"method": 8}})
    with pytest.raises(
        UserError, match="is compressed, which torch.save never does.*save it again"
    ):
        saved(content)


# ---- which state dict


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", "module", "params"])
def test_wrapped_state_dicts_are_found(saved, key):
    wrapped = mapping(**{"epoch": number(3), key: mapping(w=tensor()), "rng": tensor((2,))})
    file = saved(torch_file(wrapped))
    assert list(file) == ["w"] and file.extra == {"epoch": 3}


def test_the_first_wrapper_with_tensors_counts(saved):
    top = mapping(model=mapping(b=tensor()), state_dict=mapping(a=tensor()), params=b"}")
    assert list(saved(torch_file(top))) == ["a"]
    top = mapping(model=mapping(b=tensor()), state_dict=mapping(a=number(1)))
    assert list(saved(torch_file(top))) == ["b"]
    assert list(saved(torch_file(mapping(model=tensor(), b=tensor())))) == ["model", "b"]


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (["module.a", "module.b"], ["a", "b"]),
        (["_orig_mod.module.a", "_orig_mod.module.b"], ["a", "b"]),
        (["module._orig_mod.module.a"], ["a"]),
        (["module.a", "b"], ["module.a", "b"]),
        (["module.", "module.a"], ["module.", "module.a"]),
        (["modules.a"], ["modules.a"]),
    ],
)
def test_prefixes_of_wrappers_go_where_all_names_have_them(saved, names, kept):
    file = saved(torch_file(ORDERED + items({name: tensor() for name in names})))
    assert list(file) == list(file.specs) == kept


def test_scalars_beside_the_tensors_are_kept(saved):
    inner = mapping(w=tensor(), version=number(2), epoch=number(1), nested=mapping(v=tensor()))
    file = saved(torch_file(mapping(epoch=number(3), state_dict=inner, note=text("x"))))
    assert file.extra == {"version": 2, "epoch": 3, "note": "x"}
    assert file.warnings == [f"{file.path}: left out, as no tensors: 'nested'"]


# ---- TorchScript


def test_tensors_of_torchscript_have_the_names_that_lead_to_them(saved):
    block = bag(weight=tensor(), ln=bag(bias=tensor((2,)), n=number(5), s=text("y"), w=NONE))
    top = bag(training=FALSE, size=number(3), note=text("x"), nothing=NONE, scale=tensor((), ()))
    top = top[:-2] + text("block") + block + text("late") + tensor((1,)) + b"ub"
    file = saved(script_file(top))
    assert {name: spec.shape for name, spec in file.specs.items()} == {
        "scale": (), "block.weight": (4,), "block.ln.bias": (2,), "late": (1,)
    }  # fmt: skip
    assert file.extra == {"size": 3, "note": "x"} and file.warnings == []
    np.testing.assert_array_equal(file["block.ln.bias"], [1, 2])


def test_a_module_in_two_places_has_two_names_and_one_record(saved):
    file = saved(script_file(bag(a=bag(w=tensor()) + b"q\1", b=bag(c=b"h\1"))))
    assert list(file) == ["a.w", "b.c.w"]
    assert np.shares_memory(file["a.w"], file["b.c.w"])
    with TorchFile(GOLDEN / "script.pt") as golden:
        tied = golden["first.linear.weight"], golden["second.linear.weight"]
        assert np.shares_memory(*tied)


def test_a_program_is_never_read(saved):
    """Its members may be anything, and none can be had."""
    code = {"code/__torch__.py": b"no deflated bytes", "extra/note.txt": b"hello"}
    file = saved(script_file(bag(w=tensor()), records=code))
    assert list(file) == ["w"]
    for member in ("code/__torch__.py", "extra/note.txt", "constants.pkl", "constants/0"):
        assert file.member(member, 1 << 20) is None
    assert file.member("version", 9) == b"3\n"


def test_numbers_and_lists_in_objects_are_passed_over(saved):
    def typed(function, *arguments):
        return called(f"torch.jit._pickle.{function}", *arguments)

    file = saved(script_file(bag(
        w=tensor(),
        ints=typed("build_intlist", b"](K\1K\2e"),
        floats=typed("build_doublelist", b"](G" + bytes(8) + b"e"),
        flags=typed("build_boollist", b"](" + FALSE + b"e"),
        tensors=typed("build_tensorlist", b"](" + tensor() + b"e"),
        texts=typed("restore_type_tag", b"](" + text("a") + b"e", text("List[str]")),
        table=typed("restore_type_tag", mapping(a=number(1)), text("Dict[str, int]")),
        device=called("torch.device", text("cuda:0")),
        pair=b"K\1K\2\x86",
    )))  # fmt: skip
    assert list(file) == ["w"] and file.extra == {} and file.warnings == []


# ---- size


def test_a_file_beyond_4_gib_opens_in_milliseconds(tmp_path):
    """A sparse file; the tensor behind the great one is read, the great one is not."""
    great = 5 << 30
    block = struct.pack("<2H2Q", 1, 16, great, great)
    far = struct.pack("<2HQ", 1, 8, 0)
    top = mapping(
        great=tensor((great,), kind="torch.ByteStorage", count=great), small=tensor(key="1")
    )
    ones = 2**32 - 1
    first = zipped([("top/data.pkl", description(top)), ("top/data/0", b"")], each={"top/data/0": {
        "crc": 1, "central_size": ones, "central_packed": ones, "central_extra": block,
        "local_size": ones, "local_packed": ones, "local_extra": block}})  # fmt: skip
    head = first[: first.index(b"PK\1\2")]
    entries = first[len(head) : first.index(b"PK\5\6")]
    last = [("top/data/1", FOUR), ("top/version", b"3")]
    tail = b""
    for name, data in last:
        start = len(head) + great + len(tail)
        wide = far[:4] + struct.pack("<Q", start)
        member = zipped([(name, data)], each={name: {
            "central_offset": ones, "central_extra": wide}})  # fmt: skip
        at, end = member.index(b"PK\1\2"), member.index(b"PK\5\6")
        tail, entries = tail + member[:at], entries + member[at:end]
    start = len(head) + great + len(tail)
    path = tmp_path / "great.pth"
    with path.open("wb") as file:
        file.write(head)
        file.seek(great, os.SEEK_CUR)
        file.write(tail + entries)
        file.write(struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 0, 0, 0, 0, 4, 4, len(entries), start))
        file.write(struct.pack("<4sLQL", b"PK\6\7", 0, start + len(entries), 1))
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 4, 4, len(entries), ones, 0))
    began = time.perf_counter()
    with TorchFile(path) as opened:
        seconds = time.perf_counter() - began
        assert opened.specs["great"].nbytes == great
        np.testing.assert_array_equal(opened["small"], [1, 2, 3, 4])
    assert seconds < 0.5  # 2 ms when nothing else runs

"""Out again: every format comes back bit for bit, says what it holds, and notices every change."""

import dataclasses
import functools
import json
import pathlib
import random
import shutil
import subprocess
import sys
import zipfile

import goals
import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util

import imagebind_jax as ib
from imagebind_jax import UserError
from imagebind_jax.porting import convert, load
from imagebind_jax.porting.files import own_checkpoint, provenance, tensor_writers
from imagebind_jax.porting.files.parameter_source import InMemoryParams
from imagebind_jax.porting.files.tensor_files import AnnotatedTorchFile, open_tensors
from imagebind_jax.porting.torch_pickle.torch_file import TensorSpec

CHECKPOINT = pathlib.Path(__file__).parents[1] / "golden" / "imagebind" / "imagebind_tiny.pth"
pytestmark = pytest.mark.jax
NAMES = {"orbax": "w", "safetensors": "w.safetensors", "pytorch": "w.pth"}


def quiet(_):
    pass


def loaded(path, **how):
    model, params = ib.load(path, **how)
    return model.config, traverse_util.flatten_dict(params, sep="/")


def flat(path, **how):
    return loaded(path, **how)[1]


@functools.cache
def golden(*modalities, dtype="float32"):
    """(config, leaves by their paths) of the golden checkpoint."""
    return loaded(CHECKPOINT, modalities=modalities, dtype=dtype)


def bits(x):
    x = np.asarray(x)
    return x.dtype, x.shape, x.tobytes()


def all_bits(leaves):
    return {path: bits(x) for path, x in leaves.items()}


def state_dict(path):
    with open_tensors(path) as file:
        return {name: bits(file[name]) for name in file.specs}


@pytest.mark.parametrize("name", NAMES.values())
def test_loads_the_same(made, name):
    (config, expected), (found_config, found) = golden(), loaded(made / name)
    assert expected.keys() == found.keys()
    for path in expected:
        assert bits(found[path]) == bits(expected[path]), path
    assert found_config == config


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_files_hold_the_references_state_dict_bit_for_bit(made, name):
    """Same names, shapes, types and bits, buffers included: what `strict=True` asks for."""
    assert state_dict(made / name) == state_dict(CHECKPOINT)


def test_back_from_a_folder_is_bit_for_bit_too(made, tmp_path):
    convert.convert(made / "w", tmp_path / "back.pth", say=quiet)
    assert state_dict(tmp_path / "back.pth") == state_dict(CHECKPOINT)


def test_torch_reads_what_we_write(made):
    torch = pytest.importorskip("torch", reason="an oracle: pip install imagebind-jax[torch]")
    ours = torch.load(made / "w.pth", weights_only=True, mmap=True)
    theirs = torch.load(CHECKPOINT, weights_only=True)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_safetensors_library_reads_what_we_write(made):
    found = safetensors.numpy.load_file(made / "w.safetensors")
    assert {name: bits(x) for name, x in found.items()} == state_dict(CHECKPOINT)


def test_tensors_can_be_mapped_in_place(made):
    """Each record of the zip begins at a multiple of 64 bytes, as PyTorch's do."""
    with zipfile.ZipFile(made / "w.pth") as archive, open(made / "w.pth", "rb") as file:
        for info in archive.infolist():
            file.seek(info.header_offset + 26)
            name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
            assert (info.header_offset + 30 + name + extra) % 64 == 0, info.filename


def test_orbax_alone_reads_the_folder(made):
    """No code of ours is needed to read it."""
    import orbax.checkpoint as ocp

    tree = ocp.StandardCheckpointer().restore(made / "w" / own_checkpoint.ARRAYS)
    found = traverse_util.flatten_dict(tree, sep="/")
    assert all_bits(found) == all_bits(golden()[1])


@pytest.mark.parametrize("name", NAMES.values())
def test_says_where_it_comes_from(made, name):
    import hashlib

    with load.open_weights(made / name) as weights:
        origin = weights.origin
    assert origin["file"] == CHECKPOINT.name
    assert origin["sha256"] == hashlib.sha256(CHECKPOINT.read_bytes()).hexdigest()
    assert origin["bytes"] == CHECKPOINT.stat().st_size
    assert "non-commercial" in origin["licence"]


def test_model_json_is_small_and_plain(made):
    said = json.loads((made / "w" / "model.json").read_text())
    assert said["config"]["encoders"]["depth"]["heads"] == 8
    assert len(said["digests"]) == len(golden()[1])


@pytest.mark.parametrize("name", NAMES.values())
def test_bfloat16_and_some_modalities(name, tmp_path):
    some = ("text", "imu")
    convert.convert(CHECKPOINT, tmp_path / name, say=quiet, dtype="bfloat16", modalities=some)
    found = flat(tmp_path / name, dtype="bfloat16")
    assert all_bits(found) == all_bits(golden(*some, dtype="bfloat16")[1])
    assert found["text/log_logit_scale"].dtype == np.float32


def test_verify_tells_every_array_and_its_place(tmp_path):
    lines, some = [], ("vision", "imu")
    convert.convert(CHECKPOINT, tmp_path / "w", modalities=some, verify=True, say=lines.append)
    rows = [line for line in lines if line.startswith("ok ")]
    assert len(rows) == len(golden(*some)[1]) and "bit for bit" in lines[-1]
    qkv = next(row for row in rows if "vision/trunk/blocks/attn/qkv/kernel" in row)
    assert "modality_trunks.vision.blocks.{0..2}.attn.in_proj_weight" in qkv
    assert "3x48x3x4x12" in qkv and "sha256" in qkv


def test_verify_notices_other_weights(tmp_path):
    """The comparison itself can fail: another checkpoint's folder is not this one's."""
    config, leaves = golden("imu")
    params = traverse_util.unflatten_dict(leaves | {"imu/cls": leaves["imu/cls"] + 1}, sep="/")
    other = InMemoryParams(config, params)
    own_checkpoint.write_checkpoint(
        tmp_path / "w",
        other,
        lambda d: provenance.WeightsMetadata(config, {"licence": ""}, dict(d)),
    )
    with (
        load.open_weights(CHECKPOINT, modalities=("imu",)) as weights,
        pytest.raises(UserError, match="differs from .* in imu/cls"),
    ):
        convert._verify(weights, CHECKPOINT, tmp_path / "w", quiet)


# ---- nothing is lost, nothing half-written is taken for whole


def test_an_existing_target_stays_unless_told(small, tmp_path):
    target = tmp_path / "w"
    shutil.copytree(small / "w", target)
    with pytest.raises(UserError, match="exists: choose another target, or --overwrite"):
        convert.convert(CHECKPOINT, target, say=quiet)
    assert {path.split("/")[0] for path in flat(target)} == {"imu"}
    convert.convert(CHECKPOINT, target, modalities=("depth",), overwrite=True, say=quiet)
    assert {path.split("/")[0] for path in flat(target)} == {"depth"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w"]


def test_a_folder_of_other_things_is_never_overwritten(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").touch()
    with pytest.raises(UserError, match="no folder of weights"):
        convert.convert(CHECKPOINT, tmp_path / "photos", overwrite=True, say=quiet)
    assert (tmp_path / "photos" / "me.jpg").exists()


def test_the_source_is_never_overwritten(tmp_path):
    shutil.copy(CHECKPOINT, tmp_path / "w.pth")
    with pytest.raises(UserError, match="the source itself"):
        convert.convert(tmp_path / "w.pth", tmp_path / "w.pth", overwrite=True, say=quiet)


@pytest.mark.parametrize("name", NAMES.values())
def test_no_room(tmp_path, monkeypatch, name):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(UserError, match="no space left on device"):
        convert.convert(CHECKPOINT, tmp_path / name, say=quiet)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", NAMES.values())
def test_a_failure_on_the_way_leaves_nothing(tmp_path, monkeypatch, name):
    original, count = AnnotatedTorchFile.__getitem__, iter(range(1000))

    def failing(self, name):
        if next(count) == 10:
            raise OSError(5, "Input/output error")
        return original(self, name)

    monkeypatch.setattr(AnnotatedTorchFile, "__getitem__", failing)
    with pytest.raises(Exception, match="Input/output error"):
        convert.convert(CHECKPOINT, tmp_path / name, modalities=("imu",), say=quiet)
    assert not list(tmp_path.iterdir())


KILLED = """
import os, signal, sys
from imagebind_jax.porting import convert
from imagebind_jax.porting.files.tensor_files import AnnotatedTorchFile
original, count = AnnotatedTorchFile.__getitem__, iter(range(1000))
def killing(self, name):
    if next(count) == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, name)
AnnotatedTorchFile.__getitem__ = killing
convert.convert(sys.argv[1], sys.argv[2], modalities=("imu",))
"""


@pytest.mark.parametrize(
    "name",
    [
        "w",
        *(pytest.param(name, marks=pytest.mark.processes) for name in ("w.safetensors", "w.pth")),
    ],
)
def test_killed_on_the_way_there_is_no_target_and_the_next_run_makes_it(tmp_path, name):
    target = tmp_path / name
    command = [sys.executable, "-c", KILLED, str(CHECKPOINT), str(target), "10"]
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == -9
    assert not target.exists()
    convert.convert(CHECKPOINT, target, modalities=("imu",), say=quiet)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert flat(target).keys() == golden("imu")[1].keys()


# ---- G26: of any mutant of what we write, nothing is silently wrong


def damaged(content, rng):
    content = bytearray(content)
    kind = rng.randrange(4)
    at = rng.randrange(len(content))
    if kind == 0:
        content[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del content[at : at + rng.randrange(1, 9)]
    elif kind == 2:
        content[at:at] = rng.randbytes(rng.randrange(1, 9))
    else:
        del content[at:]
    return bytes(content)


def outcome(path, expected):
    """ "refused" in one line, or "whole"; anything else is a failure."""
    try:
        with load.open_weights(path) as weights:
            found = {p: bits(weights.read(p)) for p in weights.specs}
            same = found == expected["arrays"] and weights.config == expected["config"]
    except UserError as error:
        assert "\n" not in str(error) and str(error)
        return "refused"
    assert same, "loaded, but not what was written"
    return "whole"


@pytest.fixture(scope="module")
def expected(small):
    with load.open_weights(small / "w") as weights:
        return {
            "arrays": {p: bits(weights.read(p)) for p in weights.specs},
            "config": weights.config,
        }


def sizes(few, many):
    """Parameters of a test of mutants: some by default, all in the fuzz tier, where they are a goal."""
    return [few, pytest.param(many, marks=[pytest.mark.fuzz, pytest.mark.goal("G26")])]


@pytest.mark.filterwarnings("ignore")  # a file whose checksums are damaged away says so
@pytest.mark.parametrize("mutants", sizes(15, goals.size(150, 1000)))
@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_mutants_of_files(small, expected, tmp_path, name, mutants, rotating_seed, measured):
    rng, content = random.Random(rotating_seed), (small / name).read_bytes()
    head, seen = content[:40_000], {"refused": 0, "whole": 0}
    for i in range(mutants):
        changed = damaged(content, rng) if i % 2 else damaged(head, rng) + content[len(head) :]
        path = tmp_path / name
        path.write_bytes(changed)
        seen[outcome(path, expected)] += 1
    assert seen["refused"] > seen["whole"], seen
    measured(f"weights as {name.partition('.')[2]}: {mutants} mutants, 0 silent")


@pytest.mark.parametrize("mutants", sizes(5, goals.size(50, 300)))
def test_mutants_of_folders(small, expected, tmp_path, mutants, rotating_seed, measured):
    rng, seen = random.Random(rotating_seed), {"refused": 0, "whole": 0}
    names = [p.relative_to(small / "w") for p in sorted((small / "w").rglob("*")) if p.is_file()]
    for i in range(mutants):
        shutil.rmtree(tmp_path / "w", ignore_errors=True)
        shutil.copytree(small / "w", tmp_path / "w")
        path = tmp_path / "w" / names[(rotating_seed + i) % len(names)]
        path.write_bytes(damaged(path.read_bytes() or b"\n", rng))
        seen[outcome(tmp_path / "w", expected)] += 1
    assert seen["refused"] > 0, seen
    measured(f"weights as a folder: {mutants} mutants, 0 silent")


def test_a_note_that_somebody_edits_is_refused(small, tmp_path):
    shutil.copytree(small / "w", tmp_path / "w")
    path = tmp_path / "w" / "model.json"
    path.write_text(path.read_text().replace('"heads": 4', '"heads": 2'))
    with pytest.raises(UserError, match="was changed since it was written"):
        ib.load(tmp_path / "w")


def test_a_folder_that_claims_more_than_it_holds_is_refused(small, tmp_path, monkeypatch):
    monkeypatch.setattr(own_checkpoint, "_ALWAYS_ALLOWED", 0)
    monkeypatch.setattr(own_checkpoint, "_MAX_EXPANSION", 0.1)
    with pytest.raises(UserError, match="bytes of weights in a folder of"):
        ib.load(small / "w")


def test_any_other_folder_is_refused_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"is no folder of weights: no model\.json"):
        ib.load(tmp_path)


# ---- what a review found


def test_a_folder_with_somebody_elses_model_json_is_kept(tmp_path, small):
    theirs = tmp_path / "tfjs"
    theirs.mkdir()
    (theirs / "model.json").write_text('{"modelTopology": {}}')
    with pytest.raises(UserError, match="is damaged"):
        convert.convert(CHECKPOINT, theirs, overwrite=True, say=quiet)
    ours = tmp_path / "w"
    shutil.copytree(small / "w", ours)
    (ours / "thesis.txt").touch()
    with pytest.raises(UserError, match=r"also holds thesis\.txt"):
        convert.convert(CHECKPOINT, ours, overwrite=True, say=quiet)
    shutil.copy(CHECKPOINT, ours / "source.pth")
    with pytest.raises(UserError, match="the source itself, or holds it"):
        convert.convert(ours / "source.pth", ours, overwrite=True, say=quiet)
    assert (ours / "thesis.txt").exists() and (ours / "source.pth").exists()


@pytest.mark.parametrize(("name", "to"), [("w", "pytorch"), ("w.pth", "orbax")])
def test_a_file_never_replaces_a_folder_nor_a_folder_a_file(tmp_path, small, name, to):
    target = tmp_path / name
    (shutil.copytree if name == "w" else shutil.copy)(small / name, target)
    with pytest.raises(UserError, match="choose another target|does not say"):
        convert.convert(CHECKPOINT, target, to=to, overwrite=True, say=quiet)
    assert flat(target).keys() == golden("imu")[1].keys()


def test_a_name_that_says_another_format_is_refused(tmp_path):
    with pytest.raises(UserError, match="its name does not say pytorch"):
        convert.convert(CHECKPOINT, tmp_path / "w.safetensors", to="pytorch", say=quiet)


def test_the_first_origin_is_kept(small, tmp_path):
    convert.convert(small / "w.pth", tmp_path / "again", say=quiet)
    with (
        load.open_weights(small / "w") as first,
        load.open_weights(tmp_path / "again") as last,
    ):
        assert last.origin == first.origin


def stored(tmp_path, dtype, factor=1.0):
    """The golden imu encoder in another type, its class token multiplied."""
    with open_tensors(CHECKPOINT) as file:
        content = {n: np.array(file[n], dtype) for n in file.specs if ".imu." in n}
    content["modality_preprocessors.imu.cls_token"] *= dtype(factor)
    specs = {name: TensorSpec(x.shape, x.dtype) for name, x in content.items()}
    tensor_writers.write_torch(tmp_path / "other.pth", specs, content.items())
    return tmp_path / "other.pth"


def test_numbers_that_do_not_fit_are_refused_and_a_change_of_type_is_told(tmp_path):
    source, lines = stored(tmp_path, np.float64), []
    convert.convert(source, tmp_path / "w", heads={"imu": 4}, say=lines.append)
    assert "note: float64 in the source became float32" in lines
    for factor, dtype in ((1e300, "float32"), (1e6, "float16"), (1e300, "bfloat16")):
        with pytest.raises(UserError, match=f"cls_token holds .* too large for {dtype}"):
            source = stored(tmp_path, np.float64, factor)
            convert.convert(source, tmp_path / "h", dtype=dtype, heads={"imu": 4}, say=quiet)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"depth": 10**8}, "more layers than it has tensors|depth must be"),
        ({"heads": 0}, "heads must be from 1"),
        ({"width": -32}, "width must be from 1"),
        ({"patch": [0]}, "patch .* sizes from 1"),
        ({"mlp_ratio": -1.0}, "mlp_ratio"),
        ({"norm_eps": -1.0}, "norm_eps must be a number > 0"),
        ({"shape": [10**9, 6]}, "shape .* sizes from 1"),
    ],
)
def test_a_note_that_means_harm_is_refused_at_once(small, tmp_path, changes, line):
    """Anybody can seal a note: what it says is checked, too."""
    with open_tensors(small / "w.safetensors") as file:
        said = json.loads(provenance.encode_metadata(file.note))
    del said["seal"]
    said["config"]["encoders"]["imu"] |= changes
    said["seal"] = provenance._sha256(said)
    tensors = safetensors.numpy.load_file(small / "w.safetensors")
    safetensors.numpy.save_file(
        tensors, tmp_path / "w.safetensors", {provenance.KEY: json.dumps(said)}
    )
    with pytest.raises(UserError, match=line) as error:
        ib.load(tmp_path / "w.safetensors")
    assert len(str(error.value)) < 1000


def test_what_is_told_must_fit_what_is_known(made):
    with pytest.raises(UserError, match="told 2 heads of imu, which has 4"):
        ib.load(made / "w", heads={"imu": 2})
    with pytest.raises(UserError, match="told quick_gelu, but vision has gelu"):
        ib.load(made / "w", activation="quick_gelu")
    with pytest.raises(UserError, match="source 'nonsense': not one of"):
        ib.load(made / "w", source="nonsense")
    with pytest.raises(UserError, match="told heads of imuu, which it has not"):
        ib.load(CHECKPOINT, heads={"imuu": 2})
    with pytest.raises(UserError, match="heads of imu must be a number from 1, got True"):
        ib.load(CHECKPOINT, heads={"imu": True})
    with pytest.raises(UserError, match="activation 'nonsense': not one of gelu"):
        ib.load(CHECKPOINT, activation="nonsense")


@pytest.mark.parametrize("name", NAMES.values())
@pytest.mark.parametrize("by_folder", [False, True])
def test_no_way_out_makes_infinity_of_a_number(tmp_path, name, by_folder):
    source = stored(tmp_path, np.float32, 1e6)
    if by_folder:
        convert.convert(source, tmp_path / "between", heads={"imu": 4}, say=quiet)
        source = tmp_path / "between"
    with pytest.raises(UserError, match="cls.* holds numbers that are too large for float16"):
        how = {} if by_folder else {"heads": {"imu": 4}}
        convert.convert(source, tmp_path / name, dtype="float16", say=quiet, **how)
    assert not (tmp_path / name).exists()


@pytest.fixture(scope="module")
def fixed():
    """(config, weights) of a text encoder whose scale is fixed, as the demo's is; the released one's is learned."""
    text = ib.TINY.encoders["text"]
    little = dataclasses.replace(text, width=12, depth=1, heads=2, vocab_size=20)
    config = ib.ImageBindConfig({"text": little}, embed_dim=8)
    return config, jax.device_get(ib.init(config, jax.random.key(0)))


@pytest.mark.parametrize("name", NAMES.values())
def test_a_scale_of_text_that_is_fixed_comes_back(name, fixed, tmp_path):
    config, params = fixed
    weights = InMemoryParams(config, params)
    own_checkpoint.write_checkpoint(
        tmp_path / "a",
        weights,
        lambda d: provenance.WeightsMetadata(config, {"licence": ""}, dict(d)),
    )
    convert.convert(tmp_path / "a", tmp_path / f"b{name}", say=quiet)
    model, back = load.load(tmp_path / f"b{name}")
    assert model.config == config and model.config.encoders["text"].logit_scale == 10.0
    jax.tree.map(np.testing.assert_array_equal, params, back)

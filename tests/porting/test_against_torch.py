"""The reader against torch itself, bit for bit, where a safe torch is installed."""

import importlib.util
import random
import re
from importlib import metadata

import ml_dtypes
import numpy as np
import pytest

from imagebind_jax.porting.torch_pickle.torch_file import TorchFile

HAVE = metadata.version("torch") if importlib.util.find_spec("torch") else "0.0"
pytestmark = pytest.mark.skipif(
    tuple(map(int, re.findall(r"\d+", HAVE)[:2])) < (2, 10),
    reason=f"torch 2.10 or newer is not installed (found {HAVE}); `tests/golden/torch` has its files",
)
DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8",
          "bool", "complex64", "complex128", "float8_e4m3fn", "float8_e5m2", "uint16", "uint32",
          "uint64")  # fmt: skip


def random_tensor(torch, rng, earlier, dtypes=DTYPES):
    if earlier and rng.random() < 0.2:
        return view(torch, rng, rng.choice(earlier))
    shape = [rng.choice((0, 1, 2, 3, 5, 8)) for _ in range(rng.randrange(5))]
    dtype = getattr(torch, rng.choice(dtypes))
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    values = torch.frombuffer(bytearray(rng.randbytes(size) or b"\0"), dtype=torch.uint8)[:size]
    values = values % 2 if dtype == torch.bool else values
    tensor = values.clone().view(dtype).reshape(shape)
    earlier.append(tensor)
    if dtype.is_floating_point and dtype.itemsize > 1 and rng.random() < 0.2:
        return torch.nn.Parameter(tensor, rng.random() < 0.5)
    return view(torch, rng, tensor) if rng.random() < 0.5 else tensor


def view(torch, rng, tensor):
    for _ in range(rng.randrange(4)):
        axes = tensor.ndim
        match rng.randrange(5):
            case 0 if axes:
                tensor = tensor.permute(rng.sample(range(axes), axes))
            case 1 if axes:
                axis, start = rng.randrange(axes), rng.randrange(4)
                part = [slice(None)] * axes
                part[axis] = slice(start, start + rng.randrange(5), rng.choice((1, 2, 3)))
                tensor = tensor[tuple(part)]
            case 2 if axes < 6:
                tensor = tensor.unsqueeze(rng.randrange(axes + 1))
                tensor = tensor.expand([n if n != 1 else rng.choice((1, 4)) for n in tensor.shape])
            case 3 if axes and tensor.shape[0]:
                tensor = tensor[rng.randrange(tensor.shape[0])]
            case 4 if axes:
                tensor = tensor.unflatten(0, (1, tensor.shape[0]))
    return tensor


def as_numpy(torch, tensor) -> np.ndarray:
    name = str(tensor.dtype).removeprefix("torch.")
    dense = tensor.detach().clone(memory_format=torch.contiguous_format)
    data = bytes(dense.reshape(-1).view(torch.uint8).tolist()) if dense.numel() else b""
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    return np.frombuffer(data, dtype).reshape(tuple(tensor.shape))


def random_module(torch, rng, depth, earlier):
    """Random tensors in random modules, which need no code to be saved."""
    module = torch.nn.Module()
    for i in range(rng.randrange(4)):
        tensor = random_tensor(torch, rng, earlier, DTYPES[:12])  # of 2021: no float8, no uint16
        if not isinstance(tensor, torch.nn.Parameter):
            module.register_buffer(f"b{i}", tensor, persistent=rng.random() < 0.8)
        else:
            module.register_parameter(f"p{i}", tensor)
    module.number, module.sizes, module.word = 3, [1, 2], "a"
    for i in range(rng.randrange(4) if depth else 0):
        module.add_module(str(i), random_module(torch, rng, depth - 1, earlier))
    return module


def sizes(few, many):
    """Parameters of a test of random files: some by default, all in the fuzz tier, where they are a goal."""
    return [few, pytest.param(many, marks=[pytest.mark.fuzz, pytest.mark.goal("G24")])]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("scripts", sizes(2, 20))
def test_random_torchscript_archives_are_read_as_torch_reads_them(
    scripts, tmp_path, rotating_seed, measured
):
    import torch

    rng = random.Random(rotating_seed)
    files, tensors = 0, 0
    while files < scripts:
        module = random_module(torch, rng, 3, [])
        if not module.state_dict():
            continue
        path = tmp_path / f"{files}.pt"
        program = torch.jit.script(module)
        torch.jit.save(program, path)
        theirs = program.state_dict()  # torch.jit.load refuses empty views at an offset
        with TorchFile(path) as ours:
            assert list(ours) == list(theirs)
            assert theirs.keys() >= module.state_dict().keys()
            for key, array in ours.items():
                wanted = as_numpy(torch, theirs[key])
                assert (array.dtype, array.shape) == (wanted.dtype, wanted.shape)
                assert array.tobytes() == wanted.tobytes(), (path, key)
                tensors += 1
        files += 1
    measured(f"{files} TorchScript archives, {tensors} tensors: bitwise equal")


@pytest.mark.parametrize("files", sizes(20, 200))
def test_random_files_are_read_as_torch_reads_them(files, tmp_path, rotating_seed, measured):
    import torch

    rng = random.Random(rotating_seed)
    tensors = 0
    for index in range(files):
        earlier = []
        state = {f"layer.{i}.{rng.random():.3f}": random_tensor(torch, rng, earlier)
                 for i in range(1, rng.randrange(2, 16))}  # fmt: skip
        wrapped = {
            "plain": state,
            "epoch": {"epoch": index, "state_dict": state, "optimizer": {"lr": 0.1, "step": [1]}},
            "parallel": {f"module.{key}": value for key, value in state.items()},
        }[rng.choice(("plain", "epoch", "parallel"))]
        torch.serialization.set_crc32_options(rng.random() < 0.9)
        path = tmp_path / f"{rng.choice(('a', 'name with spaces', 'ü'))}{index}.pt"
        protocol = rng.choice((2, 2, 3, 4, 5))
        torch.save(wrapped, path, pickle_protocol=protocol)
        torch.serialization.set_crc32_options(True)
        # Torch's own safe reader stops at protocol 3; beyond it, what was saved must come back.
        theirs = torch.load(path, weights_only=True) if protocol < 4 else wrapped
        theirs = theirs.get("state_dict", theirs)
        with TorchFile(path) as ours:
            assert len(ours) == len(theirs) == len(state)
            for (key, array), (their_key, tensor) in zip(ours.items(), theirs.items()):
                wanted = as_numpy(torch, tensor)
                assert key == their_key.removeprefix("module.")
                assert (array.dtype, array.shape) == (wanted.dtype, wanted.shape)
                assert array.tobytes() == wanted.tobytes(), (path, key)
                tensors += 1
    measured(f"{files} random files of torch {HAVE}, {tensors} tensors: bitwise equal")

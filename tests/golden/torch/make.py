"""Writes the files of this folder and `expected.json`, what they hold. Needs torch, which nothing
else here does:

    python tests/golden/torch/make.py

The expected values come from torch's own arrays before they are saved, not from any reader.
"""

import argparse
import json
import pathlib

import torch
from torch import nn

FOLDER = pathlib.Path(__file__).parent
FLOAT8 = ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")
PLAIN = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8",
         "bool", "complex64", "complex128")  # fmt: skip


def modules() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def contents():
    """(file, object, arguments of torch.save, the state dict in it, the scalars beside it)."""
    model = modules()
    state = model.state_dict()
    yield "state_dict.pt", state, {}, state, {}
    yield "protocol_4.pt", state, {"pickle_protocol": 4}, state, {}
    # As torch before 2.1: no record of the byte order.
    yield "old.pt", state, {"_disable_byteorder_record": True}, state, {}

    odd = {"scalar": torch.tensor(2.6593), "flag": torch.tensor(True), "empty": torch.empty(0, 3)}
    odd["rest"] = torch.arange(6.0).reshape(3, 2)[3:]  # no elements, at an offset
    odd["plain"] = torch.arange(6.0)
    mixed = odd | {"note": "made by hand", "version": 3, "rate": 0.5, "nothing": None}
    mixed |= {"sizes": torch.Size([1, 2]), "bytes": b"abc", "kind": torch.float16, "set": {1}}
    scalars = {"note": "made by hand", "version": 3, "rate": 0.5, "nothing": None}
    yield "odd.pt", mixed, {}, odd, scalars

    whole = torch.arange(24.0).reshape(4, 6)
    views = {
        "whole": whole,
        "transposed": whole.T,
        "every_other": whole[::2, 1::3],
        "last": whole[3],
        "expanded": torch.arange(3.0)[:, None].expand(3, 5),
        "diagonal": whole.diagonal(),
        "permuted": torch.arange(8, dtype=torch.int16).reshape(2, 2, 2).permute(2, 0, 1),
        "channels_last": torch.rand(1, 2, 3, 2).to(memory_format=torch.channels_last),
    }
    yield "views.pt", views, {}, views, {}

    tied = {"token.weight": whole, "head.weight": whole, "bias": whole[0]}
    yield "tied.pt", tied, {}, tied, {}

    values = torch.tensor([0.0, 1.0, 1.5, 3.0])
    dtypes = {name: values.to(getattr(torch, name)) for name in PLAIN}
    dtypes["bfloat16_nan"] = torch.tensor([float("nan"), float("-inf"), -0.0]).bfloat16()
    yield "dtypes.pt", dtypes, {}, dtypes, {}
    new = {name: torch.tensor([0.5, 1.0, 2.0]).to(getattr(torch, name)) for name in FLOAT8}
    new |= {name: torch.tensor([1, 2, 3]).to(getattr(torch, name)) for name in
            ("uint16", "uint32", "uint64")}  # fmt: skip
    yield "new_dtypes.pt", new, {}, new, {}

    parameters = dict(model.named_parameters()) | {"frozen": nn.Parameter(values, False)}
    yield "parameters.pt", parameters, {"pickle_protocol": 4}, parameters, {}

    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    state = model.state_dict()
    training = {
        "epoch": 7,
        "name": "2026_11_22-model_ViT",
        "state_dict": {f"module.{key}": value for key, value in state.items()},
        "optimizer": optimizer.state_dict(),
        "scaler": {"scale": 65536.0, "_growth_tracker": 3},
    }
    scalars = {"epoch": 7, "name": "2026_11_22-model_ViT"}
    yield "open_clip.pt", training, {}, state, scalars
    compiled = {f"module._orig_mod.{key}": value for key, value in state.items()}
    yield "compiled.pt", {"model": compiled, "iteration": 3}, {}, state, {"iteration": 3}
    lightning = {
        "epoch": 1,
        "global_step": 10,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": state,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 2}}}},
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5), "path": "a"}},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [],
        "hyper_parameters": {"lr": 1e-3, "betas": (0.9, 0.99)},
        "rng": torch.arange(3, dtype=torch.uint8),  # a tensor beside the state dict is no weight
    }
    scalars = {"epoch": 1, "global_step": 10, "pytorch-lightning_version": "2.5.0"}
    yield "lightning.pt", lightning, {}, state, scalars


class Inner(nn.Module):
    """Attributes of every kind that a TorchScript object has."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("mean", torch.arange(2.0))
        self.register_buffer("temporary", torch.ones(2), persistent=False)
        self.count, self.word, self.pair, self.device = 7, "abc", (1, 2.5), torch.device("cpu")
        self.sizes, self.rates, self.flags, self.words = [1, 2], [0.5, 1.0], [True, False], ["a"]
        self.table = {"a": 1, "b": 2}
        self.list = [torch.ones(2), torch.zeros(2)]

    def forward(self, x):
        """Uses what it has, or some of it would not be saved."""
        plain = self.count + self.sizes[0] + self.rates[0] + self.pair[1] + self.table["a"]
        known = self.flags[0] and self.words[0] != self.word and self.device != x.device
        y = self.linear(x) * self.mean + self.temporary + self.list[0]
        return y if known else y + plain


class Outer(nn.Module):
    """Modules in modules, one parameter in two of them, and no axis, and no tensor."""

    def __init__(self):
        super().__init__()
        self.first, self.second = Inner(), Inner()
        self.second.linear.weight = self.first.linear.weight
        self.layers = nn.ModuleList([nn.Linear(2, 2), nn.BatchNorm1d(2)])
        self.logit_scale = nn.Parameter(torch.tensor(2.6593))
        self.register_buffer("nothing", None)
        self.input_resolution, self.note = 224, "made by hand"

    def forward(self, x):
        """As above."""
        y = self.first(x) + self.second(x)
        for layer in self.layers:
            y = layer(y)
        return y * self.logit_scale.exp() + self.input_resolution + len(self.note)


def programs():
    """(file, TorchScript module, files that torch.jit.save adds, the scalars beside the tensors).

    Only of today's torch: it writes format version 3 or newer, and can write no older one.
    """
    torch.manual_seed(0)
    scalars = {"input_resolution": 224, "note": "made by hand"}
    yield "script.pt", torch.jit.script(Outer().half().eval()), {}, scalars
    x = torch.ones(2, 3, dtype=torch.bfloat16)
    traced = torch.jit.trace(Inner().bfloat16().eval(), x)  # numbers become constants/0 ...
    yield "traced.pt", traced, {"note.txt": b"hello"}, {}


def described(tensor: torch.Tensor) -> dict:
    dense = tensor.detach().contiguous()
    data = dense.reshape(-1).view(torch.uint8) if dense.numel() else dense
    return {
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "hex": bytes(data.tolist()).hex(),
    }


def refused(model: nn.Module) -> dict[str, str]:
    """Writes files of torch that hold more than tensors; what the refusal must say, by file."""
    state = model.state_dict()
    torch.save(state, FOLDER / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": state, "args": argparse.Namespace(lr=1)}, FOLDER / "namespace.pt")
    conjugate = torch.ones(2, dtype=torch.complex64).conj()
    torch.save({"conjugate": conjugate}, FOLDER / "conjugate.pt")
    return {
        "legacy.pt": "format from before 1.6",
        "namespace.pt": "refuses to import argparse.Namespace",
        "conjugate.pt": "conjugate",
    }


def main() -> None:
    files = {}
    for name, content, options, tensors, scalars in contents():
        torch.save(content, FOLDER / name, **options)
        files[name] = {
            "tensors": {key: described(value) for key, value in tensors.items()},
            "extra": scalars,
        }
    for name, program, more, scalars in programs():
        torch.jit.save(program, FOLDER / name, _extra_files=more)
        tensors = {key: described(value) for key, value in program.state_dict().items()}
        files[name] = {"tensors": tensors, "extra": scalars}
    torch.serialization.set_crc32_options(False)
    state = modules().state_dict()
    torch.save(state, FOLDER / "no_checksums.pt")
    torch.serialization.set_crc32_options(True)
    tensors = {key: described(value) for key, value in state.items()}
    files["no_checksums.pt"] = {"tensors": tensors, "extra": {}}
    expected = {"torch": torch.__version__, "files": files, "refused": refused(modules())}
    (FOLDER / "expected.json").write_text(json.dumps(expected, indent=0) + "\n")


if __name__ == "__main__":
    main()

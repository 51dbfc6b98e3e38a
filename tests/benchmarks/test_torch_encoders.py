"""The PyTorch encoders that benchmarks compare with compute what ours compute."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import imagebind_jax as ib
from imagebind_jax.models.encoder import EncoderConfig

torch = pytest.importorskip("torch", reason="torch is not installed; only benchmarks need it")

SMALL = {"width": 24, "depth": 2, "heads": 3}
CONFIGS = {
    "vision": EncoderConfig((2, 28, 28, 3), patch=(2, 14, 14), pre_norm=True, **SMALL),
    "text": EncoderConfig((9,), vocab_size=50, activation="quick_gelu", norm_eps=1e-5, **SMALL),
    "audio": EncoderConfig((20, 30, 1), patch=(8, 8), stride=(5, 5), bias_kv=True, **SMALL),
    "depth": EncoderConfig((16, 16, 1), patch=(8, 8), bias_kv=True, stem_norm=True, **SMALL),
    "thermal": EncoderConfig((16, 16, 1), patch=(8, 8), activation="gelu_tanh", **SMALL),
    "imu": EncoderConfig((40, 6), patch=(8,), bias_kv=True, stem_norm=True, **SMALL),
}


@pytest.fixture(scope="module")
def torch_encoders():
    path = pathlib.Path(__file__).parents[2] / "benchmarks" / "torch_encoders.py"
    spec = importlib.util.spec_from_file_location("torch_encoders", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("modality", CONFIGS)
def test_ours_ported_to_torch_gives_the_same_embeddings(torch_encoders, modality):
    config = ib.ImageBindConfig({modality: CONFIGS[modality]}, embed_dim=16)
    params = jax.tree.map(
        lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape),
        ib.init(config, jax.random.key(0)),
    )
    rng = np.random.default_rng(0)
    shape = (3, *CONFIGS[modality].shape)
    x = rng.normal(size=shape).astype(np.float32)
    if modality == "text":
        x = rng.integers(0, 50, shape).astype(np.int32)
    ours = ib.ImageBind(config).apply({"params": params}, {modality: jnp.asarray(x)})[0][modality]
    module = torch_encoders.encoder(CONFIGS[modality], 16).eval()
    torch_encoders.fill(module, params[modality])
    with torch.no_grad():
        theirs = module(torch.tensor(x)).numpy()
    np.testing.assert_allclose(theirs, ours, atol=1e-5)
    assert np.abs(theirs[0] - theirs[1]).max() > 1e-2  # and not because nothing depends on x


def test_it_has_the_same_number_of_parameters(torch_encoders):
    for modality, config in ib.TINY.encoders.items():
        module = torch_encoders.encoder(config, 64)
        ours = ib.model.count_parameters(ib.TINY)[modality] - config.learn_scale
        assert sum(p.numel() for p in module.parameters()) == ours


def test_in_training_whole_branches_of_a_sample_are_dropped(torch_encoders):
    config = EncoderConfig((40, 6), patch=(8,), drop_path=0.5, **SMALL)
    torch.manual_seed(0)
    block = torch_encoders.encoder(config, 16).blocks[-1].train()
    dropped = block.dropped(torch.ones(4000, 2, 3)).reshape(4000, -1)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert (dropped == dropped[:, :1]).all()
    assert abs(dropped[:, 0].mean().item() - 1) < 0.1

"""LoRA adapters: what they compute, that they alone are trained and saved, whose files are read."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import traverse_util
from own_files import parameters

from imagebind_jax import optimizer
from imagebind_jax.config import TrainConfig
from imagebind_jax.distributed import sharding
from imagebind_jax.errors import UserError
from imagebind_jax.inputs.pipeline.batches import ModalityPair
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.models.imagebind import HUGE, ImageBind, ImageBindConfig, init
from imagebind_jax.models.layers import Block, LoraConfig
from imagebind_jax.optimizer import FREEZE_ALL_BUT_LORA, OptimizerConfig
from imagebind_jax.porting import lora
from imagebind_jax.porting.files.parameter_source import is_stacked, param_shapes
from imagebind_jax.porting.files.tensor_writers import write_torch
from imagebind_jax.porting.formats import imagebind, rules
from imagebind_jax.porting.torch_pickle.torch_file import TensorSpec
from imagebind_jax.training import skip_step
from imagebind_jax.training import step as training_step

pytestmark = pytest.mark.jax
WIDTH, DEPTH, RANK = 16, 3, 2
SMALL = {"width": WIDTH, "depth": DEPTH, "heads": 2}
ENCODERS = {
    "vision": EncoderConfig((2, 8, 8, 3), patch=(2, 4, 4), pre_norm=True, **SMALL),
    "text": EncoderConfig((6,), vocab_size=64, logit_scale=9.0, learn_scale=True, **SMALL),
    "imu": EncoderConfig((16, 6), patch=(8,), bias_kv=True, logit_scale=5.0, **SMALL),
}
BASE = ImageBind(ImageBindConfig(ENCODERS, embed_dim=8))
PRODUCTS = ("qkv", "out", "fc1", "fc2")


@functools.cache
def base(seed=0):
    return parameters(BASE.config, seed)


@functools.cache
def adapted(targets=PRODUCTS, scale=1.5, modalities=("text", "imu")):
    """(model, params) with adapters, their B no longer zero."""
    change = {"lora": targets, "lora_rank": RANK, "lora_scale": scale}
    some = {m: dataclasses.replace(ENCODERS[m], **change) for m in modalities}
    model = with_encoders(ENCODERS | some)
    return model, optimizer.merge_params(parameters(model.config, 1), base())


def with_encoders(encoders):
    return ImageBind(dataclasses.replace(BASE.config, encoders=encoders))


def inputs(*modalities, batch=4):
    rng = np.random.default_rng(0)
    x = {m: rng.standard_normal((batch, *c.shape)).astype(np.float32) for m, c in ENCODERS.items()}
    x["text"] = rng.integers(1, 60, (batch, 6)).astype(np.int32)
    x["text"][:, 3:] = [63, 0, 0]
    return {m: x[m] for m in modalities or x}


@functools.partial(jax.jit, static_argnums=0)
def embed(model, params, x):
    return model.apply({"params": params}, x)[0]


def flat(params):
    return {path: np.asarray(x) for path, x in traverse_util.flatten_dict(params, sep="/").items()}


def without_adapters(params):
    return optimizer.split_frozen(params, OptimizerConfig(frozen=(FREEZE_ALL_BUT_LORA,)))[1]


def assert_same_bits(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert jax.tree.structure(a) == jax.tree.structure(b)


def assert_close(a, b, atol=1e-5):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=atol), a, b)


# ---- what they compute


def test_fresh_adapters_change_no_bit_and_are_the_only_new_parameters():
    model, params = lora.add_adapters(
        BASE, base(), ["text", "imu"], PRODUCTS, RANK, 1.5, key=jax.random.key(0)
    )
    assert model == adapted()[0]
    assert_same_bits(without_adapters(params), base())
    x = inputs("text", "imu")
    assert_same_bits(embed(model, params, x), embed(BASE, base(), x))
    fresh = flat(lora.adapter_params(params))
    imu = {path.removeprefix("imu/trunk/blocks/"): x.shape for path, x in fresh.items()}
    assert {path: shape for path, shape in imu.items() if "text" not in path} == {
        "attn/qkv_lora/a": (3, 16, 2), "attn/qkv_lora/b": (3, 2, 3, 2, 8),
        "attn/out_lora/a": (3, 2, 8, 2), "attn/out_lora/b": (3, 2, 16),
        "mlp/fc1_lora/a": (3, 16, 2), "mlp/fc1_lora/b": (3, 2, 64),
        "mlp/fc2_lora/a": (3, 64, 2), "mlp/fc2_lora/b": (3, 2, 16),
    }  # fmt: skip
    for path, x in fresh.items():
        bound = 0 if path.endswith("b") else 1 / math.sqrt(x[0, ..., 0].size)  # torch's nn.Linear
        assert 0.8 * bound <= np.abs(x).max() <= bound, path


def test_a_model_made_with_adapters_has_the_base_of_one_made_without():
    text = dataclasses.replace(BASE.config, encoders={"text": ENCODERS["text"]})
    config = lora.add_adapters(ImageBind(text), {}, targets=PRODUCTS, key=jax.random.key(0))[
        0
    ].config
    made, plain = (jax.jit(functools.partial(init, c))(jax.random.key(3)) for c in (config, text))
    assert_same_bits(without_adapters(made), plain)
    assert len(jax.tree.leaves(lora.adapter_params(made))) == 8


def test_huge_gains_the_parameters_one_counts_by_hand():
    vision = dataclasses.replace(HUGE.encoders["vision"], lora=("qkv", "out", "fc1", "fc2"))
    config = dataclasses.replace(HUGE, encoders={"vision": vision})
    found = {path: leaf for path, leaf in param_shapes(config).items() if "_lora/" in path}
    ends = (1280 + 3840) + (1280 + 1280) + 2 * (1280 + 5120)  # in + out of the four products
    assert sum(math.prod(leaf.shape) for leaf in found.values()) == 32 * 4 * ends
    specs = sharding.ShardedStrategy().state_shardings(found)  # every one finds its place
    assert "fsdp" in specs["vision/trunk/blocks/mlp/fc1_lora/b"].spec  # 4 x 5120 a layer


def attention_in_numpy(x, weights):
    """Multi-head attention with one learned key and value row, in float64."""
    query, key, value = np.moveaxis(
        np.einsum("bld,dnhk->blnhk", x, weights["qkv/kernel"]) + weights["qkv/bias"], 2, 0
    )
    ones = np.ones((len(x), 1, 1, 1))
    key = np.concatenate([key, ones * weights["bias_k"]], axis=1)
    value = np.concatenate([value, ones * weights["bias_v"]], axis=1)
    logits = np.einsum("blhk,bmhk->bhlm", query, key) / math.sqrt(query.shape[-1])
    weight = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weight /= weight.sum(axis=-1, keepdims=True)
    mixed = np.einsum("bhlm,bmhk->blhk", weight, value)
    return np.einsum("blhk,hkd->bld", mixed, weights["out/kernel"]) + weights["out/bias"]


def test_the_parallel_adapter_adds_to_the_whole_attention():
    """Checked once against torch.nn.MultiheadAttention(add_bias_kv=True) and the project's code."""
    model, params = adapted(("attn",))
    params = jax.tree.map(lambda leaf: leaf[1], params["imu"]["trunk"]["blocks"])
    params["mlp"] = jax.tree.map(jnp.zeros_like, params["mlp"])  # x + attention is left
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, WIDTH)), jnp.float32)
    block = Block(2, bias_kv=True, adapters=LoraConfig(("attn",), RANK, 0.5))
    y = jax.jit(block.apply)({"params": params}, x, jnp.float32(0))[0] - x
    w, x = flat(params), np.asarray(x)
    mean, deviation = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
    normed = (x - mean) / np.sqrt(deviation + 1e-6) * w["norm_1/scale"] + w["norm_1/bias"]
    heads = {path.removeprefix("attn/"): leaf for path, leaf in w.items()}
    wanted = attention_in_numpy(normed, heads)
    low_rank = normed @ w["attn_lora/a"] @ w["attn_lora/b"]
    assert np.abs(low_rank).max() > 0.1
    np.testing.assert_allclose(y, wanted + 0.5 * low_rank, atol=2e-5)


def test_merging_gives_the_same_outputs_and_kernels_right_to_the_rounding():
    model, params = adapted()
    merged, weights = lora.merge_adapters(model, params)
    assert merged == BASE
    assert jax.tree.structure(weights) == jax.tree.structure(base())
    x = inputs("text", "imu")
    outputs = embed(model, params, x)
    assert_close(outputs, embed(merged, weights, x))
    for m, z in embed(merged, base(), x).items():
        assert np.abs(z - outputs[m]).max() > 0.02, m
    all_, found = flat(params), flat(weights)
    for target in ("attn/qkv", "attn/out", "mlp/fc1", "mlp/fc2"):
        path = f"imu/trunk/blocks/{target}"
        kernel, a, b = (
            all_[path + name].astype(np.float64) for name in ("/kernel", "_lora/a", "_lora/b")
        )
        wanted = kernel + 1.5 * np.stack([np.tensordot(x, y, 1) for x, y in zip(a, b)])
        np.testing.assert_allclose(found[f"{path}/kernel"], wanted, rtol=0, atol=3e-7)
    untouched = [path for path in found if not path.endswith("kernel") or "blocks" not in path]
    assert all((found[path] == all_[path]).all() for path in untouched)


def test_nothing_to_merge_is_no_mistake_and_a_parallel_path_is():
    merged, weights = lora.merge_adapters(BASE, base())
    assert merged == BASE
    assert_same_bits(weights, base())
    with pytest.raises(UserError, match="cannot be merged, as the softmax stands between"):
        lora.merge_adapters(*adapted(("qkv", "attn")))


def test_an_adapter_computes_in_the_models_dtype_and_stays_float32():
    model, params = adapted()
    half = ImageBind(dataclasses.replace(model.config, dtype="bfloat16"))
    assert {x.dtype for x in jax.tree.leaves(lora.adapter_params(params))} == {jnp.dtype("float32")}
    whole = embed(model, params, inputs("text", "imu"))["imu"]
    cosines = np.sum(embed(half, params, inputs("imu"))["imu"] * whole, axis=-1)
    assert cosines.min() > 0.99


# ---- training


def loss_of(model, params, x):
    return sum((z[:, 0] * z[:, 1]).sum() for z in model.apply({"params": params}, x)[0].values())


@functools.partial(jax.jit, static_argnums=0)
def gradient(model, params, x):
    return jax.grad(loss_of, argnums=1)(model, params, x)


@functools.cache
def gradient_of_the_merged():
    model, params = lora.merge_adapters(*adapted())
    return flat(gradient(model, {"imu": params["imu"]}, inputs("imu", batch=8)))


@pytest.mark.parametrize("placed", ["one device", "eight devices"])
def test_the_gradient_is_the_chain_rules_of_the_merged_kernel(placed, monkeypatch):
    """dA = scale * dW B^T and dB = scale * A^T dW."""
    (model, params), x = adapted(), inputs("imu", batch=8)
    params, wanted = {"imu": params["imu"]}, gradient_of_the_merged()
    if placed == "eight devices":
        monkeypatch.setattr(sharding, "MIN_SHARD_ELEMENTS", 1)
        place = sharding.ShardedStrategy()
        params, x = place.place(jax.tree.map(np.asarray, params)), place.batch(x)
    grads = gradient(model, params, x)
    if placed == "eight devices":
        split = params["imu"]["trunk"]["blocks"]["attn"]["qkv_lora"]["a"]
        assert {s.data.shape for s in split.addressable_shards} == {(3, 2, 2)}
    found, values = flat(grads), flat(params)
    scale = model.config.encoders["imu"].lora_scale
    for path in [path for path in found if path.endswith("_lora/a")]:
        kernel, b_path = path.replace("_lora/a", "/kernel"), path[:-1] + "b"
        for layer in range(DEPTH):
            g, a, b = (source[p][layer] for source, p in (
                (wanted, kernel), (values, path), (values, b_path)
            ))  # fmt: skip
            flat_g = g.reshape(a[..., 0].size, -1)
            da = scale * flat_g @ b.reshape(RANK, -1).T
            db = scale * a.reshape(-1, RANK).T @ flat_g
            assert np.abs(da).max() > 1e-4
            np.testing.assert_allclose(found[path][layer], da.reshape(a.shape), atol=2e-6)
            np.testing.assert_allclose(found[b_path][layer], db.reshape(b.shape), atol=2e-6)


class Nothing:
    """A source of a config whose batches are made here."""

    def open(self):
        return []


def trained(devices):
    """(params before, params after, bytes of optimizer state) of two steps; imu alone is adapted."""
    model, params = adapted(("qkv", "out", "attn"), modalities=("imu",))
    params = jax.tree.map(np.array, params)  # a step takes its buffers
    config = TrainConfig(
        model=model.config,
        inputs={"imu": np.asarray, "text": np.asarray},
        pairs=(ModalityPair(("imu", "text"), Nothing()),),
        steps=10,
        batch_size=8,
        optimizer=OptimizerConfig(
            learning_rate=0.1, warmup_steps=1, epsilon=1e-3, frozen=(FREEZE_ALL_BUT_LORA,)
        ),
    )
    place = sharding.ShardedStrategy(devices=jax.devices()[:devices])
    state = training_step.TrainState(
        jnp.int32(0),
        params,
        optimizer.init(config.optimizer, params),
        skip_step.init_step_guard(config),
    )
    sizes = {m: sum(x.nbytes for x in jax.tree.leaves(s)) for m, s in state.opt_state.items()}
    state = place.place(state)
    step = place.compile(functools.partial(training_step.train_step, config=config), state)
    batch = inputs("imu", "text", batch=8) | {"weight": np.ones(8, np.float32)}
    for _ in range(2):
        state, _ = step(state, place.batch(batch))
    return params, jax.tree.map(np.asarray, state.params), sizes


def test_training_moves_adapters_and_no_bit_of_the_rest_alike_on_one_device_and_on_eight():
    ends = []
    for devices in (1, 8):
        before, after, sizes = trained(devices)
        assert_same_bits(without_adapters(after), without_adapters(before))
        moved, start = flat(lora.adapter_params(after)), flat(lora.adapter_params(before))
        assert all(np.abs(moved[path] - start[path]).max() > 1e-3 for path in start)
        # Adam's two moments of the adapters, a count, and nothing else.
        assert sizes == {"imu": 2 * sum(x.nbytes for x in start.values()) + 4}
        ends.append(moved)
    for path, one in ends[0].items():
        moved = np.abs(one - start[path]).max()
        assert np.abs(one - ends[1][path]).max() < 1e-3 * moved, path


def test_weight_decay_pulls_adapters_towards_nothing():
    _, params = adapted(modalities=("imu",))
    decayed = flat(optimizer.weight_decay_mask(params))
    assert all(decayed[path] for path in decayed if "_lora/" in path)
    config = OptimizerConfig(weight_decay=0.2, frozen=(FREEZE_ALL_BUT_LORA,))
    weights = lora.adapter_params(params)

    @jax.jit
    def step(weights):
        grads, state = jax.tree.map(jnp.zeros_like, weights), optimizer.init(config, params)
        return optimizer.update(config, grads, state, weights, jnp.float32(0.5))[0]

    assert_close(step(weights), jax.tree.map(lambda x: 0.9 * x, weights), atol=1e-6)


def test_a_layer_of_zeros_is_not_trained():
    model, params = adapted()
    zeroed = jax.tree.map(lambda x: x.at[1].set(0), lora.adapter_params(params)["imu"])
    params = {"imu": optimizer.merge_params(params["imu"], zeroed)}
    grads = gradient(model, params, inputs("imu", batch=8))
    for x in jax.tree.leaves(lora.adapter_params(grads)):
        assert not np.any(x[1])
        assert np.any(x[0]) and np.any(x[2])


# ---- our file


def test_a_file_holds_the_adapters_alone_and_gives_them_back_bit_for_bit(tmp_path):
    model, params = adapted()
    lora.save_adapters(tmp_path / "some.safetensors", model, params)
    held = safetensors.numpy.load_file(tmp_path / "some.safetensors")
    assert held.keys() == flat(lora.adapter_params(params)).keys()
    loaded, found = lora.load_adapters(tmp_path / "some.safetensors", BASE, base())
    assert loaded == model
    assert_same_bits(found, params)
    assert not list(tmp_path.glob("*.partial"))


def test_other_trained_parameters_go_along_when_asked(tmp_path):
    model, params = adapted(modalities=("imu",))
    params = optimizer.merge_params(params, {"text": base(9)["text"]})
    lora.save_adapters(tmp_path / "some.safetensors", model, params, also=("text/(head|log)",))
    loaded, found = lora.load_adapters(tmp_path / "some.safetensors", BASE, base())
    assert loaded == model
    new = {path for path, x in flat(found).items() if not np.array_equal(x, flat(base()).get(path))}
    extra = {"text/head/kernel", "text/log_logit_scale"}
    assert new == set(flat(lora.adapter_params(params))) | extra
    assert all((flat(found)[path] == flat(params)[path]).all() for path in new)


def test_loading_takes_the_place_of_adapters_that_were_there(tmp_path):
    model, params = adapted()
    lora.save_adapters(tmp_path / "some.safetensors", model, params)
    loaded, found = lora.load_adapters(tmp_path / "some.safetensors", *adapted(("attn",)))
    assert loaded == model
    assert_same_bits(found, params)


@pytest.mark.parametrize("mutants", [30, pytest.param(300, marks=pytest.mark.fuzz)])
def test_no_change_of_a_byte_goes_unnoticed(mutants, tmp_path, rotating_seed):
    model, params = adapted(("qkv", "attn"), modalities=("imu",))
    path = tmp_path / "some.safetensors"
    lora.save_adapters(path, model, params)
    whole, rng, harmless = path.read_bytes(), np.random.default_rng(rotating_seed), 0
    data = 8 + int.from_bytes(whole[:8], "little")
    places = [i for i in range(data) if whole[i] != 32]  # spaces keep room in the header
    for i in range(mutants):
        mutant = bytearray(whole)
        at = rng.choice(places) if i % 2 else rng.integers(data, len(whole))
        mutant[at] ^= 1 << rng.integers(8)
        path.write_bytes(mutant[: rng.integers(len(whole))] if i % 10 == 0 else mutant)
        try:
            loaded, found = lora.load_adapters(path, BASE, base())
        except UserError as error:
            assert "\n" not in str(error)
            continue
        harmless += 1  # e.g. another white space between the note's words
        assert loaded == model
        assert_same_bits(found, params)
    assert harmless < 10


def test_a_changed_scale_is_noticed(tmp_path):
    path = tmp_path / "some.safetensors"
    lora.save_adapters(path, *adapted())
    whole = path.read_bytes()
    changed = whole.replace(b'\\"lora_scale\\": 1.5', b'\\"lora_scale\\": 2.5')
    assert changed != whole
    path.write_bytes(changed)
    with pytest.raises(UserError, match="changed"):
        lora.load_adapters(path, BASE, base())


def test_a_parameter_that_somebody_adds_to_a_file_is_refused(tmp_path):
    path = tmp_path / "some.safetensors"
    lora.save_adapters(path, *adapted())
    with safetensors.safe_open(path, framework="np") as file:
        told = file.metadata()
    held = safetensors.numpy.load_file(path)
    safetensors.numpy.save_file(held, path, told)
    lora.load_adapters(path, BASE, base())  # written again, but the same
    added = {"text/log_logit_scale": np.array(1.5, np.float32)}
    safetensors.numpy.save_file(held | added, path, told)
    with pytest.raises(UserError, match="text/log_logit_scale is damaged: it is not what was"):
        lora.load_adapters(path, BASE, base())


# ---- the PyTorch project's files


def write_theirs(path, layers, rank=RANK, width=WIDTH, seed=0, **changes):
    rng = np.random.default_rng(seed)
    tensors = {f"w_a_{i:03d}": rng.standard_normal((rank, width)) for i in range(layers)}
    tensors |= {f"w_b_{i:03d}": rng.standard_normal((width, rank)) for i in range(layers)}
    tensors = {name: x.astype(np.float32) for name, x in (tensors | changes).items()}
    safetensors.numpy.save_file(tensors, path)
    return tensors


def write_pth(path, tensors):
    specs = {name: TensorSpec(x.shape, x.dtype) for name, x in tensors.items()}
    write_torch(path, specs, tensors.items())


def reference(config, params):
    """{name in the reference: tensor} of a model without adapters."""
    tables = {m: imagebind.rules(m) for m in config.encoders}
    return {
        key: np.array(leaf.theirs(x), order="C")
        for leaf in rules.map_params(config, tables)
        for (key,), x in zip(
            leaf.keys,
            flat(params)[leaf.path] if is_stacked(leaf.path) else [flat(params)[leaf.path]],
        )
    }


def test_a_file_of_theirs_adapts_the_layers_named(tmp_path):
    tensors = write_theirs(tmp_path / "imagebind-lora-vision_last.safetensors", 2)
    path = tmp_path / "imagebind-lora-vision_last.safetensors"
    model, params = lora.load_adapters(
        path, BASE, base(), layers=[2, 0]
    )  # always in ascending order
    encoder = model.config.encoders["vision"]
    assert (encoder.lora, encoder.lora_rank, encoder.lora_scale) == (("attn",), RANK, 1.0)
    found = params["vision"]["trunk"]["blocks"]["attn_lora"]
    zero = np.zeros((WIDTH, RANK), np.float32)
    wanted = {"a": [tensors["w_a_000"].T, zero, tensors["w_a_001"].T]}
    wanted["b"] = [tensors["w_b_000"].T, zero.T, tensors["w_b_001"].T]
    assert_same_bits(found, jax.tree.map(np.stack, wanted, is_leaf=lambda x: isinstance(x, list)))
    assert set(lora.adapter_params(params)) == {"vision"}


def test_their_text_encoder_sees_what_follows():
    model, params = adapted(("attn",))
    text = dataclasses.replace(model.config.encoders["text"], causal=False)
    changed = inputs("text")
    changed["text"][:, 5] = 7  # behind the end of the text
    for encoder, sees in ((model.config.encoders["text"], False), (text, True)):
        model = with_encoders({"text": encoder})
        a, b = (embed(model, params, x)["text"] for x in (inputs("text"), changed))
        assert (float(np.abs(a - b).max()) > 1e-4) == sees


def test_a_folder_of_theirs_brings_heads_and_scales(tmp_path):
    names = reference(BASE.config, base(7))
    heads = {n.removeprefix("modality_heads."): x for n, x in names.items() if "heads" in n}
    write_theirs(tmp_path / "imagebind-lora-vision_last.safetensors", DEPTH)
    write_theirs(tmp_path / "imagebind-lora-text_last.safetensors", DEPTH, seed=1)
    write_theirs(tmp_path / "imagebind-lora-depth_last.safetensors", 12)  # not of this model
    write_pth(tmp_path / "imagebind-heads_last.pth", heads | {"depth.0.weight": np.ones(4)})
    scales = {"text": 3.0, "imu": math.log(8), "depth": 1.0}
    scales = {f"{m}.1.log_logit_scale": np.array(x, np.float32) for m, x in scales.items()}
    write_pth(tmp_path / "imagebind-postprocessors_last.pth", scales)
    model, params = lora.load_adapters(tmp_path, BASE, base())
    encoders = model.config.encoders
    assert [encoders[m].lora for m in encoders] == [("attn",), ("attn",), ()]
    assert not encoders["text"].causal and encoders["vision"].causal
    assert encoders["imu"].logit_scale == pytest.approx(8)
    assert params["text"]["log_logit_scale"] == 3
    for m in encoders:
        np.testing.assert_array_equal(params[m]["head"]["kernel"], base(7)[m]["head"]["kernel"])
        np.testing.assert_array_equal(params[m]["norm"]["bias"], base(7)[m]["norm"]["bias"])
        np.testing.assert_array_equal(params[m]["position"], base()[m]["position"])
    again = tmp_path / "again"
    lora.export_adapters(again, model, params)
    loaded, found = lora.load_adapters(again, BASE, base())
    assert loaded == model
    assert_same_bits(found, params)


def test_a_checkpoint_of_their_whole_model_replaces_every_weight(tmp_path):
    new = base(11)
    names, tensors = reference(BASE.config, new), {}
    matrices = {}
    for name, x in names.items():
        attention = name.startswith("modality_trunks.imu.blocks.1.attn.")
        name = name.replace("trunks.imu.", "trunks.imu.lora_model.")
        if attention:
            tensors["model." + name.replace(".attn.", ".prev_attn.")] = x
            name = name.replace(".attn.", ".attn.w.")
        tensors["model." + name] = x
    for x, shape in (("a", (RANK, WIDTH)), ("b", (WIDTH, RANK))):
        matrices[x] = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        name = f"model.modality_trunks.imu.lora_model.blocks.1.attn.w_{x}.weight"
        tensors[name] = matrices[x]
    write_pth(tmp_path / "last.ckpt", tensors)
    model, params = lora.load_adapters(tmp_path / "last.ckpt", BASE, base())
    assert [c.lora for c in model.config.encoders.values()] == [(), (), ("attn",)]
    assert_same_bits(without_adapters(params), new)
    for x, leaf in lora.adapter_params(params)["imu"]["trunk"]["blocks"]["attn_lora"].items():
        np.testing.assert_array_equal(leaf[1], matrices[x].T)
        assert not np.any(leaf[np.array([0, 2])])


def test_export_writes_their_names_axes_and_scale(tmp_path):
    model, params = adapted(("attn",), 2.0)
    with pytest.warns(UserWarning, match="text: ImageBind-LoRA drops the causal mask"):
        lora.export_adapters(tmp_path, model, params, "_best")
    held = safetensors.numpy.load_file(tmp_path / "imagebind-lora-imu_best.safetensors")
    ours = params["imu"]["trunk"]["blocks"]["attn_lora"]
    assert sorted(held) == [f"w_{x}_{i:03d}" for x in "ab" for i in range(DEPTH)]
    np.testing.assert_array_equal(held["w_a_001"], ours["a"][1].T)
    np.testing.assert_array_equal(held["w_b_002"], 2 * ours["b"][2].T)
    with pytest.raises(UserError, match="adapts the whole attention only, not qkv, out, fc1, fc2"):
        lora.export_adapters(tmp_path, *adapted())


@pytest.mark.filterwarnings("ignore:no imagebind-postprocessors")
def test_a_folder_with_several_runs_must_be_told_which(tmp_path):
    for postfix in ("_last", "_best"):
        write_theirs(tmp_path / f"imagebind-lora-imu{postfix}.safetensors", DEPTH, len(postfix))
    with pytest.raises(UserError, match="_best, _last: pass postfix="):
        lora.load_adapters(tmp_path, BASE, base())
    with pytest.warns(UserWarning, match="no imagebind-heads_best.pth"):
        model, _ = lora.load_adapters(tmp_path, BASE, base(), postfix="_best")
    assert model.config.encoders["imu"].lora_rank == 5


# ---- mistakes


def of_theirs(name="imagebind-lora-imu_last.safetensors", count=DEPTH, how=None, **changes):
    def make(folder):
        write_theirs(folder / name, count, **changes)
        lora.load_adapters(folder / name, BASE, base(), **(how or {}))

    return make


def saved(config=None, **how):
    def make(folder):
        lora.save_adapters(folder / "x.safetensors", *adapted())
        lora.load_adapters(
            folder / "x.safetensors", with_encoders(config or ENCODERS), base(), **how
        )

    return make


NARROW = {m: dataclasses.replace(c, width=8) for m, c in ENCODERS.items()}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (of_theirs(count=2), "adapters of 2 layers, the encoder has 3: pass layers="),
        (of_theirs(count=4), "adapters of 4 layers, the encoder has 3"),
        (of_theirs(count=2, how={"layers": [0, 3]}), "layers [0, 3]: each at most once of 0 to 2"),
        (of_theirs(count=2, how={"layers": [0]}), "of 2 layers, layers= names 1"),
        (of_theirs("x.safetensors"), "pass modality="),
        (of_theirs("x.safetensors", how={"modality": "smell"}), "no 'smell' encoder here"),
        (of_theirs(width=8), "imu w_a has shape (2, 8), not (2, 16)"),
        (of_theirs(w_b_000=np.zeros((16, 3))), "imu w_a has shape (2, 16), not (3, 16)"),
        (of_theirs(w_b_000=np.zeros(())), "imu w_a has shape (2, 16), not (0, 16)"),
        (of_theirs(w_c_000=np.zeros(2)), "no adapter: it holds"),
        (saved(layers=[1]), "leave out layers="),
        (saved({"imu": ENCODERS["imu"]}), "has no text: only imu"),
        (saved(NARROW), "/a has shape (3, 2, 8, 2), the model (3, 2, 4, 2)"),
        (lambda f: lora.load_adapters(f, BASE, base()), "no imagebind-lora-*"),
        (lambda f: lora.load_adapters(f / "x", BASE, base()), "No such file"),
        (lambda f: lora.save_adapters(f / "x", BASE, base()), "no adapters to save"),
        (lambda f: lora.save_adapters(f / "x", *adapted(), also=("smell/",)), "'smell/' matches no"),
        (lambda f: lora.export_adapters(f, BASE, base()), "no adapters to export"),
        (lambda f: lora.add_adapters(*adapted(), key=jax.random.key(0)), "text has adapters already"),
        (lambda f: lora.add_adapters(BASE, {}, ["smell"], key=jax.random.key(0)), "has no smell"),
        (lambda f: lora.add_adapters(BASE, {}, targets=("q",), key=jax.random.key(0)), "lora ('q',)"),
        (lambda f: lora.add_adapters(BASE, {}, targets=(), key=jax.random.key(0)), "targets"),
        (lambda f: lora.add_adapters(BASE, {}, rank=0, key=jax.random.key(0)), "lora_rank must be"),
        (lambda f: lora.add_adapters(BASE, {}, scale=-1.0, key=jax.random.key(0)), "lora_scale must be"),
    ],
)  # fmt: skip
def test_mistakes_are_named(make, words, tmp_path):
    with pytest.raises(UserError) as raised:
        make(tmp_path)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)

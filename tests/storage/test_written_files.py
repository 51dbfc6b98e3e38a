"""Of any file that we write, damaged anyhow, nothing is silently wrong: it is whole, or told, or made again."""

import collections
import random

import goals
import msgspec
import numpy as np
import pytest
import run_files
import test_results
from flax import traverse_util
from run_files import TOLD, WHOLE

from imagebind_jax.errors import UserError
from imagebind_jax.evaluation import results
from imagebind_jax.inputs.decoders.media import MediaError
from imagebind_jax.inputs.pipeline import precomputed
from imagebind_jax.inputs.sources import ArrayRecords, prepared, write_records
from imagebind_jax.inputs.sources.array_records import Shard, write_shard
from imagebind_jax.inputs.sources.tar_index import build_index, load_index
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.models.imagebind import ImageBind, ImageBindConfig
from imagebind_jax.porting import lora
from imagebind_jax.porting.files.parameter_source import param_shapes
from imagebind_jax.storage import row_file

RNG = np.random.default_rng(0)


# ---- each kind: how it is written into a folder, and what then becomes of it


class Vectors:
    """Embeddings that an evaluation keeps."""

    rows, unusable = RNG.standard_normal((40, 8), np.float32), {7: "7.wav: broken", 31: "too short"}

    def open(self, folder):
        said = []
        of = {"encoder": {"depth": 2}, "parameters": "f0" * 8, "texts": "a1" * 8}
        store = row_file.ResumableRowFile(
            folder / "esc.audio", self.rows.shape, lambda: of, tell=said.append
        )
        return store, said

    def write(self, folder):
        store, _ = self.open(folder)
        store.rows[:], store.unusable = self.rows, dict(self.unusable)
        store.advance(len(self.rows))

    def read(self, folder):
        store, said = self.open(folder)
        if not store.done:
            assert len(said) <= 1  # nothing at all where both files are gone
            return TOLD
        assert store.rows.tobytes() == self.rows.tobytes() and store.unusable == self.unusable
        return WHOLE


class Views:
    """Anchors: what stands for a tower that learns nothing."""

    known = {"modality": "vision", "views": 3, "seed": 5, "count": 20, "version": "1"}
    facts = known | {"width": 4, "parameters": "f0" * 8, "encoder": {"depth": 2}}
    vectors = RNG.standard_normal((20, 3, 4), np.float32)
    drawn = precomputed.encode_augmentation({"box": [1.0, 2.0, 3.5, 4.0], "flip": 0.5})
    unusable = {4: "4.jpg: broken"}

    def write(self, folder):
        layout = precomputed.BlockLayout(self.facts)
        row_file.write_durably(
            folder / precomputed.METADATA_FILE, msgspec.json.format(msgspec.json.encode(self.facts))
        )
        for block, rows in enumerate(layout.blocks):
            path, shape = precomputed.block_path(folder, block), layout.shape(block)
            store = row_file.ResumableRowFile(path, shape, lambda block=block: layout.said(block))
            for row, index in enumerate(rows):
                packed = b"".join(precomputed.pack_view(z, self.drawn) for z in self.vectors[index])
                store.rows[row] = np.frombuffer(packed, "<f4")
            store.unusable = dict(self.unusable)
            store.advance(len(rows))

    def read(self, folder):
        opened = precomputed.PrecomputedEmbeddings(folder).open(self.known)
        good, outcome = (
            msgspec.json.decode(self.drawn, type=precomputed.AugmentationParams),
            WHOLE,
        )
        for index, k in np.ndindex(20, 3):
            try:
                vector, drawn = opened.read(index, k)
            except MediaError as error:
                outcome = outcome if index in self.unusable else TOLD
                assert (error.reason == self.unusable.get(index)) or "damaged" in error.reason
                continue
            assert index not in self.unusable
            assert vector.tobytes() == self.vectors[index, k].tobytes() and drawn == good
        return outcome


class Records:
    """Records that are made once and kept."""

    def __call__(self, index):
        return {"id": f"n{index}", "media": bytes([index]) * 50, "text": f"№ {index}"}

    def write(self, folder):
        write_records(folder / "made", self, 12, facts={"make": "x"}, workers=1)

    def read(self, folder):
        assert list(ArrayRecords(folder / "made")) == [self(index) for index in range(12)]
        return WHOLE


class Shards(Records):
    """A shard of prepared records, which is read without all of it being looked at before."""

    def write(self, folder):
        self.shard = write_shard(folder / "a.array_record", map(self, range(12)))

    def read(self, folder):
        outcome, opened = WHOLE, ArrayRecords(folder, [self.shard])
        for index in range(12):
            try:
                assert opened[index] == self(index)
            except MediaError:
                outcome = TOLD
        return outcome


class Dataset:
    """What a prepared folder says of itself."""

    facts = prepared.DatasetInfo(
        "esc50", "ESC-50", "CC BY-NC 3.0", "https://example.org", ["audio"], ["dog", "rain"],
        ["the sound of {}"], [], {"train": prepared.SplitInfo(2, [Shard("a", 2, "f0" * 32, 7)])},
    )  # fmt: skip

    def write(self, folder):
        (folder / "dataset.json").write_bytes(prepared.encode_dataset_info(self.facts))

    def read(self, folder):
        assert prepared.read_dataset_info(folder) == self.facts
        return WHOLE


class Index:
    """Where in tar files each sample is."""

    def write(self, folder):
        from test_tar import pack

        self.shard = pack(folder.parent / "s.tar", {f"{i:03d}.txt": b"x" * i for i in range(9)})
        make_at(folder, str(self.shard))
        self.samples = self.all(folder)

    def all(self, folder):
        found = load_index(folder / "index")
        return [found.sample(i) for i in range(len(found))]

    def read(self, folder):
        assert self.all(folder) == self.samples
        return WHOLE


def make_at(folder, shard):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMAGEBIND_JAX_CACHE", str(folder.parent / "cache"))
        build_index([shard], {"text": ["txt"]}).rename(folder / "index")


class Results:
    """The numbers of an evaluation, with their samples."""

    def write(self, folder):
        (self.entry,) = test_results.made(folder).benchmarks.values()
        self.estimates = results.load_estimates(folder, "ESC", self.entry)

    def read(self, folder):
        found = results.read_results(folder).benchmarks.get("ESC")
        if found is None or found != found.sealed:
            return TOLD  # measured again
        found = msgspec.structs.replace(found, reported=self.entry.reported)
        assert found == self.entry
        outcome = WHOLE
        for name, estimate in results.load_estimates(folder, "ESC", found).items():
            if estimate.samples is None:
                outcome = TOLD if self.estimates[name].samples is not None else outcome
                continue
            assert estimate.samples.tobytes() == self.estimates[name].samples.tobytes()
        return outcome


class Adapters:
    """A file of LoRA adapters."""

    encoder = EncoderConfig((4, 8), width=16, depth=2, heads=2, patch=(2,), lora=("qkv",))
    model = ImageBind(ImageBindConfig({"imu": encoder}, embed_dim=8))
    flat = {
        path: np.float32(RNG.standard_normal(x.shape))
        for path, x in param_shapes(model.config).items()
    }

    def params(self):
        return traverse_util.unflatten_dict(self.flat, sep="/")

    def write(self, folder):
        lora.save_adapters(folder / "some.safetensors", self.model, self.params())

    def read(self, folder):
        model, found = lora.load_adapters(folder / "some.safetensors", self.model, self.params())
        assert model == self.model
        for path, leaf in traverse_util.flatten_dict(found, sep="/").items():
            assert np.asarray(leaf).tobytes() == self.flat[path].tobytes(), path
        return WHOLE


# ---- what happens to them


def damaged(content, rng):
    content = bytearray(content or b"\n")
    at, length = rng.randrange(len(content)), rng.randrange(1, 9)
    match rng.randrange(8):
        case 0 | 1:
            content[at] ^= 1 << rng.randrange(8)
        case 2:
            del content[at : at + length]
        case 3:
            content[at:at] = rng.randbytes(length)
        case 4:
            del content[at:]
        case 5:
            content[at : at + 64] = bytes(len(content[at : at + 64]))
        case 6:
            other = rng.randrange(len(content))
            content[at : at + length] = content[other : other + length]
        case 7:  # another digit, so that a JSON stays one
            digits = [i for i, byte in enumerate(content) if chr(byte).isdigit()] or [at]
            content[rng.choice(digits)] = rng.choice(b"0123456789")
    return bytes(content)


@pytest.mark.goal("G26")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kind",
    [
        *(Vectors, Views, Records, Shards, Dataset, Index, Results, Adapters),
        *(run_files.Notes, run_files.Clock, run_files.Lines),
    ],
)
def test_mutants_of_what_is_written(kind, tmp_path, measured):
    kind, folder, rng = kind(), tmp_path / "written", random.Random(kind.__name__)
    folder.mkdir()
    kind.write(folder)
    assert kind.read(folder) == WHOLE
    good = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    outcomes, mutants = collections.Counter(), goals.size(60, 1000)
    for mutant in range(mutants):
        for path, content in good.items():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        path = list(good)[mutant % len(good)]
        if rng.random() < 0.03:
            path.unlink()
        else:
            path.write_bytes(damaged(good[path], rng))
        try:
            outcomes[kind.read(folder)] += 1
        except getattr(kind, "refusals", (UserError, ValueError)) as error:  # a MediaError is one
            assert str(error) and "\n" not in str(error)
            outcomes[TOLD] += 1
    assert outcomes[TOLD] > mutants // 4, outcomes
    measured(f"{type(kind).__name__.lower()}: {mutants} mutants, 0 silent")

"""`imagebind-jax embed`: what is found, what is embedded, what is told, and nothing twice."""

import json
import os
import pathlib
import signal

import numpy as np
import own_files
import pytest
from own_files import given, jpeg, tone, write_files

import imagebind_jax as ib
from imagebind_jax import cli
from imagebind_jax.errors import UserError
from imagebind_jax.inputs.default_transforms import default_transform
from imagebind_jax.inputs.pipeline.examples import Examples, ToModelInputs
from imagebind_jax.search import embed_files, file_discovery, store_writer
from imagebind_jax.search.encoders import CheckpointEncoders
from imagebind_jax.search.store import EmbeddingStore

pytest_plugins = ["own_files"]


@pytest.fixture
def embed(checkpoint, tmp_path, capsys):
    """embed(files...) into the test's store: (code, stdout, stderr)."""

    def run(*arguments, out=None, checkpoint=checkpoint):
        options = ["--checkpoint", checkpoint, "--out", out or tmp_path / "store"]
        code = cli.main(["embed", *map(str, [*arguments, *options])])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


# ---- what is found


def kinds(found):
    return [(item.modality, os.path.basename(item.source)) for item in found.items]


def test_content_decides_the_modality(tmp_path):
    for name, data in {
        "a.jpg": jpeg((1, 2, 3)), "b.dat": tone(300), "c.npy": own_files.walk(0), "d.txt": b"a dog",
        "e.csv": b"accel_x,accel_y,accel_z,gyro_x,gyro_y,gyro_z\n" + b"1,2,3,4,5,6\n" * 9,
        "f.py": b"print()", ".hidden.jpg": jpeg((1, 2, 3)),
    }.items():  # fmt: skip
        (tmp_path / name).write_bytes(data)
    found = file_discovery.discover_files([str(tmp_path)])
    assert kinds(found) == [
        ("vision", "a.jpg"), ("audio", "b.dat"), ("imu", "c.npy"), ("text", "d.txt"), ("imu", "e.csv"),
    ]  # fmt: skip
    assert dict(found.passed_over) == {".py": 1} and not found.unusable


def test_video_is_vision_and_its_sound_on_demand(tmp_path):
    movie = own_files.__file__.replace("own_files.py", "golden/video")
    movie = next(
        os.path.join(movie, name) for name in sorted(os.listdir(movie)) if name.endswith(".mp4")
    )
    assert [item.modality for item in file_discovery.discover_files([movie]).items] == ["vision"]
    heard = [item.modality for item in file_discovery.discover_files([movie], sound=True).items]
    assert heard in (["vision"], ["vision", "audio"])


def test_what_cannot_be_used_is_named(tmp_path):
    for name, data in {"a.jpg": jpeg((9, 9, 9)), "empty.jpg": b"", "page.png": b"<!DOCTYPE html>",
                       "b.npy": b"\x93NUMPY\x01\x00v"}.items():  # fmt: skip
        (tmp_path / name).write_bytes(data)
    found = file_discovery.discover_files([str(tmp_path)])
    assert kinds(found) == [("vision", "a.jpg")]
    why = {os.path.basename(file): reason for file, reason in found.unusable}
    assert why["empty.jpg"] == "empty: 0 bytes" and "web page" in why["page.png"] and why["b.npy"]


def test_each_thing_once_in_the_order_given(tmp_path):
    for name in ("b.jpg", "a.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(jpeg((9, 9, 9)))
    found = file_discovery.discover_files(
        [str(tmp_path / "c.jpg"), str(tmp_path), str(tmp_path / "*.jpg")]
    )
    assert [name for _, name in kinds(found)] == ["c.jpg", "a.jpg", "b.jpg"]


def test_names_of_any_kind(tmp_path):
    names = ["a b.jpg", "é ü 猫.jpg", "two\nlines.jpg", "'q\".jpg"]
    for name in names:
        (tmp_path / name).write_bytes(jpeg((9, 9, 9)))
    (tmp_path / os.fsdecode(b"latin-\xe9.jpg")).write_bytes(jpeg((9, 9, 9)))
    os.symlink(tmp_path, tmp_path / "loop")
    os.mkfifo(tmp_path / "fifo.jpg")
    found = file_discovery.discover_files([str(tmp_path)])
    assert sorted(name for _, name in kinds(found)) == sorted(names)
    why = dict(found.unusable)
    assert len(why) == 2 and why[str(tmp_path / "fifo.jpg")] == "not a regular file"
    assert "its name is not UTF-8: rename it" in why.values()


def test_a_store_in_the_folder_is_left_alone(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg((9, 9, 9)))
    for name in ("store.json", "embeddings.npy", "rows.npy"):
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / name).write_bytes(b"x")
    assert file_discovery.discover_files([str(tmp_path)]) == file_discovery.discover_files(
        [str(tmp_path / "a.jpg")]
    )


def test_a_manifest(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg((9, 9, 9)))
    (tmp_path / "a.flac").write_bytes(tone(300))
    lines = [
        {"vision": "a.jpg", "audio": "a.flac", "text": "a caption", "label": 3},
        {"depth": "d.png", "focal_length": 20.0, "baseline": 0.1},
        {"text": ["one", "two"]},
        {"vision": "../outside.jpg"},
    ]
    path = tmp_path / "m.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    found = file_discovery.discover_files([str(path)])
    assert [item.modality for item in found.items] == [
        "vision",
        "audio",
        "text",
        "depth",
        "text",
        "text",
    ]
    assert found.items[0].fields == {"label": 3, "caption": "a caption"}
    assert [item.text for item in found.items if item.text] == ["a caption", "one", "two"]
    assert len({item.key for item in found.items}) == 6
    assert len(found.unusable) == 1 and "leads out of" in found.unusable[0][1]


@pytest.mark.parametrize(
    ("paths", "line"),
    [
        (["none.jpg"], "no file or folder none.jpg"),
        (["*.none"], "no file matches"),
        ([], "no path"),
    ],
)
def test_nothing_there(paths, line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=line):
        file_discovery.discover_files(paths)


# ---- what is embedded


@pytest.mark.jax
def test_all_modalities_are_what_embed_makes_of_each(stored, files, checkpoint):
    found = EmbeddingStore(stored)
    assert len(found) == 4 * 8 and not found.unusable()
    assert found.note.modalities == ["vision", "audio", "imu", "text", "depth", "thermal"]
    model, params = ib.load(checkpoint)
    loaders = {
        "vision": lambda file: ib.load_images(file, size=32),
        "audio": ib.load_audio,
        "text": lambda file: ib.tokenize([pathlib.Path(file).read_text()], context_length=16),
        "imu": lambda file: ib.load_imu(file, rate=40.0, steps=200),
        "thermal": lambda file: ib.load_thermal(file, size=32),
    }
    for row in range(len(found)):
        item = found.item(row)
        if item["modality"] in loaders:
            x = loaders[item["modality"]](item["file"])
            wanted = ib.embed(model, params, {item["modality"]: x})[item["modality"]][0]
            np.testing.assert_allclose(found.vectors[row], wanted, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=-1), 1, atol=1e-5)


def test_items_and_pictures(stored):
    found = EmbeddingStore(stored)
    by_file = {os.path.basename(found.item(row)["file"]): row for row in range(len(found))}
    photo, sound, text = by_file["red0.jpg"], by_file["0.flac"], by_file["0.txt"]
    assert (found.item(photo)["width"], found.item(photo)["height"]) == (40, 36)
    assert found.item(sound)["seconds"] == 2.0
    assert found.item(text)["text"] == "a red dog" and found.picture(text) == b""
    assert found.picture(photo).startswith(b"\xff\xd8")
    for name in ("0.flac", "0.npy"):
        assert found.picture(by_file[name]).startswith(b"\x89PNG")


def test_again_nothing_is_done(embed, files, tmp_path):
    assert embed(*given(files))[0] == 0
    before = {p.name: p.read_bytes() for p in (tmp_path / "store").iterdir() if p.name[0] != "."}
    code, out, _ = embed(*given(files))
    assert code == 0 and "32 of them are in the store" in out and "0 embedded" in out
    after = {p.name: p.read_bytes() for p in (tmp_path / "store").iterdir() if p.name[0] != "."}
    assert after == before


def test_only_what_is_new_or_changed(embed, tmp_path):
    root = tmp_path / "mine"
    write_files(root, count=1)
    embed(root / "photos")
    (root / "photos" / "red0.jpg").write_bytes(jpeg((200, 200, 200)))
    (root / "photos" / "more.jpg").write_bytes(jpeg((10, 10, 10)))
    code, out, _ = embed(root / "photos", root / "words")
    assert code == 0 and "3 embedded" in out
    found = EmbeddingStore(tmp_path / "store")
    assert len(found) == 6 and found.replaced.sum() == 1


def test_a_file_that_changes_while_it_is_read_is_known_as_it_was_before(tmp_path):
    """So that it is embedded again: what is in the store is of what was read."""
    path, see = (
        tmp_path / "a.jpg",
        default_transform("vision", own_files.MODEL.encoders["vision"].shape),
    )
    path.write_bytes(jpeg((9, 9, 9)))
    before = store_writer.file_stamp(str(path))

    def then_changed(*arguments):
        seen = see(*arguments)
        path.write_bytes(jpeg((200, 200, 200), size=(48, 48)))
        return seen

    records = file_discovery.ItemRecords(file_discovery.discover_files([str(path)]).items)
    make = embed_files._LoadItem(
        Examples(records, ToModelInputs({"vision": then_changed}), "own"), "vision"
    )
    made, _ = make(0)
    assert (
        json.loads(made["about"].tobytes())["stamp"] == before != store_writer.file_stamp(str(path))
    )


def test_what_a_manifest_says_more_is_taken_in(embed, tmp_path):
    root = tmp_path / "mine"
    write_files(root, count=1)
    (root / "list.jsonl").write_text(json.dumps({"vision": "photos/red0.jpg", "place": "home"}))
    for path, embedded in ((root / "photos", 3), (root / "list.jsonl", 1), (root / "photos", 0)):
        assert f"{embedded} embedded" in embed(path)[1]
    found = EmbeddingStore(tmp_path / "store")
    assert len(found) == 4 and found.replaced.sum() == 1 and found.item(3)["place"] == "home"


def test_bad_files_are_listed_and_not_tried_again(embed, tmp_path):
    root = tmp_path / "mine"
    root.mkdir()
    (root / "good.jpg").write_bytes(jpeg((9, 9, 9)))
    (root / "cut.jpg").write_bytes(jpeg((9, 9, 9))[:200])
    code, out, _ = embed(root)
    assert code == 0 and f"unusable: {root / 'cut.jpg'}: " in out and "1 embedded" in out
    (bad,) = EmbeddingStore(tmp_path / "store").unusable()
    assert bad["file"] == str(root / "cut.jpg") and "Truncated" in bad["why"]
    assert "0 embedded" in embed(root)[1]
    assert f"unusable: {root / 'cut.jpg'}: " in embed(root, "--retry")[1]
    (root / "cut.jpg").write_bytes(jpeg((1, 1, 1)))  # mended
    assert "1 embedded" in embed(root)[1]


def test_where_nothing_can_be_embedded_it_fails(embed, tmp_path):
    (tmp_path / "cut.jpg").write_bytes(jpeg((9, 9, 9))[:200])
    code, _, err = embed(tmp_path / "cut.jpg")
    assert code == 2 and "none of 1 files could be embedded" in err


def test_a_modality_that_the_checkpoint_lacks(embed, files, tmp_path):
    only = dict(own_files.MODEL.encoders)
    del only["imu"]
    lacks = own_files.save(
        tmp_path / "lacks.safetensors", config=ib.ImageBindConfig(only, embed_dim=12)
    )
    code, out, _ = embed(files / "photos", files / "moves", checkpoint=lacks)
    assert code == 0 and "passed over: 4 of imu: the checkpoint has no encoder for them" in out
    code, _, err = embed(files / "moves", out=tmp_path / "none", checkpoint=lacks)
    assert code == 2 and "has no encoder for them, only of vision" in err


def test_another_checkpoint_is_refused(embed, files, tmp_path):
    embed(files / "photos")
    other = own_files.save(tmp_path / "other.safetensors", seed=1)
    code, _, err = embed(files / "sounds", checkpoint=other)
    assert code == 2 and "holds embeddings of another checkpoint" in err


@pytest.mark.processes
@pytest.mark.jax
def test_workers_and_batches_change_nothing(embed, files, stored, tmp_path):
    code, _, err = embed(files / "photos", files / "sounds", "--workers", 2, "--batch-size", 5)
    assert code == 0, err
    found, wanted = EmbeddingStore(tmp_path / "store"), EmbeddingStore(stored)
    count = len(found)
    assert [found.item(row)["file"] for row in range(count)] == [
        wanted.item(row)["file"] for row in range(count)
    ]
    np.testing.assert_allclose(found.vectors, wanted.vectors[:count], atol=1e-5)


def test_mistakes(mistake, checkpoint, files, tmp_path):
    out = ["--checkpoint", checkpoint, "--out", tmp_path / "store"]
    assert "--depth needs --focal-length" in mistake("embed", "--depth", files / "depth", *out)
    assert "expected two numbers" in mistake(
        "embed", "--thermal", files / "heat", "--thermal-range", "kelvin", "cold", "2", *out
    )
    assert "no file or folder" in mistake("embed", tmp_path / "nowhere", *out)
    assert "--checkpoint" in mistake("embed", files, "--out", tmp_path / "store")


def test_killed_it_goes_on(zygote, checkpoint, tmp_path):
    """Killed while it embeds, what was committed stays, and the rest is done once."""
    root = tmp_path / "mine"
    root.mkdir()
    for i in range(120):
        (root / f"{i:03d}.jpg").write_bytes(jpeg((i % 256, 60, 90), seed=i))
    arguments = [
        "embed",
        root,
        "--checkpoint",
        checkpoint,
        "--out",
        tmp_path / "store",
        "--batch-size",
        8,
    ]
    child = zygote.start(arguments, call="test_embed_files:eager", devices=1)
    child.until("committed")
    child.signal(signal.SIGKILL)
    assert child.wait() == -9
    before = len(EmbeddingStore(tmp_path / "store"))
    assert 0 < before < 120
    code, out, err = zygote.run(arguments, devices=1)
    assert code == 0, err
    assert f"{before} of them are in the store" in out and f"{120 - before} embedded" in out
    found = EmbeddingStore(tmp_path / "store")
    assert sorted(os.path.basename(item["file"]) for item in found.items) == sorted(
        os.listdir(root)
    )


def eager(arguments):
    """`embed` that commits often, and says so."""
    from imagebind_jax.search import store_writer

    store_writer.EVERY_ROWS = 10
    commit = store_writer.StoreWriter.commit

    def told(self):
        commit(self)
        if self.note.rows:
            print("committed", flush=True)

    store_writer.StoreWriter.commit = told
    return cli.main(arguments)


# ---- how it is fed


def test_a_checkpoint_without_a_run_is_fed_by_shape():
    for modality, encoder in ib.HUGE.encoders.items():
        assert default_transform(modality, encoder.shape) is not None
    assert (
        default_transform("audio", (64, 100, 1)) is None
        and default_transform("radar", (4, 4)) is None
    )


def test_a_modality_of_unknown_form_asks_for_the_config(tmp_path):
    from imagebind_jax.models.encoder import EncoderConfig

    radar = {"radar": EncoderConfig((64, 4), patch=(8,), **own_files.SMALL)}
    path = own_files.save(tmp_path / "radar", config=ib.ImageBindConfig(radar, embed_dim=12))
    with pytest.raises(UserError, match="nothing says how inputs of radar, .64, 4., are made"):
        CheckpointEncoders(path).transform("radar")


# ---- what is said of files


def test_what_was_unusable_is_tried_again_once_more_is_said(embed, tmp_path):
    (tmp_path / "walk.npy").write_bytes(own_files.walk(0))
    assert embed(tmp_path / "walk.npy")[0] == 2  # a table without times, at no rate
    code, out, _ = embed(tmp_path / "walk.npy", "--imu-rate", 40)
    assert code == 0 and "1 embedded" in out
    (tmp_path / "heat").mkdir()
    (tmp_path / "heat" / "a.png").write_bytes(own_files.grey(1, 16))
    code, out, _ = embed("--thermal", tmp_path / "heat")
    assert "1 are known" not in out and "holds temperatures" in out
    code, out, _ = embed("--thermal", tmp_path / "heat")
    assert "1 are known to be unusable (--retry tries them again)" in out
    code, out, _ = embed("--thermal", tmp_path / "heat", "--thermal-range", "counts", 0, 5000)
    assert code == 0 and "1 embedded" in out


def test_maps_that_are_named_are_no_photos(tmp_path):
    write_files(tmp_path, count=1)
    (tmp_path / "list.jsonl").write_text(json.dumps({"thermal": "heat/0.png"}))
    found = file_discovery.discover_files([str(tmp_path)], {"depth": [str(tmp_path / "depth")]})
    names = [(m, name) for m, name in kinds(found) if name == "0.png"]
    assert sorted(names) == [("depth", "0.png"), ("thermal", "0.png")]


def test_parts_and_fields_are_embedded_once(embed, tmp_path):
    (tmp_path / "a.flac").write_bytes(tone(300))
    lines = [{"audio": "a.flac", "start": start, "seconds": 1, "file": "x"} for start in (0, 1)]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for count in (2, 0):
        assert f"{count} embedded" in embed(tmp_path / "list.jsonl")[1]
    found = EmbeddingStore(tmp_path / "store")
    assert [(item["start"], item["seconds"]) for item in found.items] == [(0, 1), (1, 1)]
    assert found.item(0)["file"] == str(tmp_path / "a.flac")


def test_a_table_of_something_else_is_passed_over(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg((9, 9, 9)))
    (tmp_path / "ages.csv").write_text("name,age\nann,9\n")
    (tmp_path / "tides.csv").write_text("time,depth\n1,12.5\n")
    found = file_discovery.discover_files([str(tmp_path)])
    assert kinds(found) == [("vision", "a.jpg")] and found.passed_over == {".csv": 2}
    assert file_discovery.discover_files([str(tmp_path / "ages.csv")]).unusable

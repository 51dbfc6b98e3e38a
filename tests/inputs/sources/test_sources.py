"""What every source promises: random access by any thread, also after pickling, one kind of error."""

import collections
import concurrent.futures
import io
import json
import pathlib
import pickle
import tarfile

import msgspec
import numpy as np
import pytest

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders.media import MediaError
from imagebind_jax.inputs.sources import Manifest, Prepared, Source, TarShards, array_records
from imagebind_jax.inputs.sources import record as record_module
from imagebind_jax.inputs.sources.array_records import ArrayRecords, Shard, write_shard
from imagebind_jax.inputs.sources.prepared import read_dataset_info

COUNT = 20
IMAGES = [bytes([i]) * (i + 1) for i in range(COUNT)]


def write_prepared(folder, shards):
    """A folder as `prepare` writes it: {split: records of each shard}."""
    splits = {}
    for split, lists in shards.items():
        written = [
            write_shard(folder / f"{split}-{i:05d}.array_record", made)
            for i, made in enumerate(lists)
        ]
        shard_facts = [msgspec.structs.asdict(shard) for shard in written]
        splits[split] = {"count": sum(s.count for s in written), "shards": shard_facts}
    names = ("name", "title", "licence", "homepage")
    facts = dict.fromkeys(names, "x") | dict.fromkeys(
        ("modalities", "classes", "prompts", "notes"), []
    )
    (folder / "dataset.json").write_text(json.dumps({**facts, "splits": splits}))
    return folder


def write_tar(path, files):
    with tarfile.open(path, "w") as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def manifest(folder):
    for i, image in enumerate(IMAGES):
        (folder / f"{i}.jpg").write_bytes(image)
    rows = [{"vision": f"{i}.jpg", "label": i} for i in range(COUNT)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Manifest(folder / "train.jsonl")


def prepared(folder):
    made = [{"id": i, "vision": image, "label": i} for i, image in enumerate(IMAGES)]
    return Prepared(write_prepared(folder, {"train": [made[:7], [], made[7:]]}))


def tar(folder):
    for shard, span in (("0", range(8)), ("1", range(8, COUNT))):
        files = [(f"{i}.{e}", d) for i in span for e, d in (("jpg", IMAGES[i]), ("cls", b"%d" % i))]
        write_tar(folder / f"{shard}.tar", files)
    return TarShards(folder / "?.tar")


MAKE = {make.__name__: make for make in (manifest, prepared, tar)}


@pytest.fixture(params=MAKE)
def source(request, tmp_path):
    return MAKE[request.param](tmp_path)


def image(record):
    value = record["vision"]
    return value if isinstance(value, bytes) else value.read_bytes()


def test_records_come_in_any_order_to_any_thread_and_process(source):
    assert isinstance(source, Source)
    found = source.open()
    assert len(found) == COUNT
    assert [image(record) for record in found] == IMAGES
    order = np.random.default_rng(0).permutation(COUNT)  # numpy's integers, as grain has them
    again = pickle.loads(pickle.dumps(found))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for opened in (found, again):
            got = list(pool.map(lambda i, opened=opened: opened[i], order))
            assert [record["label"] for record in got] == order.tolist()
            assert [image(record) for record in got] == [IMAGES[i] for i in order]
    assert len(pickle.dumps(found)) < 2000
    for index in (COUNT, -1):
        with pytest.raises(IndexError):
            found[index]
    assert pickle.loads(pickle.dumps(source)) == source  # a config goes to processes, too


def test_a_file_that_was_changed_is_not_read_as_if_it_were_not(source, tmp_path):
    found = source.open()
    [path, *_] = [p for p in tmp_path.iterdir() if p.suffix in (".jsonl", ".array_record", ".tar")]
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    again = pickle.loads(pickle.dumps(found))  # opens the file anew
    errors = collections.Counter()
    for index in range(COUNT):
        try:
            assert image(again[index]) == IMAGES[index]
        except MediaError as error:
            errors[error.source.startswith(str(path))] += 1
    assert errors.keys() <= {True}
    if path.suffix != ".array_record":  # whose own sums say which of its parts are damaged
        assert errors[True] > 0


# ---- prepared folders


def test_damage_costs_only_the_records_it_hits(tmp_path):
    made = [{"id": i, "audio": np.random.default_rng(i).bytes(50_000)} for i in range(20)]
    write_prepared(tmp_path, {"train": [made]})
    path = tmp_path / "train-00000.array_record"
    content = bytearray(path.read_bytes())
    content[500_000:502_000] = bytes(2000)
    path.write_bytes(content)
    # Not by Prepared.open, of whose result the type checker reads a record, perhaps a damaged one.
    found, bad = ArrayRecords(tmp_path, read_dataset_info(tmp_path).splits["train"].shards), {}
    for index in range(20):
        try:
            assert found[index] == made[index]
        except MediaError as error:
            bad[index] = str(error)
    assert 1 <= len(bad) <= 2
    for index, error in bad.items():
        assert f"{path}, record {index}: " in error
    with pytest.raises(ValueError, match="is not what was written"):
        split = json.loads((tmp_path / "dataset.json").read_text())["splits"]["train"]
        (tmp_path / "dataset.json").write_text(json.dumps(split))
        ArrayRecords(tmp_path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "dataset.json").unlink(), "holds no dataset.json"),
        (lambda f: (f / "dataset.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "dataset.json").write_bytes(b"\xff\0"), "cannot be read"),
        (lambda f: (f / "dataset.json").write_text("[]"), "cannot be read"),
        (
            lambda f: (f / "train-00001.array_record").unlink(),
            "train-00001.array_record is missing",
        ),
        (lambda f: (f / "train-00000.array_record").write_bytes(b"x"), "or damaged: run the"),
        (
            lambda f: (f / "dataset.json").write_text(
                (f / "dataset.json").read_text().replace("train-00000", "../x")
            ),
            "'../x.array_record', which is not a shard of its folder",
        ),
    ],
)
def test_a_folder_that_is_not_whole_says_so_when_it_is_opened(damage, words, tmp_path):
    source = Prepared(write_prepared(tmp_path, {"train": [[{"id": 1}], [{"id": 2}]], "test": []}))
    assert len(source.open()) == 2
    damage(tmp_path)
    with pytest.raises(UserError) as raised:
        source.open()
    assert words in str(raised.value)


def test_an_unknown_split_is_told_with_those_that_there_are(tmp_path):
    write_prepared(tmp_path, {"train": [[{"id": 1}]], "test": []})
    with pytest.raises(UserError, match="no split 'val': only train, test"):
        Prepared(tmp_path, "val").open()


def test_few_files_are_open_however_many_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(array_records, "OPEN", 3)
    shards = [write_shard(tmp_path / f"{i}", [{"id": i}]) for i in range(8)]
    found = ArrayRecords(tmp_path, shards)

    def descriptors():
        return sum(str(tmp_path) in str(p.readlink()) for p in pathlib.Path("/proc/self/fd").iterdir()
                   if p.is_symlink())  # fmt: skip

    for index in [*range(8), 0, 7, 3]:
        assert found[index] == {"id": index}
        assert descriptors() <= 3


def test_text_in_a_record_is_never_a_path(tmp_path):
    shard = write_shard(
        tmp_path / "s", [{"vision": "/etc/hostname"}, {"vision": ["/etc/hostname"]}]
    )
    for index in range(2):
        with pytest.raises(MediaError, match="vision is .*: expected a file"):
            ArrayRecords(tmp_path, [shard])[index]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("text", 5),
        ("text", []),
        ("text", ["a", None]),
        ("label", "dog"),
        ("label", True),
        ("label", [1, 2.5]),
        ("start", "0"),
        ("seconds", float("nan")),
        ("baseline", float("inf")),
        ("imu_rate", False),
        ("audio", []),
        ("vision", []),
        ("audio", [b"a"]),
        ("view", 1),
    ],
)
def test_fields_are_what_transforms_expect(field, value):
    good = {"id": 1, "text": ["a", "b"], "label": [1, 2], "start": 0, "seconds": 2.5, "other": None}
    good |= {"vision": [b"a", b"b"], "audio": b"a"}
    assert record_module.validate_record(good, "a record") is good
    with pytest.raises(MediaError, match=f"^a record: {field} is .*: expected ") as raised:
        record_module.validate_record({**good, field: value}, "a record")
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize(
    "key", ["visoin", "viison", "vison", "visionn", "thermel", "txet", "texts", "deph", "Audio"]
)
def test_a_name_that_is_nearly_a_modalitys_is_told(key):
    with pytest.raises(UserError, match=f"'{key}' is no modality: did you mean '[adtv]"):
        record_module.check_fields([key, "label"])


@pytest.mark.parametrize(
    "key",
    ["text_1", "text1", "depth_m", "vision_id", "audio_2", "test", "next", "ext", "audit", "death"],
)
def test_a_name_of_ones_own_is_let_alone(key):
    record_module.check_fields([key, "label", *record_module.MEDIA, *record_module.NUMBERS])
    record_module.check_fields([key])
    record_module.check_fields(["texts", "text", "visions", "vision"])  # which are there, too


def test_a_shard_of_no_records_is_no_hole(tmp_path):
    shards = [write_shard(tmp_path / "a", [{"id": 0}]), Shard("none", 0, ""), 
              write_shard(tmp_path / "b", [{"id": 1}, {"id": 2}])]  # fmt: skip
    assert [r["id"] for r in ArrayRecords(tmp_path, [shards[1], *shards, shards[1]])] == [0, 1, 2]

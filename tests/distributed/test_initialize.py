"""Several hosts: processes that train together for real, and how they find each other or say why not."""

import dataclasses
import functools
import http.server
import json
import os
import pathlib
import re
import shutil
import socket
import threading

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from test_fit import Toy, distance, make_config, quiet, steps_logged

from imagebind_jax import cli
from imagebind_jax.checkpointing import checkpointer
from imagebind_jax.cli.arguments import build_parser
from imagebind_jax.distributed import agreement, cluster_env, initialize, sharding
from imagebind_jax.inputs.pipeline import batches
from imagebind_jax.runtime import metrics_log
from imagebind_jax.storage import checksummed
from imagebind_jax.training import fit, step

STEPS, HALF = 4, 2
HOSTS, DEVICES = 2, 2  # of each host; this process has as many as both
BAD = (5, 6, 20, 21)  # records, of which each host meets some
pytestmark = [pytest.mark.jax, pytest.mark.usefixtures("four_devices")]
HERE = pathlib.Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Spoilt(Toy):
    """Toy records of which a few cannot be used."""

    def open(self):
        records = super().open()
        for index in BAD:
            records[index]["audio"] = records[index]["audio"] * np.float32(np.nan)
        return records


def get_config():
    config = make_config(steps=STEPS, checkpoint_every=HALF, compare_every=0)
    encoders = {
        name: dataclasses.replace(config.model.encoders[name], width=64)  # enough to be split
        for name in ("vision", "audio")
    }
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, encoders=encoders),
        pairs=(batches.ModalityPair(("vision", "audio"), Spoilt(0)),),
    )


def train_as_a_host(arguments):
    """For `zygote`, each of `HOSTS` processes: these runs after each other, and one that is refused."""
    folder, coordinator, host, *runs = arguments
    asked = ("--coordinator", coordinator, "--hosts", str(HOSTS), "--host", host, "--wait", "120")
    for name, *options in (*([run] for run in runs), ["other", "--seed", host]):
        command = ["train", f"{folder}/config.py", "--out", f"{folder}/{name}", *options, *asked]
        os.write(1, f"\ncode {cli.main(command)}\n".encode())  # at once, whole
    rows = np.arange(16, dtype=np.float32).reshape(-1, 2)
    place = jax.sharding.NamedSharding(sharding.ShardedStrategy().mesh, P(sharding.BATCH_AXES))
    shards = sharding.device_put_global(rows, place).addressable_shards
    assert len(shards) == DEVICES
    for shard in shards:
        np.testing.assert_array_equal(shard.data, rows[shard.index])


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def alone(made_once, four_devices):
    """The folder of `one`, a run of one host."""

    def make(folder):
        (folder / "config.py").write_text("from test_initialize import get_config\n")
        fit.fit(get_config(), folder / "one", say=quiet)

    return made_once("hosts", make)


@pytest.fixture(scope="module")
def together(made_once, alone, zygote):
    """together("two"): (folder, [what each of two hosts said]).

    In the folder: `one`; `two`, a run of two hosts; `half`, begun by one and ended by two; `other`,
    that two began with different configs.
    """

    def add(name, folder):
        shutil.copytree(alone, folder, dirs_exist_ok=True)
        if name == "half":
            shutil.copytree(folder / "one", folder / "half")
            shutil.rmtree(folder / "half" / "checkpoints" / str(STEPS))
        asked = [folder, f"127.0.0.1:{free_port()}"]
        children = [
            zygote.start(
                [*asked, host, name], devices=DEVICES, call="test_initialize:train_as_a_host"
            )
            for host in range(HOSTS)
        ]
        assert [child.wait(240) for child in children] == [0] * HOSTS, [c.err for c in children]
        said = [(child.out, child.err) for child in children]
        (folder / "said.json").write_text(json.dumps(said))

    def made(name):
        folder = made_once(f"hosts_{name}", functools.partial(add, name))
        return folder, json.loads((folder / "said.json").read_text())

    return made


def saved(folder):
    """The parameters of a run's last checkpoint, on the devices of this process."""
    like = jax.eval_shape(lambda: step.create_state(get_config()))
    shardings = sharding.ShardedStrategy().state_shardings(like)
    assert not all(each.is_fully_replicated for each in jax.tree.leaves(shardings))
    like = jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), like, shardings
    )
    checkpoints = checkpointer.Checkpointer(folder / "checkpoints")
    assert checkpoints.steps() == [STEPS, HALF]
    state = checkpoints.restore(STEPS, like)
    checkpoints.close()
    return state.params


def bad(folder, file="bad_records.jsonl"):
    return {json.loads(line)["record"] for line in (folder / file).open()}


@pytest.mark.variants
def test_alone_a_host_names_all_records_that_it_cannot_use(alone):
    assert bad(alone / "one") == set(BAD)
    assert steps_logged(alone / "one") == list(range(STEPS))


of_both = pytest.mark.parametrize("run", ["two", pytest.param("half", marks=pytest.mark.processes)])


@of_both
def test_two_hosts_end_where_one_does(run, together):
    folder, _ = together(run)
    one, start = (
        saved(folder / "one"),
        jax.jit(lambda: step.create_state(get_config()))().params,
    )
    assert distance(one, start) > 0.1
    for a, b in zip(jax.tree.leaves(saved(folder / run)), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.processes
def test_a_run_of_two_hosts_goes_on_with_one(together, tmp_path):
    folder, _ = together("two")
    shutil.copytree(folder / "two", tmp_path / "two")
    shutil.rmtree(tmp_path / "two" / "checkpoints" / str(STEPS))
    said = []
    params = fit.fit(get_config(), tmp_path / "two", say=said.append)
    assert f"going on from step {HALF}" in said
    one = saved(folder / "one")
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@of_both
def test_one_host_writes_and_tells_for_all(run, together):
    folder, said = together(run)
    assert steps_logged(folder / run) == list(range(STEPS))
    mine, theirs = (
        metrics_log.read_metrics(folder / name / "metrics.jsonl") for name in (run, "one")
    )
    losses = [[line["loss"] for line in lines] for lines in (mine, theirs)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert len(list((folder / run / "tensorboard").iterdir())) == (2 if run == "half" else 1)
    counts = checksummed.read_checksummed_json(folder / run / "records.json")
    assert counts == {"records": [["vision+audio", 32]]}
    first, second = (out for out, _ in said)
    # Gloo writes to the same stream, in the middle of lines.
    assert re.findall(r"^code (\d)$", second, re.MULTILINE) == ["0", "2"]
    assert "step" not in second
    assert f"committed step {STEPS}" in first
    assert (f"going on from step {HALF}" in first) == (run == "half")
    assert "train 4/4" in said[0][1] and "train " not in said[1][1]


def test_records_that_no_host_could_use_are_all_named(together):
    folder, said = together("two")
    first, second = (bad(folder / "two", f"bad_records{host}.jsonl") for host in ("", ".host1"))
    assert first and second
    assert first | second == set(BAD)
    assert re.search(r"\d+ rows were masked: see .*bad_records.jsonl and", said[0][0])


def test_hosts_with_different_configs_are_refused(together):
    _, said = together("two")
    for _, errors in said:
        lines = [line for line in errors.splitlines() if "error:" in line]
        assert len(lines) == 1 and "host 1: not host 0's config" in lines[0]


# ---- finding each other


def test_a_coordinator_that_nobody_is(mistake, tmp_path):
    (tmp_path / "config.py").write_text("from test_initialize import get_config\n")
    address = f"127.0.0.1:{free_port()}"
    line = mistake("train", tmp_path / "config.py", "--out", tmp_path / "run",
                   "--coordinator", address, "--hosts", 2, "--host", 1, "--wait", 1)  # fmt: skip
    assert f"no coordinator answers at {address} within 1 s" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (("10.0.0.1", 2, 0), "expected HOST:PORT"),
        (("10.0.0.1:99999", 2, 0), "expected HOST:PORT"),
        (("10.0.0.1:80", 2, 2), "numbered from 0 to 1"),
        (("10.0.0.1:80", 0, None), "at least 1"),
        (("10.0.0.1:80", None, 1), "--hosts must be given"),
        ((None, 2, None), "--coordinator and --host must be given"),
    ],
)
def test_mistakes_are_named(asked, words):
    with pytest.raises(initialize.UserError, match=words):
        initialize.initialize(*asked)


def test_alone_nothing_is_started(monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", None)  # would raise
    initialize.initialize()
    initialize.initialize(None, 1, 0)
    assert agreement.is_main_process() and agreement.allreduce_sum(3) == 3
    assert agreement.raise_on_all(lambda: 5) == 5


def test_jax_is_told_what_was_asked(monkeypatch):
    told, met = [], []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **b: told.append((a, b)))
    monkeypatch.setattr(initialize.rendezvous, "rendezvous", lambda *a: met.append(a))
    monkeypatch.setenv("IMAGEBIND_JAX_SILENCE", "7")
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "10.0.0.1:80")
    before = jax.config.jax_enable_preemption_service
    try:
        initialize.initialize(None, 4, 0)
        slurm = dict(zip(cluster_env.SLURM, ("7", "node[1-4]", "4", "0", "0")))
        monkeypatch.delenv("JAX_COORDINATOR_ADDRESS")
        for name, value in slurm.items():
            monkeypatch.setenv(name, value)
        initialize.initialize()
    finally:
        jax.config.update("jax_enable_preemption_service", before)
    assert [a for a, _ in told] == [("10.0.0.1:80", 4, 0), (None, None, None)]
    assert [b["cluster_detection_method"] for _, b in told] == ["deactivate", None]
    assert all(b["heartbeat_timeout_seconds"] > 2 * 7 for _, b in told)  # ours is first
    assert met == [
        ("10.0.0.1:80", 4, 0, initialize.INIT_TIMEOUT)
    ]  # clusters have ways of their own


@pytest.mark.parametrize("text", ["", "1", "-5", "soon", "2.5"])
def test_a_silence_that_is_none(text, monkeypatch):
    monkeypatch.setenv("IMAGEBIND_JAX_SILENCE", text)
    with pytest.raises(initialize.UserError, match=f"SILENCE={text}: expected seconds, at least 2"):
        initialize.initialize("10.0.0.1:80", 2, 0)


def test_alone_nobody_is_told():
    initialize.abort_all("a line", 1)  # returns


SLURM = {name: "1" for name in cluster_env.SLURM}


@pytest.mark.parametrize(
    ("environ", "several"),
    [
        ({"TPU_SKIP_MDS_QUERY": "1"}, False),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "TPU_SKIP_MDS_QUERY": "1"}, False),  # no srun
        (SLURM | {"SLURM_NTASKS": "8"}, True),
        (SLURM | {"SLURM_NTASKS": "1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"TPU_WORKER_HOSTNAMES": "t-0,t-1"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "MEGASCALE_NUM_SLICES": "2"}, True),
        ({"JAX_PLATFORMS": "cpu"}, False),
    ],
)
def test_what_clusters_say(environ, several):
    assert cluster_env.in_multi_process_cluster(environ) == several


def test_what_the_metadata_server_of_a_tpu_says():
    class Metadata(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"unknown:unknown:10.0.0.2,unknown:unknown:10.0.0.3")

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environ = {"GCE_METADATA_IP": f"127.0.0.1:{server.server_port}"}
    assert cluster_env._workers_of_slice(environ) == 2
    server.shutdown()
    server.server_close()
    assert cluster_env._workers_of_slice(environ) == 1  # nobody answers


def test_the_address_of_a_bucket_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(initialize.UserError, match="gs:/mine/run is the address of a bucket"):
        fit.preflight_check(get_config(), "gs://mine/run")
    assert not list(tmp_path.iterdir())


# ---- the page


def test_every_option_of_the_page_is_one():
    text = (HERE.parent / "docs" / "pods.md").read_text().replace("\\\n", " ")
    commands = build_parser("")._subparsers._group_actions[0].choices
    fields = {f.name.replace("_", "-") for f in dataclasses.fields(fit.TrainConfig)}
    seen = set()
    text = re.sub(r"launch --restarts \d+ ", "", text)  # before another command
    for name, rest in re.findall(r"imagebind-jax (\w+)([^\n`]*)", text):
        known = {o for action in commands[name]._actions for o in action.option_strings}
        for option in re.findall(r"(?<!\S)--[\w.-]+", rest.split(" && ")[0]):
            assert option in known or option[2:].split(".")[0] in fields, (name, option)
            seen.add(option)
    assert {"--coordinator", "--hosts", "--host", "--topology"} <= seen

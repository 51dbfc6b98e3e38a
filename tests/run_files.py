"""The small files of a run folder: how each is written, and what becomes of it where it is damaged.

Kinds for `test_written_files`. None of them ever refuses to go on.
"""

import json

import numpy as np
import pytest

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.pipeline.bad_records import BadRecordLog
from imagebind_jax.runtime import metrics_log
from imagebind_jax.storage import checksummed
from imagebind_jax.training import run_identity
from imagebind_jax.training.goodput import GoodputRecorder

WHOLE, TOLD = "as it was", "told"


class Notes:
    """config.json and records.json: what run this is."""

    refusals = ()
    facts = {"config": {"seed": 0, "batch_size": 16, "pairs.0.source.folder": "data/esc50"}}
    records = [["vision+audio", 32], ["vision+imu", 3650]]

    def write(self, folder):
        run_identity.write_config(folder, self.facts)
        run_identity.write_record_counts(folder, self.records)

    def read(self, folder):
        said = []
        begun = run_identity.check_existing_run(folder, self.facts, said.append)
        run_identity.check_record_counts(folder, self.records, self.records, said.append)
        if said or not begun or not (folder / run_identity.RECORDS).exists():
            return TOLD
        with pytest.raises(UserError, match="seed = 0, not 8"):
            run_identity.check_existing_run(
                folder, {"config": self.facts["config"] | {"seed": 8}}, pytest.fail
            )
        with pytest.raises(UserError, match="3650 records"):
            other = [["vision+audio", 32], ["vision+imu", 3651]]
            run_identity.check_record_counts(folder, other, None, pytest.fail)
        return WHOLE


class Clock:
    """goodput.json: begins anew where it is damaged."""

    refusals = ()

    def write(self, folder):
        clock = GoodputRecorder(folder)
        clock.begin(0)
        clock.mark(3)
        clock.close()
        self.seconds = self.without_down(
            checksummed.read_checksummed_json(folder / "goodput.json")["seconds"]
        )
        assert self.seconds["steps"] > 0

    def without_down(self, seconds):
        return {kind: each for kind, each in seconds.items() if kind != "down"}

    def read(self, folder):
        found = GoodputRecorder(folder)._kept.seconds
        if not any(found.values()):
            return TOLD
        assert self.without_down(found) == self.seconds and found["down"] < 3600
        return WHOLE


class Lines:
    """metrics.jsonl and bad_records.jsonl: lines have no seal, and none costs another one."""

    refusals = ()

    def write(self, folder):
        log, bad = metrics_log.MetricsLog(folder), BadRecordLog(folder)
        for step in range(9):
            log.write(step, {"pair": "vision+audio", "loss": 0.5 + step})
            said = {"record": step, "file": f"{step}.wav", "reason": "broken"}
            bad.see(step, "vision+audio", np.array([json.dumps(said)]))
        log.close()
        self.lines = self.all(folder)

    def all(self, folder):
        return [
            (name, line)
            for name in ("metrics.jsonl", "bad_records.jsonl")
            if (folder / name).exists()
            for line in (folder / name).read_bytes().split(b"\n")
        ]

    def read(self, folder):
        untouched = [each for each in self.all(folder) if each in self.lines]
        metrics_log.MetricsLog(folder, 9).close()
        BadRecordLog(folder, start=9)
        left = self.all(folder)
        assert all(each in left for each in untouched)
        return WHOLE if left == self.lines else TOLD

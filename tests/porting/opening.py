"""Opens hostile and damaged files in a process of its own, with at most 4 GiB of address space.

python opening.py hostile FOLDER               a JSON line for every hostile file
python opening.py quick FOLDER                 the same without those that take long (`hostile.LONG`)
python opening.py damaged FOLDER COUNT SEED    a JSON line on COUNT damaged files
"""

import json
import pathlib
import random
import resource
import sys
import time

import damaged
import hostile

from imagebind_jax.errors import UserError
from imagebind_jax.porting.torch_pickle.torch_file import TorchFile

MEMORY = 4 << 30  # bytes of address space


def read(path) -> dict:
    """Every tensor's (dtype, shape, bytes) by name, and the scalars; all of it read."""
    with TorchFile(path) as file:
        found = {}
        for name, spec in file.specs.items():
            array = file[name]
            assert (array.shape, array.dtype) == (spec.shape, spec.dtype)
            # A stride of zero need not become gigabytes here.
            data = array.tobytes() if array.nbytes < 1 << 20 else array.ravel()[:1000].tobytes()
            found[name] = (str(array.dtype), array.shape, data)
            del array
        return {"tensors": found, "extra": file.extra, "warnings": file.warnings}


def attempt(path):
    """(what was read or None, the refusal or None, seconds of CPU)."""
    start = time.process_time()
    try:
        return read(path), None, time.process_time() - start
    except UserError as error:
        return None, str(error), time.process_time() - start


def most_memory() -> int:
    """Bytes that this process ever had in memory; `getrusage` counts those of its parent as well."""
    status = pathlib.Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) << 10


def run_hostile(folder: pathlib.Path, without: frozenset[str]) -> None:
    canary = folder / "canary"
    for index, (what, content, expected) in enumerate(hostile.corpus(str(canary))):
        if what in without:
            continue
        path = folder / f"{index}.pth"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content(path)
        del content
        got, refusal, seconds = attempt(path)
        line = {
            "name": what,
            "path": str(path),
            "expected": expected,
            "tensors": got and len(got["tensors"]),
            "warnings": got and got["warnings"],
            "refusal": refusal,
            "seconds": seconds,
            "canary": canary.exists(),
            "rss": most_memory(),
        }
        print(json.dumps(line), flush=True)
        if path.is_file() and not path.is_symlink():
            path.unlink()


def run_damaged(folder: pathlib.Path, count: int, seed: int) -> None:
    rng = random.Random(seed)
    originals = damaged.originals()
    good = []
    path = folder / "damaged.pth"
    for content in originals:
        path.write_bytes(content)
        good.append(read(path))
    found = {"raw": 0, "raw same": 0, "made": 0, "made read": 0, "different": [], "slowest": 0.0}
    start = time.perf_counter()
    for index in range(count):
        which = rng.randrange(len(originals))
        raw = rng.random() < 0.5
        content = (damaged.raw if raw else damaged.made)(rng, originals[which], originals)
        path.unlink(missing_ok=True)  # a file that is cut and filled again is flushed by ext4
        path.write_bytes(content)
        try:
            got, refusal, seconds = attempt(path)
        except BaseException:
            (folder / "crash.pth").write_bytes(content)
            raise
        kind = "raw" if raw else "made"
        found[kind] += 1
        found["slowest"] = max(found["slowest"], seconds)
        assert refusal is None or "\n" not in refusal
        if raw and got:
            found["raw same"] += 1
            if got != good[which]:
                (folder / f"different{index}.pth").write_bytes(content)
                found["different"].append(index)
        elif got:
            found["made read"] += 1
    found["seconds"] = time.perf_counter() - start
    found["rss"] = most_memory()
    print(json.dumps(found))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    task, folder, *numbers = sys.argv[1:]
    if task in ("hostile", "quick"):
        run_hostile(pathlib.Path(folder), hostile.LONG if task == "quick" else frozenset())
    else:
        run_damaged(pathlib.Path(folder), *map(int, numbers))

"""The house's rules, read from its sources: floors, the host/device line, nothing that runs data."""

import ast
import configparser
import graphlib
import json
import pathlib
import subprocess
import sys

import pytest

import imagebind_jax

ROOT = pathlib.Path(imagebind_jax.__file__).parent
DATA = ROOT.parent / "data"  # installed as imagebind_jax.data
FILES = sorted([*ROOT.rglob("*.py"), *DATA.rglob("*.py")])
LONGEST = 400  # lines, constants apart

# From the ground up; a file imports only from floors below its own, and folders only themselves.
FLOORS = (
    {"errors", "version"},
    {"storage", "models", "optimizer"},
    {"runtime", "reports"},
    {"inputs", "distributed"},
    {"checkpointing", "losses", "data"},
    {"porting"},
    {"evaluation"},
    {"config"},
    {"search", "training"},
    {"web", "prepare", "ablations", "plan", "demo"},
    {"cli"},
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
# What is computed on devices: whoever knows JAX understands it in an hour.
CORE = ("models/*", "losses/*", "training/step", "training/gradients", "training/loop", "optimizer")
MOST_CORE_LINES = 2_500
DEVICE_SIDE = (
    "models.imagebind",
    "losses.contrastive",
    "losses.streamed",
    "models.attention",
    "models.attention_pallas",
    "optimizer",
    "distributed.sharding",
    "models.encoder",
    "models.layers",
)
# A module has the name of a thing; these words of the field look like participles, and are none or are adjectives.
WORDS_OF_THE_FIELD = {
    "sharding", "casting", "resampling", "logging", "paired", "checkpointing", "distributed", "batching", "ranking",
    "stored", "trained", "tuning", "pretraining", "masked", "porting", "hugging", "formatting", "embed", "training",
    "injected", "precomputed", "streamed", "cached", "prepared", "checksummed",
}  # fmt: skip
HOST_LIBRARIES = {
    "grain",
    "tensorflow_datasets",
    "librosa",
    "av",
    "tyro",
    "sklearn",
    "soundfile",
    "PIL",
    "OpenEXR",
    "h5py",
}


def module_of(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    parts = ("imagebind_jax", *parts) if DATA in path.parents else parts
    return ".".join(parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def tree(path):
    return ast.parse(path.read_text(), str(path))


def imports(path):
    """Full names of everything that a file imports, wherever it stands."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for name in node.names:
                full = f"{node.module}.{name.name}"
                yield full if full in MODULES else node.module


def top(module):
    """imagebind_jax.inputs.world.scene -> inputs; the package itself -> ''."""
    return module.partition(".")[2].partition(".")[0]


def fresh(code):
    """What a new interpreter prints as JSON."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_file_has_its_floor():
    unknown = {top(m) for m in MODULES} - FLOOR.keys() - {""}
    assert not unknown, f"name the floor of {sorted(unknown)} in FLOORS, and in the design"


def test_imports_go_only_downwards():
    wrong = [
        f"{module} imports {name}"
        for module, path in MODULES.items()
        if top(module)
        for name in imports(path)
        if name.startswith("imagebind_jax.")
        and top(name) != top(module)
        and FLOOR.get(top(name), 99) >= FLOOR.get(top(module), 99)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_two_files_need_each_other():
    graph = {m: {name for name in imports(p) if name in MODULES} - {m} for m, p in MODULES.items()}
    del graph["imagebind_jax"]  # its names are imported at their first use
    graph = {m: needs - {"imagebind_jax"} for m, needs in graph.items()}
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError
    assert order.index("imagebind_jax.cli") > order.index("imagebind_jax.training.fit")


def test_no_more_than_five_modules_lie_flat():
    assert {path.stem for path in ROOT.glob("*.py")} == {
        "__init__", "config", "errors", "optimizer", "version",
    }  # fmt: skip


def test_modules_have_the_names_of_things():
    words = {
        word
        for module, path in MODULES.items()
        if ROOT in path.parents
        for word in module.rpartition(".")[2].split("_")
    }
    odd = {word for word in words if word.endswith(("ing", "ed"))} - WORDS_OF_THE_FIELD
    assert not odd, f"no gerund, no participle: {odd}"


def test_no_retired_name_comes_back():
    text = (pathlib.Path(__file__).parent / "retired_names.txt").read_text()
    modules, names = (set(part.split()) for part in text.partition("modules:")[2].split("names:"))
    assert len(modules) > 50 and len(names) > 300
    assert not modules & {path.stem for path in FILES}
    wrong = [
        f"{module}.{node.name}"
        for module, path in MODULES.items()
        for node in tree(path).body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name in names
    ]
    assert not wrong


def test_the_core_is_small():
    paths = [path for pattern in CORE for path in ROOT.glob(f"{pattern}.py")]
    assert len(paths) >= 12
    assert sum(len(path.read_text().splitlines()) for path in paths) < MOST_CORE_LINES


def test_the_host_side_never_imports_jax():
    for module, path in MODULES.items():
        if top(module) in ("inputs", "data"):
            found = {name.split(".")[0] for name in imports(path)} & {
                "jax",
                "flax",
                "optax",
                "orbax",
            }
            assert not found, f"{module} imports {found}"


def test_importing_the_package_is_quick_and_pulls_nothing_heavy():
    heavy = sorted(HOST_LIBRARIES | {"jax", "flax", "numpy", "tensorboardX", "orbax"})
    seconds, found, names = min(
        fresh(
            "import time, sys, json; t = time.perf_counter(); import imagebind_jax; "
            "t = time.perf_counter() - t; "
            f"print(json.dumps([t, [m for m in {heavy} if m in sys.modules], dir(imagebind_jax)]))"
        )
        for _ in range(2)  # the better of two: another process may have had the core
    )
    assert not found
    assert seconds < 1
    assert {"embed", "ImageBind", "tokenize", "HUGE"} <= set(names)


@pytest.mark.parametrize("name", imagebind_jax.__all__)
def test_every_public_name_is_there(name):
    assert getattr(imagebind_jax, name) is not None


def test_the_models_module_has_a_short_name():
    from imagebind_jax import model

    assert model.ImageBind is imagebind_jax.ImageBind


def test_the_device_side_needs_no_library_of_media():
    modules = [f"imagebind_jax.{name}" for name in DEVICE_SIDE]
    found = fresh(
        f"import importlib, json, sys; [importlib.import_module(m) for m in {modules}]; "
        f"print(json.dumps([m for m in {sorted(HOST_LIBRARIES)} if m in sys.modules]))"
    )
    assert not found


def test_training_starts_without_libraries_it_does_not_use():
    unused = sorted(HOST_LIBRARIES - {"grain"})
    found = fresh(
        "import json, sys; import imagebind_jax.training.fit; "
        f"print(json.dumps([m for m in {unused} if m in sys.modules]))"
    )
    assert not found


def test_every_package_is_installed():
    setup = configparser.ConfigParser()
    setup.read(ROOT.parent / "setup.cfg")
    packages = {
        module_of(path / "__init__.py")
        for path in [ROOT, DATA, *ROOT.rglob("*")]
        if (path / "__init__.py").exists()
    }
    assert packages == set(setup["options"]["packages"].split())


# ---- data is never run


def calls(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


# Code that is run because of a name: each of these names is checked, or the user's own command.
IMPORTS_BY_NAME = {
    ("imagebind_jax", "importlib.import_module"),  # of the public names, in a table
    ("imagebind_jax.config", "importlib.util.spec_from_file_location"),  # a config is code
    ("imagebind_jax.config", "spec.loader.exec_module"),
    ("imagebind_jax.inputs.datasets", "importlib.import_module"),  # of the folders of data/
}


@pytest.mark.goal("G25")
def test_nothing_in_a_file_of_data_can_run(measured):
    forbidden_modules = {"pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib",
                         "runpy", "code", "codeop", "xmlrpc"}  # fmt: skip
    forbidden_calls = {"eval", "exec", "compile", "__import__", "yaml.load", "yaml.unsafe_load",
                       "yaml.full_load", "torch.load", "torch.jit.load", "torch.hub.load",
                       "os.system", "os.popen", "pty.spawn", "subprocess.getoutput",
                       "subprocess.getstatusoutput"}  # fmt: skip
    forbidden_options = {"allow_pickle", "shell"}
    by_name = ("import_module", "exec_module", "load_module", "spec_from_file_location")
    wrong, seen, looked_at = [], set(), 0
    for module, path in MODULES.items():
        wrong += [
            f"{module} imports {n}"
            for n in imports(path)
            if n.split(".")[0] in forbidden_modules
            and (module, n) != ("imagebind_jax.config", "cloudpickle")  # to send a config's classes
        ]
        for call, name in calls(path):
            looked_at += 1
            if name in forbidden_calls or name.startswith(("os.exec", "os.spawn")):
                wrong.append(f"{module}:{call.lineno} calls {name}")
            if name.endswith(by_name):
                seen.add((module, name))
            for option in call.keywords:
                off = isinstance(option.value, ast.Constant) and option.value.value is False
                if option.arg in forbidden_options and not off:
                    wrong.append(f"{module}:{call.lineno} passes {option.arg}")
        if "weights_only=False" in path.read_text():  # no message advises it, either
            wrong.append(f"{module} names weights_only=False")
    assert not wrong, "\n".join(wrong)
    assert seen == IMPORTS_BY_NAME
    measured(f"0 of {looked_at:,} calls in {len(MODULES)} files")


# ---- files that can be read


def constant_lines(path):
    """Lines of a module's literal constants: tables, templates, style sheets."""
    lines = 0
    for node in tree(path).body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            try:
                ast.literal_eval(node.value)
            except ValueError:
                continue
            lines += node.end_lineno - node.lineno + 1
    return lines


def test_no_file_is_longer_than_one_can_hold_in_mind():
    lengths = {m: len(p.read_text().splitlines()) - constant_lines(p) for m, p in MODULES.items()}
    long = {module: lines for module, lines in lengths.items() if lines > LONGEST}
    assert not long, f"longer than {LONGEST} lines without constants: {long}"


def test_no_file_is_a_drawer_for_everything():
    drawers = {"utils", "util", "helpers", "helper", "misc"}
    assert not [path for path in FILES if path.stem in drawers]


def test_every_file_opens_with_one_sentence_saying_what_it_holds():
    for path in FILES:
        opening = (ast.get_docstring(tree(path)) or "").split("\n\n")[0]
        if path.name != "version.py":
            assert opening.endswith((".", "?")), f"{path}: {opening!r}"

"""The layers of the tree: a module imports its own layer and lower ones, and losses cost jax alone."""

import ast
import importlib
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jaxpose"

# Layer of every module of the package, by its first name. Layer 3 knows layer 0, but not 1 and 2.
LAYERS = {
    "calibration": 0, "suggest": 4, "new": 4,
    "files": 0, "pickles": 0, "matlab": 0, "labels": 0,
    "skeleton": 0, "bodies": 0, "sides": 0, "geometry": 0, "heatmap": 0, "losses": 0, "metrics": 0,
    "density": 0, "trajectories": 0, "conformal": 0, "cameras": 0,
    "platforms": 0, "buckets": 0,
    "quadrature": 0, "detection": 0, "hands": 0,
    "_distrax": 1, "flow": 1, "grouping": 1, "nets": 1, "weights": 1, "smoothing": 1, "triangulation": 1,
    "tracking": 1,
    "tasks": 2, "inference": 2, "parallel": 2, "train": 2, "checkpoint": 2, "compile": 2,
    "data": 3, "evaluation": 3,
    "importer": 4, "interchange": 4, "media": 4, "torch_file": 4, "predict": 4, "view": 4, "export": 4, "summary": 4, "cli": 4,
}  # fmt: skip
ALLOWED = {0: {0}, 1: {0, 1}, 2: {0, 1, 2}, 3: {0, 3}, 4: {0, 1, 2, 3, 4}}

# Who may import what else, at the top of a module or inside a function. Names: first part of the module below jaxpose.
ONLY_IMPORTER = {
    "distrax": {"_distrax"},
    "orbax": {"checkpoint"},
    "tensorflow": {"data", "export"},
    "tensorflow_datasets": {"data"},
    "pycocotools": {"data", "evaluation"},
}
LAYER_0_MAY = {"jax", "numpy"} | set(sys.stdlib_module_names)
READERS_MAY = {"buckets": {"etils", "fsspec", "tqdm"}, "matlab": {"scipy"}}  # inside functions
WITHOUT_JAX = {"metrics", "evaluation"}  # usable, and imported, without jax


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def unit(path: Path) -> str:
    """ "flow" for jaxpose/flow.py, "data" for jaxpose/data/source.py, "" for jaxpose/__init__.py."""
    first = path.relative_to(PACKAGE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imports(path: Path, *, top_only: bool = False) -> set[str]:
    """Every absolute name that a file imports, "from a.b import c" as "a.b.c"; type-checking blocks left out."""
    package = list(path.relative_to(ROOT).parts[:-1])
    found: set[str] = set()

    def visit(node, top: bool):
        for child in ast.iter_child_nodes(node):
            inside = top and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if top or not top_only:
                if isinstance(child, ast.Import):
                    found.update(alias.name for alias in child.names)
                elif isinstance(child, ast.ImportFrom):
                    base = package[: len(package) - child.level + 1] if child.level else []
                    prefix = ".".join([*base, *([child.module] if child.module else [])])
                    found.update(f"{prefix}.{alias.name}" for alias in child.names)
            visit(child, inside)

    visit(ast.parse(path.read_text()), True)
    return found


def internal(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("jaxpose.")}


def test_every_module_has_a_layer():
    assert {unit(path) for path in modules()} - {""} <= set(LAYERS)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_its_own_layer_and_lower_ones(path):
    names = imports(path)
    if path == PACKAGE / "__init__.py":
        assert not names, "jaxpose/__init__.py imports nothing"
        return
    layer = 4 if path.name == "__main__.py" else LAYERS[unit(path)]  # `python -m PACKAGE` is a command
    for other in internal(names) & set(LAYERS):
        assert LAYERS[other] in ALLOWED[layer], f"{unit(path)} (layer {layer}) imports {other} (layer {LAYERS[other]})"
    outside = {name.split(".")[0] for name in names} - {"jaxpose", "__future__"}
    assert not outside & {"experiments", "benchmarks", "tests"}
    for library, importers in ONLY_IMPORTER.items():
        assert library not in outside or unit(path) in importers, f"{library} is imported by {importers} only"
    assert "_distrax" not in internal(names) or unit(path) == "flow", "distrax is used by flow only"
    if layer == 0:
        may = LAYER_0_MAY | READERS_MAY.get(unit(path), set())
        assert outside <= may, f"layer 0 imports jax and numpy only, not {outside - may}"
    top = {name.split(".")[0] for name in imports(path, top_only=True)}
    assert "tensorflow" not in top, "TensorFlow is imported inside functions"
    if unit(path) in WITHOUT_JAX:
        assert "jax" not in top, f"{unit(path)} runs without jax"


@pytest.mark.parametrize("path", sorted((ROOT / "experiments" / "common").glob("*.py")), ids=lambda path: path.stem)
def test_what_the_pages_share_knows_no_page(path):
    ours = {name for name in imports(path) if name.startswith(("experiments", "benchmarks", "tests"))}
    assert all(name.startswith("experiments.common") for name in ours), ours


def test_the_import_reader_sees_what_it_should(tmp_path):
    """The checks above rest on it."""
    source = PACKAGE / "_probe.py"
    code = "import a.b\nfrom . import c\nfrom .d import e\ndef f():\n    import g\nclass H:\n    import i\n"
    tree = tmp_path / "jaxpose"
    tree.mkdir()
    probe = tree / source.name
    probe.write_text(code)
    global ROOT
    kept, ROOT = ROOT, tmp_path
    try:
        assert imports(probe) == {"a.b", "jaxpose.c", "jaxpose.d.e", "g", "i"}
        assert imports(probe, top_only=True) == {"a.b", "jaxpose.c", "jaxpose.d.e", "i"}
    finally:
        ROOT = kept


def circles(files: list[Path], *, top_only: bool = False) -> list[list[str]]:
    """Groups of modules that import one another, directly or through others; a late import inside a function counts too.

    `from package import name` is an import of package.name where that is a module, and of package's own file where it is not.
    """
    files_of = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files
    }

    def module_of(name: str) -> str | None:
        while name and name not in files_of:
            name = name.rpartition(".")[0]
        return name or None

    graph = {
        name: {module_of(other) for other in imports(file, top_only=top_only)} - {None, name}
        for name, file in files_of.items()
    }
    reached: dict[str, set[str]] = {}
    for name in graph:
        todo, seen = [name], set()
        while todo:
            fresh = graph[todo.pop()] - seen
            seen |= fresh
            todo += fresh
        reached[name] = seen
    groups = {frozenset({name, *(other for other in reached[name] if name in reached[other])}) for name in graph}
    return sorted(sorted(group) for group in groups if len(group) > 1)


def test_no_modules_import_one_another_in_a_circle():
    files = [
        file for folder in ("jaxpose", "experiments", "benchmarks") for file in sorted((ROOT / folder).rglob("*.py"))
    ]
    assert len(files) > 100
    assert circles(files) == []


def test_circles_are_seen(tmp_path, monkeypatch):
    """The check above rests on it."""
    sources = {"__init__": "from p import a", "a": "from p.b import f", "b": "def f():\n    from p import c", "c": "from p import a, d",
               "d": "import jax"}  # fmt: skip
    (tmp_path / "p").mkdir()
    for name, text in sources.items():
        (tmp_path / "p" / f"{name}.py").write_text(text)
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    files = sorted((tmp_path / "p").iterdir())
    assert circles(files) == [["p.a", "p.b", "p.c"]] and circles(files, top_only=True) == []


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


@pytest.mark.parametrize("module", ["losses", "density", "geometry", "skeleton", "metrics"])
def test_layer_0_loads_jax_and_numpy_only(module):
    heavy = ("flax", "distrax", "orbax", "tensorflow", "optax", "torch", "tensorflow_probability")
    loaded = python(f"import sys, jaxpose.{module}; print([m for m in {heavy} if m in sys.modules])")
    assert loaded == "[]"


@pytest.mark.skipif(not find_spec("tensorflow"), reason="needs TensorFlow")
@pytest.mark.parametrize("module", ["data.builder", "data.crops", "data.whole_images", "data.synthetic", "train"])
def test_importing_does_not_start_tensorflow(module):
    """TensorFlow is loaded when data are read. (`tasks` and `flow` may load it: where it is installed, distrax does.)"""
    assert python(f"import sys, jaxpose.{module}; print('tensorflow' in sys.modules)") == "False"


def test_evaluation_needs_neither_jax_nor_tensorflow():
    loaded = python("import sys, jaxpose.evaluation; print([m for m in ('jax', 'tensorflow') if m in sys.modules])")
    assert loaded == "[]"


def test_reading_labels_needs_neither_jax_nor_tensorflow():
    modules = "jaxpose.geometry, jaxpose.data.formats.coco, jaxpose.data.boxes"
    loaded = python(f"import sys, {modules}; print([m for m in ('jax', 'tensorflow') if m in sys.modules])")
    assert loaded == "[]"


def test_losses_cost_little_more_than_jax():
    """`import jaxpose.losses` takes less than 1.5 times `import jax` (which the comparison imports in full)."""

    def seconds(code: str) -> float:
        start = time.perf_counter()
        python(code)
        return time.perf_counter() - start

    python("import jaxpose.losses")  # files cached, bytecode written
    pairs: list[tuple[float, float]] = []
    for _ in range(6):  # taking turns and comparing the best, because the machine may be busy
        pairs.append((seconds("import jax"), seconds("import jaxpose.losses")))
        ratio = min(b for _, b in pairs) / min(a for a, _ in pairs)
        if len(pairs) > 1 and ratio < 1.5:
            break
    assert ratio < 1.5


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("tensorflow"), reason="needs TensorFlow")
@pytest.mark.parametrize("order", ["tensorflow, jaxpose.flow", "jaxpose.flow, tensorflow"])
def test_tensorflow_and_the_flow_import_in_both_orders(order):
    """distrax's own dependency changes its behaviour when TensorFlow is there: both orders must give a flow that works."""
    code = f"""
import {order}
import jax, jax.numpy as jnp
flow = jaxpose.flow.RealNVP(hidden=(4, 4))
variables = flow.init(jax.random.key(0), jnp.zeros((1, 2)))
print(flow.apply(variables, jnp.zeros((3, 2))).shape, tensorflow.constant(1).shape)
"""
    assert python(code) == "(3,) ()"


def test_a_package_is_unimportable_for_one_thread_only(tmp_path, monkeypatch):
    """A thread that imports TensorFlow while another one imports the flow gets TensorFlow."""
    from jaxpose._distrax import unimportable

    (tmp_path / "hidden_package.py").write_text("answer = 42")
    monkeypatch.syspath_prepend(tmp_path)
    with ThreadPoolExecutor() as pool, unimportable("hidden_package"):
        with pytest.raises(ModuleNotFoundError, match="hidden_package"):
            importlib.import_module("hidden_package")
        assert pool.submit(importlib.import_module, "hidden_package").result().answer == 42
    monkeypatch.delitem(sys.modules, "hidden_package")
    assert importlib.import_module("hidden_package").answer == 42


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("tensorflow"), reason="needs TensorFlow")
def test_the_flow_loads_no_tensorflow_and_leaves_tensorflow_probability_whole():
    code = """
import sys
import jaxpose.flow
loaded = "tensorflow" in sys.modules
import jax, jax.numpy as jnp
import tensorflow_probability as tfp
print(loaded, round(float(tfp.distributions.Normal(0.0, 1.0).log_prob(0.0)), 4))
flow = jaxpose.flow.RealNVP(hidden=(4, 4))
print(flow.apply(flow.init(jax.random.key(0), jnp.zeros((1, 2))), jnp.zeros((3, 2))).shape)
"""
    assert python(code) == "False -0.9189\n(3,)"

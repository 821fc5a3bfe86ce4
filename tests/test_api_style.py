"""One style for all public functions: data by position, options by keyword, annotated, documented, with an example."""

import ast
import importlib
import inspect
import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = ("losses", "geometry", "heatmap", "metrics", "density", "grouping", "smoothing", "cameras", "triangulation",
           "detection.boxes", "detection.anchors", "detection.matching", "detection.point_sets",
           "detection.roi_align", "detection.keypoint_maps")  # fmt: skip

# Names of data: by position. What is not in here is an option, by keyword; `key` comes first where there is randomness.
DATA = {
    "a", "affine", "alpha", "anchors", "b", "base", "box_xywh", "boxes", "deltas", "depth", "features", "gradient", "iou", "keypoints",
    "map_hw",     "candidates", "negative", "padded_hw", "positive", "scores", "shift", "similarity", "suppresses",
    "templates", "center_xy", "covariance", "e", "error", "head_box", "heatmaps", "level",
    "log_g", "log_prob", "log_prob_2d", "log_prob_3d", "log_z", "logits", "maps", "measured", "model", "mu", "path", "points",
    "pred", "prob", "projections", "px", "sigma", "size", "size_hw", "size_wh", "source_width", "squared", "tags",
    "target", "uvd", "values", "vector", "visible", "x", "xy", "y",
}  # fmt: skip
# The names that DESIGN gives to a mask and to weights: always keywords.
ALWAYS_KEYWORD = {"where", "weight", "variant", "beta", "bound", "points", "levels", "padding", "sigmas"}
IN_SPACE = {"cameras", "triangulation"}  # where `points` are points in space, and data, not the number of a grid's


def public(module_name):
    """(name, object) of what a module defines or re-exports for users."""
    module = importlib.import_module(f"jaxpose.{module_name}")
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    return [(name, getattr(module, name)) for name in names]


def functions():
    for module in MODULES:
        if find_spec(f"jaxpose.{module}") is None:
            continue
        for name, value in public(module):
            if inspect.isfunction(value):
                yield pytest.param(value, id=f"{module}.{name}")


def test_the_list_is_not_empty():
    names = {parameter.id for parameter in functions()}
    assert {"losses.rle", "losses.mean", "geometry.apply_affine", "metrics.oks", "density.coverage"} <= names


@pytest.mark.parametrize("function", functions())
def test_data_first_options_by_keyword(function):
    parameters = list(inspect.signature(function).parameters.values())
    positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    keyword = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert not [p for p in parameters if p.kind is p.VAR_KEYWORD], "options are named"
    assert positional, "takes data"
    for parameter in positional:
        assert parameter.default is parameter.empty, f"{parameter.name} has a default: an option, so keyword-only"
        in_space = function.__module__.removeprefix("jaxpose.") in IN_SPACE
        assert parameter.name not in ALWAYS_KEYWORD - ({"points"} if in_space else set())
        assert parameter.name in DATA, f"{parameter.name} is not known as data: make it a keyword, or add it to DATA"
    assert "key" not in [p.name for p in positional[1:]], "key comes first"
    assert not {p.name for p in keyword} & {"mask", "valid"}, "a mask is called `where`"


@pytest.mark.parametrize("function", functions())
def test_annotated_and_documented(function):
    signature = inspect.signature(function)
    missing = [p.name for p in signature.parameters.values() if p.annotation is p.empty]
    assert not missing, f"no type for {missing}"
    assert signature.return_annotation is not signature.empty, "no return type"
    text = inspect.getdoc(function) or ""
    assert text, "no docstring"
    assert ">>> " in text, "no example"
    assert text.splitlines()[0].strip(), "the first line says what it is"


SECTION = re.compile(r"^( *)(?:Args|Returns|Raises|Attributes|Yields):\n\1( +)\S", re.M)


def test_the_sections_of_docstrings_are_indented_by_four():
    assert [len(m[2]) for m in SECTION.finditer("a\n  Args:\n    x: y\n\n  Raises:\n      z\n")] == [2, 4]
    sources = {
        path: path.read_text() for folder in ("jaxpose", "experiments") for path in (ROOT / folder).rglob("*.py")
    }
    sections = [(path, len(match[2])) for path, text in sources.items() for match in SECTION.finditer(text)]
    assert len(sections) > 500
    assert not [f"{path.relative_to(ROOT)}: {indent}" for path, indent in sections if indent != 4]


# Participles and pronouns that do not say what a value holds.
IDIOM = frozenset({"found", "shown", "kept", "chosen", "there", "made", "mine", "drawn", "said", "told", "known"})
# Names that users know: an attribute of a public class, and a keyword of a public function.
PUBLIC = {("jaxpose/evaluation/cases.py", "found"), ("jaxpose/view/figures/base.py", "shown")}
# An argument is described by a noun phrase: "seed: Seeds the shuffling", not "seed: of the shuffling".
TELEGRAPHIC = re.compile(r"^\s+[a-z_]+: (of|for|by|so|as|which|that|what|whether|how) ")


def idioms(tree: ast.AST):
    """The names of IDIOM that a module gives to values, attributes, arguments, functions and classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            name = node.id if isinstance(node, ast.Name) else node.attr
        elif isinstance(node, ast.arg):
            name = node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = node.name
        else:
            continue
        if name in IDIOM:
            yield name


def telegraphic_lines(tree: ast.AST):
    """The lines of docstrings that describe an argument without a noun."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            text = ast.get_docstring(node, clean=False) or ""
            yield from (line.strip() for line in text.splitlines() if TELEGRAPHIC.match(line))


def test_values_are_named_by_what_they_hold_and_arguments_described_by_noun_phrases():
    example = ast.parse(
        "def shown(kept):\n"
        "    '''Args:\n        seed: of the order.\n        n: A count.'''\n"
        "    a, self.made = found = 1, 2\n"
    )
    assert sorted(idioms(example)) == ["found", "kept", "made", "shown"]
    assert list(telegraphic_lines(example)) == ["seed: of the order."]
    paths = [path for folder in ("jaxpose", "experiments", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    trees = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in paths}
    assert len(trees) > 150
    assert not [(path, name) for path, tree in trees.items() for name in idioms(tree) if (path, name) not in PUBLIC]
    assert not [(path, line) for path, tree in trees.items() for line in telegraphic_lines(tree)]

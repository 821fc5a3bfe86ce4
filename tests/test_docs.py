"""The documentation: its site builds offline without a warning, its links lead somewhere, its examples and its notebook run."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import tyro

from benchmarks import scaling_model
from experiments import (
    ablation_rle,
    ablation_swahr,
    coco_debias,
    coco_integral,
    coco_keypoint_rcnn,
    coco_pointset_anchor,
    coco_rle,
    coco_swahr,
    h36m_lifting,
    h36m_rle,
    oct_rle,
    orderings,
    rhd_integral,
)
from jaxpose import importer, new, suggest, summary
from jaxpose.data import command as data_command
from jaxpose.evaluation import command as evaluation
from jaxpose.evaluation import submission
from jaxpose.predict import command, live, smooth, track, triangulate
from jaxpose.view import compare
from tests.test_api_style import MODULES, public

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NEEDED = ("mkdocs", "material", "mkdocstrings_handlers", "latex2mathml")
needs_mkdocs = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, NEEDED)), reason="needs the extra docs: " + ", ".join(NEEDED)
)

# DESIGN's stable names: every one is to be found in the API pages.
STABLE = """
losses: rle laplace_nll gaussian_nll l1 l2 smooth_l1 heatmap_mse heatmap_ohkm heatmap_cross_entropy heatmap_bce heatmap_kl
  heatmap_js weight_adaptive_mse scale_penalty associative_embedding mean
flow: RealNVP RealNVP.log_prob RealNVP.sample log_normalizer
density: log_prob coverage region
heatmap: gaussian argmax dark udp soft_argmax compensate_bias scale_adaptive
geometry: box_to_affine apply_affine invert_affine flip_joints
metrics: oks pckh epe auc mpjpe pa_mpjpe
evaluation: oks_nms soft_oks_nms
grouping: group group_batch
weights: from_torch flow_from_torch
tasks: regression.regression heatmaps bottom_up.bottom_up from_config
checkpoint: restore_model
cameras: project world_to_camera camera_to_world
smoothing: kalman
triangulation: triangulate
"""

# Builds with every connection refused, so that nothing can come from another host.
BUILD = """
import socket, sys
def refuse(*args):
    raise OSError("the documentation is built offline")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from mkdocs.__main__ import cli
cli(["build", "--strict", "--site-dir", sys.argv[1]])
"""


class Page(HTMLParser):
    """What a page links to, what it loads, and its anchors."""

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.classes: set[str] = set()
        self.equations = 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors.update(value for value in (attrs.get("id"), attrs.get("name")) if value)
        self.classes.update((attrs.get("class") or "").split())
        self.equations += tag == "math"
        if tag == "a" and attrs.get("href"):
            self.links.append(attrs["href"])
        elif tag == "link" and attrs.get("rel") not in ("canonical", "next", "prev"):
            self.loads.append(attrs["href"])
        else:
            self.loads += [attrs[name] for name in ("src", "srcset", "data", "poster") if attrs.get(name)]
        self.loads += re.findall(r"url\(([^)]*)\)", attrs.get("style") or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> tuple[Path, dict[str, Page]]:
    """The built site: its folder, and its pages by their place in it."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=300,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    assert "WARNING" not in done.stderr, done.stderr[-5000:]
    return folder, {str(p.relative_to(folder)): Page(p.read_text()) for p in sorted(folder.rglob("*.html"))}


@needs_mkdocs
def test_links_lead_somewhere(site):
    folder, pages = site
    broken = []
    for name, page in pages.items():
        for link in page.links:
            url = urlsplit(link)
            if url.scheme or url.netloc or name == "404.html":  # the links of that one are absolute
                continue
            target = (folder / name).parent / unquote(url.path) if url.path else folder / name
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                broken.append(f"{name}: {link}")
            elif url.fragment and target.suffix == ".html":
                there = pages[str(target.resolve().relative_to(folder.resolve()))].anchors
                if unquote(url.fragment) not in there | {"__skip"}:
                    broken.append(f"{name}: {link} (no such anchor)")
    assert not broken
    assert sum(len(page.links) for page in pages.values()) > 1000


@needs_mkdocs
def test_nothing_is_loaded_from_another_host(site):
    folder, pages = site
    loads = {(name, load.strip("'\" ")) for name, page in pages.items() for load in page.loads}
    for sheet in folder.rglob("*.css"):
        text = sheet.read_text()
        found = re.findall(r"url\(([^)]*)\)", text) + re.findall(r"@import\s+[\"']([^\"']*)", text)
        loads |= {(str(sheet.relative_to(folder)), load.strip("'\" ")) for load in found}
    assert len(loads) > 100
    assert not [(name, load) for name, load in loads if re.match(r"(https?:)?//", load)]
    classes = set().union(*(page.classes for page in pages.values()))
    assert "highlight" in classes and "mermaid" not in classes  # whose script the theme would fetch


@needs_mkdocs
def test_equations_are_mathml(site):
    folder, pages = site
    assert pages["concepts.html"].equations > 30 and pages["density.html"].equations > 5
    for name in (page.with_suffix(".html").name for page in DOCS.glob("*.md")):
        text = re.sub(r"<(pre|code)\b.*?</\1>", "", (folder / name).read_text(), flags=re.S)
        assert "$" not in text, name


@needs_mkdocs
def test_api_pages_have_every_public_name(site):
    _, pages = site
    anchors = set().union(*(page.anchors for name, page in pages.items() if name.startswith("api/")))
    module, names = "", set()
    for word in STABLE.split():
        if word.endswith(":"):
            module = word[:-1]
        else:
            names.add(f"jaxpose.{module}.{word}")
    assert len(names) == 56
    names |= {f"jaxpose.{module}.{name}" for module in MODULES for name, value in public(module) if callable(value)}
    missing = sorted(names - anchors)
    assert not missing


def hook(name: str):
    spec = importlib.util.spec_from_file_location(f"docs_hooks_{name}", DOCS / "hooks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@needs_mkdocs
def test_a_new_module_gets_a_page(tmp_path):
    (tmp_path / "jaxpose" / "zoo").mkdir(parents=True)
    (tmp_path / "jaxpose" / "__init__.py").touch()
    (tmp_path / "jaxpose" / "new.py").write_text('"""New.\n\nMore."""\nclass A: ...\ndef b(): ...\ndef _c(): ...\n')
    (tmp_path / "jaxpose" / "zoo" / "__init__.py").write_text('__all__ = ["cats", "lion"]\n')
    (tmp_path / "jaxpose" / "zoo" / "cats.py").write_text("def lion(): ...\ndef tiger(): ...\n")
    (tmp_path / "jaxpose" / "zoo" / "_cage.py").write_text("def bar(): ...\n")
    found = hook("reference").modules(tmp_path)
    assert found == {
        "jaxpose.new": ("New.", ["A", "b"]),
        "jaxpose.zoo": ("", ["lion"]),
        "jaxpose.zoo.cats": ("", ["tiger"]),
    }


@needs_mkdocs
def test_an_equation_is_left_alone_by_markdown_and_refused_where_it_has_no_mathml():
    import markdown

    equations = hook("equations").Equations
    html = markdown.markdown("costs $a_b * c_d$, $5 and `$x$`", extensions=[equations()])
    assert html.count("<math") == 1 and "<em>" not in html and "<code>$x$</code>" in html and "$5" in html
    with pytest.raises(ValueError, match="nosuchthing"):
        markdown.markdown(r"$\nosuchthing{x}$", extensions=[equations()])


def test_examples_get_their_heading():
    pytest.importorskip("griffe")
    with_section = hook("docstrings").with_section
    assert with_section("A.\n\n>>> 1\n1") == "A.\n\n\nExamples:\n    >>> 1\n    1"
    assert with_section("A >>> b") == "A >>> b"


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.M | re.S)


@pytest.mark.parametrize("page", [p for p in sorted(DOCS.glob("*.md")) if blocks(p)], ids=lambda page: page.stem)
def test_examples_run(page):
    """The blocks of a page, in order, in one namespace; those that import Equinox only where it is installed."""
    names: dict = {}
    for block in blocks(page):
        if "import equinox" in block and not importlib.util.find_spec("equinox"):
            continue
        exec(compile(block, page.name, "exec"), names)


def test_flags_exist(capsys):
    """Every `--flag` that a text names is one of an experiment or of a tool; commands are in tests/test_readme.py."""
    tools = [
        data_command.prepare,
        data_command.synthetic,
        evaluation.main,
        importer.main,
        command.main,
        new.main,
        suggest.main,
        track.main,
        live.main,
        smooth.main,
        triangulate.main,
        summary.main,
        submission.main,
        compare.compare,
    ]
    pages = [
        coco_rle,
        coco_keypoint_rcnn,
        coco_pointset_anchor,
        coco_integral,
        coco_debias,
        coco_swahr,
        rhd_integral,
        oct_rle,
        h36m_lifting,
        h36m_rle,
    ]
    kinds = [next(iter(page.PRESETS.values())).__class__ for page in pages]
    for kind in [*tools, *kinds, ablation_rle.Config, ablation_swahr.Config, orderings.Config, scaling_model.Options]:
        with pytest.raises(SystemExit):
            tyro.cli(kind, args=["--help"])
    known = set(re.findall(r"--[a-z][\w.-]+", capsys.readouterr().out))
    known |= {"--preset", "--config"}  # which `parse` reads before all others
    for page in DOCS.glob("*.md"):
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
        spans = [span for span in re.findall(r"`([^`]*)`", text) if span.startswith("--")]
        flags = {flag for span in spans for flag in re.findall(r"--[a-z][\w.-]+", span)}
        assert not flags - known, page.name
    assert "--likelihood.variant" in known and "--loss.exponent" in known


def quirks(text: str) -> set[str]:
    """The codes that a source refers to: "QUIRK R16", "QUIRKS D1, D2"; a QUIRK without a code is an empty one."""
    places = re.findall(r"QUIRKS?\b((?:,? [A-Z]\d+\b)*)", text)
    return {code for codes in places for code in (re.findall(r"[A-Z]\d+", codes) or [""])}


def test_every_code_in_the_source_is_a_row_of_the_differences():
    assert quirks("QUIRK R16. (QUIRKS D1, D2)") == {"R16", "D1", "D2"} and quirks("QUIRK: odd") == {""}
    rows = re.findall(r"^\| ([A-Z]\d+) \|", (DOCS / "differences.md").read_text(), re.M)
    assert len(rows) == len(set(rows)) > 40
    sources = [path for folder in ("jaxpose", "experiments", "tests") for path in (ROOT / folder).rglob("*.py")]
    codes = {path: quirks(path.read_text()) for path in sources if path.name != "test_docs.py"}
    unknown = {
        str(path.relative_to(ROOT)): sorted(code - set(rows)) for path, code in codes.items() if code - set(rows)
    }
    assert not unknown, f"codes that docs/differences.md does not list: {unknown}"
    assert len(set().union(*codes.values())) >= 20
    private = [str(path) for path in codes if "(facts " + "of" in path.read_text().lower()]
    assert not private, "notes to oneself"


NOTEBOOKS = sorted(DOCS.glob("notebooks/*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_with_its_outputs(path):
    text = path.read_text()
    notebook = json.loads(text)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert notebook["nbformat"] == 4 and [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert sum("image/png" in output.get("data", {}) for cell in code for output in cell["outputs"]) >= 3
    assert len(text) < 200_000 and not re.search(r'"[^"]*/(home|root|tmp|work|Users)/', text)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("JAXPOSE_NOTEBOOK_STEPS", "40")
    run = hook("run_notebook").run
    drawn, printed = [], ""
    for cell, text, pictures in run(json.loads(path.read_text())):
        before = [output for output in cell["outputs"] if "image/png" in output.get("data", {})]
        assert len(pictures) == len(before)
        drawn += pictures
        printed += text
    assert len(drawn) >= 3 and all(png.startswith(b"\x89PNG") for png in drawn)
    assert "nan" not in printed


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_no_blank_line_ends_a_table_before_its_last_row(page):
    lines = page.read_text().splitlines()
    for i in range(2, len(lines) - 1):
        if lines[i].startswith("|") and lines[i - 1] == "" and lines[i - 2].startswith("|"):
            assert re.fullmatch(r"\|[-:| ]+\|", lines[i + 1]), f"{page.name}:{i + 1} is no row of the table above it"

"""The page with poses in space: what it holds, that it fetches nothing, and that its script turns them."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxpose.skeleton import H36M17, RHD21
from jaxpose.view import space

HOSTILE = "</script><script>document.title='owned'</script>\"'&amp;"


def scene_of(text: str) -> dict:
    return json.loads(html.unescape(re.search(r'data-scene="([^"]*)"', text)[1]))


def test_page_holds_the_poses_and_nothing_to_fetch(tmp_path):
    rng = np.random.default_rng(0)
    poses = rng.normal(0, 300, (3, 17, 3))
    poses[1, 4] = np.nan
    truth = poses + 10
    ellipsoids = np.tile(np.diag([100.0, 400.0, 900.0]), (3, 17, 1, 1))
    facts = space.write(
        tmp_path / "space.html", poses, skeleton=H36M17, truth=truth, ellipsoids=ellipsoids, names=["a", HOSTILE, "c"],
        title=HOSTILE, scores={"MPJPE": 12.5},
    )  # fmt: skip
    text = (tmp_path / "space.html").read_text()
    assert facts == {"path": str(tmp_path / "space.html"), "bytes": len(text.encode()), "poses": 3}
    scene = scene_of(text)
    np.testing.assert_allclose(scene["poses"][0]["xyz"], poses[0], atol=1e-3)
    assert scene["poses"][1]["xyz"][4] is None and scene["poses"][0]["ellipsoids"][0] == [100, 0, 0, 400, 0, 900]
    assert [tuple(limb) for limb in scene["limbs"]] == list(H36M17.limbs)
    assert "<script>document" not in text and "http" not in text.replace("http-equiv", "")
    script = re.search(r"<script>(.*?)</script>", text, re.S)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text and "default-src 'none'" in text


def test_hands_and_sides():
    assert set(space.sides(RHD21)) == {space.MIDDLE}
    assert "data-scene" in space.section(np.zeros((1, 21, 3)), skeleton=RHD21)
    sides = space.sides(H36M17)
    assert [sides[k] for k in (1, 4, 11, 14, 0)] == [space.RIGHT, space.LEFT, space.LEFT, space.RIGHT, space.MIDDLE]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"poses": np.zeros((1, 16, 3))}, r"poses has shape \(1, 16, 3\): expected \(N, 17, 3\)"),
        ({"poses": np.zeros((0, 17, 3))}, "poses is empty"),
        ({"truth": np.zeros((2, 17, 3))}, r"truth has shape \(2, 17, 3\): expected \(1, 17, 3\)"),
        ({"ellipsoids": np.zeros((1, 17, 3))}, "ellipsoids has shape"),
        ({"names": ["a", "b"]}, "names has 2 titles for 1 poses"),
    ],
)
def test_wrong_shapes_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        space.section(**({"poses": np.zeros((1, 17, 3)), "skeleton": H36M17} | options))


def test_view_imports_neither_jax_nor_matplotlib():
    code = "import sys, jaxpose.view.space; print(sorted({'jax', 'matplotlib', 'tensorflow'} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


NODE = shutil.which("node")


@pytest.mark.skipif(NODE is None, reason="needs node")
def test_the_script_draws_and_turns(tmp_path):
    """The rotation and the outline of an ellipsoid, by the script itself with a canvas that records."""
    script = (Path(space.__file__).parent / "report" / "space.js").read_text()
    scene = scene_of(
        space.section(np.array([[[0.0, 0, 0], *[[100.0, 0, 0]] * 16]]), skeleton=H36M17,
                      ellipsoids=np.tile(np.diag([1.0, 4.0, 9.0]), (1, 17, 1, 1)))
    )  # fmt: skip
    harness = f"""
const drawn = [];
const pen = new Proxy({{}}, {{get: (t, n) => n in t ? t[n] : (...a) => drawn.push([n, ...a]), set: (t, n, v) => (t[n] = v, true)}});
const on = {{}};
const canvas = {{clientWidth: 400, clientHeight: 400, getContext: () => pen, addEventListener: (n, f) => on[n] = f,
  setPointerCapture() {{}}}};
const parts = {{canvas, "[name=pose]": {{selectedIndex: 0}}, "[name=truth]": null, "[name=regions]": {{checked: true}}}};
const box = {{dataset: {{scene: {json.dumps(json.dumps(scene))}}}, querySelector: (s) => parts[s], addEventListener() {{}}}};
globalThis.document = {{documentElement: {{}}, querySelectorAll: () => [box]}};
globalThis.getComputedStyle = () => ({{getPropertyValue: () => "#000"}});
globalThis.addEventListener = () => {{}};
globalThis.devicePixelRatio = 1;
{script}
const arcs = () => drawn.filter((d) => d[0] === "arc").slice(-17).map((d) => d.slice(1, 3));
const ellipse = () => drawn.filter((d) => d[0] === "ellipse").at(-1).slice(1, 6);
const before = arcs();
on.keydown({{key: "ArrowUp", preventDefault() {{}}}});
for (let i = 0; i < 5; i++) on.keydown({{key: "ArrowLeft", preventDefault() {{}}}});
console.log(JSON.stringify({{before, after: arcs(), ellipse: ellipse()}}));
"""
    (tmp_path / "run.js").write_text(harness)
    out = subprocess.run([NODE, tmp_path / "run.js"], capture_output=True, text=True, check=True)
    seen = json.loads(out.stdout)
    # Yaw 0 and pitch -0.05: the x axis lies horizontally, at its full length.
    scale = 0.44 * 400 / 50
    np.testing.assert_allclose(np.subtract(seen["after"][1], seen["after"][0]), [100 * scale, 0], atol=1e-6)
    assert abs(np.subtract(seen["before"][1], seen["before"][0])[0] - 100 * scale * np.cos(0.5)) < 1e-6
    tall = np.sqrt(4 * np.cos(0.05) ** 2 + 9 * np.sin(0.05) ** 2)
    np.testing.assert_allclose(sorted(seen["ellipse"][2:4]), [scale, scale * tall], rtol=1e-6)

"""experiments/analyse.py: what it calls covered and outside, with a net that is known; and its tiny run."""

from __future__ import annotations

import json
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import analyse
from jaxpose import tasks
from jaxpose.data import synthetic
from jaxpose.nets import HeatmapNet, PoseRegressor, RegressionHead, ResNet
from jaxpose.skeleton import COCO17, Skeleton
from tests.test_export import save

PAIR = Skeleton(
    name="pair", joints=("nose", "left_hand", "right_hand"), flip_pairs=((1, 2),), limbs=(), sigmas=(0.1, 0.1, 0.1)
)
JOINTS = np.array([[[5.0, 5.0], [25.0, 5.0], [5.0, 25.0]], [[16.0, 16.0], [26.0, 26.0], [4.0, 26.0]]], np.float32)


def sees_pixels(variables, batch, *, flip_test):
    """Finds a joint where its own pixel shows it, else 10 px beside and with half the confidence."""
    x, y = jnp.asarray(JOINTS.astype(int)).transpose(2, 0, 1)
    shown = batch["image"][jnp.arange(2)[:, None], y, x, 0] == 255
    return {"xy": jnp.asarray(JOINTS) + 10 * ~shown[..., None] * jnp.array([1, 0]), "confidence": 1 - 0.5 * ~shown}


@pytest.fixture
def predictor():
    task = SimpleNamespace(size_wh=(32, 32), predict=sees_pixels)
    return analyse.CropPredictor(task, {}, analyse.Config(checkpoint=".", data=".", patch=9, stride=9))


def crops(**changes):
    batch = {
        "image": np.full((2, 32, 32, 3), 255, np.uint8), "joints": JOINTS, "visibility": np.full((2, 3), 2),
        "valid": np.ones(2, bool),
    }  # fmt: skip
    return batch | changes


def test_who_is_covered(predictor):
    batch = crops()
    found = analyse.occlusion(predictor, [batch], [predictor.whole(batch)], PAIR)
    relations = found["relations"]
    assert {name: row["EPE"] for name, row in relations.items()} == {"itself": 10, "another": 0, "background": 0}
    assert {name: row["confidence"] for name, row in relations.items()} == {
        "itself": 0.5,
        "another": 1,
        "background": 1,
    }
    assert all(row["EPE_whole"] == 0 and row["confidence_whole"] == 1 for row in relations.values())
    table = found["covered"]
    assert table["nose"]["nose"] == {
        "labels": 2, "EPE": 10, "EPE_whole": 0, "confidence": 0.5, "confidence_whole": 1
    }  # fmt: skip
    # A hand of two is covered, and both are counted: the one itself, the other not.
    assert table["hand"]["hand"]["EPE"] == 5 and table["hand"]["hand"]["labels"] == 8
    assert table["hand"]["nose"]["EPE"] == table["nose"]["hand"]["EPE"] == 0


def test_labels_and_padding_that_do_not_count(predictor):
    visibility = np.array([[2, 0, 1], [2, 2, 2]])
    batch = crops(visibility=visibility, valid=np.array([True, False]))
    found = analyse.occlusion(predictor, [batch], [predictor.whole(batch)], PAIR)
    patches = 3 + len(analyse.grid((32, 32), 9, 9))
    counts = {name: sum(row["labels"] for row in joint.values()) for name, joint in found["per_joint"].items()}
    # Centred squares are drawn for the two labelled joints alone.
    assert counts == {"nose": patches - 1, "left_hand": 0, "right_hand": patches - 1}
    assert found["covered"]["hand"]["nose"]["labels"] == 1 and found["per_joint"]["left_hand"]["itself"]["EPE"] is None


@pytest.mark.parametrize("fill", ["grey", "black"])
def test_paint_leaves_the_rest(fill):
    images = np.random.default_rng(0).integers(129, 256, (2, 8, 6, 3), dtype=np.uint8)
    low, high = np.array([[1, 2], [-3, 5]]), np.array([[4, 4], [2, 99]])
    inner = np.asarray(analyse.paint(images, low, high, analyse.FILLS[fill]))
    outer = np.asarray(analyse.paint(images, low, high, analyse.FILLS[fill], inside=False))
    changed = (inner != images).all(-1)
    assert changed[0, 2:4, 1:4].all() and changed[0].sum() == 6 and changed[1, 5:, :2].all() and changed[1].sum() == 6
    assert ((outer != images).all(-1) == ~changed).all() and set(inner[changed].ravel()) == {analyse.FILLS[fill][0]}


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    return synthetic.write_dataset(folder / "people", train=1, val=4, seed=0), folder / "prepared"


def command(run, people, *options):
    data, prepared = people
    return [str(run), "--data", str(data), "--data-dir", str(prepared), "--batch-size", "2", "--patch", "16",
            "--stride", "32", *options]  # fmt: skip


@pytest.mark.parametrize("family", ["regression", "heatmaps"])
def test_tiny_run(family, people, tmp_path, capsys):
    backbone = ResNet(depth=18, width=4, stages=2)
    if family == "regression":
        task = tasks.regression(PoseRegressor(backbone, RegressionHead(17)), skeleton=COCO17, size_wh=(32, 64))
    else:
        task = tasks.heatmaps(HeatmapNet(backbone, 17, deconvs=(8,)), skeleton=COCO17, size_wh=(32, 64))
    run = save(tmp_path / "run", task)
    options = (
        ["--count", "3"] if family == "regression" else ["--count", "3", "--no-plots", "--out", str(tmp_path / "a")]
    )
    result = analyse.main(command(run, people, *options))
    out = run / "analysis" if family == "regression" else tmp_path / "a"
    assert json.loads((out / "analysis.json").read_text()) == result
    assert (out / "occlusion.png").exists() == (family == "regression")
    printed = capsys.readouterr().out
    assert "covered: itself" in printed and "upper half, outside" in printed and "shoulder" in printed
    labelled = result["as_it_is"]["summary"]["joints"]
    assert result["as_it_is"]["summary"]["people"] == 3
    for sides in result["truncation"].values():
        assert sides["inside"]["labels"] + sides["outside"]["labels"] == labelled
    halves = [result["truncation"][f"{side} half"]["inside"]["labels"] for side in ("upper", "lower")]
    assert 0 < halves[0] < labelled and abs(sum(halves) - labelled) <= labelled // 4
    covered = result["occlusion"]["relations"]
    assert all(row["labels"] > 0 and np.isfinite(row["EPE"]) for row in covered.values())
    assert covered["another"]["EPE_whole"] != covered["another"]["EPE"], "the square is seen"


def test_bad_input_is_named(people, tmp_path):
    from tests.test_export import bottom_up

    for options, message in (
        (["--count", "-1"], "--count -1"),
        (["--patch", "0"], "--patch 0"),
    ):
        with pytest.raises(ValueError, match=message):
            analyse.main(command(tmp_path, people, *options))
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        analyse.main(command(tmp_path, people))
    with pytest.raises(ValueError, match="'bottom_up': expected regression or heatmaps"):
        analyse.main(command(save(tmp_path / "run", bottom_up()), people))

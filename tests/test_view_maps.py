"""`jaxpose view maps`: of a checkpoint of each family, what its net says, drawn where it is."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxpose import checkpoint, cli, density, geometry, tasks
from jaxpose.data import crops, feed, whole_images
from jaxpose.data.formats import coco
from jaxpose.inference import Settings
from jaxpose.nets import PoseRegressor, RegressionHead, ResNet
from jaxpose.skeleton import COCO17
from jaxpose.view import figures, palette
from jaxpose.view import maps as tool
from tests import tiny_coco, tiny_run
from tests.test_view import near, pixels


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_coco.write(tmp_path_factory.mktemp("set"))


def run_of(tmp_path: Path, task: tasks.Task) -> Path:
    return tiny_run.write(tmp_path / "run", task, variables=jax.jit(task.init)(jax.random.key(1)))


def told(capsys, *arguments):
    cli.main(["view", "maps", *map(str, arguments), "--split", "train"])
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def test_heatmaps(tmp_path, folder, monkeypatch, capsys):
    run, seen = run_of(tmp_path, tiny_run.heatmap_task()), []
    draw = figures.joint_maps
    monkeypatch.setattr(
        tool.figures, "joint_maps", lambda *a, **options: seen.append((a, options)) or draw(*a, **options)
    )
    said = told(capsys, run, "--data", folder, "--count", "1", "--seed", "2")
    assert said["family"] == "heatmaps" and said["checkpoint_step"] == 0
    assert np.asarray(Image.open(said["pictures"][0]).convert("L")).std() > 10
    assert Path(said["pictures"][0]).parent == run / "maps" / "train"
    ((image, maps, *_), options), source = seen[0], coco.read(*coco.find(folder, "train"))
    index = feed.sample_indices([0], num_samples=10, seed=2)[0][0]
    np.testing.assert_array_equal(image, crops.sample(source, index, size_wh=tiny_run.SIZE_WH)["image"])
    assert maps.shape == (8, 6, 17) and options["pixels_per_cell"] == (4, 4)
    # What is marked is where the map has its peak: within the quarter shift.
    rows, columns = np.unravel_index(maps.reshape(-1, 17).argmax(0), maps.shape[:2])
    positive = maps.max((0, 1)) > 0
    off = np.abs(options["poses"][0] - 4 * np.stack([columns, rows], -1))[positive]
    assert off.max() <= 1.01 and positive.any()


def test_joints_in_space_are_refused(tmp_path, folder):
    net = PoseRegressor(ResNet(depth=18, width=4, stages=1), RegressionHead(17, dim=3))
    task = tasks.regression_3d(net, skeleton=COCO17, size_wh=(24, 24))
    run = tiny_run.write(
        tmp_path / "run", task, variables={"params": {"b": np.zeros(1)}}
    )  # refused before they are used
    with pytest.raises(SystemExit, match="predicts joints in space, whose regions are no areas of a picture"):
        cli.main(["view", "maps", str(run), "--data", str(folder)])


def test_regions_of_a_regression(tmp_path, folder, monkeypatch, capsys):
    laplace = {"likelihood": {"loss": "laplace"}}  # a density without a flow: quick
    task, seen = tasks.from_config(tiny_run.regression_task().config | laplace), []
    run = run_of(tmp_path, task)
    draw = figures.joint_regions
    monkeypatch.setattr(tool.figures, "joint_regions", lambda *a, **b: seen.extend(a[0]) or draw(*a, **b))
    said = told(capsys, run, "--data", folder, "--count", "3")
    assert [Path(path).name for path in said["pictures"]] == ["density_1.png"] and len(seen) == 3
    variables, stored = checkpoint.restore_model(run)
    model = tasks.predictive_density(stored["task"], variables)
    outputs = task.predict(variables, {"image": jnp.asarray(seen[0]["image"][None])}, flip_test=False)
    size = np.asarray(tiny_run.SIZE_WH)
    np.testing.assert_allclose(seen[0]["xy"], outputs["xy"][0], atol=1e-3)
    for level, joints in zip(tool.LEVELS, seen[0]["outlines"], strict=True):
        threshold = density.region(model, level).log_threshold
        for k in (0, 16):
            line = np.concatenate(joints[k])
            e = (line - np.asarray(outputs["xy"][0, k])) / (np.asarray(outputs["sigma"][0, k]) * size)
            np.testing.assert_allclose(density.log_prob(jnp.asarray(e), model), threshold, atol=0.05)
    # A calibrated run's regions and deviations are larger by its factor.
    calibrated = tiny_run.write(tmp_path / "calibrated", task, variables=variables, inference=Settings(sigma_scale=2.0))
    raw = seen[0]
    seen.clear()
    told(capsys, calibrated, "--data", folder, "--count", "3")
    np.testing.assert_allclose(seen[0]["deviation"], 2 * raw["deviation"], rtol=1e-5)
    wide, narrow = (np.concatenate(entry["outlines"][0][0]) - entry["xy"][0] for entry in (seen[0], raw))
    np.testing.assert_allclose(wide, 2 * narrow, atol=1e-3)
    # A sigma that is not trained is not drawn.
    monkeypatch.setattr(tasks.Regression, "density", lambda *_, **__: None)
    seen.clear()
    told(capsys, run, "--data", folder, "--count", "3")
    assert "deviation" not in seen[0] and "sigma is not trained" in seen[0]["title"]


def test_people_of_whole_images(tmp_path, folder, monkeypatch, capsys):
    """A net that gives the maps of the truth: its people lie on the labels, its scale maps over the image."""
    source = coco.read(*coco.find(folder, "train")).at_level("image")
    index = int(feed.sample_indices([0], num_samples=5, seed=0)[0][0])
    square = whole_images.eval_sample(source, index, size=128, fit="long")
    rows = source.persons[source.persons["image"] == index]["keypoints"]
    labels = np.asarray(geometry.apply_affine(np.broadcast_to(square["affine"], (len(rows), 2, 3)), rows[..., :2]))
    maps = {"heatmap": np.zeros((1, 128, 128, 17), np.float32), "tag": np.zeros((1, 128, 128, 17, 1), np.float32)}
    inside = (rows[..., 2] > 0) & ((labels > 1) & (labels < 126)).all(-1)
    for number, (person, where) in enumerate(zip(labels, inside, strict=True)):
        for k in np.flatnonzero(where):
            x, y = person[k].round().astype(int)
            maps["heatmap"][0, y, x, k], maps["tag"][0, y - 1 : y + 2, x - 1 : x + 2, k] = 1.0, 9.0 * number

    class Truth(tasks.BottomUp):
        def predict(self, variables, batch, *, flip_test=True):
            return {k: jnp.asarray(v) for k, v in maps.items()}

        def scale_factors(self, variables, images):
            return jnp.full((1, 64, 64, 17), 1.5)

    fake = Truth(None, skeleton=COCO17, size_wh=(256, 256), people_loss=tasks.PeopleLoss("scale_adaptive"),
                 search=tasks.FindPeople(refine=False))  # fmt: skip
    stored = {"task": fake.config, "run": {"test_size": 128}, "step": 7}
    monkeypatch.setattr(checkpoint, "restore_model", lambda run, *, step: ({}, stored))
    monkeypatch.setattr(tasks, "from_config", lambda config: fake)
    seen = []
    monkeypatch.setattr(tool.figures, "joint_maps", lambda *a, **options: seen.append((a, options)) or a[3])
    said = told(capsys, tmp_path / "run", "--data", folder, "--count", "1")
    assert said["checkpoint_step"] == 7 and Path(said["pictures"][0]).name == f"image_{square['image_id']}.png"
    (image, *_), options = seen[0]
    np.testing.assert_array_equal(image, square["image"])
    np.testing.assert_allclose(np.stack(options["truth"])[inside], labels[inside], atol=1e-3)
    found = np.stack(options["poses"])
    assert len(found) == inside.any(1).sum() and np.isfinite(found).all(-1).sum() == inside.sum()
    for k in range(17):  # the people come in another order
        mine, there = found[np.isfinite(found[:, k]).all(-1), k], labels[inside[:, k], k]
        assert all(np.abs(there - xy).max(-1).min() <= 1.3 for xy in mine)
    tags, factor = options["further"]
    assert tags["values"].shape == (128, 128) and factor["values"].shape == (64, 64)
    assert (factor["pixels_per_cell"], factor["low"], factor["high"]) == ((2, 2), 0.5, 1.5)


def test_a_peak_is_drawn_where_it_is(tmp_path):
    """The bright cell of a map lies over the pixels that it stands for; the labels are circled, the prediction crossed."""
    maps = np.zeros((8, 6, 17))
    maps[5, 2] = 1.0
    image, at = np.full((32, 24, 3), 255, np.uint8), np.full((17, 2), np.nan)
    path = figures.joint_maps(image, maps, COCO17, tmp_path / "maps.png", pixels_per_cell=(4, 4))
    picture = pixels(path)
    assert near(picture, palette.TRUTH) == 0
    light = np.nonzero(abs(picture - (250, 252, 165)).sum(-1) < 60)  # the end of inferno
    # The first row of panels holds prediction, all joints, and joints: their peaks have one height.
    first = light[0][light[0] < picture.shape[0] / 5]
    panel = picture.shape[0] / 4
    middle = (first.min() + first.max()) / 2 / panel
    assert 0.12 + 0.86 * (5 * 4 + 0.5) / 32 == pytest.approx(middle, abs=0.06)
    at[3] = (8, 20)
    truth = figures.joint_maps(image, maps, COCO17, tmp_path / "t.png", pixels_per_cell=(4, 4), truth=[at], poses=[at])
    assert near(pixels(truth), palette.TRUTH) > 10
    for wrong, words in ((maps[..., :3], r"\(h, w, 17\)"), (maps * np.nan, "are not finite")):
        with pytest.raises(ValueError, match=words):
            figures.joint_maps(image, wrong, COCO17, tmp_path / "w.png", pixels_per_cell=(4, 4))


def test_bad_input_is_one_line(tmp_path, folder):
    data = json.loads((folder / "annotations" / "train.json").read_text())
    data["categories"][0]["keypoints"] = [f"joint{i}" for i in range(17)]
    (tmp_path / "other" / "annotations").mkdir(parents=True)
    (tmp_path / "other" / "annotations" / "train.json").write_text(json.dumps(data))
    (tmp_path / "other" / "train").symlink_to(folder / "train")
    run = run_of(tmp_path, tiny_run.heatmap_task())
    for flags, words in (
        ([tmp_path / "nowhere", "--data", folder], "nowhere does not exist"),
        ([folder, "--data", folder], "holds no checkpoint"),
        ([run, "--data", tmp_path / "gone"], "gone is not a folder"),
        ([run, "--data", folder, "--count", "0"], "--count 0"),
        ([run, "--data", tmp_path / "other"], "the skeleton given .e.g. a checkpoint's. is 'coco17'"),
    ):
        with pytest.raises(SystemExit, match=words) as stop:
            cli.main(["view", "maps", *map(str, flags), "--split", "train"])
        assert "\n" not in stop.value.code

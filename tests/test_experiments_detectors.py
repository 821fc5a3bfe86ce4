"""The page of Keypoint R-CNN from flags to result JSON: training, resuming, evaluation, weights of another run, bad flags."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import coco_keypoint_rcnn as page
from experiments.common import boxed_images, detectors, training
from experiments.common.boxed_images import BoxedImages
from jaxpose import checkpoint, cli, nets, parallel, tasks
from jaxpose.data import synthetic
from jaxpose.data.formats import coco
from jaxpose.evaluation import average_precision, boxes, results
from jaxpose.skeleton import COCO17
from tests import tiny_coco

# Two levels, a small flow, small regions: most of the time is spent tracing and compiling.
NET = ("--width", "2", "--fpn-features", "4", "--box-features", "4", "--keypoint-convs", "4", "--pre-nms", "8", "--post-nms", "8",
       "--regions.pre-nms", "8", "--regions.post-nms", "8", "--regions.anchors", "8", "--regions.regions", "4", "--size-wh", "64",
       "64", "--padded-long", "64", "--slots", "4", "--min-score", "0", "--first-level", "4", "--anchor-sizes", "16", "32", "64",
       "--joint-cells", "2")  # fmt: skip
FLOW = ("--likelihood.flow-layers", "1", "--likelihood.flow-hidden", "4")
RUN = ("--batch-size", "2", "--warmup-steps", "0", "--log-every", "1", "--eval-every", "9", "--decay", "milestones", "--milestones",
       "8", "--test-batch-size", "2")  # fmt: skip


def small(preset: str, **changes):
    """A preset with a net that is quick to trace."""
    values = {"depth": 18, "width": 2, "fpn_features": 4, "box_features": (4,), "keypoint_convs": (4,)}
    return dataclasses.replace(page.PRESETS[preset], **values, **changes)


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    return tiny_coco.write(tmp_path_factory.mktemp("people"), tiny_coco.content(4))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, people):
    """A run of four steps on four pictures, its flags and its scores."""
    folder = tmp_path_factory.mktemp("rcnn")
    flags = ["--data", str(people), "--data-dir", str(folder / "data"), "--val-split", "train", *NET, *RUN, *FLOW]
    return folder / "run", flags, page.main(["--out", str(folder / "run"), *flags, "--epochs", "2"])


def test_a_run_leaves_numbers_and_pictures(trained):
    out, _, scores = trained
    events = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    losses = {"proposal_score_loss", "proposal_box_loss", "class_loss", "box_loss", "joints_loss"}
    assert losses <= set(events[0]) and all(np.isfinite(events[0][name]) for name in losses)
    assert {"AP", "AP50", "box_AP", "box_AP50", "box_AR100", "people_per_image"} <= set(scores)
    records = results.read(out / "results" / "step_4.json", num_joints=17)
    assert len(records) == 4 * scores["people_per_image"] > 0 and len(records[0]["box"]) == 4
    for picture in ("curves", "predictions"):
        assert (out / "plots" / f"{picture}.png").stat().st_size > 3000
    assert tasks.from_config(checkpoint.restore_model(out)[1]["task"]).level == "detection"


def test_a_resumed_run_has_the_same_bits(trained, tmp_path):
    out, flags, _ = trained
    flags = ["--out", str(tmp_path / "run"), *flags, "--no-plots"]
    page.main([*flags, "--epochs", "1"])
    page.main([*flags, "--epochs", "2"])
    whole, resumed = (checkpoint.restore_model(folder, step="latest")[0] for folder in (out, tmp_path / "run"))
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)


def test_a_run_is_evaluated_as_it_was_trained(trained, capsys):
    out, flags, scores = trained
    again = page.main(["--eval-only", str(out), *flags, "--no-plots"])
    assert again["box_AR100"] == pytest.approx(scores["box_AR100"]) and again["AR"] == pytest.approx(scores["AR"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["flip_test"] is False


def test_maps_start_coordinates(trained, people, tmp_path):
    """The author's recipe: everything of the run with one head but its last layer starts the other head."""
    out, flags, _ = trained
    config = page.PAGE.settings(["--out", str(tmp_path), *flags[: -len(FLOW)], "--head", "heatmap", "--init", str(out)])
    variables = detectors.from_pretrained(detectors.rcnn_task(config, COCO17), config)
    before = checkpoint.restore_model(out)[0]
    ours, theirs = (tree["params"]["net"] for tree in (variables, before))
    for part in ("backbone", "fpn", "rpn", "box_head"):
        jax.tree.map(np.testing.assert_array_equal, ours[part], theirs[part])
    np.testing.assert_array_equal(
        ours["keypoint_head"]["conv_0"]["kernel"], theirs["keypoint_head"]["conv_0"]["kernel"]
    )
    assert "flow" not in variables["params"] and "deconv" in ours["keypoint_head"]
    wider = dataclasses.replace(config, width=4)
    with pytest.raises(ValueError, match="holds|another backbone or pyramid"):
        detectors.from_pretrained(detectors.rcnn_task(wider, COCO17), wider)
    coloured = dataclasses.replace(config, preprocess="detectron2")
    with pytest.raises(ValueError, match="was trained with --preprocess imagenet, this run has detectron2"):
        detectors.from_pretrained(detectors.rcnn_task(coloured, COCO17), coloured)
    other = dataclasses.replace(config, variant="torchvision")
    with pytest.raises(ValueError, match="was trained with --variant detectron2, this run has torchvision"):
        detectors.from_pretrained(detectors.rcnn_task(other, COCO17), other)


@pytest.mark.parametrize("name", ["heatmap_1x", "rle"])
def test_weights_of_a_backbone_start_a_net_of_its_strides_and_colours(name, tmp_path, caplog):
    config = dataclasses.replace(page.PRESETS[name], init=tmp_path / "resnet50.pth")
    with pytest.raises(ValueError, match="give --variant torchvision --preprocess imagenet, or a run or imported net"):
        detectors.from_pretrained(None, config)
    assert detectors.from_pretrained(None, dataclasses.replace(config, init=None)) is None
    assert "its BatchNorm is not trained; give --init or --train-bn" in caplog.text


def test_the_published_recipe():
    """Detectron2's 1x schedule: SGD, 0.02 at 16 images, from 0.001 of it over 1,000 steps, a tenth at 60,000 and 80,000 of 90,000."""
    config = page.PRESETS["heatmap_1x"]
    assert training.steps_of(config.epochs, config, samples=56_599) == 90_000
    rate = training.make_schedule(config, config.learning_rate, 56_599 / 16)
    rates = [float(rate(t)) for t in (0, 1000, 59_999, 60_001, 80_001)]
    np.testing.assert_allclose(rates, [2e-5, 2e-2, 2e-2, 2e-3, 2e-4], rtol=1e-4)
    for name, steps in (("heatmap_3x", 270_000), ("rle", 270_000), ("rle_180k", 180_000)):
        assert training.steps_of(page.PRESETS[name].epochs, config, samples=56_599) == steps
    task = detectors.rcnn_task(dataclasses.replace(config, depth=50), COCO17)
    net = tasks.describe.build(task.config["net"])
    assert net == nets.RCNN(nets.ResNet(50, stride_in_1x1=True), num_joints=17, variant="detectron2")
    assert (task.training.post_nms, task.training.freeze_at, task.resize.half_pixel) == (1500, 2, True)
    shapes = jax.eval_shape(task.init, jax.random.key(0))["params"]["net"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 59_133_158 + 2 * 26_560, "and the frozen BatchNorm"


def test_frozen_weights_do_not_decay():
    task = detectors.rcnn_task(small("heatmap_1x"), COCO17)
    params = jax.eval_shape(task.init, jax.random.key(0))["params"]
    decayed = task.decays(params)["net"]
    assert not any(jax.tree.leaves(decayed["backbone"]["layer1_0"])) and not decayed["backbone"]["conv1"]["kernel"]
    assert decayed["backbone"]["layer2_0"]["conv1"]["kernel"] and not decayed["backbone"]["layer2_0"]["bn1"]["scale"]
    assert all(jax.tree.leaves([decayed["rpn"], decayed["box_head"], decayed["keypoint_head"], decayed["fpn"]]))


def test_boxes_and_joints_of_the_truth_give_the_truth_back(tmp_path, caplog):
    """Everything behind the net: sizes, padding rows, order, coordinates, records and AP."""
    folder = synthetic.write_dataset(tmp_path / "truth", train=1, val=5, seed=3, workers=1, progress=False)
    source = coco.read(*coco.find(folder, "val")).at_level("image")
    config = page.PAGE.settings(["--out", str(tmp_path), "--size-wh", "200", "150", "--padded-long", "224"])
    truth = [boxed_images.images.sample(source, i, scaling=config.scaling()) for i in range(5)]
    slots = truth[0]["boxes"].shape[0]
    by_size = {int(row["image"].sum()): row for row in truth}

    def predict(variables, batch):
        rows = [by_size[int(image.sum())] for image in np.asarray(batch["image"])]
        stacked = {name: np.stack([row[name] for row in rows]) for name in ("boxes", "people", "keypoints")}
        outputs = {
            "boxes": stacked["boxes"], "scores": stacked["people"] * np.float32(0.9), "valid": stacked["people"],
            "candidates": stacked["people"].sum(1) + slots, "keypoints": stacked["keypoints"][..., :2] - 0.5,
            "keypoint_confidence": stacked["keypoints"][..., 2] / 2,
        }  # fmt: skip
        return jax.tree.map(jax.numpy.asarray, outputs)

    kind = BoxedImages(config, None, source, source.ground_truth_json, parallel.make_mesh())
    predictions = kind.predict(predict, detectors.rcnn_task(config, COCO17), None)
    assert "5 images have more people than the net's" in caplog.text
    assert predictions["image_id"].tolist() == source.images["image_id"].tolist()
    records = boxed_images.records_of(predictions, category_id=1)
    assert average_precision(source.ground_truth_json, records)["AP"] > 0.9
    assert boxes.average_precision(source.ground_truth_json, records)["AP"] > 0.99


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--size-wh", "64", "80"], r"--size-wh \(64, 80\): expected the longest side first"),
        (["--short-sides", "200"], r"--short-sides \(200,\): expected at most the shorter side of --size-wh, 192"),
        (["--anchor-sizes", "8", "16"], "expected 4 sizes, one for each level"),
        (["--backbone", "hrnet"], "--backbone hrnet --resnet-stages 4: the pyramid is made of the four stages of a ResNet"),
        (["--head", "heatmap", "--likelihood.loss", "l1"], "--likelihood.loss has no effect without --head rle"),
        (["--momentum", "0.8"], "--momentum has no effect without --optimizer sgd"),
        (["--flip-test"], "--flip-test has no effect without a net that averages two views"),
        (["--flip", "2"], "--flip 2.0: expected a probability"),
        (["--region-level", "9"], "--region-level 9: expected a level of the pyramid, 2 to 5"),
        (["--keypoint-convs"], r"--keypoint-convs \(\): expected one or more positive numbers"),
        (["--box-features"], r"--box-features \(\): expected one or more positive numbers"),
        (["--anchor-ratios"], r"--anchor-ratios \(\): expected one or more positive numbers"),
        (["--data", "absent"], "--data absent is not a folder"),
    ],
)  # fmt: skip
def test_flags_are_checked_at_the_door(flags, message, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        config = page.PAGE.settings(["--out", str(tmp_path), "--data-dir", str(tmp_path), *flags])
        page.PAGE.make(config, COCO17)
        boxed_images.load(config)


def test_the_steps_of_a_detector_are_drawn(trained, people, capsys):
    out, _, _ = trained
    cli.main(
        [
            "view",
            "maps",
            str(out),
            "--data",
            str(people),
            "--split",
            "train",
            "--count",
            "1",
            "--out",
            str(out / "maps"),
        ]
    )
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    (picture,) = facts["pictures"]
    assert Path(picture).stat().st_size > 3000 and facts["family"] == "detection"
    assert set(facts["reached"]) == {"anchors", "proposals", "boxes"} and all(
        0 <= x <= 1 for x in facts["reached"].values()
    )

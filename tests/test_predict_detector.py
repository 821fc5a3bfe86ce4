"""Detectors at work: pictures of any size, people with and without slots, a detector in front of a net of crops."""

import csv
import json
import logging
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxpose import checkpoint, nets, predict, tasks
from jaxpose.data import detection as scaling
from jaxpose.data.boxes import BoxFile
from jaxpose.predict import command
from jaxpose.predict import detector as detectors
from jaxpose.predict.work import Work
from jaxpose.skeleton import BOX, Skeleton
from jaxpose.tasks.detection import masked

SLOTS = 3
PAIR = Skeleton(name="pair", joints=("a", "b"), flip_pairs=(), limbs=((0, 1),), sigmas=(0.1, 0.1), upper=())


def write_detector(folder, *, skeleton):
    """Writes a small detector that takes every proposal for a person."""
    net = nets.RCNN(
        nets.ResNet(depth=18, width=4), num_joints=skeleton.num_joints, fpn_features=4, box_features=(4,), keypoint_convs=(4,),
        anchor_sizes=(8.0, 16.0, 32.0, 64.0, 128.0), pre_nms=8, post_nms=8, max_detections=SLOTS,
    )  # fmt: skip
    task = tasks.detection(net, skeleton=skeleton, size_wh=(32, 32), resize=tasks.Resize(32, 64))
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    variables = jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32), shapes)
    variables["batch_stats"] = jax.tree.map(np.ones_like, variables["batch_stats"])
    variables["params"]["net"]["box_head"]["scores"]["bias"] = np.array([0.0, 3.0], np.float32)
    checkpoint.write_model(folder, variables, {"task": task.config})
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    write_detector(folder / "boxes", skeleton=BOX)
    net = nets.PoseRegressor(nets.ResNet(depth=18, width=4, stages=1), nets.RegressionHead(2))
    task = tasks.regression(net, skeleton=PAIR, size_wh=(16, 16))
    checkpoint.write_model(folder / "rle", task.init(jax.random.key(0)), {"task": task.config})
    for name, size in (("a", (40, 40)), ("b", (1, 1))):
        noise = np.random.default_rng(1).integers(0, 255, (*size, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{name}.png")
    return folder


def test_scaling_is_that_of_each_code_base():
    assert scaling.resized_hw((480, 640), short=800, longest=1333) == (800, 1066)
    assert scaling.resized_hw((1, 4000), short=800, longest=1333) == (1, 1333)  # torchvision would have no row
    assert scaling.resized_hw((3000, 1000), short=800, longest=1333, rule="detectron2") == (1333, 444)
    image = np.random.default_rng(0).integers(0, 255, (8, 12, 3), dtype=np.uint8)
    for rule in ("torchvision", "detectron2"):
        assert scaling.resized(image, (4, 5), rule=rule).shape == (4, 5, 3)


def test_the_joints_of_a_detector_of_joints(tmp_path):
    folder = write_detector(tmp_path / "joints", skeleton=PAIR)
    predictor = predict.load(folder, batch_size=1)
    poses = predictor(np.zeros((30, 32, 3), np.uint8))
    assert len(poses) == SLOTS and poses.xy.shape == (SLOTS, 2, 2) and predictor.finds_people
    low, high = poses.box[:, None, :2] - 1, poses.box[:, None, :2] + poses.box[:, None, 2:] + 1
    assert ((poses.xy >= low) & (poses.xy <= high)).all() and ((poses.confidence > 0) & (poses.confidence <= 1)).all()
    assert predictor.task.config == tasks.from_config(predictor.task.config).config
    with pytest.raises(ValueError, match="finds the people itself"):
        predictor(np.zeros((32, 32, 3), np.uint8), [[0, 0, 5, 5]])
    with pytest.raises(ValueError, match="detector of boxes"):
        predict.load(folder, test_size=64)


def test_a_detector_finds_people_that_another_net_poses(runs, tmp_path, caplog):
    pictures = [str(runs / "a.png"), str(runs / "b.png")]
    with caplog.at_level(logging.WARNING):
        command.main(runs / "rle", tuple(pictures), detector=runs / "boxes", out=tmp_path / "poses", overlay=False)
    assert f"for {SLOTS} slots" in caplog.text and "a.png" in caplog.text  # nobody is left out silently
    records = json.loads((tmp_path / "poses" / "results.json").read_text())
    assert len(records) >= SLOTS and all(len(record["keypoints"]) == 6 for record in records)
    # The same boxes as those of the detector alone, whose results --boxes reads.
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        command.main(runs / "boxes", tuple(pictures), out=tmp_path / "boxes")
    assert f"for {SLOTS} slots" in caplog.text and "a.png" in caplog.text
    records_of_boxes = json.loads((tmp_path / "boxes" / "results.json").read_text())
    assert len(records_of_boxes) == len(records) and set(records_of_boxes[0]) == {
        "image_id",
        "category_id",
        "bbox",
        "score",
        "file_name",
    }
    with open(tmp_path / "boxes" / "boxes.csv", newline="") as table:
        assert len(list(csv.DictReader(table))) == len(records_of_boxes)
    read = BoxFile.read(tmp_path / "boxes" / "results.json", category=1, min_score=0.0)
    boxes = [row[:4] for picture in pictures for row in read.of(Path(picture), 0)]
    np.testing.assert_allclose(sorted(boxes), sorted(record["box"] for record in records), atol=0.01)


def test_a_picture_without_people_has_no_poses(runs, tmp_path, monkeypatch, caplog):
    """Not compiled again: the outputs of a net that finds nobody."""
    nobody = {"boxes": np.zeros((1, SLOTS, 4)), "scores": np.zeros((1, SLOTS)), "labels": np.zeros((1, SLOTS), int)}
    nobody |= {"valid": np.zeros((1, SLOTS), bool), "candidates": np.zeros(1, int)}
    monkeypatch.setattr(tasks.Detection, "predict", lambda self, variables, batch: nobody)
    out = tmp_path / "out"
    command.main(runs / "rle", (str(runs / "b.png"),), detector=runs / "boxes", out=out)
    assert json.loads((out / "results.json").read_text()) == [] and (out / "b_poses.jpg").is_file()
    assert "no people in 1 of 1 pictures, such as" in caplog.text and "below --min-box-score 0.3" in caplog.text


def test_warnings_of_a_net_of_whole_images_name_the_files():
    work = object.__new__(Work)
    work.predictor = SimpleNamespace(detector=None, finds_people=True, in_whole=lambda pictures, names: names)
    items = [(Path("a.png"), np.zeros((2, 2, 3), np.uint8), 0), (Path("b.mp4"), np.zeros((2, 2, 3), np.uint8), 7)]
    assert work._poses(items) == ["a.png", "b.mp4, frame 7"]


def test_flags_that_do_not_fit_are_refused(runs, tmp_path):
    picture = (str(runs / "a.png"),)
    cases = (
        ({"detector": runs / "rle"}, "rle", "finds no boxes"),
        ({"detector": runs / "boxes"}, "boxes", "finds the people itself"),
        ({"max_people": 5}, "rle", "--max-people 5"),
        ({"max_people": 0, "detector": runs / "boxes"}, "rle", "max_people=0"),
        ({"formats": ("npz",)}, "boxes", "predicts no joints"),
    )
    for options, run, text in cases:
        with pytest.raises(ValueError, match=text):
            command.main(runs / run, picture, out=tmp_path / "none", **options)


def test_broken_weights_are_named(runs):
    detector = detectors.load(runs / "boxes")
    row = {"boxes": np.full((3, 4), np.nan), "scores": np.zeros(3)}
    with pytest.raises(ValueError, match="not finite"):
        detector._detections(row, (10, 10))


@pytest.mark.parametrize(("half_pixel", "expected"), [(True, [[4.5, 9.5]]), (False, [[5.0, 10.0]])])
def test_half_a_pixel_is_one_of_the_picture(half_pixel, expected):
    """A joint at (10, 20) of a picture enlarged twice, in continuous coordinates, is at (5, 10): pixel (4.5, 9.5) (QUIRK E8)."""
    detector = SimpleNamespace(task=SimpleNamespace(resize=tasks.Resize(half_pixel=half_pixel)), min_score=0.0)
    row = {
        "boxes": np.array([[0.0, 0.0, 40.0, 60.0]]), "scores": np.array([0.9]), "labels": np.array([0]), "valid": np.array([True]),
        "keypoints": np.array([[[10.0, 20.0]]]) - (0.5 if half_pixel else 0.0), "keypoint_confidence": np.ones((1, 1)),
        "size_hw": np.array([60, 40]), "candidates": 1,
    }  # fmt: skip
    people = detectors.Detector._detections(detector, row, (30, 20))
    np.testing.assert_allclose(people.xy[0], expected)
    np.testing.assert_allclose(people.box, [[0.0, 0.0, 20.0, 30.0]])


def test_golden_resize(golden):
    g = golden("detection/resize")
    for code, rule in (("tv", "torchvision"), ("d2", "detectron2")):
        sizes = [scaling.resized_hw(tuple(hw), short=800, longest=1333, rule=rule) for hw in g["hw"].tolist()]
        np.testing.assert_array_equal(sizes, g[f"{code}_800_1333"])
    image = g["image_u8"]
    ours = scaling.resized(image, tuple(g["d2_resized_u8"].shape[:2]), rule="detectron2")
    np.testing.assert_array_equal(ours, g["d2_resized_u8"])
    size = tuple(g["tv_size"][0].tolist())
    padded = scaling.padded(scaling.resized(image, size))[None]
    normalised = masked(tasks.IMAGENET(jnp.asarray(padded)), jnp.array([size]))
    np.testing.assert_allclose(np.moveaxis(normalised, -1, 1), g["tv_input"], atol=1e-5)

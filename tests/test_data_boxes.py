"""Boxes in place of the annotated ones: detections, and boxes made worse."""

import json
import logging
import re

import numpy as np
import pytest

from jaxpose import metrics
from jaxpose.data.boxes import with_annotated_boxes, with_detections, with_jittered_boxes
from jaxpose.data.formats import coco
from tests import tiny_coco


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_coco.write(tmp_path_factory.mktemp("coco"))


def test_jittered_boxes_keep_the_persons(folder):
    source = coco.read(*coco.find(folder, "train"))
    jittered = with_jittered_boxes(source, fraction=0.15, seed=3)
    true, moved = (s.persons["box"].astype(np.float64) for s in (source, jittered))
    size = true[:, 2:]
    shift = np.abs(moved[:, :2] + moved[:, 2:] / 2 - true[:, :2] - size / 2) / size
    growth = np.abs(moved[:, 2:] / size - 1)
    for draws in (shift, growth):
        assert draws.max() <= 0.15 + 1e-5 and draws.max() > 0.05 and draws.min() > 0
    for field in ("annotation_id", "keypoints", "area"):
        np.testing.assert_array_equal(source.persons[field], jittered.persons[field])
    np.testing.assert_array_equal(moved, with_jittered_boxes(source, fraction=0.15, seed=3).persons["box"])
    assert (with_jittered_boxes(source, fraction=0.15, seed=4).persons["box"] != moved).all()
    assert (with_jittered_boxes(source, fraction=0.0).persons["box"] == source.persons["box"]).all()
    with pytest.raises(ValueError, match=r"fraction=15: expected a fraction of the box"):
        with_jittered_boxes(source, fraction=15)


def write_detections(path, boxes):
    path.write_text(json.dumps(boxes))
    return path


def detection(image_id, score, bbox=(10, 10, 40, 60), category=1):
    return {"image_id": image_id, "category_id": category, "bbox": list(bbox), "score": score}


def test_detections(folder, tmp_path, caplog):
    boxes = [
        detection(106, 0.9),
        detection(100, 0.2),
        detection(100, 0.8, category=3),
        detection(999, 0.9),
        detection(103, 0.7, (-5, 3, 30.5, 20)),
    ]
    path = write_detections(tmp_path / "boxes.json", boxes)
    ground_truth = coco.read(*coco.find(folder, "train"))
    with caplog.at_level(logging.WARNING):
        source = with_detections(ground_truth, path)
    assert "1 boxes belong to images" in caplog.text
    assert source.persons["annotation_id"].tolist() == [0, 1, 4]
    assert source.images["image_id"][source.persons["image"]].tolist() == [106, 100, 103]
    np.testing.assert_allclose(source.persons["score"], [0.9, 0.2, 0.7], rtol=1e-6)
    assert source.record(2)["box"].tolist() == [-5, 3, 30.5, 20] and not source.clip_boxes
    assert (
        source.persons["area"][2] == pytest.approx(metrics.AREA_OF_BOX * 30.5 * 20)
        and (source.persons["keypoints"] == 0).all()
    )
    assert with_detections(ground_truth, path, min_score=0.5).persons["annotation_id"].tolist() == [0, 4]
    assert len(ground_truth) == 10 and ground_truth.clip_boxes  # unchanged


def test_bad_detections(folder, tmp_path):
    source = coco.read(*coco.find(folder, "train"))
    with pytest.raises(FileNotFoundError, match=r"absent\.json"):
        with_detections(source, tmp_path / "absent.json")
    for image_id in (None, "100", [100], 100.0, 2**70, True):
        path = write_detections(tmp_path / "boxes.json", [detection(100, 0.9), detection(image_id, 0.9)])
        with pytest.raises(
            ValueError, match=rf"boxes\.json: the 'image_id' of detection 1 .*{re.escape(repr(image_id))}"
        ):
            with_detections(source, path)
    path = write_detections(tmp_path / "boxes.json", [detection(100, 0.9, category="1")])
    with pytest.raises(ValueError, match="'category_id' of detection 0 must be a whole number, got '1'"):
        with_detections(source, path)
    with pytest.raises(ValueError, match="not a detection file: it holds a dict"):
        with_detections(source, folder / "annotations" / "train.json")
    for boxes, message in [
        ([{"image_id": 100, "bbox": [1, 2, 3, 4]}], "detection 0 has no number 'score'"),
        ([detection(999, 0.9)], "no box with a score of at least 0.0 for any image"),
        ([detection(100, float("nan"))], "'score'"),
    ]:
        with pytest.raises(ValueError, match=message):
            with_detections(source, write_detections(tmp_path / "boxes.json", boxes))
    for bbox in [(10, 10, 0, 5), (500, 10, 20, 20), (float("nan"), 1, 2, 3)]:
        path = write_detections(tmp_path / "boxes.json", [detection(100, 0.9), detection(100, 0.8, bbox)])
        with pytest.raises(ValueError, match="detection 1 of image 100"):
            with_detections(source, path)
        assert len(with_detections(source, path, on_bad="skip")) == 1


def test_a_test_set_has_boxes_without_joints(tmp_path):
    people = [
        {"id": 1, "bbox": [1, 2, 10, 20], "keypoints": [5, 6, 2] + [0] * 48, "iscrowd": 0},
        {"id": 2, "bbox": [3, 4, 10, 20], "iscrowd": 0},
        {"id": 3, "bbox": [0, 0, 50, 50], "iscrowd": 1},
        {"id": 4, "bbox": [500, 0, 5, 5], "iscrowd": 0},
    ]
    folder = tiny_coco.write(tmp_path / "people")
    path = next((folder / "annotations").glob("*train*"))
    content = json.loads(path.read_text())
    content["annotations"] = [{"image_id": content["images"][1]["id"], "category_id": 1, **p} for p in people]
    path.write_text(json.dumps(content))
    source = coco.read(*coco.find(folder, "train"))
    assert source.persons["annotation_id"].tolist() == [1]
    everybody = with_annotated_boxes(source)
    assert everybody.persons["annotation_id"].tolist() == [1, 2] and everybody.persons["image"].tolist() == [1, 1]
    assert everybody.persons["score"].tolist() == [1, 1] and len(source) == 1

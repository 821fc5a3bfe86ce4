import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from jaxpose.data.formats import coco
from jaxpose.data.masks import draw_segmentation, valid_mask
from jaxpose.data.source import person_table
from tests import tiny_coco

L_SHAPE = np.zeros((6, 8), bool)
L_SHAPE[1:5, 2:4] = L_SHAPE[3:5, 2:7] = True


def run_lengths(mask):
    flat = mask.T.ravel()  # columns first
    edges = np.flatnonzero(np.diff(flat.astype(int))) + 1
    lengths = np.diff([0, *edges, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": lengths if not flat[0] else [0, *lengths]}


def test_run_lengths_plain_and_compressed():
    plain = run_lengths(L_SHAPE)
    np.testing.assert_array_equal(draw_segmentation(plain, (8, 6)), L_SHAPE)
    code = coco_mask.encode(np.asfortranarray(L_SHAPE.astype(np.uint8)))
    np.testing.assert_array_equal(draw_segmentation(code, (8, 6)), L_SHAPE)
    code["counts"] = code["counts"].decode()  # as JSON holds it
    np.testing.assert_array_equal(draw_segmentation(json.loads(json.dumps(code)), (8, 6)), L_SHAPE)
    with pytest.raises(ValueError, match=r"size \[6, 8\] in an image of \[h, w\] = \[8, 6\]"):
        draw_segmentation(plain, (6, 8))


def test_polygons_are_united():
    polygons = [[0, 0, 3, 0, 3, 2, 0, 2], [5, 3, 8, 3, 8, 6, 5, 6]]
    expected = np.zeros((6, 8), bool)
    expected[:2, :3] = expected[3:, 5:] = True
    np.testing.assert_array_equal(draw_segmentation(polygons, (8, 6)), expected)
    assert not draw_segmentation([], (8, 6)).any() and not draw_segmentation([[1, 1, 2, 2]], (8, 6)).any()
    with pytest.raises(ValueError, match="odd length"):
        draw_segmentation([[0, 0, 3, 0, 3, 2, 0]], (8, 6))


def test_crowds_and_unlabelled_persons_are_masked(tmp_path):
    data = tiny_coco.content()
    source = coco.read(*coco.find(tiny_coco.write(tmp_path, data), "train")).at_level("image")
    unlabelled, crowd = data["annotations"][-2:]
    expected = ~(
        draw_segmentation(unlabelled["segmentation"], (97, 121)) | draw_segmentation(crowd["segmentation"], (97, 121))
    )
    mask = valid_mask(source.record(0))
    np.testing.assert_array_equal(mask, expected)
    assert mask.shape == (121, 97) and 0 < mask.mean() < 1
    assert valid_mask(source.record(1)).all()  # labelled persons hide nothing
    unlabelled.update(segmentation=None, bbox=[10.0, 20.0, 5.0, 6.0])  # the box in its place
    crowd.update(segmentation=[])
    crowd.update(bbox=[0.0, 0.0, 2.0, 2.0])
    mask = valid_mask(coco.read(*coco.find(tiny_coco.write(tmp_path, data), "train")).image(0))
    assert not mask[20:26, 10:15].any() and not mask[:2, :2].any() and (~mask).sum() == 34


@pytest.mark.parametrize("number", [0, 1])
def test_golden(golden, golden_path, number):
    """The masks that the HigherHRNet code makes of two images."""
    swahr = golden("swahr")
    height, width = (int(v) for v in swahr[f"mask{number}_shape"])
    expected = np.unpackbits(swahr[f"mask{number}_packbits"])[: height * width].reshape(height, width).astype(bool)
    data = json.loads(golden_path("coco_gt_train2017.json").read_text())
    people = [a for a in data["annotations"] if a["image_id"] == swahr[f"mask{number}_image_id"]]
    record = {
        "size_wh": (width, height),
        "persons": person_table([people], 17),
        "segmentations": [a["segmentation"] for a in people],
    }
    assert people and not expected.all()
    np.testing.assert_array_equal(valid_mask(record), expected)

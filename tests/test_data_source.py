"""Sources that are joined."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from jaxpose.data import crops, space
from jaxpose.data.formats import coco
from jaxpose.data.source import joined
from jaxpose.skeleton import COCO17
from tests import tiny_coco


def test_joined_splits_hold_the_persons_and_images_of_both(tmp_path):
    folder = tiny_coco.write(tmp_path / "people")
    train = coco.read(*coco.find(folder, "train"))
    other = coco.read(*coco.find(folder, "train"))
    other.persons = other.persons[1:].copy()
    both = joined([train, other])
    assert len(both) == 2 * len(train) - 1 and len(both.images) == 2 * len(train.images)
    assert joined([train]) is train and both.ground_truth_json is None and both.category_ids == (1,)
    for index, (source, row) in {0: (train, 0), len(train): (other, 0), len(both) - 1: (other, len(other) - 1)}.items():
        ours, theirs = both.record(index), source.record(row)
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_array_equal(ours[name], theirs[name])
        options = {"size_wh": (24, 32)}
        np.testing.assert_array_equal(
            crops.sample(both, index, **options)["image"], crops.sample(source, row, **options)["image"]
        )
    images = both.at_level("image")
    last = len(images) - 1
    assert images.record(last)["jpeg"] == other.jpeg(len(other.images) - 1)
    assert set(images.labels(last)["persons"]["image"]) <= {last} and images.file_name(last) == other.file_name(-1)
    assert len(train.persons) == len(train) and train.persons["image"].max() < len(train.images)


def test_sources_with_other_joints_are_not_joined(tmp_path):
    train = coco.read(*coco.find(tiny_coco.write(tmp_path / "people"), "train"))
    other = coco.read(*coco.find(tmp_path / "people", "train"))
    other.skeleton = dataclasses.replace(COCO17, joints=COCO17.joints[::-1])
    with pytest.raises(ValueError, match="cannot be trained on together"):
        joined([train, other])


def test_sources_with_other_columns_are_not_joined(tmp_path):
    train = coco.read(*coco.find(tiny_coco.write(tmp_path / "people"), "train"))
    with pytest.raises(ValueError, match="only one of them has joints in space"):
        joined([train, space.withheld(train)])

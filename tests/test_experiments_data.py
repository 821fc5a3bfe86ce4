"""What the pages' flags make of the data: files that lie elsewhere, a prepared name, a part held out, joints that differ."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest

from experiments.common import kinds, persons, rules, whole_images
from experiments.common.config import RunConfig
from experiments.common.persons import PersonConfig
from jaxpose.data import builder
from jaxpose.skeleton import COCO17
from tests import tiny_coco


@pytest.fixture
def folder(tmp_path):
    """Train and val, of twelve images each."""
    for split in ("train", "val"):
        tiny_coco.write(tmp_path / "set", tiny_coco.content(12), split=split)
    return tmp_path / "set"


def config(tmp_path, **options):
    made = RunConfig(data_dir=tmp_path / "data", **options)
    rules.check(made)
    return made


def reordered(folder, split="val", names=None):
    path = folder / "annotations" / f"{split}.json"
    data = json.loads(path.read_text())
    order = np.arange(17)[::-1]
    data["categories"] = [{**tiny_coco.CATEGORY, "keypoints": names or [COCO17.joints[k] for k in order]}]
    for person in data["annotations"]:
        person["keypoints"] = np.reshape(person["keypoints"], (-1, 3))[order].ravel().tolist()
    path.write_text(json.dumps(data))


def test_files_that_lie_elsewhere(folder, tmp_path):
    files = {"annotations": folder / "annotations" / "train.json", "images": folder / "train"}
    val = {"val_annotations": folder / "annotations" / "val.json", "val_images": folder / "val"}
    train, evaluation = kinds.open_splits(config(tmp_path, **files, **val))
    assert len(train) == len(evaluation) == 24
    none, evaluation = kinds.open_splits(config(tmp_path, **files, eval_only=tmp_path))
    assert none is None and len(evaluation) == 24
    for more in ({}, {"val_images": folder / "val"}):
        with pytest.raises(ValueError, match="--annotations .*--val-annotations, or --val-fraction"):
            config(tmp_path, **files, **more)


def test_a_part_of_the_images_is_held_out(folder, tmp_path):
    train, val = kinds.open_splits(config(tmp_path, data=folder, val_fraction=0.3))
    ids = [set(source.images["image_id"].tolist()) for source in (train, val)]
    assert len(ids[0] | ids[1]) == 12 and not ids[0] & ids[1] and ids[1]
    assert {image["id"] for image in val.ground_truth()["images"]} == ids[1]
    again = kinds.open_splits(config(tmp_path, data=folder, val_fraction=0.3, seed=5))[1]
    assert again.directory == val.directory
    with pytest.raises(ValueError, match="leave out --val-annotations"):
        config(tmp_path, data=folder, val_fraction=0.3, val_annotations=folder / "annotations" / "val.json")
    with pytest.raises(ValueError, match="--val-fraction 1.0: expected a part"):
        config(tmp_path, data=folder, val_fraction=1.0)


def test_a_name_that_was_prepared(folder, tmp_path):
    for split in ("train", "val"):
        builder.prepare(None, annotations=folder / "annotations" / f"{split}.json", images=folder / split, split=split,
                        name="mice", data_dir=tmp_path / "data", progress=False)  # fmt: skip
    train, val = kinds.open_splits(config(tmp_path, data="mice"))
    assert len(train) == len(val) == 24 and train.directory != val.directory
    with pytest.raises(FileNotFoundError, match="--data rats is not a folder.*nor is a data set of this name.*'train'"):
        kinds.open_splits(config(tmp_path, data="rats"))
    with pytest.raises(ValueError, match="which --val-fraction cannot divide"):
        kinds.open_splits(config(tmp_path, data="mice", val_fraction=0.1))


def test_a_prepared_set_takes_pairs_and_sigmas_and_refuses_what_is_read_from_files(folder, tmp_path):
    for split in ("train", "val"):
        builder.prepare(None, annotations=folder / "annotations" / f"{split}.json", images=folder / split, split=split,
                        name="mice", data_dir=tmp_path / "data", progress=False)  # fmt: skip
    for source in kinds.open_splits(config(tmp_path, data="mice", sigmas=(0.2,), flip_pairs=("nose:left_eye",))):
        assert source.skeleton.sigmas == (0.2,) * 17 and source.skeleton.flip_pairs == ((0, 1),)
    for name, value in {"category": 1, "visible_above": 0.5, "exif": "apply", "follow_links": "all"}.items():
        with pytest.raises(ValueError, match=f"mice is a prepared data set.*--{name.replace('_', '-')} {value} would"):
            kinds.open_splits(config(tmp_path, data="mice", **{name: value}))
    backwards = dataclasses.replace(COCO17, joints=COCO17.joints[::-1])
    with pytest.raises(ValueError, match="--reorder-joints orders the joints while label files are read"):
        kinds.open_splits(config(tmp_path, data="mice", reorder_joints=True), skeleton=backwards)


def test_joints_in_another_order_stop_the_run_before_it_starts(folder, tmp_path):
    before = kinds.open_splits(config(tmp_path, data=folder))[1].persons["keypoints"]
    reordered(folder)
    with pytest.raises(
        ValueError,
        match=r"same joints in a different order: joint 1 is 'nose' in .*'right_ankle' in .*--reorder-joints",
    ):
        kinds.open_splits(config(tmp_path, data=folder))
    train, val = kinds.open_splits(config(tmp_path, data=folder, reorder_joints=True))
    assert train.skeleton.joints == val.skeleton.joints == COCO17.joints
    np.testing.assert_array_equal(val.persons["keypoints"], before)
    assert val.ground_truth()["categories"][0]["keypoints"] == list(COCO17.joints)


def test_other_joints_stop_the_run_before_it_starts(folder, tmp_path):
    reordered(folder, names=[*COCO17.joints[:16], "tail"])
    with pytest.raises(
        ValueError, match=r"different joints: .*only in the first: \['right_ankle'\], only in the second: \['tail'\]"
    ):
        kinds.open_splits(config(tmp_path, data=folder, reorder_joints=True))


def test_pairs_and_sigmas_reach_the_skeleton(folder, tmp_path):
    options = {"flip_pairs": ("nose:left_eye",), "sigmas": (0.2,), "exif": "ignore", "visible_above": 1.0}
    train, val = kinds.open_splits(config(tmp_path, data=folder, **options))
    for source in (train, val):
        assert source.skeleton.flip_pairs == ((0, 1),) and source.skeleton.sigmas == (0.2,) * 17
        assert set(np.unique(source.persons["keypoints"][..., 2])) == {0, 2}


@pytest.mark.parametrize(
    ("augment", "flip_test", "remarks"),
    [("unmirrored", True, ["--augment unmirrored .*--no-flip-test"]), ("unmirrored", False, []), ("light", True, [])],
)
def test_a_flip_test_of_a_net_that_never_saw_a_mirror_is_remarked(folder, tmp_path, augment, flip_test, remarks):
    settings = PersonConfig(
        data=folder, data_dir=tmp_path / "data", out=tmp_path / "run", augment=augment, flip_test=flip_test
    )
    train, val = kinds.open_splits(settings)
    sentences = persons.Persons(settings, train, val, val.ground_truth_json, None).remarks({}, {})
    assert len(sentences) == len(remarks)
    for sentence, pattern in zip(sentences, remarks, strict=True):
        assert re.search(pattern, sentence)


def test_a_preset_for_drawn_people_says_that_it_does_not_mirror_photographs(tmp_path, caplog):
    for data, augment in ((tmp_path, "unmirrored"), (None, "unmirrored"), (tmp_path, "light")):
        caplog.clear()
        persons.warn_of_photographs(PersonConfig(data=data, augment=augment))
        assert ("--augment light --flip-test" in caplog.text) == (data is not None and augment == "unmirrored")


def test_species_are_scored_one_by_one(folder, tmp_path):
    """The best predictions of all persons: an AP of 1 for each category, of which the report has a table."""
    for split in ("train", "val"):
        path = folder / "annotations" / f"{split}.json"
        data = json.loads(path.read_text())
        data["categories"] = [{**tiny_coco.CATEGORY, "id": i, "name": name} for i, name in ((1, "cat"), (4, "dog"))]
        for person in data["annotations"][:10]:
            person["category_id"] = 4
        path.write_text(json.dumps(data))
    settings = PersonConfig(data=folder, data_dir=tmp_path / "data", out=tmp_path / "run", nms=None)
    _, val = kinds.open_splits(settings)
    kind = persons.Persons(settings, None, val, val.ground_truth_json, None)
    rows = val.persons
    predictions = {
        "xy": rows["keypoints"][..., :2].astype(float), "joints": rows["keypoints"][..., :2].astype(float),
        "visibility": rows["keypoints"][..., 2], "confidence": np.full((len(rows), 17), 0.5),
        "image_id": val.images["image_id"][rows["image"]], "annotation_id": rows["annotation_id"], "box": rows["box"],
        "score": rows["score"], "crop_area": rows["area"], "area": rows["area"],
    }  # fmt: skip
    records = kind.records(predictions)
    assert [r["category_id"] for r in records] == [4] * 10 + [1] * (len(rows) - 10)
    assert kinds.one_category(val) is None
    with pytest.raises(ValueError, match="2 categories, which people found in a whole image do not tell: choose one"):
        whole_images.load(whole_images.ImageConfig(data=folder, data_dir=tmp_path / "data"))

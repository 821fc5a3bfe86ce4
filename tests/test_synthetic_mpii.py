"""The synthetic people in the layout of MPII."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jaxpose import cli
from jaxpose.data.formats import coco, mpii
from jaxpose.data.synthetic import write_dataset, write_mpii
from jaxpose.data.synthetic.mpii import mpii_joints
from jaxpose.data.synthetic.pose import pose_body, sample_pose, sample_shape
from jaxpose.evaluation import mpii as evaluation
from jaxpose.skeleton import COCO17, MPII16


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("people")
    people = write_dataset(place / "coco", train=3, val=4, seed=5, workers=1, progress=False)
    return people, write_mpii(people, place / "mpii")


def test_the_four_joints_that_coco_does_not_have_are_those_of_the_body():
    rng = np.random.default_rng(0)
    shape = sample_shape(rng)
    body = pose_body(shape, sample_pose(rng), yaw=30.0)
    joints = dict(zip(MPII16.joints, mpii_joints(body.joints), strict=True))
    np.testing.assert_allclose(joints["pelvis"], body.points["midhip"], atol=1e-9)
    np.testing.assert_allclose(joints["upper_neck"], body.points["skull"], atol=1e-9)
    top = body.points["head"] + body.head @ [0, 0.5, 0] * shape.head * shape.height
    np.testing.assert_allclose(joints["head_top"], top, atol=1e-9)
    for name in set(MPII16.joints) & set(COCO17.joints):
        np.testing.assert_array_equal(joints[name], body.joints[COCO17.joints.index(name)])
    with pytest.raises(ValueError, match=r"joints_3d must be .* got \(16, 3\)"):
        mpii_joints(np.zeros((16, 3)))


def test_the_people_are_those_of_coco(folders):
    people, folder = folders
    theirs = coco.read(*coco.find(people, "val"))
    ours = mpii.read(*mpii.find(folder, "valid"))
    assert len(ours) == len(theirs) > 2 and ours.skeleton == MPII16
    shared = [(MPII16.joints.index(name), COCO17.joints.index(name)) for name in MPII16.joints if name in COCO17.joints]
    for mine, row in zip(ours.persons, theirs.persons, strict=True):
        for a, b in shared:
            assert (mine["keypoints"][a, 2] > 0) == (row["keypoints"][b, 2] > 0)
            np.testing.assert_allclose(mine["keypoints"][a, :2], row["keypoints"][b, :2], atol=2e-3)
        x, y, w, h = row["box"]
        side = max(w, h)
        np.testing.assert_allclose(mine["box"], [x + w / 2 - side / 2, y + h / 2 - side / 2, side, side], atol=0.01)
        assert ours.file_name(mine["image"]) == f"val_{theirs.file_name(row['image'])}"
    assert ours.jpeg(0) == theirs.jpeg(0)


def test_the_true_joints_have_a_pckh_of_1_and_a_head_of_the_size_of_a_head(folders):
    _, folder = folders
    truth = evaluation.load_truth(evaluation.find_truth(folder, "valid"))
    source = mpii.read(*mpii.find(folder, "valid"))
    scores = evaluation.pckh(truth, source.persons["keypoints"][..., :2], source.persons["annotation_id"])
    assert scores["PCKh@0.5"] == scores["PCKh@0.1"] == 1.0
    share = truth.head_size / source.persons["box"][:, 2]
    assert (share > 0.03).all() and (share < 0.5).all()


def test_the_test_split_has_the_same_boxes_and_no_joints(folders):
    _, folder = folders
    (valid, test) = (json.loads((folder / "annot" / f"{name}.json").read_text()) for name in ("valid", "test"))
    assert [{k: e[k] for k in ("image", "center", "scale")} for e in valid] == test


def test_a_folder_is_written_once(folders, tmp_path, capsys):
    people, folder = folders
    before = (folder / "annot" / "train.json").stat().st_mtime_ns
    assert write_mpii(people, folder) == folder
    assert (folder / "annot" / "train.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="is not a synthetic data set"):
        write_mpii(people, people / "val")
    with pytest.raises(FileNotFoundError, match="is no folder of synthetic people"):
        write_mpii(tmp_path, tmp_path / "out")
    assert not list(folder.parent.glob(".*.partial"))
    cli.main(["synthetic", str(tmp_path / "new"), "--train", "1", "--val", "1", "--layout", "mpii"])
    assert sorted(p.name for p in (tmp_path / "new" / "annot").iterdir()) == [
        "gt_valid.mat", "test.json", "train.json", "valid.json"
    ]  # fmt: skip
    assert len(list((tmp_path / "new" / "images").iterdir())) == 2 and [p.name for p in tmp_path.iterdir()] == ["new"]

"""RHD's pickle and mmpose's JSON of it, from hands that are drawn here."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from jaxpose import hands
from jaxpose.data.formats import rhd, rhd_mmpose
from jaxpose.skeleton import RHD21
from tests import tiny_rhd


def write_mmpose(folder):
    """mmpose's JSON of the training hands: nested keypoints, names from base to tip, numbers from tip to base."""
    home = tiny_rhd.write(folder)
    names = ["wrist"] + [f"{finger}{i}" for finger in ("thumb", "forefinger", "middle_finger", "ring_finger", "pinky_finger")
                         for i in (1, 2, 3, 4)]  # fmt: skip
    images, people = [], []
    for i in range(5):
        entry = tiny_rhd.entry(i)
        k, uv, xyz = entry["K"], entry["uv_vis"][21:, :2], 1000 * entry["xyz"][21:]
        camera = {"focal": [float(k[0, 0]), float(k[1, 1])], "princpt": [float(k[0, 2]), float(k[1, 2])]}
        size = tiny_rhd.SIZE
        images.append({"id": i, "file_name": f"{i:05d}.png", "width": size, "height": size, "cam_param": camera})
        extent = 1.2 * (uv.max(0) - uv.min(0))
        people.append(
            {
                "id": i,
                "image_id": i,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [*((uv.max(0) + uv.min(0) - extent) / 2).tolist(), *extent.tolist()],
                "keypoints": [[float(x), float(y), 1] for x, y in uv],
                "joint_cam": xyz.tolist(),
                "hand_type": "right",
            }
        )
    (folder / "annotations").mkdir()
    category = {"id": 1, "name": "hand", "keypoints": names, "skeleton": []}
    content = {"images": images, "annotations": people, "categories": [category]}
    (folder / "annotations" / "rhd_train.json").write_text(json.dumps(content))
    for split in ("training", "evaluation"):
        (home / split / f"anno_{split}.pickle").unlink()
    return folder


def write(folder):
    tiny_rhd.write(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("rhd"))


def test_the_dominant_hand_has_more_pixels_in_the_mask(folder):
    source = rhd.read(*rhd.find(folder, "train"))
    people = source.ground_truth()["annotations"]
    assert [person["hand"] for person in people] == ["right", "left"] * 2 + ["right"]
    assert source.skeleton == RHD21 and not source.clip_boxes
    for person, row in zip(people, source.persons, strict=True):
        entry = tiny_rhd.entry(person["image_id"])
        side = slice(0, 21) if person["hand"] == "left" else slice(21, 42)
        np.testing.assert_allclose(np.reshape(person["keypoints_3d"], (21, 3)), 1000 * entry["xyz"][side], atol=1e-3)
        labelled = row["keypoints"][:, 2] > 0
        np.testing.assert_allclose(row["keypoints"][labelled, :2], entry["uv_vis"][side][labelled, :2], atol=1e-4)
        place = hands.square(entry["uv_vis"][side][:, :2], convention="mmpose")
        assert 1.25 * row["box"][2:].max() == pytest.approx(float(place.side), rel=1e-5)
        np.testing.assert_allclose(row["box"][:2] + row["box"][2:] / 2, place.center, rtol=1e-5)
        assert person["camera"] == [110.0, 110.0, 48.0, 48.0]


def test_both_hands_or_those_of_one_side(folder):
    paths = rhd.find(folder, "train")
    both = rhd.read(*paths, category="both").ground_truth()["annotations"]
    ones = [rhd.read(*paths, category=side).ground_truth()["annotations"] for side in ("left", "right")]
    assert sorted(p["id"] for p in both) == sorted(p["id"] for part in ones for p in part)
    with pytest.raises(ValueError, match="category 'person': RHD has hands only; expected one of dominant, both, left"):
        rhd.read(*paths, category="person")


def test_the_evaluation_split_has_three_names(folder):
    paths = {rhd.find(folder, split) for split in ("val", "test", "evaluation")}
    assert len(paths) == 1
    assert rhd.find(folder / "RHD_published_v2", "val") in paths
    with pytest.raises(FileNotFoundError, match="no annotations of RHD for split 'other'"):
        rhd.find(folder, "other")


class Trap:
    def __reduce__(self):
        return print, ("run",)


def test_a_pickle_that_would_run_code_is_refused_and_not_run(tmp_path, capsys):
    home = write(tmp_path) / "RHD_published_v2" / "training"
    with (home / "anno_training.pickle").open("wb") as file:
        pickle.dump({0: Trap()}, file)
    with pytest.raises(ValueError, match=r"anno_training\.pickle: it holds an object of .*print"):
        rhd.read(*rhd.find(tmp_path, "train"))
    assert "run" not in capsys.readouterr().out


def no_visible(entries):
    entries[0]["uv_vis"][:, 2] = 0


def zero_bone(entries):
    entries[0]["xyz"][12 + 21] = entries[0]["xyz"][11 + 21]


def lacks(entries):
    del entries[0]["K"]


def of_20_joints(entries):
    entries[0]["xyz"] = entries[0]["xyz"][:40]


def not_a_number(entries):
    entries[0]["xyz"][3, 1] = np.nan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_visible, "picture 0: its right hand has no visible joint. Correct the file, or leave such cases out"),
        (zero_bone, "picture 0, right hand: the bone between the joints middle1 and middle2 has length 0.0"),
        (lacks, r"picture 0: 'K' must be an array of numbers \(3, 3\), got nothing"),
        (of_20_joints, r"picture 0: 'xyz' must be an array of numbers \(42, 3\), got \(40, 3\)"),
        (not_a_number, "picture 0: 'xyz' holds a number that is not finite"),
    ],
)
def test_a_bad_entry_is_named_or_left_out(tmp_path, change, message):
    tiny_rhd.write(tmp_path, change=lambda split, entries: change(entries))
    paths = rhd.find(tmp_path, "train")
    with pytest.raises(ValueError, match=message):
        rhd.read(*paths)
    assert len(rhd.read(*paths, on_bad="skip")) == 4


def test_missing_masks_and_other_pickles_are_errors(tmp_path):
    home = write(tmp_path) / "RHD_published_v2" / "training"
    (home / "mask" / "00002.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"00002\.png does not exist: the dominant hand is the larger one in it"
    ):
        rhd.read(*rhd.find(tmp_path, "train"))
    Image.new("L", (10, 12)).save(home / "mask" / "00002.png")
    with pytest.raises(
        ValueError, match=r"00002\.png has the shape \(12, 10\): expected \(96, 96\), one number for each pixel"
    ):
        rhd.read(*rhd.find(tmp_path, "train"))
    (home / "anno_training.pickle").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(ValueError, match="is not RHD's: expected a pickle anno_"):
        rhd.read(*rhd.find(tmp_path, "train"))


def test_mmposes_joints_are_tip_first_whatever_their_names(tmp_path):
    source = rhd_mmpose.read(*rhd_mmpose.find(write_mmpose(tmp_path), "train"))
    assert source.skeleton == RHD21 and not source.clip_boxes and len(source) == 5
    for person in source.ground_truth()["annotations"]:
        entry = tiny_rhd.entry(person["image_id"])
        np.testing.assert_allclose(np.reshape(person["keypoints_3d"], (21, 3)), 1000 * entry["xyz"][21:], rtol=1e-6)
        assert person["hand"] == "right" and person["camera"] == [110.0, 110.0, 48.0, 48.0]
        assert set(person["keypoints"][2::3]) == {2}
    truth = rhd_mmpose.ground_truth(*rhd_mmpose.find(tmp_path, "train"))
    assert truth["categories"][0]["keypoints"] == list(RHD21.joints)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("joint_cam", None, "annotation 0: 'joint_cam' must hold 21 x 3 finite numbers"),
        ("joint_cam", [[1.0, 2.0, 3.0]] * 20, "finite numbers, got 20 joints"),
        ("joint_cam", [*[[1.0, 2.0, 3.0]] * 20, [1.0, float("nan"), 3.0]], r"got \[1.0, nan, 3.0\] for joint 20"),
        (
            "image_id",
            99,
            "annotation 0: 'cam_param' of its image must hold 'focal', two numbers above 0, and 'princpt', two, got None",
        ),
        ("keypoints", [[1.0, 2.0, 0]] * 21, "annotation 0: no joint in its 'keypoints' is labelled"),
        ("keypoints", None, "annotation 0: no joint in its 'keypoints' is labelled"),
        ("hand_type", "both", "annotation 0: 'hand_type' must be left or right, got 'both'"),
        (
            "joint_cam",
            [[1.0, 2.0, 3.0]] * 21,
            "annotation 0: the bone between the joints middle1 and middle2 has length 0.0",
        ),
    ],
)
def test_a_bad_hand_of_mmposes_file_is_named(tmp_path, field, value, message):
    path, images = rhd_mmpose.find(write_mmpose(tmp_path), "train")
    content = json.loads(path.read_text())
    content["annotations"][0][field] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        rhd_mmpose.read(path, images)
    assert len(rhd_mmpose.read(path, images, on_bad="skip")) == 4


def test_the_miniature_of_rhd_is_read_as_the_published_code_does(golden_path):
    golden = np.load(golden_path("hands/hands.npz"))
    root = golden_path("hands/rhd_mini")
    for split in ("training", "evaluation"):
        people = rhd.read(*rhd.find(root, split)).ground_truth()["annotations"]
        is_right = golden[f"bihand_{split}_side_is_right"]
        assert [person["hand"] == "right" for person in people] == is_right.tolist()
        for i, person in enumerate(people):
            xyz = np.reshape(person["keypoints_3d"], (21, 3))
            np.testing.assert_allclose(
                hands.reversed_fingers(xyz) / 1000, golden[f"bihand_{split}_joints"][i], atol=1e-7
            )
            keypoints = np.reshape(person["keypoints"], (21, 3))
            labelled = hands.reversed_fingers(keypoints)[:, 2] > 0
            ours = hands.reversed_fingers(keypoints)[labelled, :2]
            np.testing.assert_allclose(ours, golden[f"bihand_{split}_kp2ds"][i][labelled], atol=1e-4)


def test_mmposes_samples_are_read(data_dir):
    source = rhd_mmpose.read(*rhd_mmpose.find(data_dir("sample_rhd"), "val"))
    for person in source.ground_truth()["annotations"]:
        xyz = np.reshape(person["keypoints_3d"], (21, 3))
        focal, center = np.reshape(person["camera"], (2, 2))
        xy = xyz[:, :2] / xyz[:, 2:] * focal + center
        assert np.abs(xy - np.reshape(person["keypoints"], (21, 3))[:, :2]).max() < 0.1
        assert 34 < hands.bone_length(xyz) < 38

"""Human3.6M's JSON files: cameras of both forms, faults, and the published labels."""

from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import pytest

from jaxpose import skeleton
from jaxpose.data import formats, space
from jaxpose.data.formats import human36m
from tests import tiny_space


def write(tmp_path, data):
    return tiny_space.write(tmp_path, data)


def read(tmp_path, data, **options):
    write(tmp_path, data)
    return human36m.read(*human36m.find(tmp_path, "train"), **options)


@pytest.mark.parametrize("offset", [False, True])
def test_both_forms_of_a_camera_give_the_same_labels(tmp_path, offset):
    source = read(tmp_path, tiny_space.rle_json(offset=offset))
    points, px = tiny_space.in_camera()
    assert source.skeleton == skeleton.H36M18 and len(source) == 4 and space.has_space(source)
    np.testing.assert_allclose(source.persons["joints_3d"][:, :17], points, rtol=1e-12)
    np.testing.assert_allclose(source.persons["joints_3d"][:, 17], points[:, [11, 14]].mean(1), rtol=1e-12)
    np.testing.assert_allclose(source.persons["keypoints"][:, :17, :2], px, rtol=1e-6)
    np.testing.assert_allclose(source.persons["root"], points[:, 0], rtol=1e-12)
    truth = source.ground_truth()["annotations"]
    assert [person["action"] for person in truth] == ["Directions", "Discussion", "Eating", "Greeting"]


def test_a_left_handed_world_gives_the_same_labels(tmp_path):
    """y and z are exchanged in the joints and in the cameras."""
    data = changed(every_pose(lambda x: x[:, [0, 2, 1]]))
    every_camera(lambda c: {"R": np.array(c["R"])[:, [0, 2, 1]].tolist(), "t": np.array(c["t"])[[0, 2, 1]].tolist()})(
        data
    )
    np.testing.assert_allclose(read(tmp_path, data).persons["joints_3d"][:, :17], tiny_space.in_camera()[0], rtol=1e-9)


def test_guessed_by_its_content(tmp_path):
    write(tmp_path, tiny_space.rle_json())
    assert formats.guess(tmp_path, "train") == "human36m"


def test_drifted_sequences_are_left_out(tmp_path):
    data = tiny_space.rle_json()
    name = "s_09_act_05_subact_02_ca_03/s_09_act_05_subact_02_ca_03_000065.jpg"
    data["images"][1]["file_name"] = name
    source = read(tmp_path, data)
    assert len(source) == 3 and name not in [source.file_name(i) for i in range(3)]


def test_three_files_per_subject(tmp_path):
    rotation, position = tiny_space.camera()
    points, (_, px) = tiny_space.world(2), tiny_space.in_camera(2)
    place = tmp_path / "annotations"
    place.mkdir()
    for subject in (1, 5, 6, 7, 8):
        names = [f"s_{subject:02d}/{frame + 1:06d}.jpg" for frame in (0, 3)]
        keys = {"width": 1000, "height": 1000, "subject": subject, "action_idx": 2, "subaction_idx": 1, "cam_idx": 1}
        images = [{"id": i, "file_name": name, "frame_idx": 3 * i, **keys} for i, name in enumerate(names)]
        people = [{"id": i, "image_id": i, "bbox": box} for i, box in enumerate(tiny_space.boxes(px).tolist())]
        (place / f"Human36M_subject{subject}_data.json").write_text(
            json.dumps({"images": images, "annotations": people})
        )
        view = {
            "R": rotation.tolist(),
            "t": (-rotation @ position).tolist(),
            "f": tiny_space.FOCAL,
            "c": tiny_space.CENTER,
        }
        (place / f"Human36M_subject{subject}_camera.json").write_text(json.dumps({"1": view}))
        world = {"2": {"1": {"0": points[0].tolist(), "3": points[1].tolist()}}}
        (place / f"Human36M_subject{subject}_joint_3d.json").write_text(json.dumps(world))
        tiny_space.write(tmp_path, {"images": images}, "unused.json")
    places = human36m.find(tmp_path, "train")
    source = human36m.read(*places, split="train")
    assert human36m.recognises(places[0]) and len(source) == 5  # every fifth frame: the first
    np.testing.assert_allclose(source.persons["joints_3d"][:, :17], np.tile(tiny_space.in_camera(1)[0], (5, 1, 1)))
    with pytest.raises(ValueError, match="whose splits are train, val, test"):
        human36m.contents(places[0], split="all")
    (place / "Human36M_subject5_camera.json").write_text("{}")
    with pytest.raises(ValueError, match="the files of subject 5 do not fit"):
        human36m.contents(places[0], split="train")


def changed(change):
    data = copy.deepcopy(tiny_space.rle_json())
    change(data)
    return data


def every_camera(change):
    def apply(data):
        for image in data["images"]:
            image["cam_param"] = {**image["cam_param"], **change(image["cam_param"])}

    return apply


def every_pose(change):
    def apply(data):
        for person in data["annotations"]:
            person["keypoints_world"] = change(np.array(person["keypoints_world"])).tolist()

    return apply


SCALED = (
    lambda scale: every_pose(scale),
    lambda scale: every_camera(lambda c: {"t": scale(np.array(c["t"])).tolist()}),
)
SHUFFLED = [3, 1, 2, 0, *range(4, 17)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["annotations"].pop(), "of one length, paired by position"),
        (lambda data: data["images"][2].pop("cam_param"), "entry 2 lacks 'cam_param'"),
        (
            every_pose(lambda x: np.where(np.arange(17)[:, None] == 5, np.nan, x)),
            r"must be 17 x 3 finite numbers, got \[nan, nan, nan\] for joint 5 \(left_knee\)",
        ),
        (every_pose(lambda x: x[:16]), "must be 17 x 3 finite numbers"),
        (every_pose(lambda x: x / 1000), "look like metres"),
        (every_camera(lambda c: {"t": (np.array(c["t"]) / 1000).tolist()}), "look to be in metres"),
        (every_pose(lambda x: x[SHUFFLED]), "the pelvis .* this looks like another order of the joints"),
        (every_camera(lambda c: {"R": np.transpose(c["R"]).tolist()}), "the rotations may be transposed"),
        (every_camera(lambda c: {"t": [float("nan")] * 3}), "'t' of the camera must be 3 finite numbers"),
        (every_pose(lambda x: np.concatenate([x, x])), "must be 17 x 3 finite numbers, got 34 x 3 of them"),
        (every_camera(lambda c: {"f": [0.0, 0.0]}), "'f' of the camera must be two focal lengths above 0"),
        (every_camera(lambda c: {"R": (2 * np.array(c["R"])).tolist()}), "'R' of the camera is no rotation"),
        (every_pose(lambda x: x / 1000 + [0, 0, 900]), "look like metres"),
        (lambda data: [change(lambda x: 1000 * x)(data) for change in SCALED] and None, "multiplied by 1000 .* divide them by 1000"),
        (lambda data: [person.update(bbox=[10, 10, 200, 200]) for person in data["annotations"]] and None,
         "project 0% of the joints into their persons' boxes .* two axes of the world may be exchanged"),
    ],
)  # fmt: skip
def test_faults_say_what_they_look_like(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, changed(change))


@pytest.mark.reference
def test_published_labels(golden, tmp_path):
    case = golden("three_d/rle_h36m")
    f32 = lambda value: np.asarray(value, np.float32).astype(float).tolist()  # noqa: E731  the code's cameras are float32
    images = [
        {"file_name": str(name), "width": int(w), "height": int(h), "cam_param": {"R": f32(R), "t": f32(t), "f": f32(f), "c": f32(c)}}
        for name, (w, h), R, t, f, c in zip(
            case["ann_file_name"], case["ann_wh"], *(case[f"ann_cam_{k}"] for k in "Rtfc")
        )
    ]  # fmt: skip
    people = [
        {"bbox": b, "keypoints_world": p}
        for b, p in zip(case["ann_bbox_xywh"].tolist(), case["ann_keypoints_world"].tolist())
    ]
    truth = human36m.contents(_file(tmp_path, {"images": images, "annotations": people}))
    assert len(truth["annotations"]) == 7
    joints = np.array([p["keypoints_3d"] for p in truth["annotations"]]).reshape(7, 18, 3)
    px = np.array([p["keypoints"] for p in truth["annotations"]]).reshape(7, 18, 3)[..., :2]
    np.testing.assert_allclose(joints, case["label_joint_cam"], rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(px, case["label_joint_img"][..., :2], rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(joints[..., 2] - joints[:, :1, 2], case["label_joint_img"][..., 2], rtol=1e-9, atol=1e-6)
    # RLE's code hangs shoulders and thorax on the torso, not on the neck.
    from_torso = {pair: (7, pair[1]) for pair in skeleton.H36M18.limbs if pair[1] in (11, 14, 17)}
    limbs = tuple(from_torso.get(pair, pair) for pair in skeleton.H36M18.limbs)
    lengths = space.limb_lengths(joints, dataclasses.replace(skeleton.H36M18, limbs=limbs))
    assert len(from_torso) == 3
    np.testing.assert_allclose(lengths.sum(-1), case["label_tot_bone_len"], rtol=1e-9)


def _file(tmp_path, data):
    path = tmp_path / "train.json"
    path.write_text(json.dumps(data))
    return path

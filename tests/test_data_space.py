"""Joints in space: the columns of a table, the checks, and their way through crops."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest

from jaxpose import cameras, geometry
from jaxpose.data import augment, builder, crops, formats, mixing, pixels, space, synthetic
from jaxpose.data.formats import coco, coco_3d, human36m
from jaxpose.skeleton import COCO17, H36M17, H36M18, MPII16
from jaxpose.tasks.base import PREPROCESS
from tests import tiny_space

SIZE = (64, 64)


def coco_json(count=4):
    points, px = tiny_space.in_camera(count)
    boxes = tiny_space.boxes(px)
    people = [
        {
            "id": i + 1, "image_id": i + 1, "category_id": 1, "bbox": boxes[i].tolist(), "area": 9e4,
            "keypoints": np.concatenate([px[i], np.full((17, 1), 2.0)], 1).ravel().tolist(),
            "keypoints_3d": points[i].ravel().tolist(), "camera": [*tiny_space.FOCAL, *tiny_space.CENTER],
        }
        for i in range(count)
    ]  # fmt: skip
    images = [{"id": i + 1, "file_name": f"{i}.jpg", "width": 1000, "height": 1000} for i in range(count)]
    return {
        "images": images,
        "annotations": people,
        "categories": [H36M17.to_coco_category(name="person", category_id=1)],
    }


def write(folder):
    """A folder whose file says that it has joints in space."""
    return tiny_space.write(folder, coco_json() | {"keypoints_3d_unit": "mm"}, "train.json")


def read(tmp_path, data=None):
    data = coco_json() if data is None else data
    tiny_space.write(tmp_path, data, "train.json")
    return coco_3d.read(tmp_path / "annotations" / "train.json", tmp_path / "images")


def test_own_images_with_joints_in_space(tmp_path):
    data = coco_json()
    del data["annotations"][1]["keypoints_3d"]  # depth withheld
    data["annotations"][2]["keypoints_3d"][3 * 13 : 3 * 13 + 3] = [None] * 3
    data["images"][3]["camera"] = [1145.0, *tiny_space.CENTER]  # one focal length, at the image
    del data["annotations"][3]["camera"]
    source = read(tmp_path, data)
    points, _ = tiny_space.in_camera()
    persons = source.persons
    np.testing.assert_allclose(persons["joints_3d"][0], points[0])
    assert persons["has_depth"].sum(1).tolist() == [17, 0, 16, 17] and not persons["has_depth"][2, 13]
    assert np.isnan(persons["root"][1]).all() and persons["camera"][3].tolist() == [1145, 1145, 512, 508]
    assert formats.guess(tmp_path, "train") == "coco" and coco.read(
        *coco.find(tmp_path, "train", images=tmp_path / "images")
    )
    flat = space.flattened(source)
    assert not space.has_space(flat) and crops.plan(flat, [0], size_wh=SIZE)["joints"].shape == (1, 17, 2)


def test_prepared_data_keep_the_joints_in_space(tmp_path):
    tiny_space.write(tmp_path, coco_json(), "train.json")
    source = builder.prepare(
        None, data_dir=tmp_path / "prepared", annotations=tmp_path / "annotations" / "train.json", images=tmp_path / "images",
        reader=coco_3d, progress=False,
    )  # fmt: skip
    np.testing.assert_array_equal(source.persons, read(tmp_path).persons)
    row = crops.sample(source, 1, size_wh=SIZE)
    assert row["joints"].shape == (17, 3) and row["has_depth"].all()


@pytest.mark.parametrize("name", ["none", "rle_3d", "integral_3d"])
def test_crop_targets_lead_back_to_the_camera(tmp_path, name):
    """World -> camera -> crop -> camera with the root's true depth, whatever the augmentation."""
    source, setting = read(tmp_path), augment.named(name)
    plan = crops.plan(source, range(4), size_wh=SIZE, augment=setting, epochs=[3] * 4, padding=1.0)
    rows = source.persons
    scale = np.ones(4)
    if setting.scale_depth:
        draws = crops._draws(source, rows, rows["box"].astype(float), setting, 0, [3] * 4, 1.0)
        scale = np.array([d.scale for d in draws])
        assert len(np.unique(scale)) == 4
    depth = plan["joints"][..., 2] * scale[:, None] + plan["root"][:, None, 2]
    px = geometry.apply_affine(geometry.invert_affine(plan["affine"].astype(float)), plan["joints"][..., :2])
    focal, center = plan["camera"][:, None, :2], plan["camera"][:, None, 2:]
    back = np.concatenate([(px - center) / focal * depth[..., None], depth[..., None]], -1)
    flipped = np.linalg.det(plan["affine"][:, :, :2]) < 0
    if name != "none":
        assert 0 < flipped.sum() < 4
    back[flipped] = back[flipped][:, H36M17.flip_index]
    np.testing.assert_allclose(back, rows["joints_3d"], atol=0.05)  # mm; the batch is float32
    assert not plan["joints"][:, 0, 2].any()


def test_mirrored_twice_is_the_same(tmp_path):
    source = read(tmp_path)
    mirror = augment.Setting("mirror", flip=1.0)
    once = crops.plan(source, range(4), size_wh=SIZE, augment=mirror, padding=1.0)
    plain = crops.plan(source, range(4), size_wh=SIZE, padding=1.0)
    np.testing.assert_allclose(once["joints"][:, H36M17.flip_index, 2], plain["joints"][..., 2])
    mirrored = SIZE[0] - 1 - once["joints"][:, H36M17.flip_index, 0]
    # The mirrored box's centre is that of W - 1 - x, and a crop's centre is W / 2: one input pixel between the two.
    np.testing.assert_allclose(mirrored + 1, plain["joints"][..., 0], atol=1e-3)


def test_withheld_depth_is_no_label(tmp_path):
    plan = crops.plan(space.withheld(read(tmp_path)), range(4), size_wh=SIZE)
    assert not plan["has_depth"].any() and not plan["joints"][..., 2].any() and np.isfinite(plan["root"]).all()


def every(change):
    def apply(data):
        for person in data["annotations"]:
            change(person)

    return apply


def scaled(factor):
    return every(lambda person: person.update(keypoints_3d=[factor * value for value in person["keypoints_3d"]]))


def first(change):
    return lambda data: change(data["annotations"][0])


def legs(person):
    """Left legs are right ones in the picture alone."""
    px = np.reshape(person["keypoints"], (17, 3))
    person["keypoints"] = px[[0, 4, 5, 6, 1, 2, 3, *range(7, 17)]].ravel().tolist()


def sit(person, *, mirrored):
    """The knees are bent at right angles, seen from the side; mirrored: as if the left leg were the right one."""
    points = np.reshape(person["keypoints_3d"], (17, 3))
    for hip, side in ((1, -1), (4, 1)):
        start = points[0] + np.array([0, 0, 120 * side * (-1 if mirrored else 1)])
        points[hip : hip + 3] = start + [[0, 0, 0], [400, 0, 0], [400, 400, 0]]
    px = cameras.project(points, focal=np.array(tiny_space.FOCAL), center=np.array(tiny_space.CENTER))
    low, high = px.min(0) - 20, px.max(0) + 20
    person["keypoints_3d"], person["bbox"] = points.ravel().tolist(), [*low, *(high - low)]
    person["keypoints"] = np.concatenate([px, np.full((17, 1), 2.0)], 1).ravel().tolist()


@every
def exchanged(person):
    """Left is right in space, and not in the picture."""
    points = np.reshape(person["keypoints_3d"], (17, 3))
    person["keypoints_3d"] = points[H36M17.flip_index, :].ravel().tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (scaled(0.001), "look like metres; multiply them by 1000"),
        (scaled(-1.0), "behind the camera"),
        (every(lambda person: person.update(camera=[300.0, 500.0, 500.0])), "away from the keypoints"),
        (every(lambda person: person.update(camera=[1145.0])), r"expected \[f, cx, cy\]"),
        (every(lambda person: person.pop("camera")), "has joints in space and no camera"),
        (lambda data: data.update(keypoints_3d_unit="m"), "convert 'keypoints_3d' to millimetres"),
        (every(lambda person: person["keypoints_3d"].pop()), "has 50 entries, expected 51"),
        (every(lambda person: person.pop("keypoints_3d")), "has no joints in space"),
        (every(lambda person: person["keypoints_3d"].__setitem__(4, float("nan"))), "nan for y of joint 1, expected 51 finite numbers"),
        (scaled(0.1), "look like centimetres; multiply them by 10"),
        (scaled(1000.0), "multiplied by 1000 as if they were metres; divide them by 1000"),
        (first(lambda person: person.update(keypoints_3d=[v / 1000 for v in person["keypoints_3d"]])),
         "1 of 4 persons, such as annotation 1: .* look like metres"),
        (first(lambda person: person.update(camera=[1145.0, 2012.0, 508.0])), "of 1 of 4 persons, such as annotation 1, the camera"),
        (every(legs), "right_hip, right_knee, right_ankle: left and right are exchanged in space or in the picture"),
        (every(lambda person: sit(person, mirrored=True)), "8 of 8 bent knees bend to the front"),
        (exchanged,
         "train.json: the joints in space lie .* px with left and right exchanged"),
    ],
)  # fmt: skip
def test_faults_say_what_they_look_like(tmp_path, change, message):
    data = copy.deepcopy(coco_json())
    change(data)
    with pytest.raises(ValueError, match=message):
        read(tmp_path, data)


def test_what_can_be_used_is_used(tmp_path, caplog):
    data = coco_json()
    every(lambda person: sit(person, mirrored=False))(data)
    del data["annotations"][3]["keypoints"]
    assert len(read(tmp_path, data)) == 3
    assert "1 annotations, such as 4, have 'keypoints_3d' and no 'keypoints': left out" in caplog.text


@pytest.mark.reference
def test_published_crops_and_targets(golden, tmp_path):
    """RLE's targets, weights and boxes with and without augmentation."""
    case = golden("three_d/rle_h36m")
    source = _golden_source(case, tmp_path)
    for prefix, index in (("test", np.arange(7)), ("train", case["train_index"])):
        persons = source.persons[index]
        boxes = geometry.clip_box(
            persons["box"].astype(float), source.images["size_wh"][persons["image"]].astype(float)
        )
        if prefix == "train":
            augmentations = zip(case["train_flip"], case["train_scale"], case["train_rot"])
        else:
            augmentations = [(False, 1.0, 0.0)] * 7
        draws = [
            augment.Augmentation(bool(flip), box, 1.0, float(scale), float(rotation))
            for box, (flip, scale, rotation) in zip(boxes, augmentations)
        ]
        widths = source.images["size_wh"][persons["image"], 0].astype(float)
        affine, flip = crops.crop_affines(draws, size_wh=(256, 256), image_width=widths)
        _, joints = augment.move_joints(persons["keypoints"], affine, flip, source.skeleton.flip_index)
        depth = crops._in_space(persons, flip, draws, source.skeleton.flip_index, scale_depth=False)["depth"]
        target = np.concatenate([joints / 256 - 0.5, depth[..., None] / 2000], -1)
        np.testing.assert_allclose(target, case["test_target_uvd" if prefix == "test" else "train_target"], atol=2e-6)
        weight = np.repeat((np.abs(target) <= 0.5).all(-1, keepdims=True), 3, -1)
        np.testing.assert_array_equal(weight, case[f"{prefix}_weight"])
        np.testing.assert_allclose(_crop_boxes(affine, flip, widths), case[f"{prefix}_bbox"], atol=2e-3)
        _check_pixels(case, prefix, index, affine, source.images["size_wh"][persons["image"]])
    points = source.persons["joints_3d"]
    np.testing.assert_allclose(points[:, 0], case["label_root_cam"], atol=2e-4)  # mm; float32 cameras
    corner = case["label_bbox"][:, 2:]
    boxes = geometry.clip_box(source.persons["box"].astype(float), source.images["size_wh"][source.persons["image"]])
    np.testing.assert_allclose(boxes[:, :2] + boxes[:, 2:], corner, atol=1e-3)
    np.testing.assert_allclose(boxes[:, :2], case["label_bbox"][:, :2], atol=1e-3)


def _crop_boxes(affine, flip, width):
    """The squares (B, 4), x1 y1 x2 y2, that crops of 256 px show; of mirrored crops in the mirrored picture."""
    inverse = geometry.invert_affine(affine)
    centre = inverse @ np.array([128.0, 128.0, 1.0])
    centre[:, 0] = np.where(flip, np.asarray(width) - 1 - centre[:, 0], centre[:, 0])
    half = 128 * np.sqrt(np.abs(np.linalg.det(inverse[:, :, :2])))[:, None]
    return np.concatenate([centre - half, centre + half], -1)


def _check_pixels(case, prefix, index, affine, sizes):
    """Every 16th pixel of the normalised crops is within a grey level of RLE's, and so is their mean."""
    pytest.importorskip("cv2")
    values, means = ("crop_sub", "crop_mean") if prefix == "test" else ("crop", "mean")
    normal = PREPROCESS["rle_official_3d"]
    for i, (matrix, (w, h)) in enumerate(zip(affine, sizes)):
        y, x, c = np.mgrid[:h, :w, :3]
        phase = case["image_phase"][index[i]]
        image = 127.5 + 60 * np.sin(0.05 * (y + 1) * (c + 1) + phase) + 60 * np.cos(0.03 * (x + 1) + c)
        crop = pixels.warped(np.round(image).astype(np.uint8), matrix, (256, 256)).astype(float)
        if prefix == "train":
            crop = np.floor(np.clip(crop * case["train_colour"][i], 0, 255))
        seen = ((crop - normal.mean) / normal.std).transpose(2, 0, 1)
        assert np.abs(seen[:, ::16, ::16] - case[f"{prefix}_{values}"][i]).max() < 1.01 / min(normal.std)
        np.testing.assert_allclose(seen.mean((1, 2)), case[f"{prefix}_{means}"][i], atol=1e-4)


@pytest.mark.reference
def test_published_targets_of_mpii(golden, tmp_path):
    """MPII's joints as RLE's code mixes them in: the map, the boxes, and unlabelled joints that count (QUIRK V4)."""
    case = golden("three_d/rle_h36m")
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 640, "height": 480} for i in range(4)]
    people = [
        {
            "id": i + 1, "image_id": i, "category_id": 1, "bbox": case["mpii_bbox_xywh"][i].tolist(), "area": 9e4,
            "keypoints": case["mpii_keypoints"][i].ravel().tolist(),
        }
        for i in range(4)
    ]  # fmt: skip
    category = MPII16.to_coco_category(name="person", category_id=1)
    data = {"images": images, "annotations": people, "categories": [category]}
    tiny_space.write(tmp_path, data, "train.json", size_wh=(64, 48))
    plain = coco.read(tmp_path / "annotations" / "train.json", tmp_path / "images")
    source = mixing.mapped(plain, H36M18, visibility="official")
    box = source.persons["box"].astype(float)
    np.testing.assert_allclose(
        np.concatenate([box[:, :2], box[:, :2] + box[:, 2:]], 1), case["mpii_label_bbox"], atol=1e-3
    )
    labelled = source.persons["keypoints"][..., 2] > 0
    places = case["mpii18_map"]
    assert case["mpii_label_joint_vis"][..., :2].all() and (labelled == (places >= 0)).all()
    np.testing.assert_allclose(
        source.persons["keypoints"][:, places >= 0, :2], case["mpii_keypoints"][:, places[places >= 0], :2], atol=1e-3
    )
    persons = source.persons[case["mpii18_index"]]
    augmentations = zip(case["mpii18_flip"], box[case["mpii18_index"]], case["mpii18_scale"], case["mpii18_rot"])
    draws = [augment.Augmentation(bool(f), b, 1.25, float(s), float(r)) for f, b, s, r in augmentations]
    affine, flip = crops.crop_affines(draws, size_wh=(256, 256), image_width=np.full(6, 640.0))
    np.testing.assert_allclose(_crop_boxes(affine, flip, np.full(6, 640.0)), case["mpii18_bbox"], atol=2e-3)
    visible, joints = augment.move_joints(persons["keypoints"], affine, flip, H36M18.flip_index)
    target = np.where(visible[..., None] > 0, joints / 256 - 0.5, 0.0)
    np.testing.assert_allclose(target, case["mpii18_target"][..., :2], atol=2e-6)
    counted = (visible > 0) & (np.abs(target) <= 0.5).all(-1)
    assert (counted == case["mpii18_weight"][..., 0]).all() and not case["mpii18_target"][..., 2].any()


def _golden_source(case, tmp_path):
    names = [str(name) for name in case["ann_file_name"]]
    images = [
        {
            "file_name": name,
            "width": int(w),
            "height": int(h),
            "cam_param": dict(zip("Rtfc", (v.tolist() for v in view))),
        }
        for name, (w, h), *view in zip(names, case["ann_wh"], *(case[f"ann_cam_{k}"] for k in "Rtfc"))
    ]
    people = [
        {"bbox": b, "keypoints_world": p}
        for b, p in zip(case["ann_bbox_xywh"].tolist(), case["ann_keypoints_world"].tolist())
    ]
    tiny_space.write(tmp_path, {"images": images, "annotations": people}, size_wh=(1, 1))
    return human36m.read(*human36m.find(tmp_path, "train"))


def test_cameras_of_a_batch_project_the_joints(tmp_path):
    source = read(tmp_path)
    row = crops.plan(source, [2], size_wh=SIZE)
    px = cameras.project(
        source.persons["joints_3d"][2],
        focal=row["camera"][0, :2].astype(float),
        center=row["camera"][0, 2:].astype(float),
    )
    np.testing.assert_allclose(
        geometry.apply_affine(row["affine"][0].astype(float), px), row["joints"][0, :, :2], atol=1e-3
    )


def test_the_ground_truth_of_prepared_data_holds_the_joints(tmp_path):
    tiny_space.write(tmp_path, coco_json(), "train.json")
    source = builder.prepare(
        None, data_dir=tmp_path / "prepared", annotations=tmp_path / "annotations" / "train.json", images=tmp_path / "images",
        reader=coco_3d, progress=False,
    )  # fmt: skip
    truth = json.loads(source.ground_truth_json.read_text())
    assert len(truth["annotations"][0]["keypoints_3d"]) == 51 and len(truth["annotations"][0]["camera"]) == 4


def test_synthetic_people_in_space(tmp_path):
    """The picture is the same; the labels are true, and the format reads them."""
    plain, people = synthetic.render(3, 5, size_wh=(160, 128))
    image, labels = synthetic.render(3, 5, size_wh=(160, 128), space=True)
    np.testing.assert_array_equal(image, plain)
    assert len(labels) == len(people)
    for flat, full in zip(people, labels):
        assert full["bbox"] == flat["bbox"] and full["action"]
        if full["keypoints_3d"] is None:
            continue
        joints, coco17 = np.reshape(full["keypoints_3d"], (18, 3)), np.reshape(flat["keypoints_3d"], (17, 3))
        for name in ("left_hip", "right_wrist", "left_ankle"):
            np.testing.assert_allclose(joints[H36M18.joints.index(name)], coco17[COCO17.joints.index(name)], atol=0.1)
        np.testing.assert_allclose(joints[17], joints[[11, 14]].mean(0), atol=0.02)
        np.testing.assert_allclose(joints[0], joints[[1, 4]].mean(0), atol=0.02)
    folder = synthetic.write_dataset(
        tmp_path / "people", train=3, val=1, size_wh=(96, 96), space=True, workers=1, progress=False
    )
    assert formats.guess(folder, "train") == "coco_3d"
    source = coco_3d.read(*coco_3d.find(folder, "train"))
    assert source.skeleton == H36M18 and source.persons["has_depth"].all()
    with pytest.raises(ValueError, match="holds another synthetic data set"):
        synthetic.write_dataset(tmp_path / "people", train=3, val=1, size_wh=(96, 96), workers=1, progress=False)

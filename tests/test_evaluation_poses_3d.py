"""Errors of poses in space: the reference numbers, both averages, the handlings of the root, the files, and bad input."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jaxpose import metrics
from jaxpose.evaluation import command, poses_3d
from jaxpose.skeleton import H36M17


def people(n=6, *, seed=0):
    """Standing people of 1.7 m with noise, in mm, in camera axes at 5 m."""
    rng = np.random.default_rng(seed)
    height = dict(pelvis=0, hip=0, knee=450, ankle=900, torso=-250, neck=-500, nose=-580, head=-680, shoulder=-480)
    height |= dict(elbow=-250, wrist=0)
    side = dict(hip=130, knee=130, ankle=130, shoulder=180, elbow=200, wrist=220)
    pose = np.zeros((17, 3))
    for i, name in enumerate(H36M17.joints):
        part = name.split("_")[-1]
        sign = -1 if name.startswith("right") else 1
        pose[i] = sign * side.get(part, 0), height[part], 0
    return pose + rng.normal(0, 5, (n, 17, 3)) + [100, 200, 5000]


def test_the_reference_numbers(golden):
    g = golden("three_d/metrics3d")
    pred, target = 1000 * g["pred_m"], 1000 * g["gt_m"]
    length = g["seq_length"]
    action = np.repeat(g["seq_action"], length)
    sequence = np.repeat(np.arange(len(length)), length)
    result = poses_3d.scores(pred, target, handling="predicted", action=action, sequence=sequence)
    names = ["MPJPE", "PA-MPJPE", "N-MPJPE", "MPJVE"]
    for name, expected in zip(g["action_names"], g["action_p1_p2_p3_mpjve_mm"]):
        assert [result["actions"][str(name)][n] for n in names] == pytest.approx(expected.tolist(), rel=1e-9)
    assert [result[f"{n}_actions"] for n in names] == pytest.approx(g["action_average_mm"].tolist(), rel=1e-9)
    assert result["MPJPE"] == pytest.approx(float(g["frame_average_p1_mm"]), rel=1e-9)
    by_action = [result["actions"][str(name)]["MPJPE"] for name in g["action_names"]]
    assert by_action == pytest.approx((1000 * g["mmpose_action_mpjpe"]).tolist(), rel=1e-9)
    assert result["PA-MPJPE_rigid"] == pytest.approx(
        float(np.linalg.norm(1000 * g["martinez_aligned_noscale"] - target, axis=-1).mean()), rel=1e-9
    )


def _check_crops_of_integral_regression(g, px):
    """Its crops scale x and y apart: here a crop of the box's own aspect, whose rows are stretched to 256 afterwards."""
    from jaxpose import geometry
    from jaxpose.data import pixels
    from jaxpose.skeleton import H36M18
    from jaxpose.tasks.base import PREPROCESS

    cv2 = pytest.importorskip("cv2")
    normal = PREPROCESS["imagenet"]
    y, x, c = np.mgrid[:1002, :1000, :3]
    for i, (scale, rotation, flip, *colour) in enumerate(g["int_aug_scale_rot_flip_rgb"]):
        left, top, right, bottom = g["int_box_ltrb"][i]
        size = 256, 256 * (bottom - top) / (right - left)
        image = np.round(127.5 + 60 * np.sin(0.05 * (y + 1) * (c + 1) + i) + 60 * np.cos(0.03 * (x + 1) + c))
        image, joints, box = image.astype(np.uint8), px[i], np.array([left, top, right - left, bottom - top])
        plain = geometry.box_to_affine(box, size, padding=1.0)
        if flip:
            image, box = cv2.flip(image, 1), box + [999 - left - right, 0, 0, 0]
            joints = ([999, 0] + [-1, 1] * joints)[H36M18.flip_index, :]
        affine = geometry.box_to_affine(box, size, padding=1.0, rotation=rotation, scale=scale)
        label = geometry.normalize(geometry.apply_affine(affine, joints), size)
        np.testing.assert_allclose(label, g["int_label"][i, :, :2], rtol=1e-6, atol=1e-6)
        stretch = 256 / size[1]
        crop = pixels.warped(image, affine * [[1], [stretch]], (256, 256)).astype(float)
        seen = (np.clip(crop * colour, 0, 255) - normal.mean) / normal.std
        np.testing.assert_allclose(seen.mean((0, 1)), g["int_patch_mean"][i], atol=1e-4)
        pred = g["int_pred_patch"][i]
        back = geometry.apply_affine(geometry.invert_affine(plain), pred[:, :2] / [1, stretch])
        np.testing.assert_allclose(back, g["int_pred_image"][i, :, :2], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(pred[:, 2] / 256 * 2000, g["int_pred_image"][i, :, 2], rtol=1e-6)


def test_the_way_of_integral_regression_from_the_world_to_its_errors(golden):
    """Its labels in the picture, its box, its depth under augmentation, and the errors of its evaluation."""
    from jaxpose import cameras
    from jaxpose.data.space import limb_lengths
    from jaxpose.skeleton import H36M18

    g = golden("three_d/metrics3d")
    lens = {"focal": g["int_f"], "center": g["int_c"]}
    camera = cameras.world_to_camera(g["int_world_mm"], rotation=g["int_R"], position=g["int_T"])
    px, depth = cameras.project(camera, **lens), camera[..., 2] - camera[:, :1, 2]
    np.testing.assert_allclose(camera, g["int_pt_3d"], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(camera[:, 0], g["int_pelvis"], rtol=1e-9)
    np.testing.assert_allclose(np.concatenate([px, depth[..., None]], -1), g["int_pt_2d"], rtol=1e-9, atol=1e-9)
    half = 1000 * g["int_f"] / camera[:, 0, 2:]
    np.testing.assert_allclose(np.concatenate([px[:, 0] - half, px[:, 0] + half], -1), g["int_box_ltrb"], rtol=1e-9)
    np.testing.assert_allclose(limb_lengths(camera[:, :17], H36M17).sum(-1), g["int_bone_len"], rtol=1e-9)
    scale, flip = g["int_aug_scale_rot_flip_rgb"][:, 0], g["int_aug_scale_rot_flip_rgb"][:, 2] > 0
    target = np.where(flip[:, None], depth[:, H36M18.flip_index], depth) / 2000 / scale[:, None]
    np.testing.assert_allclose(target, g["int_label"][..., 2], rtol=1e-6, atol=1e-9)
    assert g["int_label_weight"].all()
    _check_crops_of_integral_regression(g, px)
    image = g["int_pred_image"]
    points = cameras.back_project(
        image[..., :2], depth=image[..., 2] + camera[:, :1, 2], **{name: value[:, None] for name, value in lens.items()}
    )
    expected = dict(zip(g["int_eval_names"].tolist(), g["int_eval_values"]))
    assert poses_3d.scores(points[:, :17], camera[:, :17])["MPJPE"] == pytest.approx(expected["hm36_17j"], rel=1e-9)
    pred, truth = points - points[:, :1], camera - camera[:, :1]
    by_axis = np.abs(pred - truth)[:, :17].mean((0, 1))
    assert by_axis.tolist() == pytest.approx([expected[f"hm36_17j_{axis}"] for axis in "xyz"], rel=1e-9)
    aligned = metrics.procrustes_align(pred, truth, scale=False)  # over 18 joints, then moved to the root again
    errors = metrics.distance(aligned - aligned[:, :1], truth)[:, :17]
    assert errors.mean() == pytest.approx(expected["hm36_17j_align"], rel=1e-9)
    by_joint = metrics.distance(pred, truth).mean(0)
    for i, name in enumerate(H36M17.joints):
        both = [k for k, other in enumerate(H36M17.joints) if other.split("_")[-1] == name.split("_")[-1]]
        part = {"pelvis": "root"}.get(name, name.split("_")[-1].capitalize())
        assert by_joint[both].mean() == pytest.approx(expected[f"hm36_{part}"], rel=1e-9), (i, name)


def test_the_root_is_handled_in_three_ways():
    target = people()
    pred = target - target[:, :1]
    pred[:, 0] += [3.0, 4.0, 0.0]  # only the root is wrong, by 5 mm
    predicted, aligned, left_out = (
        poses_3d.scores(pred, target, handling=handling)["MPJPE"] for handling in ("predicted", "aligned", "left_out")
    )
    assert predicted == pytest.approx(5 / 17) and aligned == pytest.approx(16 * 5 / 17) and left_out == pytest.approx(5)
    assert poses_3d.scores(pred + 1000, target)["MPJPE"] == pytest.approx(aligned)


def test_actions_and_frames_are_averaged_differently():
    target = people(3)
    pred = target.copy()
    pred[0, 1:] += [10.0, 0, 0]
    result = poses_3d.scores(pred, target, action=["a", "b", "b"], sequence=["s", "t", "t"])
    assert result["MPJPE"] == pytest.approx(160 / 17 / 3) and result["MPJPE_actions"] == pytest.approx(160 / 17 / 2)
    assert "MPJVE" not in result["actions"]["a"] and result["MPJVE"] == pytest.approx(0)
    assert result["poses"] == 3 and result["3DPCK"] == 1 and result["3DAUC"] < 1


def test_velocities_join_neighbouring_frames_of_one_sequence():
    target = np.repeat(people(1), 5, 0)
    pred = target.copy()
    pred[2:, 5] += [17.0, 0, 0]  # between frames 1 and 2 of the sequence; frame 9 is not the neighbour of 3
    frames, names = [0, 1, 2, 3, 9], ["s"] * 5
    expected = 1 / 3  # one joint of 17 moves by 17 mm in one of three steps
    assert poses_3d.scores(pred, target, sequence=names, frame=frames)["MPJVE"] == pytest.approx(expected)
    shuffled = [3, 0, 4, 2, 1]
    again = poses_3d.scores(pred[shuffled], target[shuffled], sequence=names, frame=np.array(frames)[shuffled])
    assert again["MPJVE"] == pytest.approx(expected)


def test_two_cameras_under_one_name_are_no_sequence():
    target = people(4)
    with pytest.raises(ValueError, match="sequence s has frame 1 twice: its cameras need sequences of their own"):
        poses_3d.scores(target, target, sequence=["s"] * 4, frame=[0, 1, 1, 2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"root": 17}, "root the index of one of 17 joints, got 17"),
        ({"root": None}, "got None"),
        ({"poses": 3}, "poses must be a list"),
        ({"frame": "0"}, "a frame is no integer"),
        ({"keypoints_3d": [10**400] * 51}, "expected 51 numbers"),
    ],
)
def test_a_bad_ground_truth_is_named(tmp_path, change, message):
    poses_3d.write_truth(truth(), tmp_path / "gt.json")
    content = json.loads((tmp_path / "gt.json").read_text())
    of_file = {name: value for name, value in change.items() if name in content}
    content |= of_file
    if not of_file:
        content["poses"][0] |= change
    (tmp_path / "gt.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"gt\.json: .*{message}"):
        poses_3d.read_truth(tmp_path / "gt.json")


def test_masked_joints_may_hold_anything():
    target = people()
    pred = target.copy()
    where = np.ones((6, 17), bool)
    where[:, 7] = False
    pred[:, 7], target[:, 7] = np.nan, np.inf
    result = poses_3d.scores(pred, target, where=where)
    assert result["MPJPE"] == 0 and result["PA-MPJPE"] == pytest.approx(0, abs=1e-6)


def truth(**options):
    joints = people()
    return poses_3d.Truth(
        joints, np.arange(6) * 10, H36M17, action=np.array(["Walking"] * 3 + ["Sitting"] * 3),
        sequence=np.array(["a"] * 3 + ["b"] * 3), frame=np.array([0, 1, 2] * 2), **options,
    )  # fmt: skip


def test_files_give_the_scores_of_the_arrays(tmp_path, capsys):
    labels = truth()
    pred = labels.joints + np.random.default_rng(1).normal(0, 30, labels.joints.shape)
    poses_3d.write_truth(labels, tmp_path / "gt.json")
    poses_3d.write(poses_3d.from_predictions(pred[::-1], image_id=labels.image_id[::-1]), tmp_path / "r.json")
    expected = poses_3d.scores(pred, labels.joints, action=labels.action, sequence=labels.sequence, frame=labels.frame)
    assert poses_3d.score(tmp_path / "gt.json", tmp_path / "r.json")["MPJPE"] == pytest.approx(
        expected["MPJPE"], abs=1e-3
    )
    command.main(tmp_path / "gt.json", tmp_path / "r.json", root="left_out")
    text = capsys.readouterr().out
    printed = json.loads(text.splitlines()[-1])
    assert printed["MPJPE"] == pytest.approx(expected["MPJPE"] * 17 / 16, abs=1e-3)
    assert "Walking" in text and "mean of actions" in text and "which does not count" in text
    with pytest.raises(ValueError, match="take --root alone"):
        command.main(tmp_path / "gt.json", tmp_path / "r.json", errors=True)


def replaced(records, i, **values):
    return [{**record, **(values if j == i else {})} for j, record in enumerate(records)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r[1:], "1 of 6 labelled poses have no result, the first is image 0"),
        (lambda r: [*r, {**r[0], "image_id": 7}], "1 results have no label, the first is image 7"),
        (lambda r: replaced(r, 2, image_id=0), "result 2 has the image_id 0"),
        (
            lambda r: replaced(r, 2, keypoints_3d=[1.0] * 48),
            r"result 2 \(image 20\) has keypoints_3d of 48: expected 51",
        ),
        (lambda r: replaced(r, 2, keypoints_3d=[float("nan")] * 51), r"result 2 \(image 20\) is not finite"),
        (lambda r: [{**x, "keypoints_3d": [v / 1000 for v in x["keypoints_3d"]]} for x in r], "looks like metres"),
        (
            lambda r: replaced(r, 2, keypoints_3d=[v / 1000 for v in r[2]["keypoints_3d"]]),
            "1 of 6 results, such as that of image 20, are 0.001 times as large as their labels, which looks like metres",
        ),
        (
            lambda r: [{**x, "keypoints_3d": [1000 * v for v in x["keypoints_3d"]]} for x in r],
            "6 of 6 .* mm that were multiplied by 1000",
        ),
        (
            lambda r: replaced(r, 2, keypoints_3d=[*r[2]["keypoints_3d"][:50], "a"]),
            "of 51 entries, one of which is 'a': expected 51",
        ),
        (lambda r: [{"image_id": 0, "keypoints": [0.0] * 51}], "results in 2D"),
        (lambda r: {"results": r}, "must be a list"),
    ],
)
def test_bad_results_are_named(tmp_path, change, message):
    labels = truth()
    poses_3d.write_truth(labels, tmp_path / "gt.json")
    records = poses_3d.from_predictions(labels.joints, image_id=labels.image_id)
    (tmp_path / "r.json").write_text(json.dumps(change(records)))
    with pytest.raises(ValueError, match=rf"r\.json: .*{message}"):
        poses_3d.score(tmp_path / "gt.json", tmp_path / "r.json")


def test_results_in_centimetres_are_warned_of(tmp_path, caplog):
    labels = truth()
    for factor, warned in ((1.0, False), (0.4, False), (0.1, True)):
        poses_3d.write(poses_3d.from_predictions(factor * labels.joints, image_id=labels.image_id), tmp_path / "r.json")
        poses_3d.score(labels, tmp_path / "r.json")
        assert (
            "0.1 times as large as the labels (median): are they in mm, and not in centimetres?" in caplog.text
        ) == warned


@pytest.mark.parametrize(
    ("change", "looks"),
    [
        (lambda joints: joints, None),
        (lambda joints: joints[:, H36M17.flip_index], "with left and right exchanged"),
        (lambda joints: joints * [1, -1, 1], "with y negated"),
    ],
)
def test_results_with_other_sides_or_axes_are_warned_of(tmp_path, caplog, change, looks):
    labels = truth()
    joints = change(labels.joints + 10 * np.sin(np.arange(labels.joints.size)).reshape(labels.joints.shape))
    poses_3d.write(poses_3d.from_predictions(joints, image_id=labels.image_id), tmp_path / "r.json")
    poses_3d.score(labels, tmp_path / "r.json")
    assert (looks is None and not caplog.text) or f"mm {looks}: are they in the axes of the camera" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda joints: joints / 10, "158 tall, which looks like centimetres"),
        (lambda joints: joints / 1000, "1.58 tall, which looks like metres"),
        (lambda joints: joints[:, ::-1], "looks like another order of the joints"),
        (lambda joints: joints * 100, "expected people"),
        (lambda joints: joints[:, :16], r"expected \(N, 17, 3\)"),
    ],
)
def test_bad_labels_say_what_they_look_like(change, message):
    with pytest.raises(ValueError, match=message):
        poses_3d.check_poses(change(people(seed=3)), skeleton=H36M17, what="labels")

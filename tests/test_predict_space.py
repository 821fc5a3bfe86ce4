"""Poses in space from pictures: where they are placed, and what the command writes."""

from __future__ import annotations

import csv
import json

import jax
import numpy as np
import pytest
from PIL import Image

from jaxpose import cli, predict, tasks
from jaxpose.nets import PoseRegressor, RegressionHead, ResNet
from jaxpose.predict.space import check_camera, placed
from jaxpose.skeleton import H36M17, H36M18
from tests import tiny_run, tiny_space

CAMERA = np.array([*tiny_space.FOCAL, *tiny_space.CENTER])


def poses():
    points, px = tiny_space.in_camera(3)
    depth = points[..., 2] - points[:, :1, 2]
    length = np.linalg.norm(np.diff(points[:, np.array(H36M17.limbs)], axis=2), axis=-1).sum(axis=(1, 2))
    return points, px, depth, {"skeleton": H36M17, "root": (0,), "bone_length": float(length.mean())}


def test_camera_and_root_depth_give_camera_coordinates():
    points, px, depth, options = poses()
    joints, pixel, is_absolute = placed(px[:1], depth[:1], camera=CAMERA, root_depth=points[0, 0, 2], **options)
    assert is_absolute
    np.testing.assert_allclose(joints, points[:1], atol=1e-6)
    np.testing.assert_allclose(pixel, points[:1, :, 2] / CAMERA[:2].mean())


def test_the_size_of_a_person_follows_from_its_limbs():
    points, px, depth, options = poses()
    relative = points - points[:, :1]
    joints, _, is_absolute = placed(px, depth, camera=CAMERA, **options)
    assert not is_absolute
    np.testing.assert_allclose(joints, relative, atol=0.01)  # exact: all have the length of the mean
    weak, _, _ = placed(px, depth, **options)  # without perspective
    assert 1 < np.abs(weak - relative).max() < 120
    np.testing.assert_allclose(weak[..., 2], relative[..., 2], atol=1e-6)


def test_without_a_size_there_are_no_millimetres():
    _, px, depth, options = poses()
    assert placed(px, depth, **{**options, "bone_length": None})[0].any()  # Human3.6M's own
    from dataclasses import replace

    with pytest.raises(ValueError, match="the size of a person in mm is unknown"):
        placed(px, depth, **{**options, "bone_length": None, "skeleton": replace(H36M17, name="mine")})


@pytest.mark.parametrize(
    ("camera", "depth", "message"),
    [
        ((1.0, 2.0), None, "expected f cx cy or fx fy cx cy"),
        ((-1.0, 5.0, 5.0), None, "expected f cx cy"),
        (None, 5000.0, "needs the camera too"),
        ((1e3, 5.0, 5.0), -1.0, "expected a positive number of mm"),
        ((1e3, 5.0, 5.0), 3.2, "--root-depth 3.2: expected mm.*in metres"),
    ],
)
def test_faulty_cameras_are_refused(camera, depth, message):
    with pytest.raises(ValueError, match=message):
        check_camera(camera, depth)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    net = PoseRegressor(ResNet(depth=18, width=4, stages=1), RegressionHead(18, dim=3, sigma_bias=-1.0))
    likelihood = tasks.Likelihood(loss="gaussian")
    depth = tasks.Depth(bone_length=5000.0)
    task = tasks.regression_3d(net, skeleton=H36M18, size_wh=(24, 24), likelihood=likelihood, depth=depth)
    return tiny_run.write(tmp_path_factory.mktemp("run3d"), task, variables=task.init(jax.random.key(0)))


def test_the_command_writes_joints_in_mm_and_a_page(run, tmp_path, capsys):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 50, 3), np.uint8)).save(tmp_path / "a.png")
    cli.main(
        [
            "predict",
            str(run),
            str(tmp_path / "a.png"),
            "--out",
            str(tmp_path / "out"),
            "--region",
            "0.5",
        ]
    )
    (record,) = json.loads((tmp_path / "out" / "results.json").read_text())
    joints = np.reshape(record["keypoints_3d"], (18, 3))
    assert record["frame_3d"] == "root" and not joints[0].any() and len(record["keypoints"]) == 54
    limbs = np.array(H36M18.limbs)
    assert np.linalg.norm(joints[limbs[:, 0]] - joints[limbs[:, 1]], axis=-1).sum() == pytest.approx(5000, rel=1e-3)
    page = (tmp_path / "out" / "space.html").read_text()
    assert "a.png, person 1" in page and "regions of 50%" in page and "ellipsoids" in page
    rows = list(csv.DictReader((tmp_path / "out" / "poses.csv").open()))
    assert [float(rows[5][c]) for c in ("x_mm", "y_mm", "z_mm")] == pytest.approx(joints[5], abs=1e-2)
    assert float(rows[5]["deviation_z_mm"]) > 0
    with pytest.raises(SystemExit, match="no guaranteed regions in space"):
        cli.main(
            [
                "predict",
                str(run),
                str(tmp_path / "a.png"),
                "--out",
                str(tmp_path / "o"),
                "--region",
                "0.9",
                "--guarantee",
            ]
        )


def test_a_camera_makes_them_absolute_and_other_nets_refuse_it(run, tmp_path):
    predictor = predict.load(run, camera=(500.0, 25.0, 30.0), root_depth=3000.0, flip_test=False)
    poses = predictor(np.zeros((60, 50, 3), np.uint8), [[5, 5, 30, 40]])
    assert poses.space.is_absolute and poses.space.joints[0, 0, 2] == pytest.approx(3000)
    back = poses.space.joints[..., :2] / poses.space.joints[..., 2:] * 500 + [25, 30]
    np.testing.assert_allclose(back, poses.xy, atol=1e-6)
    plain = tiny_run.write(tmp_path / "plain", tiny_run.regression_task())
    with pytest.raises(ValueError, match="no joints in space"):
        predict.load(plain, camera=(500.0, 25.0, 30.0))

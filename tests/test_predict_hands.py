"""Hands in space from 2.5D: where they are placed, what a run must state, and what the command writes."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jaxpose import cli, density, hands, predict, tasks
from jaxpose.nets import HeatmapNet, PoseRegressor, RegressionHead, ResNet
from jaxpose.predict.hands import HandSpace
from jaxpose.skeleton import RHD21
from tests import tiny_rhd, tiny_run

CAMERA = np.array([110.0, 120.0, 48.0, 40.0])


def in_camera(count=12):
    """Hands (P, 21, 3) in mm, their pixels and relative depths in palms."""
    xyz = 1000 * np.stack([tiny_rhd.in_space(seed) for seed in range(count)])
    xy = xyz[..., :2] / xyz[..., 2:] * CAMERA[:2] + CAMERA[2:]
    return xyz, xy, hands.relative_depth(xyz, bone=hands.PALM)


def space_of(xyz, **changes):
    return HandSpace("runs/hands", "palm", hands.Sizes.of(xyz, bone=hands.PALM), **changes)


def test_a_camera_gives_camera_coordinates_with_the_mean_size():
    xyz, xy, depth = in_camera()
    poses = space_of(xyz).placed(xy, depth, camera=CAMERA)
    np.testing.assert_allclose(poses.joints, xyz, atol=1e-5)  # exact: all hands have the mean size
    assert poses.is_absolute and poses.assumed == (
        "the key bone (wrist to middle1) is 93.2 mm long, the mean of the training hands"
    )
    larger = space_of(1.25 * xyz).placed(
        xy, depth, camera=CAMERA
    )  # the size is not in the picture: all moves along the rays
    np.testing.assert_allclose(larger.joints, 1.25 * xyz, atol=1e-5)


def test_a_guessed_focal_length_serves_joints_about_the_wrist():
    xyz, xy, depth = in_camera(300)
    joints = space_of(xyz).placed(xy, depth, camera=CAMERA * [0.8, 0.8, 1, 1]).joints
    error = np.linalg.norm((joints - joints[:, :1]) - (xyz - xyz[:, :1]), axis=-1)
    assert error[:, 1:].mean() < 2.0  # mm, as docs/hands.md says
    assert (joints[:, 0, 2] / xyz[:, 0, 2]).mean() == pytest.approx(0.8, abs=0.03)


def test_the_depth_of_the_wrist_replaces_the_mean_size():
    xyz, xy, depth = in_camera()
    for sizes in (hands.Sizes.of(1.25 * xyz[:1], bone=hands.PALM), None):
        poses = HandSpace("runs/hands", "palm", sizes).placed(xy[:1], depth[:1], camera=CAMERA, root_depth=xyz[0, 0, 2])
        np.testing.assert_allclose(poses.joints, xyz[:1], atol=1e-5)
        assert poses.is_absolute and not poses.assumed


def test_a_likelihood_has_its_scale_in_mm():
    xyz, xy, depth = in_camera()
    model = density.Model(log_g=None, base="laplace", dim=3)
    options = {"camera": CAMERA, "sigma": np.full((12, 21, 3), [-2.0, 3.0, 0.1]), "model": model}
    poses = space_of(1.25 * xyz).placed(xy, depth, **options)
    z = poses.joints[..., 2]
    np.testing.assert_allclose(poses.sigma[..., 0], -2 * z / 110)  # negative for a mirrored crop
    np.testing.assert_allclose(poses.sigma[..., 1], 3 * z / 120)
    np.testing.assert_allclose(poses.sigma[..., 2], 0.1 * 1.25 * 93.24, rtol=1e-3)
    # With the true depth of the wrist the size is that of the hand, not that of the training hands.
    poses = space_of(1.25 * xyz[:1]).placed(
        xy[:1], depth[:1], **options | {"sigma": options["sigma"][:1]}, root_depth=xyz[0, 0, 2]
    )
    np.testing.assert_allclose(poses.sigma[..., 2], 0.1 * 93.24, rtol=1e-3)
    assert (poses.deviation > 0).all() and np.linalg.eigvalsh(poses.ellipsoids(0.9)).min() > 0


def test_a_picture_without_hands_has_none_in_space():
    xyz, xy, depth = in_camera()
    assert space_of(xyz).placed(xy[:0], depth[:0], camera=CAMERA).joints.shape == (0, 21, 3)


def test_what_a_run_does_not_state_is_said():
    _, xy, depth = in_camera(1)
    with pytest.raises(ValueError, match=r"runs/hands does not state the sizes of its training hands \(hands.json"):
        HandSpace("runs/hands", "palm", None).placed(xy, depth, camera=CAMERA)
    with pytest.raises(ValueError, match="without the camera a hand has no joints in space: give --camera FX FY CX CY"):
        HandSpace("runs/hands", "palm", hands.Sizes.of(in_camera(1)[0])).placed(xy, depth, camera=None)
    with pytest.raises(ValueError, match="runs/hands does not state its key bone"):
        HandSpace("runs/hands", None, None).placed(xy, depth, camera=CAMERA, root_depth=600.0)


@pytest.mark.parametrize(
    "change",
    [
        {"bone_mm": -1.0},
        {"proportions": [1.0] * 19},
        {"depth_range": [9.0, 3.0]},
        {"depth_range": None},
        {"bone_mm": "x"},
    ],
)
def test_damaged_sizes_are_refused(change):
    content = dataclasses.asdict(hands.Sizes.of(in_camera(2)[0])) | change
    with pytest.raises(ValueError, match="hands.json: expected 'bone_mm', 20 'proportions'"):
        hands.Sizes.from_dict(content, name="hands.json")


def hand_run(folder: Path, *, run=None, **options) -> Path:
    """A run of experiments.rhd_integral, as predict reads it."""
    net = HeatmapNet(ResNet(depth=18, width=4, stages=1), 42, deconvs=())
    task = tasks.depth_maps(net, skeleton=RHD21, size_wh=(24, 24), **options)
    sizes = hands.Sizes.of(in_camera(2)[0], bone=hands.PALM)
    tiny_run.write(folder, task, variables=task.init(jax.random.key(0)), run={"bone": "palm"} if run is None else run)
    (folder / "hands.json").write_text(json.dumps(dataclasses.asdict(sizes)))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return hand_run(tmp_path_factory.mktemp("hands"))


def test_the_command_writes_hands_in_mm_and_a_page(run, tmp_path):
    picture, out = tmp_path / "a.png", tmp_path / "out"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 50, 3), np.uint8)).save(picture)
    cli.main(
        ["predict", str(run), str(picture), "--out", str(out), "--camera", "110", "48", "40", "--flip-test", "False"]
    )
    (record,) = json.loads((out / "results.json").read_text())
    joints, pixels = np.reshape(record["keypoints_3d"], (21, 3)), np.reshape(record["keypoints"], (21, 3))
    assert record["frame_3d"] == "camera" and record["assumed_3d"].startswith(
        "the key bone (wrist to middle1) is 93.2 mm"
    )
    np.testing.assert_allclose(joints[:, :2] / joints[:, 2:] * 110 + [48, 40], pixels[:, :2], atol=0.01)
    rows = list(csv.DictReader((out / "poses.csv").open()))
    assert [float(rows[5][c]) for c in ("x_mm", "y_mm", "z_mm")] == pytest.approx(joints[5], abs=1e-2)
    page = (out / "space.html").read_text()
    assert "Coordinates of the camera, in mm. Assumed: the key bone" in page
    with pytest.raises(SystemExit, match="a net with a likelihood"):
        cli.main(
            [
                "predict",
                str(run),
                str(picture),
                "--out",
                str(tmp_path / "o"),
                "--region",
                "0.9",
                "--camera",
                "9",
                "9",
                "9",
            ]
        )


def test_without_a_camera_there_are_pixels_and_a_sentence(run, tmp_path, caplog):
    picture, out = tmp_path / "a.png", tmp_path / "out"
    Image.fromarray(np.zeros((60, 50, 3), np.uint8)).save(picture)
    cli.main(["predict", str(run), str(picture), "--out", str(out), "--flip-test", "False"])
    (record,) = json.loads((out / "results.json").read_text())
    assert "keypoints_3d" not in record and not (out / "space.html").exists()
    assert "pixels only: without the camera a hand has no joints in space" in caplog.text


def test_runs_without_sizes_are_readable_and_say_what_they_lack(tmp_path):
    old = hand_run(tmp_path / "old")
    (old / "hands.json").unlink()
    assert not predict.load(old).in_space
    with pytest.raises(ValueError, match="--camera 110.0 48.0 40.0: .* does not state the sizes of its training hands"):
        predict.load(old, camera=(110.0, 48.0, 40.0))
    assert predict.load(old, camera=(110.0, 48.0, 40.0), root_depth=600.0).in_space
    (old / "hands.json").write_text("[1]")
    with pytest.raises(ValueError, match="hands.json: expected 'bone_mm'"):
        predict.load(old)


def test_nets_of_pixels_alone_refuse_a_camera(tmp_path):
    flat = hand_run(tmp_path / "run", depth=tasks.DepthLoss(kind="none"))
    with pytest.raises(ValueError, match="the net predicts no joints in space"):
        predict.load(flat, camera=(110.0, 48.0, 40.0))


def space_run(folder: Path, **run) -> Path:
    """A run of --head rle_3d; its flow is fresh."""
    net = PoseRegressor(ResNet(depth=18, width=4, stages=1), RegressionHead(21, dim=3))
    likelihood = tasks.Likelihood(flow_layers=2, flow_hidden=(4,))
    depth = tasks.Depth(5.0, unit="bone")
    task = tasks.regression_3d(net, skeleton=RHD21, size_wh=(24, 24), likelihood=likelihood, depth=depth)
    tiny_run.write(folder, task, variables=task.init(jax.random.key(0)), run={"bone": "palm", **run})
    (folder / "hands.json").write_text(json.dumps(dataclasses.asdict(hands.Sizes.of(in_camera(2)[0], bone=hands.PALM))))
    return folder


@pytest.fixture(scope="module")
def one_sided(tmp_path_factory):
    return space_run(tmp_path_factory.mktemp("one_sided"), one_side=True)


def picture(width=50):
    return np.random.default_rng(0).integers(0, 255, (60, width, 3), np.uint8)


def test_a_right_hand_is_seen_mirrored_by_a_net_of_one_side(one_sided, caplog):
    image, box, camera = picture(), [10.0, 14.0, 24.0, 24.0], (110, 120, 24.5, 40)
    predictor = predict.load(one_sided, flip_test=False, camera=camera)
    right, left = (predictor(image, [box], sides=[side]) for side in ("right", "left"))
    assert "--one-side" not in caplog.text and np.abs(right.xy - left.xy).max() > 1e-3
    # The same as the left hand of the mirrored picture, mirrored back; the camera of this picture is symmetric. The centre of a box is
    # at (size / 2, size / 2) of a crop, half a pixel beside the centre of the crop, of which a pixel is 1.25 of the picture here.
    mirrored = predictor(image[:, ::-1], [[49 - 10.0 - 24.0 + 1.25, 14.0, 24.0, 24.0]], sides=["left"])
    np.testing.assert_allclose(right.xy, mirrored.xy * [-1, 1] + [49, 0], atol=1e-3)
    np.testing.assert_allclose(right.space.joints, mirrored.space.joints * [-1, 1, 1], atol=1e-2)
    np.testing.assert_allclose(right.space.sigma, mirrored.space.sigma * [-1, 1, 1], atol=1e-2)
    np.testing.assert_allclose(right.space.deviation, mirrored.space.deviation, atol=1e-2)
    predictor(image, [box, box])
    predictor(image, [box], sides=[None])
    assert caplog.text.count("hands whose side is not stated are taken for left ones") == 1
    with pytest.raises(ValueError, match="sides of image 0 are .'up'.: expected 'left', 'right' or None for each of 1"):
        predictor(image, [box], sides=["up"])


def test_the_command_takes_the_side_from_the_boxes_or_the_flag(one_sided, tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    entry, out = {"file_name": "a.png", "bbox": [10, 14, 24, 24], "score": 1.0}, tmp_path / "out"
    entries = [entry | {"hand": "right"}, entry | {"hand": "left"}, entry]
    (tmp_path / "boxes.json").write_text(json.dumps(entries))
    cli.main(["predict", str(one_sided), str(tmp_path / "a.png"), "--boxes", str(tmp_path / "boxes.json"), "--out", str(out),
              "--camera", "110", "24.5", "40", "--no-overlay", "--side", "right"])  # fmt: skip
    right, left, unstated = (np.array(r["keypoints"]) for r in json.loads((out / "results.json").read_text()))
    np.testing.assert_array_equal(right, unstated)
    assert np.abs(right - left).max() > 1e-3
    with (out / "poses.csv").open() as table:
        row = next(csv.DictReader(table))
    assert float(row["deviation_x_mm"]) > 0 and float(row["deviation_z_mm"]) > 0
    assert "Ellipsoids" in (out / "space.html").read_text()


def test_pixels_alone_of_a_net_in_space_have_no_density(tmp_path):
    run = space_run(tmp_path / "run")
    predictor = predict.load(run, flip_test=False)
    poses = predictor(picture())
    assert poses.xy.shape == (1, 21, 2) and poses.space is None and poses.deviation is None
    with pytest.raises(ValueError, match="--side left: the net was not trained with --one-side"):
        predict.load(run, side="left")


def test_a_net_of_one_side_is_not_averaged_with_the_mirrored_picture(one_sided):
    with pytest.raises(ValueError, match="flip_test=True: the net was trained with --one-side"):
        predict.load(one_sided, flip_test=True)

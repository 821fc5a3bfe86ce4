"""Cameras against the reference code's numbers and OpenCV, the inverse of the distortion, and calibration files."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose import cameras, geometry

LENS = dict(focal=(1100.0, 1150.0), center=(510.0, 490.0), radial=(-0.2, 0.1, 0.01), tangential=(0.003, -0.002))


def points(*shape: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.uniform(-0.7, 0.7, (*shape, 2)), rng.uniform(2, 4, (*shape, 1))], axis=-1)


def test_human36m(golden):
    g = golden("three_d/cameras")
    which = g["subject_index"], g["camera_index"]
    rotation, position = g["table_R_w2c"][which], g["table_position_mm"][which]
    lens = {
        "focal": g["table_f_px"][which[1]], "center": g["table_c_px"][which[1]],
        "radial": g["table_radial"][which[1]], "tangential": g["table_tangential_xml"][which[1]],
    }  # fmt: skip
    camera = cameras.world_to_camera(g["world_mm"], rotation=rotation, position=position)
    np.testing.assert_allclose(camera, g["martinez_camera_mm"], rtol=1e-9)
    np.testing.assert_allclose(camera, g["rle_camera_mm"], rtol=1e-9)
    np.testing.assert_allclose(cameras.project(camera, **lens), g["martinez_pixel"], rtol=1e-9)
    np.testing.assert_allclose(cameras.project(camera, **lens), g["vp3d_pixel"], atol=1e-4)
    plain = {name: lens[name] for name in ("focal", "center")}
    np.testing.assert_allclose(cameras.project(camera, **plain), g["rle_pixel_depth"][..., :2], rtol=1e-9)
    np.testing.assert_allclose(cameras.project(camera, **lens, model="opencv"), g["mmpose_pixel_f32cam"], atol=1e-3)
    back = cameras.camera_to_world(camera, rotation=rotation, position=position)
    np.testing.assert_allclose(back, g["world_mm"], atol=1e-9)


def test_human36m_in_the_conventions_of_the_codes(golden):
    """Metres, screen coordinates, back-projection, offsets of cameras, one depth for all joints, and PoseNet's boxes."""
    g = golden("three_d/cameras")
    which = g["subject_index"], g["camera_index"]
    rotation, position = g["table_R_w2c"][which], g["table_position_mm"][which]
    plain = {"focal": g["table_f_px"][which[1]], "center": g["table_c_px"][which[1]]}
    camera = cameras.world_to_camera(g["world_mm"], rotation=rotation, position=position)
    np.testing.assert_allclose(camera / 1000, g["vp3d_camera_m"], atol=1e-6)  # quaternions of float32 there
    np.testing.assert_allclose(camera / 1000, g["mmpose_camera_m_f32cam"], atol=1e-6)
    np.testing.assert_allclose(camera, g["mppe_camera_mm"], rtol=1e-9)
    np.testing.assert_allclose(-np.einsum("nij,nj->ni", rotation, position), g["mppe_t"], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(camera[..., 2], g["martinez_depth_mm"], rtol=1e-9)
    np.testing.assert_allclose(cameras.project(camera, **plain), g["vp3d_pixel_linear"], atol=1e-4)
    world = cameras.camera_to_world(1000 * g["vp3d_camera_m"], rotation=rotation, position=position)
    np.testing.assert_allclose(world / 1000, g["vp3d_world_again_m"], atol=1e-6)
    size = g["table_wh"][which[1]].astype(float)[:, None]
    np.testing.assert_allclose(g["vp3d_pixel"] / size[..., :1] * 2 - size / size[..., :1], g["vp3d_screen"], atol=1e-9)
    px, depth = g["rle_pixel_depth"][..., :2], g["rle_pixel_depth"][..., 2]
    each = {name: value[:, None] for name, value in plain.items()}
    np.testing.assert_allclose(cameras.back_project(px, depth=depth, **each), g["rle_back_mm"], rtol=1e-9)
    lens = {"focal": g["table_f_px"][0], "center": g["table_c_px"][0]}
    lens |= {"radial": g["table_radial"][0], "tangential": g["table_tangential_xml"][0]}
    near = g["clamp_camera_m"]  # VideoPose3D's code brings points beyond 45 degrees to 45 first; `project` does not
    near = np.concatenate([np.clip(near[:, :2] / near[:, 2:], -1, 1), np.ones((len(near), 1))], -1)
    wide, high = g["table_wh"][0].astype(float)
    screen = cameras.project(near, **lens) / wide * 2 - (1, high / wide)
    np.testing.assert_allclose(screen, g["clamp_vp3d_screen"], rtol=1e-6, atol=1e-6)
    flat = np.concatenate([camera[..., :2], np.broadcast_to(camera[:, :1, 2:], (*camera.shape[:2], 1))], -1)
    np.testing.assert_allclose(cameras.project(flat, **plain), g["rle_weak_pixel"][..., :2], rtol=1e-9)
    low, high = px.min(1), px.max(1)
    box = geometry.fit_box(np.concatenate([low, high - low - 1], 1), aspect=1.0)  # widths are one px less there
    inside = geometry.clip_box(g["mppe_bbox_of_joints"], size[:, 0])
    np.testing.assert_allclose(box[:, 2:].max(1), g["mppe_bbox_of_joints"][:, 2:].max(1) / 1.2, rtol=1e-9)
    np.testing.assert_allclose(
        geometry.fit_box(inside, aspect=1.0, padding=1.25), g["mppe_process_bbox"], rtol=1e-9, atol=1e-9
    )
    # QUIRK V11: a box that is cut on the left or above keeps its width and height there.
    cut = geometry.clip_box(g["mppe_process_bbox_cut_in"], np.array([1000.0, 1002.0]))
    boxes = geometry.fit_box(cut, aspect=1.0, padding=1.25)
    np.testing.assert_allclose(boxes[1], g["mppe_process_bbox_cut"][1], rtol=1e-9)
    assert boxes[0, 2] < g["mppe_process_bbox_cut"][0, 2]


def test_opencv():
    cv2 = pytest.importorskip("cv2")
    xyz = points(50)
    matrix = np.array([[LENS["focal"][0], 0, LENS["center"][0]], [0, LENS["focal"][1], LENS["center"][1]], [0, 0, 1]])
    distortion = np.array([*LENS["radial"][:2], *LENS["tangential"], LENS["radial"][2]])
    vector = np.array([0.3, -0.2, 0.5])
    theirs, _ = cv2.projectPoints(xyz, vector, np.array([0.1, 0.2, 0.3]), matrix, distortion)
    rotation = cameras.rotation_matrix(vector)
    camera = cameras.world_to_camera(xyz, rotation=rotation, position=-rotation.T @ [0.1, 0.2, 0.3])
    np.testing.assert_allclose(cameras.project(camera, **LENS, model="opencv"), theirs[:, 0], rtol=1e-10)
    np.testing.assert_allclose(rotation, cv2.Rodrigues(vector)[0], atol=1e-12)


@pytest.mark.parametrize("model", ["human36m", "opencv"])
def test_undistortion_is_the_inverse(model):
    xyz = points(200)
    ray = cameras.undistort(cameras.project(xyz, **LENS, model=model), **LENS, model=model)
    np.testing.assert_allclose(ray, xyz[:, :2] / xyz[:, 2:], atol=1e-9)
    far = np.array([[510.0 + 1100 * 3, 490.0], [np.nan, 1.0]])  # where the lens folds over, no ray has this pixel
    assert np.isnan(cameras.undistort(far, **{**LENS, "radial": (-0.5, 0.0, 0.0)}, model=model)).all()


def test_the_two_models_differ_by_the_tangential_part_alone():
    xyz = points(5)
    plain = {**LENS, "tangential": None}
    assert np.array_equal(cameras.project(xyz, **plain), cameras.project(xyz, **plain, model="opencv"))
    assert np.abs(cameras.project(xyz, **LENS) - cameras.project(xyz, **LENS, model="opencv")).max() > 0.05


def test_points_behind_a_camera_have_no_pixel_and_gradients_are_finite():
    xyz = points(4)
    xyz[[1, 2], 2] = -1, 0
    px = cameras.project(xyz, **LENS)
    assert np.isnan(px[[1, 2]]).all() and np.isfinite(px[[0, 3]]).all()
    gradient = jax.grad(lambda p: jnp.nansum(cameras.project(p, **LENS)))(jnp.asarray(xyz))
    assert jnp.isfinite(gradient).all() and not gradient[1:3].any() and gradient[0].all()


def test_leading_dimensions_dtypes_and_jax():
    xyz = points(3, 5)
    focal = np.array([[1000.0, 1000.0], [900.0, 900.0], [800.0, 700.0]])
    each = np.stack([cameras.project(xyz[i], focal=focal[i], center=(5.0, 6.0)) for i in range(3)])
    for value in (focal, focal[:, None]):
        np.testing.assert_array_equal(cameras.project(xyz, focal=value, center=(5.0, 6.0)), each)
    assert cameras.project(xyz.astype(np.float32), focal=(1.0, 1.0), center=(0.0, 0.0)).dtype == np.float32
    on_device = jax.jit(lambda x: cameras.project(x, **LENS))(jnp.asarray(xyz))
    assert isinstance(on_device, jax.Array)
    np.testing.assert_allclose(on_device, cameras.project(xyz, **LENS), rtol=1e-5)
    with pytest.raises(ValueError, match=r"focal \(5, 2\) must be the first ones of points \(3, 5, 3\)"):
        cameras.project(xyz, focal=np.ones((5, 2)), center=(0.0, 0.0))
    with pytest.raises(ValueError, match="'pinhole', expected one of human36m, opencv"):
        cameras.project(xyz, focal=(1.0, 1.0), center=(0.0, 0.0), model="pinhole")


TOML = """
[cam_0]
name = "left"
size = [640, 480]
matrix = [[600.0, 0.0, 320.0], [0.0, 610.0, 240.0], [0.0, 0.0, 1.0]]
distortions = [-0.1, 0.01, 0.001, -0.002, 0.0]
rotation = [0.0, 0.5, 0.0]
translation = [0.1, 0.0, 3.0]

[metadata]
adjusted = true
error = 0.4
"""


def test_a_calibration_file(tmp_path):
    path = tmp_path / "calibration.toml"
    path.write_text(TOML)
    (camera,) = cameras.read_calibration(path)
    assert (camera.name, camera.size_wh, camera.model) == ("left", (640, 480), "opencv")
    assert camera.radial.tolist() == [-0.1, 0.01, 0.0] and camera.tangential.tolist() == [0.001, -0.002]
    world = points(4)
    in_camera = world @ cameras.rotation_matrix([0.0, 0.5, 0.0]).T + [0.1, 0.0, 3.0]
    np.testing.assert_allclose(camera.project(world), cameras.project(in_camera, **camera.lens))
    np.testing.assert_allclose(world @ camera.extrinsic[:, :3].T + camera.extrinsic[:, 3], in_camera)
    path.write_text(
        TOML.replace("distortions = [-0.1, 0.01, 0.001, -0.002, 0.0]\n", "").replace("size = [640, 480]\n", "")
    )
    (camera,) = cameras.read_calibration(path)
    assert camera.size_wh is None and not camera.radial.any()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rotation", "turn", r"\[cam_0\] has no 'rotation', it has 'name'"),
        ("[0.0, 0.5, 0.0]", "[0.0, 0.5]", r"rotation = \[0.0, 0.5\], expected 3 or 3x1 finite numbers"),
        ("600.0", "-600.0", "with positive fx and fy"),
        ("size = [640, 480]", "size = [640.5, 480]", "width and height in whole pixels"),
        ("size = [640, 480]", f"size = [1{'0' * 400}, 480]", "expected 2 finite numbers"),
        ("[cam_0]", "x = " + "[" * 5000, "is no TOML file"),
        ("600.0, 0.0", "600.0, 2.5", "matrix"),
        ("0.0]\nrotation", "nan]\nrotation", "distortions"),
        ("[cam_0]", "[cam_0]\nfisheye = true", "fisheye"),
        ("[cam_0]", "[camera", "is no TOML file"),
        (
            "[metadata]",
            TOML.replace("cam_0", "cam_1").partition("[metadata]")[0] + "[metadata]",
            "two cameras named 'left'",
        ),
        (TOML.partition("[metadata]")[0], "", "has no camera"),
    ],
)
def test_what_is_wrong_with_a_calibration_is_said(tmp_path, old, new, message):
    path = tmp_path / "calibration.toml"
    path.write_text(TOML.replace(old, new))
    with pytest.raises(ValueError, match=message) as error:
        cameras.read_calibration(path)
    assert str(path) in str(error.value)

"""Synthetic people: the noise is the one that is documented, the labels agree with the pixels, the folder is whole or absent."""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxpose.data.synthetic import dataset, labels, noise_log_prob, overlay, render, sample_noise, write_dataset
from jaxpose.data.synthetic.dress import draw_body, sample_outfit
from jaxpose.data.synthetic.noise import OCCLUDED, VISIBLE_SCALE
from jaxpose.data.synthetic.paint import Palette
from jaxpose.data.synthetic.pose import Limb, Pose, Shape, pose_body, rotation, sample_body
from jaxpose.data.synthetic.raster import BALL, BOX, CONE, Primitives, draw
from jaxpose.data.synthetic.scene import SUPERSAMPLE, Camera
from jaxpose.skeleton import COCO17

JOINT = {name: i for i, name in enumerate(COCO17.joints)}
SIGMAS = np.array(COCO17.sigmas)


# --- the label noise -------------------------------------------------------------------------------------------------


def _grid(bound, points):
    """Midpoints of a square grid (n, n, 2) and the area of a cell: never on the cusp, even when points is even."""
    step = 2 * bound / points
    axis = -bound + step * (np.arange(points) + 0.5)
    return np.stack(np.meshgrid(axis, axis), -1), step**2


def _density_moments(visibility, joint, scale):
    """Integral, means, second moments and entropy of the density, by quadrature in pixels."""
    unit = SIGMAS[joint] * scale
    error, cell = _grid((12.0 if visibility == 2 else 30.0) * unit, 1600)
    log_p = noise_log_prob(error, visibility=visibility, scale=scale, joint=joint)
    weight = np.exp(log_p) * cell
    x, y = error[..., 0], error[..., 1]
    moments = [(weight * f).sum() for f in (x, y, x * x, y * y, x * y, np.abs(x * y))]
    return weight.sum(), np.array(moments), -(weight * log_p).sum()


@pytest.mark.parametrize("visibility", [1, 2])
@pytest.mark.parametrize("joint, scale", [(0, 80.0), (11, 33.0)])
def test_noise_density_is_the_samples_density(visibility, joint, scale):
    total, expected, entropy = _density_moments(visibility, joint, scale)
    assert total == pytest.approx(1.0, abs=1e-3)

    n = 400_000
    error = sample_noise(np.random.default_rng(1), visibility=np.full(n, visibility), scale=scale, joint=joint)
    x, y = error.T
    samples = np.stack([x, y, x * x, y * y, x * y, np.abs(x * y)])
    standard_error = samples.std(1) / np.sqrt(n)
    assert np.all(np.abs(samples.mean(1) - expected) < 5 * standard_error + 2e-3 * np.abs(expected))
    log_p = noise_log_prob(error, visibility=visibility, scale=scale, joint=joint)
    assert -log_p.mean() == pytest.approx(entropy, abs=0.02)


def test_noise_density_is_the_documented_formula():
    c = SIGMAS[3] * 50.0
    z = np.array([0.3, -0.7])
    visible = np.prod(np.exp(-np.abs(z) / VISIBLE_SCALE) / (2 * VISIBLE_SCALE))
    got = noise_log_prob(z * c, visibility=2, scale=50.0, joint=3)
    assert got == pytest.approx(np.log(visible) - 2 * np.log(c), rel=1e-12)
    occluded = sum(
        w * np.exp(-abs(z[0]) / b) / (2 * b) * np.exp(-abs(z[1]) / (u if z[1] < 0 else d)) / (u + d)
        for w, b, u, d in OCCLUDED
    )
    got = noise_log_prob(z * c, visibility=1, scale=50.0, joint=3)
    assert got == pytest.approx(np.log(occluded) - 2 * np.log(c), rel=1e-12)


def test_noise_of_occluded_joints_is_wider_skewed_and_heavier_tailed():
    _, visible, _ = _density_moments(2, 0, 1.0)
    _, occluded, _ = _density_moments(1, 0, 1.0)
    assert visible[0] == pytest.approx(0, abs=1e-12) and visible[1] == pytest.approx(0, abs=1e-12)
    assert occluded[0] == pytest.approx(0, abs=1e-9) and occluded[1] > 0.2 * SIGMAS[0]  # downwards
    assert np.all(occluded[2:4] > 4 * visible[2:4])
    z = sample_noise(np.random.default_rng(0), visibility=np.full(200_000, 1), scale=1.0, joint=0)[:, 0]
    assert np.mean(z**4) / np.mean(z**2) ** 2 > 7.0  # a Laplace density has 6


def test_unlabelled_joints_have_no_noise_and_no_density():
    zero = sample_noise(np.random.default_rng(0), visibility=np.zeros(17, int), scale=9.0, joint=np.arange(17))
    assert zero.shape == (17, 2) and not zero.any()
    got = noise_log_prob([[np.nan, np.inf], [0.0, 0.0]], visibility=[0, 2], scale=9.0, joint=[0, 1])
    assert got[0] == 0.0 and np.isfinite(got[1])


@pytest.mark.parametrize(
    "kind, fault",
    [
        (dict(visibility=3), "visibility must be 0, 1 or 2"),
        (dict(scale=0.0), "scale must be positive"),
        (dict(scale=np.nan), "scale must be positive"),
        (dict(error=np.zeros((4, 2)), scale=np.ones((4, 1))), r"scale of shape \(4, 1\) .* shape \(4,\)"),
        (dict(error=np.zeros((4, 2)), joint=np.zeros(3, int)), r"joint of shape \(3,\) .* shape \(4,\)"),
        (dict(joint=17), "joint must be an index of COCO17"),
        (dict(error=np.zeros((4, 3))), r"error must end in 2 coordinates .* \(4, 3\)"),
    ],
)
def test_noise_names_bad_arguments(kind, fault):
    arguments = dict(error=np.zeros(2), visibility=2, scale=10.0, joint=0) | kind
    with pytest.raises(ValueError, match=fault):
        noise_log_prob(arguments.pop("error"), **arguments)


# --- the z-buffer ----------------------------------------------------------------------------------------------------

VIEW = dict(rotation=np.eye(3), position=np.zeros(3), focal=60.0, centre_xy=(20.0, 15.0), size_wh=(40, 30))


def _rays():
    """Directions of the sub-pixels (h, w, 3), depth 1."""
    axis = [(np.arange(n * 2) + 0.5) / 2 - 0.5 for n in VIEW["size_wh"]]
    x, y = np.meshgrid((axis[0] - 20.0) / 60.0, (axis[1] - 15.0) / 60.0)
    return np.stack([x, y, np.ones_like(x)], -1)


def _marched(prims, depths):
    """The depth of the first point of each ray that is inside a primitive: brute force, to the step of `depths`."""
    first = np.full(_rays().shape[:2], np.inf)
    points = _rays()[None] * depths[:, None, None, None]
    for kind, centre, axes, taper in zip(prims.kind, prims.centre, prims.axes, prims.taper, strict=True):
        local = np.einsum("ij,...j->...i", np.linalg.inv(axes), points - centre)
        x, y, z = np.moveaxis(local, -1, 0)
        if kind == BALL:
            inside = x * x + y * y + z * z < 1
        elif kind == CONE:
            inside = (x * x + y * y < (1 + taper * z) ** 2) & (z > 0) & (z < 1)
        else:
            inside = np.abs(local).max(-1) < 1
        hit = np.where(inside.any(0), depths[inside.argmax(0)], np.inf)
        first = np.minimum(first, hit)
    return first


def test_depth_and_normals_match_ray_marching():
    prims = Primitives()
    tilt = rotation("y", 30) @ rotation("x", 25)
    prims.ball([0.3, -0.2, 3.0], (0.5, 0.3, 0.4), frame=tilt, material=0)
    # Its ends are closed by balls, as a limb's are by its joints (an open end shows no surface).
    start, end = np.array([-0.7, -0.4, 2.6]), np.array([0.2, 0.4, 3.3])
    prims.cone(start, end, 0.12, 0.2, material=0)
    prims.ball(start, 0.125, material=0)
    prims.ball(end, 0.205, material=0)
    prims.box([0.5, 0.45, 2.5], (0.2, 0.15, 0.25), frame=tilt, material=0)
    assert {*prims.kind} == {BALL, CONE, BOX}
    surface = draw(prims, **VIEW, supersample=2)
    step = 0.004
    expected = _marched(prims, np.arange(1.8, 4.2, step))
    assert np.mean(np.isfinite(expected)) > 0.2
    both = np.isfinite(surface.depth) & np.isfinite(expected)
    assert np.mean(np.isfinite(surface.depth) == np.isfinite(expected)) > 0.99  # grazing rays may differ by a step
    assert np.quantile(np.abs(surface.depth[both] - expected[both]), 0.99) < 1.5 * step

    # A surface's normal is the gradient of its depth: (-dz/dx, -dz/dy, ...) and looks at the camera.
    towards = (surface.normal * _rays().reshape(-1, 3)[surface.pixel]).sum(-1)
    assert np.mean(towards < 1e-3) > 0.995
    np.testing.assert_allclose(np.linalg.norm(surface.normal, axis=-1), 1.0, atol=1e-4)


def test_the_nearer_primitive_is_seen_whatever_the_order():
    for near_first in (True, False):
        prims = Primitives()
        for z in (2.0, 4.0) if near_first else (4.0, 2.0):
            prims.ball([0.0, 0.0, z], 0.5, material=0)
        surface = draw(prims, **VIEW, supersample=2)
        assert surface.depth[30, 40] == pytest.approx(1.5, abs=1e-3)
        assert surface.index[30, 40] == (0 if near_first else 1)


# --- bodies and visibility -------------------------------------------------------------------------------------------

SHAPE = Shape(height=1.7, head=0.134, leg=1.0, arm=1.0, shoulder=0.106, hip=0.055, girth=1.0, waist=1.0)
UPRIGHT = Pose(
    lean=0, roll=0, bow=0, tilt=0, turn=0, nod=0, look=0, cock=0,
    arms=(Limb(20, 90, 0, 10),) * 2, legs=(Limb(0, 5, 0, 3),) * 2, kind="stand",
)  # fmt: skip


def _look_at(body, *, extra=None):
    """Joints in pixels and their visibility, four metres away."""
    body.move(np.array([0.0, 0.0, 4.0]))
    camera = Camera(np.diag([-1.0, -1.0, 1.0]), np.array([0.0, 0.9, 0.0]), 250.0, (63.5, 63.5))
    prims, palette = Primitives(), Palette()
    draw_body(prims, body, sample_outfit(np.random.default_rng(0), palette, body), owner=0)
    if extra is not None:
        prims.box(*extra, material=0)
    surface = draw(
        prims,
        rotation=camera.rotation,
        position=camera.position,
        focal=camera.focal,
        centre_xy=camera.centre,
        size_wh=(128, 128),
        supersample=SUPERSAMPLE,
    )
    xy, depth = camera.project(body.joints), camera.to_camera(body.joints)[:, 2]
    seen = labels.visibility(
        surface, prims, body, 0, pixel=xy, depth=depth, size_wh=(128, 128), supersample=SUPERSAMPLE
    )
    return xy, dict(zip(COCO17.joints, seen, strict=True))


def test_who_faces_the_camera_shows_the_face_and_has_the_left_on_the_right():
    xy, seen = _look_at(pose_body(SHAPE, UPRIGHT, yaw=180))
    assert set(seen.values()) == {2}
    left = [JOINT[n] for n in COCO17.joints if n.startswith("left")]
    right = [JOINT[n] for n in COCO17.joints if n.startswith("right")]
    assert np.all(xy[left, 0] > xy[right, 0])


def test_from_behind_the_face_is_occluded_and_the_limbs_are_not():
    xy, seen = _look_at(pose_body(SHAPE, UPRIGHT, yaw=0))
    assert seen["nose"] == seen["left_eye"] == seen["right_eye"] == 1
    assert all(seen[f"{s}_{j}"] == 2 for s in ("left", "right") for j in ("elbow", "wrist", "knee", "ankle"))
    assert xy[JOINT["left_shoulder"], 0] < xy[JOINT["right_shoulder"], 0]


def test_in_profile_the_far_side_is_occluded():
    reaching = replace(UPRIGHT, arms=(Limb(85, 0, 0, 10),) * 2)  # the near arm does not hang before the hip
    for yaw, near, far in ((90, "left", "right"), (-90, "right", "left")):
        _, seen = _look_at(pose_body(SHAPE, reaching, yaw=yaw))
        assert [seen[f"{near}_{joint}"] for joint in ("ear", "shoulder", "hip")] == [2, 2, 2]
        assert [seen[f"{far}_{joint}"] for joint in ("ear", "shoulder", "hip")] == [1, 1, 1]


def test_an_object_in_front_occludes_what_it_covers():
    _, seen = _look_at(pose_body(SHAPE, UPRIGHT, yaw=180), extra=([0.0, 0.4, 3.0], (1.0, 0.4, 0.1)))
    assert seen["left_knee"] == seen["right_ankle"] == 1
    assert seen["nose"] == seen["left_shoulder"] == 2


def test_outside_the_picture_there_is_no_label():
    body = pose_body(SHAPE, UPRIGHT, yaw=180)
    body.move(np.array([0.0, 1.2, 0.0]))
    xy, seen = _look_at(body)
    assert xy[JOINT["nose"], 1] < 0 and seen["nose"] == 0 and seen["left_knee"] == 2


def _angle(a, b):
    return np.degrees(np.arccos(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1, 1)))


def test_bodies_are_built_and_bend_like_people():
    rng = np.random.default_rng(0)
    for _ in range(60):
        body = sample_body(rng, yaw=rng.uniform(-180, 180))
        p, h = body.points, body.shape.height
        for a, b in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle")):
            left, right = (np.linalg.norm(p[f"{s}_{a}"] - p[f"{s}_{b}"]) for s in ("left", "right"))
            assert left == pytest.approx(right) and 0.12 < left / h < 0.28
        for side in ("left", "right"):
            thigh, shin = p[f"{side}_knee"] - p[f"{side}_hip"], p[f"{side}_ankle"] - p[f"{side}_knee"]
            # A knee is a hinge about an axis near the pelvis' left, and bends backwards only.
            assert np.cross(thigh, shin) @ body.pelvis[:, 0] > -1e-9
            assert _angle(thigh, shin) < 145
            upper, fore = p[f"{side}_elbow"] - p[f"{side}_shoulder"], p[f"{side}_wrist"] - p[f"{side}_elbow"]
            assert _angle(upper, fore) < 150
        lowest = min(v[1] for v in p.values())
        assert -0.15 * h < lowest < 0.03 * h
    upright = pose_body(SHAPE, UPRIGHT, yaw=0).points
    crown = upright["head"][1] + 0.5 * SHAPE.head * SHAPE.height
    assert crown == pytest.approx(SHAPE.height, rel=0.03)  # the parts add up to the height, 7.5 heads


# --- pictures --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures():
    return [render(3, i) for i in range(40)]


def _stack(people, key, *shape):
    return np.array([person[key] for person in people]).reshape(-1, *shape)


def test_the_mix_of_people(pictures):
    assert all(image.shape == (256, 320, 3) and image.dtype == np.uint8 for image, _ in pictures)
    counts = np.array([len(people) for _, people in pictures])
    assert counts.max() >= 3 and 0.3 < np.mean(counts >= 2) < 0.9
    people = [p for _, people in pictures for p in people if p["num_keypoints"]]
    seen = _stack(people, "keypoints", 17, 3)[..., 2]
    clean = _stack(people, "keypoints_clean", 17, 2)
    assert 0.2 < (seen == 1).sum() / (seen > 0).sum() < 0.4
    assert 0.05 < np.mean((seen == 0).any(1)) < 0.5  # truncated
    ratios = []
    for _, group in pictures:
        areas = [p["area"] for p in group if p["num_keypoints"]]
        ratios += [max(areas) / min(areas)] if len(areas) > 1 else []
    assert max(ratios) > 8 and np.median(ratios) > 1.5
    front = np.mean(clean[:, JOINT["left_shoulder"], 0] > clean[:, JOINT["right_shoulder"], 0])
    assert 0.3 < front < 0.7
    occluded = [(seen[:, j] == 1).sum() / (seen[:, j] > 0).sum() for j in range(1, 17)]
    assert abs(np.mean(occluded[0::2]) - np.mean(occluded[1::2])) < 0.08  # left, right


def test_labels_agree_with_each_other(pictures):
    for _, people in pictures:
        for person in people:
            keypoints = np.array(person["keypoints"]).reshape(17, 3)
            clean, labelled = np.array(person["keypoints_clean"]).reshape(17, 2), keypoints[:, 2] > 0
            assert person["num_keypoints"] == labelled.sum() and set(keypoints[:, 2]) <= {0, 1, 2}
            assert not keypoints[~labelled].any()
            assert np.all((clean >= 0) & (clean <= [319, 255]), axis=1)[labelled].all()
            x, y, w, h = person["bbox"]
            assert 0 <= x < x + w <= 320 and 0 <= y < y + h <= 256
            assert 40 <= person["area"] <= w * h
            assert np.all((clean >= [x - 0.01, y - 0.01]) & (clean <= [x + w + 0.01, y + h + 0.01]), axis=1)[
                labelled
            ].all()
            focal, cx, cy = person["camera"]
            point = np.array(person["keypoints_3d"]).reshape(17, 3)
            assert np.all(point[:, 2] > 500)
            np.testing.assert_allclose(point[:, :2] / point[:, 2:] * focal + [cx, cy], clean, atol=0.06)


def test_noisy_labels_stay_near_the_truth(pictures):
    people = [p for _, people in pictures for p in people if p["num_keypoints"]]
    keypoints, clean = _stack(people, "keypoints", 17, 3), _stack(people, "keypoints_clean", 17, 2)
    area = np.array([p["area"] for p in people])[:, None]
    oks = np.exp(-((keypoints[..., :2] - clean) ** 2).sum(-1) / (2 * area * (2 * SIGMAS) ** 2))
    visible, occluded = oks[keypoints[..., 2] == 2].mean(), oks[keypoints[..., 2] == 1].mean()
    assert visible > 0.94 and 0.7 < occluded < visible - 0.05
    labelled = keypoints[..., 2] > 0
    person = (oks * labelled).sum(1) / labelled.sum(1)
    thresholds = np.arange(0.5, 0.96, 0.05)
    assert np.mean([np.mean(person >= t) for t in thresholds]) > 0.85  # what a perfect model would score
    z = (keypoints[..., :2] - clean) / (SIGMAS[:, None] * np.sqrt(area)[..., None])
    assert z[keypoints[..., 2] == 1][:, 1].mean() > 0.15 > abs(z[keypoints[..., 2] == 2][:, 1].mean())


def test_overlay_draws_on_an_enlarged_picture(pictures):
    image, people = pictures[0]
    drawn, bare = np.asarray(overlay(image, people, zoom=2)), np.asarray(overlay(image, [], zoom=2))
    assert drawn.shape == bare.shape == (512, 640, 3)
    x, y = (np.array(people[0]["bbox"])[:2] * 2).astype(int)
    assert (drawn[y, x] == 255).all() and (drawn != bare).any()


def test_the_same_numbers_give_the_same_picture(pictures):
    image, people = render(3, 7)
    np.testing.assert_array_equal(image, pictures[7][0])
    assert people == pictures[7][1]
    assert np.any(render(4, 7)[0] != image)
    assert np.any(pictures[8][0] != image)


@pytest.mark.parametrize(
    "kind, fault",
    [
        (dict(seed=-1), "seed and index must not be negative, got -1"),
        (dict(size_wh=(320, 16)), r"size_wh must be .* got \(320, 16\)"),
        (dict(size_wh=(320,)), "size_wh must be"),
        (dict(label_noise=-1.0), "label_noise=-1.0: expected a factor of 0 or more"),
        (dict(label_noise=float("nan")), "label_noise=nan: expected a factor"),
        (
            dict(person_sizes=(1.2, 0.2)),
            r"person_sizes=\(1.2, 0.2\): expected the least and the largest height of a standing person",
        ),
        (dict(person_sizes=(0.0, 0.5)), r"person_sizes=\(0.0, 0.5\): expected .* 0.05 <= least <= largest <= 2"),
        (dict(person_sizes=(0.5, 3.0)), "person_sizes="),
        (dict(person_sizes=(0.5, float("nan"))), "person_sizes="),
    ],
)
def test_render_names_bad_arguments(kind, fault):
    arguments = dict(seed=0, index=0, size_wh=(64, 48)) | kind
    with pytest.raises(ValueError, match=fault):
        render(**arguments)


def test_the_factor_on_the_label_noise_scales_the_errors_and_changes_nothing_else(pictures):
    image, people = pictures[7]

    def errors(people):
        labels = np.array([person["keypoints"] for person in people]).reshape(len(people), 17, 3)
        clean = np.array([person["keypoints_clean"] for person in people]).reshape(len(people), 17, 2)
        return np.where(labels[..., 2:] > 0, labels[..., :2] - clean, 0)

    for factor in (0.0, 3.0):
        same_image, noisier = render(3, 7, label_noise=factor)
        np.testing.assert_array_equal(same_image, image)
        np.testing.assert_allclose(errors(noisier), factor * errors(people), atol=0.03)  # labels are rounded
        assert [{**p, "keypoints": 0} for p in noisier] == [{**p, "keypoints": 0} for p in people]
    assert np.abs(errors(people)).max() > 0.5


def test_the_range_of_person_sizes_is_that_of_the_boxes():
    """Sizes are those of standing people of 1.7 m: people differ by a fifth, and those who sit are smaller."""

    def heights(sizes, count):
        pictures = [render(3, i, person_sizes=sizes)[1] for i in range(count)]
        return np.array([person["bbox"][3] / 256 for people in pictures for person in people])

    wide = heights((0.1, 1.6), 12)
    assert wide.min() < 0.15 and wide.max() > 0.85 and ((wide > 0.3) & (wide < 0.7)).sum() >= 4
    small = heights((0.1, 0.25), 6)
    assert len(small) >= 6 and small.max() < 0.25 * 1.2 and small.min() < 0.15
    assert np.median(heights((1.5, 2.0), 6)) > 0.8


def test_the_usual_sizes_are_drawn_as_before_there_was_a_range():
    image, people = render(3, 0, size_wh=(96, 80))
    assert people[0]["camera"][0] == pytest.approx(90.23343604807734, rel=1e-12)
    assert people[0]["keypoints_clean"][:2] == pytest.approx([66.082, 25.405], abs=2e-3)
    assert image.mean() == pytest.approx(138.9029079861111, abs=0.01)


# --- the folder ------------------------------------------------------------------------------------------------------

SMALL = dict(train=14, val=6, seed=2, size_wh=(96, 80), progress=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("people") / "one", workers=1, **SMALL)


def test_more_label_noise_is_that_of_the_training_labels_alone(tmp_path):
    small = SMALL | {"train": 4, "val": 3}
    folders = [write_dataset(tmp_path / str(f), workers=1, label_noise=f, **small) for f in (1.0, 5.0)]
    train, val = (
        [json.loads((f / "annotations" / f"person_keypoints_{split}.json").read_text())["annotations"] for f in folders]
        for split in ("train", "val")
    )
    assert val[0] == val[1] and len(val[0]) > 0
    assert [p["keypoints"] for p in train[0]] != [p["keypoints"] for p in train[1]]
    assert [p["keypoints_clean"] for p in train[0]] == [p["keypoints_clean"] for p in train[1]]
    assert "label_noise" not in json.loads((folders[0] / "synthetic.json").read_text()), "as written before"
    with pytest.raises(ValueError, match="holds another synthetic data set"):
        write_dataset(folders[1], workers=1, **small)
    with pytest.raises(ValueError, match="label_noise=2.0 has no effect with space"):
        write_dataset(tmp_path / "space", workers=1, space=True, label_noise=2.0, **small)


def test_persons_without_a_labelled_joint_are_said(tmp_path, caplog):
    small = SMALL | {"train": 2, "val": 1, "workers": 1}
    write_dataset(tmp_path / "tiny", person_sizes=(0.05, 0.06), **small)
    assert "no joint is labelled in 3 pictures" in caplog.text and "person_sizes=[0.05, 0.06]" in caplog.text
    caplog.clear()
    write_dataset(tmp_path / "usual", **small)
    assert not caplog.records


def test_a_folder_remembers_its_range_of_sizes(tmp_path):
    small = SMALL | {"train": 2, "val": 1, "workers": 1}
    folder = write_dataset(tmp_path / "sizes", person_sizes=(0.2, 1), **small)
    assert json.loads((folder / "synthetic.json").read_text())["person_sizes"] == [0.2, 1.0]
    assert write_dataset(folder, person_sizes=(0.2, 1), **small) == folder
    with pytest.raises(ValueError, match="holds another synthetic data set"):
        write_dataset(folder, **small)
    people = json.loads((folder / "annotations" / "person_keypoints_val.json").read_text())["annotations"]
    _, drawn = render(2, dataset.HELD_OUT, size_wh=(96, 80), person_sizes=(0.2, 1.0))
    assert [p["bbox"] for p in people] == [p["bbox"] for p in drawn], "held-out people have these sizes, too"


def _contents(path):
    return {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob("*")) if f.is_file()}


def test_folder_is_coco(folder):
    for split, n in (("train", 14), ("val", 6)):
        content = json.loads((folder / "annotations" / f"person_keypoints_{split}.json").read_text())
        assert [i["id"] for i in content["images"]] == list(range(1, n + 1))
        for entry in content["images"]:
            with Image.open(folder / split / entry["file_name"]) as image:
                assert image.format == "JPEG" and image.size == (96, 80) == (entry["width"], entry["height"])
        ids = [a["id"] for a in content["annotations"]]
        assert len(set(ids)) == len(ids) > 0
        assert {a["image_id"] for a in content["annotations"]} <= set(range(1, n + 1))
        (category,) = content["categories"]
        assert category["name"] == "person" and category["keypoints"] == list(COCO17.joints)
        assert all(1 <= j <= 17 for limb in category["skeleton"] for j in limb)
    assert sorted(p.name for p in folder.iterdir()) == ["annotations", "synthetic.json", "train", "val"]
    assert (folder / "train" / "000000000001.jpg").read_bytes() != (folder / "val" / "000000000001.jpg").read_bytes()


def test_any_number_of_workers_writes_the_same_bytes(folder, tmp_path):
    again = write_dataset(tmp_path / "two", workers=2, **SMALL)
    assert _contents(again) == _contents(folder)
    assert os.listdir(tmp_path) == ["two"]


def test_held_out_pictures_do_not_depend_on_the_size_of_the_training_set(folder, tmp_path):
    other = write_dataset(tmp_path / "other", workers=1, **(SMALL | dict(train=1, val=2)))
    assert (other / "val" / "000000000002.jpg").read_bytes() == (folder / "val" / "000000000002.jpg").read_bytes()


def test_the_same_folder_is_reused_and_another_is_refused(folder, monkeypatch):
    monkeypatch.setattr(dataset, "render", None)  # nothing is drawn again
    assert write_dataset(folder, **SMALL) == folder
    with pytest.raises(ValueError, match=r"holds another synthetic data set .*'seed': 2.*'seed': 3.* remove this one"):
        write_dataset(folder, **(SMALL | dict(seed=3)))


def test_a_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not a synthetic data set .* name another folder"):
        write_dataset(tmp_path, **SMALL)
    assert os.listdir(tmp_path) == ["notes.txt"]
    (tmp_path / dataset.MARKER).write_text("{")
    with pytest.raises(ValueError, match="is not a JSON file.*; name another folder or remove this one"):
        write_dataset(tmp_path, **SMALL)


def test_an_interrupted_run_leaves_nothing_to_read(tmp_path, monkeypatch):
    real = dataset.render

    def fail(seed, index, *, size_wh):
        if index == 3:
            raise KeyboardInterrupt
        return real(seed, index, size_wh=size_wh)

    monkeypatch.setattr(dataset, "render", fail)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path / "people", workers=1, **SMALL)
    assert os.listdir(tmp_path) == []


def _is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _wait_until(condition, *, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.1)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks at processes the way Linux shows them")
def test_a_killed_run_leaves_neither_processes_nor_folders(tmp_path):
    code = (
        "from jaxpose.data.synthetic import write_dataset\n"
        f"if __name__ == '__main__': write_dataset({str(tmp_path / 'people')!r}, train=100000, workers=2, progress=False)"
    )
    (tmp_path / "main.py").write_text(code)
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    writer = subprocess.Popen([sys.executable, tmp_path / "main.py"], env=environment)
    _wait_until(lambda: len(list(tmp_path.glob(".people.*.partial/train/*.jpg"))) > 3)
    write_dataset(tmp_path / "people.2", workers=1, **SMALL)
    assert len(list(tmp_path.glob(".people.*.partial"))) == 1  # that of somebody who lives stays
    children = [int(pid) for task in Path(f"/proc/{writer.pid}/task").iterdir()
                for pid in (task / "children").read_text().split()]  # fmt: skip
    assert len(children) >= 2
    writer.kill()
    writer.wait()
    _wait_until(lambda: not any(_is_running(pid) for pid in children), seconds=20)
    assert len(list(tmp_path.glob(".people.*.partial"))) == 1
    write_dataset(tmp_path / "people", workers=1, **SMALL)
    assert sorted(os.listdir(tmp_path)) == ["main.py", "people", "people.2"]


@pytest.mark.parametrize(
    "kind, fault",
    [
        (dict(train=-1), "train and val"),
        (dict(train=0, val=0), "one of them positive"),
        (dict(workers=0), "workers must be at least 1"),
        (dict(seed=-5), "seed and index must not be negative"),
    ],
)
def test_write_dataset_names_bad_arguments(tmp_path, kind, fault):
    with pytest.raises(ValueError, match=fault):
        write_dataset(tmp_path / "people", **(SMALL | kind))
    assert os.listdir(tmp_path) == []


def test_command_writes_the_folder_and_a_sheet_without_jax(tmp_path):
    code = (
        "import sys, runpy; sys.argv = ['synthetic', 'people', '--train', '2', '--val', '1', '--size-wh', '64', '48',"
        " '--workers', '1', '--sheet', 'sheet.png']; runpy.run_module('jaxpose.data.synthetic', run_name='__main__');"
        " assert not {'jax', 'tensorflow', 'scipy', 'cv2'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env=os.environ | {"PYTHONPATH": os.getcwd()})
    assert len(list((tmp_path / "people" / "train").iterdir())) == 2
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size[0] == 8 * 64

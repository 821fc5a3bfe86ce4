"""Geometry of hands: the root's depth, crops and mirror images by the conventions of published code."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from jaxpose import hands
from tests import tiny_rhd

FOCAL, CENTER = np.array([110.0, 120.0]), np.array([48.0, 40.0])


def many(count=300):
    """Hands beside the optical axis, where a bone may point along the ray without lying on it."""
    xyz = np.stack([tiny_rhd.in_space(seed) for seed in range(count)])
    return xyz + np.concatenate(
        [np.random.default_rng(0).uniform(-0.4, 0.4, (count, 1, 2)), np.zeros((count, 1, 1))], -1
    )


def pixels(xyz):
    return xyz[..., :2] / xyz[..., 2:] * FOCAL + CENTER


@pytest.mark.parametrize("bone", [hands.KEY_BONE, hands.PALM])
def test_one_root_is_always_right_and_the_published_one_often_is_not(bone):
    xyz = many()
    length, depth = hands.bone_length(xyz, bone=bone), hands.relative_depth(xyz, bone=bone)
    roots = hands.root_depths(pixels(xyz), depth, focal=FOCAL, center=CENTER, bone=bone)
    wrong = np.abs(roots - (xyz[:, 0, 2] / length)[:, None]) > 1e-3
    assert not wrong.all(1).any()
    assert 0.005 < wrong[:, 0].mean() < 0.4, "the + is wrong where the bone points along the ray"


@pytest.mark.parametrize("bone", [hands.KEY_BONE, hands.PALM])
def test_lifting_takes_the_right_root(bone):
    xyz = many()
    length, depth = hands.bone_length(xyz, bone=bone), hands.relative_depth(xyz, bone=bone)
    options = {"focal": FOCAL, "center": CENTER, "bone": bone}
    error = {
        name: np.abs(hands.lift(pixels(xyz), depth, proportions=p, **options) * length[:, None, None] - xyz).max((1, 2))
        for name, p in (("both", hands.PROPORTIONS), ("plus", None))
    }
    assert not (error["both"] > 1e-6).any() and (error["plus"] > 1e-6).any()
    roots = xyz[:, 0, 2] / length
    nearby = [
        hands.lift(pixels(x[None]), d[None], depth_range=(0.9 * r, 1.1 * r), proportions=None, **options)[0] * size
        for x, d, r, size in zip(xyz, depth, roots, length, strict=True)
    ]
    assert (np.abs(nearby - xyz).max((1, 2)) > 1e-6).sum() < (error["plus"] > 1e-6).sum(), (
        "a range of depths decides too"
    )


def test_lifted_joints_reproject_and_lie_in_front_whatever_the_prediction():
    rng = np.random.default_rng(0)
    xy, depth = rng.uniform(0, 96, (500, 21, 2)), rng.normal(0, 3, (500, 21))
    xy[0] = 5.0  # all joints at one pixel: the bone has no length there
    xyz = hands.lift(xy, depth, focal=FOCAL, center=CENTER)
    assert np.isfinite(xyz).all() and (xyz[..., 2] > 0).all()
    np.testing.assert_allclose(pixels(xyz), xy, atol=1e-6)


def test_a_bone_of_length_zero_is_no_unit():
    xyz = many(3)
    xyz[1, 12] = xyz[1, 11]
    with pytest.raises(ValueError, match=r"hand \[1\]: the bone between the joints middle1 and middle2 has length 0.0"):
        hands.relative_depth(xyz)
    with pytest.raises(ValueError, match=r"joints must be \(\.\.\., 21, D\)"):
        hands.bone_length(xyz[:, :20])
    with pytest.raises(ValueError, match="focal must be positive"):
        hands.lift(pixels(xyz), np.zeros((3, 21)), focal=[0.0, 1.0], center=CENTER)
    with pytest.raises(ValueError, match="depth_range="):
        hands.lift(pixels(xyz), np.zeros((3, 21)), focal=FOCAL, center=CENTER, depth_range=(5, 2))


def test_the_order_of_fingers_is_its_own_inverse():
    xyz = many(2)
    np.testing.assert_array_equal(hands.reversed_fingers(hands.reversed_fingers(xyz)), xyz)


@pytest.mark.parametrize("convention", ["hand3d", "bihand", "tllib", "mmpose"])
def test_a_square_is_moved_to_the_crop(convention):
    xy, visible = np.round(pixels(many(20)), 1), np.ones((20, 21), bool)
    place = hands.square(xy, visible, convention=convention, image_wh=(96, 96))
    affine = hands.square_affine(place, size=64)
    np.testing.assert_allclose(affine[:, :, :2] @ place.center[..., None] + affine[:, :, 2:], 32.0)
    np.testing.assert_allclose(affine[:, 0, 0] * place.side, 64.0)
    one = hands.square(xy[3], visible[3], convention=convention, image_wh=(96, 96))
    np.testing.assert_array_equal(one.center, place.center[3])


def test_a_hand_without_a_visible_joint_has_no_square_of_hand3d():
    with pytest.raises(ValueError, match="no visible joint, so that hand3d's square is not defined"):
        hands.square(np.zeros((21, 2)), np.zeros(21, bool), convention="hand3d")
    with pytest.raises(ValueError, match="convention='other'"):
        hands.square(np.zeros((21, 2)), convention="other")


def test_a_mirrored_hand_is_the_mirror_image_in_space():
    xyz = many(2)
    center = np.array([(96 - 1) / 2, 40.0])
    xy = xyz[..., :2] / xyz[..., 2:] * FOCAL + center
    mirrored = xyz * [-1, 1, 1]
    np.testing.assert_allclose(
        mirrored[..., :2] / mirrored[..., 2:] * FOCAL + center, hands.mirror_pixels(xy, width=96), atol=1e-9
    )


def _rhd_mini(golden_path, split):
    path = golden_path(f"hands/rhd_mini/RHD_published_v2/{split}/anno_{split}.pickle")
    with Path(path).open("rb") as file:
        return pickle.load(file)  # our own file


def test_crops_match_the_published_code(golden_path):
    golden, of_hand3d = (np.load(golden_path(f"hands/{name}.npz")) for name in ("hands", "hands_zimmermann"))
    for split in ("training", "evaluation"):
        content = _rhd_mini(golden_path, split)
        for i, side in enumerate(golden[f"bihand_{split}_side_is_right"]):
            uv = content[i]["uv_vis"][21:] if side else content[i]["uv_vis"][:21]
            for name in ("wrist", "palm"):
                xy, visible = np.trunc(uv[:, :2]), uv[:, 2] > 0
                if name == "palm":
                    xy, visible[0] = hands.with_palm(xy), visible[0] | visible[12]
                affine = hands.square_affine(hands.square(xy, visible, convention="hand3d"))
                ours = xy @ affine[:, :2].T + affine[:, 2]
                np.testing.assert_allclose(ours, of_hand3d[f"zim_{split}_{name}_keypoint_uv21"][i], atol=1e-4)
            place = hands.square(uv[:, :2], convention="bihand")
            affine = hands.square_affine(place, rotation=0.3 * (i % 2))
            np.testing.assert_allclose(affine, golden[f"bihand_{split}_affine"][i][:2], atol=1e-4)
            joints = hands.reversed_fingers(uv[:, :2])
            if not side:
                joints = hands.mirror_pixels(joints, width=320, convention="bihand")
            np.testing.assert_allclose(joints, golden[f"bihand_{split}_right_kp2d"][i], atol=1e-4)
        for n, i in enumerate(golden[f"tllib_{split}_image"]):
            is_left = golden[f"tllib_{split}_is_left"][n]
            uv = content[i]["uv_vis"][:21, :2] if is_left else content[i]["uv_vis"][21:, :2]
            place = hands.square(uv, convention="tllib")
            corner = place.center - place.side / 2
            last = corner + place.side - 1
            np.testing.assert_allclose([*corner, *last], golden[f"tllib_{split}_box_lurb"][n], atol=1e-4)
            crop = uv - corner if is_left else hands.mirror_pixels(uv - corner, width=place.side, convention="tllib")
            np.testing.assert_allclose(hands.reversed_fingers(crop), golden[f"tllib_{split}_crop_kp2d"][n], atol=1e-4)


def test_every_hand_of_the_miniature_is_lifted(golden_path):
    """With the proportions of the training hands, as a page lifts them: those of the drawn hands are not RHD's."""
    train = np.stack([entry["xyz"][:21] for entry in _rhd_mini(golden_path, "training").values()])
    usual = (hands.bone_lengths(train) / hands.bone_length(train)[:, None]).mean(0)
    wrong = {"both": 0, "plus": 0}
    for split in ("training", "evaluation"):
        for entry in _rhd_mini(golden_path, split).values():
            k = entry["K"].astype(np.float64)
            for side in (slice(0, 21), slice(21, 42)):
                xyz = entry["xyz"][side].astype(np.float64)
                focal, center = k[[0, 1], [0, 1]], k[:2, 2]
                xy = xyz[:, :2] / xyz[:, 2:] * focal + center
                for name, proportions in (("both", usual), ("plus", None)):
                    lifted = hands.lift(
                        xy, hands.relative_depth(xyz), focal=focal, center=center, proportions=proportions
                    )
                    wrong[name] += np.abs(lifted * hands.bone_length(xyz) - xyz).max() > 1e-4
    assert wrong == {"both": 0, "plus": 4}

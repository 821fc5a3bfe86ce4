"""Boxes and affines against the reference code's numbers, and the properties that any of them must have."""

from __future__ import annotations

import timeit

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpose import geometry
from jaxpose.skeleton import COCO17

SIZE = (192, 256)
number = st.floats(-500, 500, width=32)
side = st.floats(1, 800, width=32)
boxes = st.tuples(number, number, side, side)
angles = st.floats(-180, 180, width=32)
properties = settings(max_examples=60, deadline=None, derandomize=True)


def relative(actual, expected):
    """Largest difference over the largest entry: the reference builds its matrices from float32 corner points."""
    return np.abs(actual - expected).max() / np.abs(expected).max()


# ------------------------------------------------------------------------------------------- the reference's numbers


def test_boxes_are_cleaned_as_in_the_reference(golden):
    g = golden("affine")
    size_wh = g["img_hw"][:, ::-1]
    np.testing.assert_allclose(geometry.clip_box(g["raw_bbox"], size_wh), g["clean_bbox"], atol=1e-10)


def test_affine_without_rotation(golden):
    g = golden("affine")
    affine = geometry.box_to_affine(g["clean_bbox"], SIZE)
    for ours, theirs, back in zip(affine, g["trans0"], g["trans0_inv"], strict=True):
        assert relative(ours, theirs) < 2e-5
        assert relative(geometry.invert_affine(ours), back) < 2e-5
    xy = geometry.apply_affine(affine, g["kpts"])
    seen = g["vis"] > 0
    np.testing.assert_allclose(xy[seen], g["kpts0"][seen], atol=5e-3)


def test_affine_with_augmentation(golden):
    """Flip first, then rotation and scale about the mirrored centre."""
    g = golden("affine")
    for i in range(12):
        width = int(g["img_hw"][i, 1])
        box, xy, seen = g["clean_bbox"][i].copy(), g["kpts"][i], g["vis"][i]
        if g["flip"][i]:
            box[0] = width - 1 - box[0] - box[2]
            xy, seen = geometry.flip_joints(xy, seen, width=width, flip_index=COCO17.flip_index)
        affine = geometry.box_to_affine(box, SIZE, rotation=g["rot"][i], scale=g["sf"][i])
        assert relative(affine, g["trans_aug"][i]) < 2e-5
        np.testing.assert_array_equal(seen, g["vis_aug"][i])
        moved = np.where(seen[:, None] > 0, geometry.apply_affine(affine, xy), xy)
        np.testing.assert_allclose(moved, g["kpts_aug"][i], atol=5e-3)
        if g["flip"][i]:  # one affine for the unmirrored picture does the same to the unmirrored joints
            straight = geometry.apply_affine(geometry.flip_affine(affine, width=width), g["kpts"][i])
            np.testing.assert_allclose(straight[COCO17.flip_index][seen > 0], moved[seen > 0], atol=1e-9)


def test_heatmap_pixels_go_back_to_the_image(golden):
    g = golden("affine")
    back = geometry.invert_affine(geometry.box_to_affine(g["clean_bbox"], (48, 64)))
    np.testing.assert_allclose(geometry.apply_affine(back, g["hm_pred"]), g["hm_pred_back"], atol=5e-3)


def test_only_the_width_of_an_anisotropic_scale_counts(golden):
    g = golden("affine")
    for i in range(20):
        affine = geometry.center_to_affine(
            g["gen_center"][i].astype(float), 200 * float(g["gen_scale"][i, 0]), SIZE, rotation=g["gen_rot"][i]
        )
        assert relative(affine, g["gen_trans"][i]) < 2e-5
        assert relative(affine, g["gen_mmpose_warp"][i]) < 2e-5
        assert relative(geometry.invert_affine(affine), g["gen_trans_inv"][i]) < 2e-5


def test_flip_test_number():
    """facts.md 12: a joint at x = 37 of 192, seen in the mirrored crop and mirrored back, is exactly where it was."""
    here = geometry.normalize(np.array([37.0, 5.0]), SIZE)
    there = geometry.normalize(np.array([191.0 - 37, 5.0]), SIZE)
    np.testing.assert_allclose(geometry.mirror_normalized(there, width=192), here, atol=1e-15)


def test_pixels_with_depth_to_camera_coordinates(golden):
    g = golden("eval")
    xyz = geometry.pixel_to_camera(g["cam_uvd"], focal=g["cam_f"], center=g["cam_c"])
    np.testing.assert_allclose(xyz, g["cam_xyz"], rtol=1e-12)


# -------------------------------------------------------------------------------------------------------- properties


@properties
@given(boxes, angles, st.floats(0.3, 3))
def test_centre_and_fitted_box(box, rotation, scale):
    x, y, w, h = box
    affine = geometry.box_to_affine(box, SIZE, rotation=rotation, scale=scale)
    np.testing.assert_allclose(geometry.apply_affine(affine, (x + w / 2, y + h / 2)), (96, 128), atol=1e-6)
    # Unturned, the fitted and padded box fills the crop exactly.
    fitted = geometry.fit_box(box, aspect=192 / 256, padding=1.25 * scale)
    corners = np.array([fitted[:2], fitted[:2] + fitted[2:]])
    straight = geometry.box_to_affine(box, SIZE, scale=scale)
    np.testing.assert_allclose(geometry.apply_affine(straight, corners), [(0, 0), SIZE], atol=1e-6)


@properties
@given(boxes, angles, st.integers(0, 2**31 - 1))
def test_invert_is_the_inverse(box, rotation, seed):
    xy = np.random.default_rng(seed).uniform(-500, 500, (5, 2))
    affine = geometry.box_to_affine(box, SIZE, rotation=rotation)
    back = geometry.invert_affine(affine)
    np.testing.assert_allclose(geometry.apply_affine(back, geometry.apply_affine(affine, xy)), xy, atol=1e-7)


@properties
@given(boxes, st.floats(-100, 100), st.floats(-100, 100), st.floats(0.2, 5))
def test_moving_or_zooming_the_picture_changes_nothing_in_the_crop(box, dx, dy, zoom):
    x, y, w, h = box
    xy = np.array([[x, y], [x + w / 3, y + h]])
    here = geometry.apply_affine(geometry.box_to_affine(box, SIZE, rotation=17.0), xy)
    moved_box = (zoom * x + dx, zoom * y + dy, zoom * w, zoom * h)
    there = geometry.apply_affine(geometry.box_to_affine(moved_box, SIZE, rotation=17.0), zoom * xy + (dx, dy))
    np.testing.assert_allclose(there, here, atol=1e-6)


def test_positive_rotation_turns_counter_clockwise_on_the_screen():
    affine = geometry.box_to_affine((0, 0, 100, 100), (100, 100), padding=1.0, rotation=90.0)
    # The right-hand neighbour of the centre goes up: x' = f sin(r) dy = 0, y' = -f sin(r) dx.
    np.testing.assert_allclose(geometry.apply_affine(affine, (60, 50)), (50, 40), atol=1e-12)


@properties
@given(st.integers(0, 2**31 - 1), st.integers(2, 700))
def test_flipping_twice_changes_nothing(seed, width):
    rng = np.random.default_rng(seed)
    visible = rng.integers(0, 3, (4, 17))
    xy = np.where(visible[..., None] > 0, rng.uniform(0, width, (4, 17, 2)), 0)
    options = dict(width=width, flip_index=COCO17.flip_index)
    once = geometry.flip_joints(xy, visible, **options)
    twice = geometry.flip_joints(*once, **options)
    assert not np.array_equal(once[0], xy)
    np.testing.assert_allclose(twice[0], xy, atol=1e-9)
    np.testing.assert_array_equal(twice[1], visible)
    normal = geometry.normalize(xy, SIZE)
    mirrored = geometry.mirror_normalized(normal, width=192, flip_index=COCO17.flip_index)
    np.testing.assert_allclose(
        geometry.mirror_normalized(mirrored, width=192, flip_index=COCO17.flip_index), normal, atol=1e-12
    )
    affine = rng.normal(size=(4, 2, 3))
    np.testing.assert_allclose(
        geometry.flip_affine(geometry.flip_affine(affine, width=width), width=width), affine, atol=1e-9
    )


def test_mirror_of_pixels_and_of_normalised_coordinates_agree():
    xy = np.random.default_rng(0).uniform(0, 190, (3, 17, 2))
    flipped, _ = geometry.flip_joints(xy, np.ones((3, 17)), width=192, flip_index=COCO17.flip_index)
    mirrored = geometry.mirror_normalized(geometry.normalize(xy, SIZE), width=192, flip_index=COCO17.flip_index)
    np.testing.assert_allclose(geometry.denormalize(mirrored, SIZE), flipped, atol=1e-10)


def test_unlabelled_joints_come_back_as_zero_whatever_they_held():
    xy = np.array([[np.nan, np.inf], [3.0, 4.0]])
    flipped, visible = geometry.flip_joints(xy, np.array([0, 2]), width=10, flip_index=(1, 0))
    np.testing.assert_array_equal(flipped, [[6, 4], [0, 0]])
    np.testing.assert_array_equal(visible, [2, 0])


def test_third_coordinate_is_left_alone():
    xyz = np.array([[1.0, 2.0, 3.0]])
    flipped, _ = geometry.flip_joints(xyz, np.ones(1), width=10, flip_index=(0,))
    np.testing.assert_array_equal(flipped, [[8, 2, 3]])
    mirrored = geometry.mirror_normalized(geometry.normalize(xyz, (10, 10, 10)), width=10)
    np.testing.assert_allclose(geometry.denormalize(mirrored, (10, 10, 10)), [[8, 2, 3]], atol=1e-12)


@properties
@given(boxes, side, side)
def test_clipped_box_lies_inside(box, width, height):
    x, y, w, h = geometry.clip_box(box, (width, height))
    assert 0 <= x <= x + w <= max(width - 1, 0) + 1e-4 and 0 <= y <= y + h <= max(height - 1, 0) + 1e-4


# -------------------------------------------------------------------------------------- NumPy and JAX, dtypes, batches


def everything(box, xy, visible, convert):
    """One result of each function on inputs passed through `convert`."""
    affine = geometry.box_to_affine(convert(box), SIZE, rotation=20.0, scale=1.1)
    return [
        affine,
        geometry.center_to_affine(convert(box[..., :2]), 50.0, SIZE, rotation=convert(box[..., 0])),
        geometry.apply_affine(affine, convert(xy)),
        geometry.invert_affine(affine),
        geometry.flip_affine(affine, width=320),
        *geometry.flip_joints(convert(xy), convert(visible), width=320, flip_index=COCO17.flip_index),
        geometry.fit_box(convert(box), aspect=0.75, padding=1.25),
        geometry.clip_box(convert(box), (300, 200)),
        geometry.normalize(convert(xy), SIZE),
        geometry.denormalize(convert(xy), SIZE),
        geometry.mirror_normalized(convert(xy), width=192, flip_index=COCO17.flip_index),
        geometry.pixel_to_camera(convert(box[..., :3]), focal=(900, 910), center=(160, 100)),
    ]


@pytest.fixture
def sample():
    rng = np.random.default_rng(1)
    box = rng.uniform(10, 200, (2, 3, 4)).astype(np.float32)
    return box, rng.uniform(0, 320, (2, 3, 17, 2)).astype(np.float32), rng.integers(0, 3, (2, 3, 17))


def test_numpy_stays_numpy_and_jax_gives_the_same(sample):
    on_host, on_device = everything(*sample, np.asarray), everything(*sample, jnp.asarray)
    traced = jax.jit(lambda *arrays: everything(*arrays, lambda a: a))(*map(jnp.asarray, sample))
    for host, device, jitted in zip(on_host, on_device, traced, strict=True):
        assert isinstance(host, np.ndarray) and isinstance(device, jax.Array)
        assert host.dtype in (np.float32, np.int64) and host.shape == device.shape == jitted.shape
        np.testing.assert_allclose(host, device, rtol=2e-5, atol=2e-4)
        np.testing.assert_allclose(host, jitted, rtol=2e-5, atol=2e-4)


def test_batch_is_the_same_as_one_by_one(sample):
    box, xy, visible = sample
    for i in range(2):
        for j in range(3):
            for batched, single in zip(
                everything(*sample, np.asarray), everything(box[i, j], xy[i, j], visible[i, j], np.asarray), strict=True
            ):
                np.testing.assert_allclose(batched[i, j], single, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("given_dtype", "expected"), [("float16", "float32"), ("float32", "float32"), ("f8", "f8")])
def test_dtype_is_at_least_float32_and_float64_stays(sample, given_dtype, expected):
    box, xy, visible = sample
    for result in everything(box.astype(given_dtype), xy.astype(given_dtype), visible.astype(given_dtype), np.asarray):
        assert result.dtype in (np.dtype(expected), np.dtype(given_dtype))
    assert geometry.box_to_affine(box.astype(given_dtype), SIZE).dtype == np.dtype(expected)


def test_gradient_flows_through_the_affine():
    def area(box):
        return jnp.linalg.det(geometry.box_to_affine(box, SIZE, padding=1.0)[:, :2])

    # wide box: zoom = 192 / w, det = zoom^2
    gradient = jax.grad(area)(jnp.array([0.0, 0.0, 192.0, 10.0]))
    np.testing.assert_allclose(gradient, [0, 0, -2 / 192, 0], atol=1e-7)


def test_bad_boxes_do_not_raise_under_jit():
    assert jax.jit(lambda box: geometry.box_to_affine(box, SIZE))(jnp.zeros(4)).shape == (2, 3)


@pytest.mark.filterwarnings("error")
def test_a_device_affine_takes_host_points_of_float64():
    affine, xy = np.array([[2.0, 0, 1], [0, 2, 0]]), np.ones((3, 2))
    for pair in ((jnp.asarray(affine, jnp.float32), xy), (affine, jnp.asarray(xy, jnp.float32))):
        assert geometry.apply_affine(*pair).dtype == jnp.float32
    with jax.enable_x64(True):
        assert geometry.apply_affine(jnp.asarray(affine, jnp.float32), xy).dtype == jnp.float64


def test_single_host_items_are_fast():
    """Called per sample by the input pipeline: 20 us here; the bound leaves room for a busy machine."""
    box = np.array([10.0, 20.0, 30.0, 40.0])
    best = min(timeit.repeat(lambda: geometry.box_to_affine(box, SIZE, rotation=9.0), number=200, repeat=7)) / 200
    assert best < 150e-6


# ------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: geometry.box_to_affine(np.ones((3, 5)), SIZE), r"box_xywh.*\(3, 5\)"),
        (lambda: geometry.box_to_affine((0, 0, 0, 5), SIZE), "positive width"),
        (lambda: geometry.box_to_affine((0, 0, 4, -5), SIZE), "-5"),
        (lambda: geometry.box_to_affine((np.nan, 0, 4, 5), SIZE), "nan"),
        (lambda: geometry.box_to_affine((0, 0, 4, 5), 192), "size_wh"),
        (lambda: geometry.box_to_affine((0, 0, 4, 5), (192, 0)), "positive"),
        (lambda: geometry.box_to_affine((0, 0, 4, 5), SIZE, scale=0.0), "scale"),
        (lambda: geometry.box_to_affine(np.ones((2, 4)), SIZE, rotation=np.ones((2, 1))), r"rotation.*\(2, 1\)"),
        (
            lambda: geometry.box_to_affine((0, 0, 4, 5), SIZE, scale=np.inf),
            "scale must be positive and finite, got inf",
        ),
        (lambda: geometry.box_to_affine((0, 0, 4, 5), SIZE, rotation=np.nan), "rotation must be finite, got nan"),
        (lambda: geometry.box_to_affine((0, 0, 4, 5), SIZE, padding=-1.0, scale=-1.0), "padding must be positive"),
        (lambda: geometry.box_to_affine(jnp.ones(4), SIZE, padding=-1.0), "padding must be positive"),
        (lambda: geometry.center_to_affine((0, 0), -1.0, SIZE), "source_width"),
        (lambda: geometry.center_to_affine((0, 0), 1.0, SIZE, rotation=np.inf), "rotation must be finite"),
        (lambda: geometry.center_to_affine((0, np.nan), 1.0, SIZE), "center_xy must be finite"),
        (lambda: geometry.apply_affine(np.full((2, 3), np.nan), np.ones((4, 2))), "affine must be finite"),
        (lambda: geometry.invert_affine(np.full((2, 3), np.inf)), "affine must be finite"),
        (lambda: geometry.flip_affine(np.full((2, 3), np.nan), width=4), "affine must be finite"),
        (lambda: geometry.apply_affine(np.ones((3, 2)), np.ones((4, 2))), r"affine.*\(3, 2\)"),
        (lambda: geometry.apply_affine(np.ones((3, 2, 3)), np.ones((4, 5, 2))), r"\(3, 2, 3\).*\(4, 5, 2\)"),
        (lambda: geometry.apply_affine(np.ones((3, 1, 2, 3)), np.ones((3, 5, 2))), r"\(3, 1, 2, 3\).*\(3, 5, 2\)"),
        (lambda: geometry.apply_affine(np.ones((2, 3)), np.ones((4, 3))), r"xy.*\(4, 3\)"),
        (lambda: geometry.invert_affine(np.zeros((2, 3))), "determinant"),
        (lambda: geometry.flip_joints(np.ones((5, 2)), np.ones((5, 1)), width=9, flip_index=range(5)), r"\(5, 1\)"),
        (lambda: geometry.flip_joints(np.ones((5, 2)), np.ones(5), width=9, flip_index=range(4)), "permutation"),
        (lambda: geometry.flip_joints(np.ones((2, 2)), np.ones(2), width=9, flip_index=(1, 1)), "permutation"),
        (lambda: geometry.flip_joints(np.ones((2, 4)), np.ones(2), width=9, flip_index=(1, 0)), r"\(2, 4\)"),
        (lambda: geometry.fit_box((0, 0, 1, 1), aspect=0), "aspect"),
        (lambda: geometry.clip_box((0, 0, 1, 1), (3, 4, 5)), "size_wh"),
        (lambda: geometry.clip_box(np.ones((3, 4)), np.ones((2, 2))), r"\(3, 4\).*\(2, 2\)"),
        (lambda: geometry.normalize(np.ones((5, 3)), SIZE), r"\(5, 3\)"),
        (lambda: geometry.denormalize(np.ones((5, 2)), (0, 1)), "positive"),
        (lambda: geometry.mirror_normalized(np.ones((5, 2)), width=0), "width"),
        (lambda: geometry.pixel_to_camera(np.ones((5, 2)), focal=(1, 1), center=(0, 0)), r"uvd.*\(5, 2\)"),
        (lambda: geometry.pixel_to_camera(np.ones((5, 3)), focal=1, center=(0, 0)), "focal"),
        (lambda: geometry.mirror_normalized(np.ones(2), width=9, flip_index=(1, 0)), r"\(2,\)"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_shape_errors_also_come_under_jit():
    with pytest.raises(ValueError, match=r"\(3, 2, 3\).*\(4, 5, 2\)"):
        jax.jit(geometry.apply_affine)(jnp.ones((3, 2, 3)), jnp.ones((4, 5, 2)))

"""The encoding of joints as heatmaps: both directions on one grid, mirrors, and what the task makes of its settings."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from jaxpose import heatmap, tasks
from jaxpose.skeleton import COCO17
from jaxpose.tasks import MapCodec, MapLoss, Readout
from tests.test_tasks_heatmap import Echo

SIZE_WH, SIZE_HW = (96, 128), (32, 24)
JOINTS = np.random.default_rng(3).uniform((20, 24), (76, 100), (2, 5, 2)).astype(np.float32)
CELLS = {"msra": (4.0, 4.0), "unbiased": (4.0, 4.0), "udp": (95 / 23, 127 / 31)}


@pytest.mark.parametrize("target", CELLS)
def test_joints_are_encoded_on_the_grid_of_the_target(target):
    codec = MapCodec(target, sigma=1.5)
    assert codec.pixels_per_cell(SIZE_WH, SIZE_HW) == CELLS[target]
    maps, where = codec.encode(JOINTS, size_wh=SIZE_WH, size_hw=SIZE_HW)
    expected = heatmap.gaussian(JOINTS / np.array(CELLS[target], np.float32), SIZE_HW, sigma=1.5, method=target)
    np.testing.assert_allclose(maps, expected, atol=1e-5)
    assert where.shape == (2, 5) and where.all()


@pytest.mark.parametrize(
    ("codec", "within"),
    [
        (MapCodec("unbiased", search="dark"), 0.2),
        (MapCodec("udp", search="udp"), 0.2),
        (MapCodec("udp", search="argmax"), 1.6),  # they need not agree: a quarter of a pixel, on the grid of the target
        (MapCodec("msra", search="argmax"), 3.0),  # these Gaussians are rounded to a pixel as well
    ],
)
def test_what_is_encoded_is_decoded_in_input_pixels(codec, within):
    maps, _ = codec.encode(JOINTS, size_wh=SIZE_WH, size_hw=SIZE_HW)
    xy, peak = codec.decode(maps, size_wh=SIZE_WH)
    assert np.abs(xy - JOINTS).max() < within
    np.testing.assert_array_equal(peak, maps.max((1, 2)))


def test_to_map_and_from_map_are_inverse():
    for target in CELLS:
        codec, sizes = MapCodec(target), {"size_wh": SIZE_WH, "size_hw": SIZE_HW}
        np.testing.assert_allclose(codec.from_map(codec.to_map(JOINTS, **sizes), **sizes), JOINTS, rtol=1e-6)


def test_a_joint_whose_gaussian_misses_the_map_is_not_used():
    joints = np.array([[[48.0, 64.0], [-60.0, 64.0], [48.0, 64.0]]], np.float32)
    sizes = {"size_wh": SIZE_WH, "size_hw": SIZE_HW}
    assert MapCodec().encode(joints, **sizes)[1].tolist() == [[True, False, True]]
    labelled = np.array([[True, True, False]])
    assert MapCodec().encode(joints, **sizes, where=labelled)[1].tolist() == [[True, False, False]]


def test_udps_mirrored_map_is_the_map_of_the_mirrored_image_and_the_others_are_moved_by_a_column():
    sizes, swap = {"size_wh": SIZE_WH, "size_hw": SIZE_HW}, jnp.array([0, 2, 1, 4, 3])
    mirrored_joints = JOINTS[:, [0, 2, 1, 4, 3]] * np.array([-1, 1]) + np.array([SIZE_WH[0] - 1, 0])
    for target in ("udp", "unbiased"):
        codec = MapCodec(target)
        maps = codec.encode(JOINTS, **sizes)[0]
        back = codec.mirror(codec.encode(mirrored_joints.astype(np.float32), **sizes)[0], flip_index=swap)
        if target == "udp":
            np.testing.assert_allclose(back, maps, atol=1e-5)
        else:  # the mirror is off by 3/4 of a column, which one column makes 1/4
            shift = np.asarray((back - maps) * jnp.arange(24)[:, None]).sum((1, 2)) / np.asarray(maps).sum((1, 2))
            np.testing.assert_allclose(shift, 0.25, atol=0.02)


def test_the_loss_and_the_readout_of_a_task_share_the_grid():
    task = tasks.heatmaps(
        Echo(),
        skeleton=COCO17,
        size_wh=(24, 32),
        maps=MapLoss(target="udp", sigma=3.0),
        read=Readout("dark", kernel=17),
    )
    assert task.codec == MapCodec("udp", sigma=3.0, search="dark", kernel=17)
    assert task.map_loss.codec == MapCodec("udp", sigma=3.0)
    grids = {codec.pixels_per_cell((24, 32), (8, 6)) for codec in (task.codec, task.map_loss.codec)}
    assert grids == {(23 / 5, 31 / 7)}
    # The grid holds without a map loss too, and for a soft-argmax.
    joint = tasks.heatmaps(
        Echo(), skeleton=COCO17, size_wh=(24, 32), maps=MapLoss("none", target="udp"), joints=tasks.JointLoss("l1"),
        read=Readout("soft_argmax"),
    )  # fmt: skip
    assert joint.codec.pixels_per_cell((24, 32), (8, 6)) == (23 / 5, 31 / 7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "round"}, "target='round': expected one of msra, unbiased, udp"),
        ({"search": "soft_argmax"}, "search='soft_argmax': expected one of argmax, dark, udp"),
        ({"sigma": 0.0}, "sigma=0.0: expected a positive number"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MapCodec(**options)

"""Rectangles of noise over persons: their distribution, and that nothing but pixels changes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from scipy import stats

from jaxpose import geometry
from jaxpose.data import augment, crops, occlusion
from jaxpose.data.formats import coco_3d
from tests import tiny_space
from tests.test_data_space import coco_json

COUNT = 1500
BOX, IMAGE = (300.0, 200.0, 120.0, 300.0), (1000, 1000)


def draw(probability=1.0, *, box=BOX, image=IMAGE, seed=3, first=0, count=COUNT):
    return occlusion.rectangles(
        probability, boxes=np.tile(np.array(box, float), (count, 1)), image_wh=np.tile(np.array(image), (count, 1)), seed=seed,
        epochs=np.arange(count) % 7, ids=first + np.arange(count),
    )  # fmt: skip


def test_rectangles_have_the_published_areas_and_ratios():
    left, top, width, height = draw().T
    # Whole pixels are cut down, so that half a pixel is missing on average.
    area, ratio = (width + 0.5) * (height + 0.5), (height + 0.5) / (width + 0.5)
    assert stats.kstest(area / (0.7 * BOX[2] * BOX[3]), "uniform").pvalue > 1e-3
    large = width > 20  # whose ratio the cut pixels hardly change
    assert stats.kstest(ratio[large], stats.uniform(0.3, 1 / 0.3 - 0.3).cdf).statistic < 0.06
    fits = (width < BOX[2] - 1) & (height < BOX[3] - 1)
    inside = (left >= BOX[0] - 1) & (top >= BOX[1] - 1) & (left + width <= BOX[0] + BOX[2]) & (top + height <= 500)
    assert inside[fits].all()
    # QUIRK V8: one that is wider than the box sticks out of it on both sides.
    wider = width > BOX[2]
    assert wider.any() and (left[wider] <= BOX[0]).all() and (left + width + 1)[wider].min() >= BOX[0] + BOX[2] - 1


def test_the_rectangles_of_the_released_code_are_ones_that_can_be_drawn(golden):
    """Of six labels: areas, ratios and places have the bounds of our draws, which may leave the box as well (QUIRK V8)."""
    g = golden("three_d/rle_h36m")
    corners = g["label_bbox"][:6]
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    theirs = g["occlusion_rect_xywh"].astype(float)
    ours = [
        occlusion.rectangles(1.0, boxes=np.tile(box, (500, 1)), image_wh=np.tile([1000, 1002], (500, 1)), seed=0,
                             epochs=np.arange(500), ids=np.full(500, i))
        for i, box in enumerate(boxes)
    ]  # fmt: skip
    for box, rectangle, drawn in zip(boxes, theirs, ours):
        for x, y, w, h in (rectangle, *drawn[:20]):
            assert 0 < (w - 2) * (h - 2) < 0.7 * box[2] * box[3] and 0.27 < h / w < 3.7
            for corner, size, start, whole in ((x, w, box[0], box[2]), (y, h, box[1], box[3])):
                low, high = sorted((start, start + whole - size - 1))
                assert low - 2 <= corner <= high + 2
        assert (drawn[:, 2:].min(0) <= rectangle[2:] + 1).all() and (rectangle[2:] <= drawn[:, 2:].max(0) + 1).all()
    sticks_out = theirs[:, 0] + theirs[:, 2] > corners[:, 2] + 1
    assert sticks_out.any()


def test_rectangles_lie_inside_the_picture_or_nowhere():
    left, top, width, height = draw(box=(-40.0, 700.0, 500.0, 320.0), image=(600, 1000)).T
    assert left.min() >= 0 and top.min() >= 0 and (left + width).max() < 600 and (top + height).max() < 1000
    assert (width > 0).mean() > 0.95
    for box in ((-900.0, 0.0, 100.0, 100.0), (10.0, 10.0, 0.0, -5.0)):  # beside the picture; no box
        assert not draw(box=box, count=20)[:, 2:].prod(-1).any()


def test_rectangles_are_a_function_of_seed_epoch_and_annotation():
    np.testing.assert_array_equal(draw(), draw())
    assert (draw(seed=4) != draw()).any(-1).all() and (draw(first=7 * COUNT) != draw()).any(-1).all()
    half = draw(0.5)
    is_there = half[:, 2] > 0
    assert 0.45 < is_there.mean() < 0.55 and not half[~is_there].any() and not draw(0.0).any()
    with pytest.raises(ValueError, match="occlusion is a probability"):
        augment.Setting("mine", occlusion=1.5)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("occlusion")
    tiny_space.write(folder, coco_json(), "train.json")
    return coco_3d.read(folder / "annotations" / "train.json", folder / "images")


def test_noise_covers_the_rectangle_of_the_picture_alone(source):
    """In a turned and mirrored crop: the picture is grey, so that what is not grey is noise or beside the picture."""
    plain = augment.named("posenet_3d")
    covered, options = dataclasses.replace(plain, occlusion=1.0), {"size_wh": (96, 96), "epoch": 2, "padding": 2.0}
    plans = [
        crops.plan(source, range(4), size_wh=(96, 96), epochs=[2] * 4, augment=s, padding=2.0) for s in (plain, covered)
    ]
    rectangles = plans[1].pop("occlusion")
    assert plans[1].pop("noise").tolist() == [[0, 2, i + 1] for i in range(4)]
    for key, values in plans[0].items():  # labels and crops stay
        np.testing.assert_array_equal(values, plans[1][key], err_msg=key)
    for i, (x, y, width, height) in enumerate(rectangles):
        images = [crops.sample(source, i, augment=setting, **options)["image"] for setting in (plain, covered)]
        changed = (images[0] != images[1]).any(-1)
        to_image = geometry.invert_affine(plans[0]["affine"][i].astype(float))
        px = geometry.apply_affine(to_image, np.stack(np.meshgrid(np.arange(96.0), np.arange(96.0)), -1))
        beyond = np.maximum(np.array([x, y]) - px, px - np.array([x + width - 1, y + height - 1])).max(-1)
        assert changed.sum() > 20 and not changed[beyond > 1].any() and changed[beyond < 0].mean() > 0.98
        values = images[1][beyond < 0].astype(float)  # bilinear between noisy pixels
        assert 90 < values.mean() < 165 and values.std() > 25


def test_a_pixel_is_the_same_in_whichever_region_it_lies():
    image, rectangle = np.zeros((40, 50, 3), np.uint8), np.array([10, 5, 30, 25])
    whole = occlusion.cover(image, rectangle, key=(-1, 2, 3))
    part = occlusion.cover(image[8:35, 20:45], rectangle, key=(-1, 2, 3), origin=(20, 8))
    np.testing.assert_array_equal(part, whole[8:35, 20:45])
    assert not image.any() and (whole[5:30, 10:40] > 0).any(-1).all() and not whole[:, 40:].any()
    assert occlusion.cover(image[:4], rectangle, key=(0, 2, 3)).base is image  # beside the rectangle: no copy
    assert not np.array_equal(occlusion.cover(image, rectangle, key=(0, 2, 3)), whole)
    smaller = occlusion.cover(image[:20, :25], rectangle, key=(0, 2, 3), ratio=2)
    ys, xs = np.nonzero(smaller.any(-1))
    assert (xs.min(), xs.max(), ys.min(), ys.max()) == (5, 19, 2, 14)


@pytest.mark.parametrize("decode", ["exact", "scaled"])
def test_batches_are_the_samples_bit_for_bit(source, decode):
    pytest.importorskip("tensorflow")
    setting = dataclasses.replace(augment.RLE_3D, occlusion=1.0)
    options = {"size_wh": (32, 32), "augment": setting, "seed": 5, "decode": decode, "padding": 1.5}
    batches = crops.train_batches(source, batch_size=4, **options)
    batch = next(batches)
    batches.close()
    assert batch["truncate_colour"].all() and "occlusion" not in batch and "noise" not in batch
    for row, item in enumerate(batch["annotation_id"]):
        (index,) = np.flatnonzero(source.persons["annotation_id"] == item)
        image = crops.sample(source, int(index), epoch=0, **options)["image"]
        np.testing.assert_array_equal(batch["image"][row], image)
        plain = crops.sample(source, int(index), epoch=0, **options | {"augment": augment.RLE_3D})["image"]
        assert (image != plain).any()

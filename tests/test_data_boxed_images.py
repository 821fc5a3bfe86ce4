"""Batches of whole images with boxes: coordinates by hand, shapes that take turns, who is left out, processes and resuming."""

import itertools
import logging

import numpy as np
import pytest

from jaxpose.data import boxed_images
from jaxpose.data.boxed_images import People, Scaling, eval_batches, sample, train_batches, turn
from jaxpose.data.formats import coco
from jaxpose.data.source import joined
from tests import tiny_coco

pytest.importorskip("tensorflow")
pytest.importorskip("cv2")

SMALL = Scaling(short=48, longest=80, padded_long=(64, 96))


def content():
    """Ten images; the first has `tiny_coco`'s unlabelled person, another, a crowd and a box outside of it, the third nobody."""
    data = tiny_coco.content(10)
    first, third = data["images"][0], data["images"][2]
    people = [a for a in data["annotations"] if a["image_id"] != third["id"]]
    rng = np.random.default_rng(4)
    unlabelled = tiny_coco.person(99001, first, rng=rng, labelled=0) | {"bbox": [10.0, 20.0, 30.0, 40.0]}
    crowd = tiny_coco.person(99002, first, rng=rng, labelled=0) | {"iscrowd": 1}
    outside = tiny_coco.person(99003, first, rng=rng, labelled=0) | {"bbox": [-30.0, 0.0, 20.0, 20.0]}
    return data | {"annotations": [crowd, unlabelled, outside, *people]}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tiny_coco.write(tmp_path_factory.mktemp("people"), content())
    return coco.read(*coco.find(folder, "train"))


def take(source, count, **options):
    batches = train_batches(source, **{"batch_size": 4, "scaling": SMALL, "seed": 5} | options)
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def test_coordinates_are_scaled_and_continuous(source):
    row = sample(source, 0, scaling=SMALL)
    width, height = source.images["size_wh"][0]  # 97 x 121
    assert row["size_hw"].tolist() == [round(121 * 48 / 97), 48] and row["image"].shape == (64, 64, 3)
    assert row["image"].dtype == np.uint8 and not row["image"][:, 48:].any() and not row["image"][60:].any()
    scale = np.array([48 / width, 60 / height])
    persons = source.persons[source.persons["image"] == 0]
    assert row["people"].sum() == len(persons) + 2, "two unlabelled ones count, crowd and the box outside do not"
    box = row["boxes"][row["people"]]
    np.testing.assert_allclose(box[len(persons)], np.array([10, 20, 40, 60]) * np.tile(scale, 2), rtol=1e-5)
    assert (box >= 0).all() and (box[:, 2:] <= [48, 60]).all() and not row["keypoints"][len(persons)].any()
    xy = (persons["keypoints"][..., :2] + 0.5) * scale
    seen = (persons["keypoints"][..., 2] > 0) & ((xy >= 0) & (xy <= [48, 60])).all(-1)
    joints = row["keypoints"][: len(persons)]
    np.testing.assert_array_equal(joints[..., 2] > 0, seen)
    np.testing.assert_allclose(joints[..., :2], np.where(seen[..., None], xy, 0), rtol=1e-5)


def test_mirroring_moves_pixels_boxes_and_sides(source):
    straight, mirrored = (sample(source, 1, scaling=SMALL, flip=flip) for flip in (0.0, 1.0))
    height, width = straight["size_hw"]
    np.testing.assert_array_equal(mirrored["image"][:, :width], straight["image"][:, :width][:, ::-1])
    where = straight["people"]
    expected = straight["boxes"][where][:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [width, 0, width, 0]
    np.testing.assert_allclose(mirrored["boxes"][where], expected, atol=1e-4)
    swapped = straight["keypoints"][:, source.skeleton.flip_index]
    labelled = swapped[..., 2] > 0
    np.testing.assert_array_equal(mirrored["keypoints"][..., 2], swapped[..., 2])
    np.testing.assert_allclose(mirrored["keypoints"][labelled][:, 0], width - swapped[labelled][:, 0], atol=1e-4)


def test_joints_in_the_coordinates_of_torchvision(source):
    scaling = Scaling(48, 80, rule="torchvision", half_pixel=False, padded_long=(96,))
    row, other = sample(source, 0, scaling=scaling), sample(source, 0, scaling=SMALL)
    assert row["image"].dtype == np.float32 and row["size_hw"].tolist() == [59, 48]
    both = (row["keypoints"][..., 2] > 0) & (other["keypoints"][..., 2] > 0)
    shift = other["keypoints"][both][:, 0] - row["keypoints"][both][:, 0]
    np.testing.assert_allclose(shift, 0.5 * 48 / 97, atol=1e-4)


def test_batches_are_the_samples_and_processes_share_them(source):
    whole = take(source, 5, short_sides=(32, 40, 48))
    assert {batch["image"].shape[1:3] for batch in whole} == {(64, 64), (64, 96)}
    assert len({tuple(hw) for batch in whole for hw in batch["size_hw"]}) > 3
    halves = [take(source, 5, short_sides=(32, 40, 48), process_index=i, process_count=2) for i in (0, 1)]
    resumed = take(source, 2, short_sides=(32, 40, 48), start_step=3)
    for t, batch in enumerate(whole):
        for name, values in batch.items():
            np.testing.assert_array_equal(values, np.concatenate([half[t][name] for half in halves]), err_msg=name)
            if t >= 3:
                np.testing.assert_array_equal(values, resumed[t - 3][name], err_msg=name)
    number = int(np.flatnonzero(source.images["image_id"] == whole[0]["image_id"][0])[0])
    row = sample(source, number, scaling=SMALL, short_sides=(32, 40, 48), flip=0.5, seed=5)
    for name, value in row.items():
        np.testing.assert_array_equal(whole[0][name][0], value, err_msg=name)


def test_shapes_take_turns_by_their_share():
    counts = [5, 1, 30]
    turns = [turn(step, counts) for step in range(360)]
    for group, count in enumerate(counts):
        numbers = [number for which, number in turns if which == group]
        assert numbers == list(range(10 * count))
        share = np.cumsum([which == group for which, _ in turns])
        assert np.abs(share - np.arange(1, 361) * count / 36).max() < 2


def test_an_epoch_of_one_shape_has_every_image_once(source):
    square = Scaling(48, 48, padded_long=(48,))
    batches = take(source, 9, scaling=square, choose="all", batch_size=10)
    everyone = sorted(source.images["image_id"])
    assert len(set(everyone)) == 10 and [sorted(batch["image_id"]) for batch in batches] == 9 * [everyone]


def test_who_is_left_out_is_said(source, caplog):
    with caplog.at_level(logging.WARNING):
        people = People.of(source, max_people=1)
    assert "1 boxes have no area inside their image: left out" in caplog.text
    assert "images have more people than max_people=1" in caplog.text and people.slots == 1
    area = people.table["box"][:, 2] * people.table["box"][:, 3]
    everyone = People.of(source)
    for image, largest in zip(people.table["image"], area, strict=True):
        others = everyone.table["box"][everyone.table["image"] == image]
        assert largest == (others[:, 2] * others[:, 3]).max()
    assert len(everyone.select("labelled")) == len(everyone.select("annotated")) == 9
    assert len(everyone.select("all")) == 10
    both = boxed_images.everybody(joined([source, source]))
    assert len(both) == 2 * len(boxed_images.everybody(source)) and both["image"].max() == 19


def test_every_image_is_evaluated_once(source):
    batches = eval_batches(source, batch_size=4, scaling=SMALL)
    rows = list(batches)
    assert len(rows) == len(batches)
    index = np.concatenate([batch["index"][batch["valid"]] for batch in rows])
    assert sorted(index) == list(range(10))
    for batch in rows:
        assert (batch["index"][~batch["valid"]] == -1).all() and (batch["image_id"][~batch["valid"]] == -1).all()
        for i, hw in zip(batch["index"][batch["valid"]], batch["picture_hw"][batch["valid"]], strict=True):
            np.testing.assert_array_equal(source.images["size_wh"][i][::-1], hw)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: Scaling(short=0), "short=0"),
        (lambda s: Scaling(padded_long=(96, 64)), "padded lengths that increase"),
        (lambda s: Scaling(rule="pil"), "rule='pil': expected"),
        (lambda s: take(s, 1, short_sides=(64,)), r"short_sides=\(64,\): expected sides of 1 to 48"),
        (lambda s: take(s, 1, flip=1.5), "flip=1.5: expected a probability"),
        (lambda s: take(s, 1, max_people=0), "max_people must be 1 or more"),
        (lambda s: take(s, 1, choose="none"), "choose must be"),
        (lambda s: take(s, 1, process_count=3), "batch_size 4 must be a positive multiple"),
    ],
)
def test_bad_arguments_are_refused(source, call, message):
    with pytest.raises(ValueError, match=message):
        call(source)


def test_people_that_were_read_already_give_the_same_batches(source):
    people = People.of(source, max_people=1)
    for ours, theirs in zip(take(people, 2), take(source, 2, max_people=1), strict=True):
        assert ours.keys() == theirs.keys()
        for name in theirs:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    with pytest.raises(ValueError, match="max_people=2: the people were read already"):
        take(people, 1, max_people=2)

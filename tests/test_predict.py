"""Pictures -> poses: the geometry of the evaluation, batches, uncertainty, and bad input."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxpose import density, geometry, predict, tasks
from jaxpose.data import crops
from jaxpose.data.formats import coco
from jaxpose.data.pixels import warped
from jaxpose.skeleton import COCO17, Skeleton
from tests import tiny_coco, tiny_run

SIZE_WH = (24, 32)


class Echo(nn.Module):
    """Coordinates and sigma read off the means of twelve parts of the crop: every pixel counts, and it compiles at once."""

    @nn.compact
    def __call__(self, images, *, train=False):
        parts = images.reshape(len(images), 4, 8, 3, 8, 3).mean((2, 4)).reshape(len(images), -1)
        x = nn.Dense(17 * 4, kernel_init=nn.initializers.normal(0.05))(parts)
        mu, raw = jnp.split(x.reshape(-1, 17, 4), 2, -1)
        return mu, nn.sigmoid(raw - 1)


def echo(loss="rle", **options) -> predict.Predictor:
    task = tasks.regression(Echo(), skeleton=COCO17, size_wh=SIZE_WH, likelihood=tasks.Likelihood(loss))
    return predict.Predictor(task, weights(task), {"task": task.config}, **options)


def weights(task: tasks.Task, factor: float = 1.0):
    return jax.tree.map(lambda x: x * factor, task.init(jax.random.key(0)))


IMAGES = [tiny_coco.picture((97, 121)), tiny_coco.picture((160, 120), seed=1)]
BOXES = [[10, 20, 40, 60, 0.9], [-5, 30, 50, 40, 0.4], [30, 5, 300, 80, 0.7]]


@pytest.mark.parametrize("flip_test", [False, True])
def test_poses_are_those_of_the_evaluation(tmp_path, flip_test):
    folder = tiny_coco.write(tmp_path / "set")
    source = coco.read(*coco.find(folder, split="train"))
    predictor = echo(flip_test=flip_test)
    people = source.persons
    files = [folder / "train" / source.file_name(i) for i in people["image"]]
    sizes = source.images["size_wh"][people["image"]]
    poses = predictor(files, [[geometry.clip_box(p["box"], wh)] for p, wh in zip(people, sizes, strict=True)])
    assert len(poses) == len(source) == 10
    for i, found in enumerate(poses):
        sample = crops.sample(source, i, size_wh=SIZE_WH)
        batch = {"image": sample["image"][None]}
        expected = predictor.task.predict(weights(predictor.task), batch, flip_test=flip_test)
        xy = geometry.apply_affine(geometry.invert_affine(sample["affine"]), np.asarray(expected["xy"]))
        np.testing.assert_allclose(found.xy, xy, atol=0.02 * max(found.box[0, 2:]) / 24)
        np.testing.assert_allclose(found.confidence, expected["confidence"], atol=2e-3)
        assert found.score[0] == pytest.approx(1 + found.confidence.mean() + found.confidence.max())
        np.testing.assert_allclose(found.crop_area, sample["crop_area"], rtol=1e-5)


def test_a_batch_is_its_rows_whatever_its_size():
    alone = [echo(batch_size=1)(IMAGES[1], [box]) for box in BOXES]
    for size in (2, 3, 32):
        first, second, nobody, again = echo(batch_size=size)([*IMAGES, *IMAGES], [BOXES[:1], BOXES, [], BOXES[::-1]])
        assert [len(p) for p in (first, second, nobody, again)] == [1, 3, 0, 3]
        for row in range(3):
            np.testing.assert_allclose(second.xy[row], alone[row].xy[0], atol=1e-3)
            np.testing.assert_allclose(again.xy[::-1][row], alone[row].xy[0], atol=1e-3)
            np.testing.assert_allclose(second.sigma[row], alone[row].sigma[0], rtol=1e-4)
        np.testing.assert_array_equal(second.box_score, [0.9, 0.4, 0.7])
        assert nobody.xy.shape == (0, 17, 2) and nobody.deviation.shape == (0, 17, 2) and nobody.records(3) == []
        assert [c.shape[:2] for c in nobody.regions(0.5)] == [(0, 17)]
        assert np.abs(first.xy - alone[0].xy).max() > 0.1, "another picture, other poses"


def test_only_a_few_programs_are_compiled():
    predictor = echo(batch_size=4)
    for count in (1, 2, 3, 4, 5, 6, 7, 8, 9):
        predictor(IMAGES[0], [BOXES[0]] * count)
    assert predictor._predict._cache_size() == 3  # of 1, 2 and 4


def test_the_pose_moves_with_the_picture():
    image = np.zeros((200, 220, 3), np.uint8)
    image[60:140, 70:150] = tiny_coco.picture((80, 80))
    moved = np.roll(image, (17, -23), (0, 1))
    predictor = echo()
    there, here = predictor(moved, [[65, 80, 40, 60]]), predictor(image, [[88, 63, 40, 60]])
    np.testing.assert_allclose(there.xy, here.xy + (-23, 17), atol=1e-3)
    np.testing.assert_allclose(there.deviation, here.deviation, rtol=1e-5)


def test_without_boxes_the_whole_picture_is_the_box():
    predictor = echo()
    whole, boxed = predictor(IMAGES[0]), predictor(IMAGES[0], [[0, 0, 97, 121]])
    np.testing.assert_array_equal(whole.xy, boxed.xy)
    assert len(whole) == 1 and whole.box.tolist() == [[0, 0, 97, 121]]


def test_the_deviation_and_the_regions_are_those_of_the_density_in_pixels():
    predictor = echo("gaussian")  # sigma is the deviation of a fraction of the crop; a region is an ellipse
    poses = predictor(IMAGES[0], BOXES[:1])
    model = predictor.density
    np.testing.assert_allclose(density.moments(model).standard_deviation, 1, atol=1e-3)
    crop_wh = geometry.fit_box(poses.box, aspect=24 / 32, padding=1.25)[0, 2:]
    pixels = np.array(BOXES[0][:4], float)
    crop = geometry.box_to_affine(pixels, SIZE_WH)
    image = warped(IMAGES[0], crop, SIZE_WH)
    outputs = predictor.task.predict(weights(predictor.task), {"image": image[None]}, flip_test=True)
    np.testing.assert_allclose(poses.deviation[0], outputs["sigma"][0] * crop_wh, rtol=2e-3)
    (curve,) = poses.regions(0.5)
    radius = np.linalg.norm((curve - poses.xy[:, :, None]) / poses.sigma[:, :, None], axis=-1)
    np.testing.assert_allclose(radius, np.sqrt(2 * np.log(2)), rtol=0.02)
    assert np.ptp(curve[0, 3, :, 0]) == pytest.approx(2 * 1.177 * poses.sigma[0, 3, 0], rel=0.02)
    assert curve.shape[:2] == (1, 17)


def test_a_net_without_a_density_says_so():
    poses = echo("l1")(IMAGES[0])
    assert poses.deviation is None and poses.confidence.tolist() == [[1.0] * 17]
    with pytest.raises(ValueError, match="no density"):
        poses.regions(0.5)


@pytest.mark.parametrize(
    "boxes, message",
    [
        ([1, 2, 3, 4], r"boxes of image 0 are \(4,\): expected \(P, 4\)"),
        ([[1, 2, 3]], r"are \(1, 3\)"),
        ([["a", 2, 3, 4]], "expected .P, 4."),
        ([[1, 2, 0, 4]], "positive width and height"),
        ([[1, 2, 30, -4]], "positive width and height"),
        ([[np.nan, 2, 3, 4]], "finite"),
        ([[1, 2, 3, 4, np.inf]], "finite"),
        ([[500, 2, 3, 4]], "outside the image of 97x121"),
        ([[-9, 2, 8, 4]], "outside the image"),
    ],
)
def test_bad_boxes(boxes, message):
    with pytest.raises(ValueError, match=message):
        echo()(IMAGES[0], boxes)


def test_other_bad_calls():
    with pytest.raises(ValueError, match="2 images and 1 entries of boxes"):
        echo()(IMAGES, [BOXES])
    with pytest.raises(ValueError, match="batch_size=-1"):
        echo(batch_size=-1)
    task = echo().task
    broken = predict.Predictor(task, weights(task, jnp.nan), {"task": task.config})
    with pytest.raises(ValueError, match="not finite.*damaged"):
        broken(IMAGES[0])
    assert echo()([], []) == []


# ------------------------------------------------------------------------------------------------- people found by the net

DOTS = Skeleton(
    name="dots", joints=("left_dot", "right_dot"), flip_pairs=((0, 1),), limbs=((0, 1),), sigmas=(0.1, 0.1), upper=()
)


class Dots(tasks.BottomUp):
    """Red is the heatmap of the left dot, green of the right one, blue the tag; two pixels make one of the map."""

    def predict(self, variables, batch, *, flip_test=True):
        images = batch["image"].astype(jnp.float32)
        coarse = images.reshape(len(images), images.shape[1] // 2, 2, images.shape[2] // 2, 2, 3).mean((2, 4)) / 255
        tag = jnp.broadcast_to(coarse[..., 2:] * 10, coarse[..., :2].shape)
        return {"heatmap": coarse[..., :2], "tag": tag[..., None]}


def dots_task() -> tasks.BottomUp:
    search = tasks.FindPeople(max_people=5, detection_threshold=0.3, refine=False)
    return Dots(None, skeleton=DOTS, size_wh=(64, 64), search=search)  # a net that nothing asks


def with_people(size_wh, people) -> np.ndarray:
    """A picture with two soft dots for each person, 20 pixels apart; blue tells people apart."""
    x, y = np.meshgrid(np.arange(size_wh[0]), np.arange(size_wh[1]))
    image = np.zeros((size_wh[1], size_wh[0], 3))
    for number, (px, py) in enumerate(people):
        for joint in (0, 1):
            near = (x - px - 20 * joint) ** 2 + (y - py) ** 2
            image[..., joint] = np.maximum(image[..., joint], 250 * np.exp(-near / 32))
            image[..., 2][near < 100] = 80 + 120 * number
    return image.astype(np.uint8)


def test_people_come_back_in_the_pixels_of_pictures_of_any_size():
    task = dots_task()
    predictor = predict.Predictor(task, {}, {"task": task.config}, flip_test=False, batch_size=2, test_size=128)
    sizes, people = (
        [(128, 128), (256, 192), (150, 260), (128, 128), (128, 128)],
        [[(30, 40), (80, 90)], [(60, 100), (180, 50)], [(40, 200)], [], [(90, 20)]],
    )
    poses = predictor([with_people(wh, there) for wh, there in zip(sizes, people, strict=True)])
    assert [len(p) for p in poses] == [2, 2, 1, 0, 1]
    for found, there, size in zip(poses, people, sizes, strict=True):
        found_xy = found.xy[np.argsort(found.xy[:, 0, 0])]
        for xy, (px, py) in zip(found_xy, sorted(there), strict=True):
            np.testing.assert_allclose(xy, [(px, py), (px + 20, py)], atol=1.5 * max(1, min(size) / 128))
        assert found.box is None and (np.diff(found.score) <= 0).all()
    with pytest.raises(ValueError, match="finds the people itself"):
        predictor(IMAGES[0], [BOXES[0]])


def test_a_checkpoint_of_whole_images_loads_and_flips_as_it_was_trained(tmp_path):
    task = tiny_run.bottom_up_task()
    for augment, flips in (("light", False), ("higher_hrnet", True)):
        predictor = predict.load(
            tiny_run.write(tmp_path / augment, task, run={"augment": augment, "flip_test": None}), test_size=64
        )
        assert predictor.finds_people and predictor.flip_test is flips
    (poses,) = predictor([np.zeros((80, 70, 3), np.uint8)])
    assert poses.xy.shape[1:] == (17, 2) and poses.deviation is None


def test_weights_without_their_flow_predict_without_a_density(tmp_path):
    task = tiny_run.regression_task()
    variables = task.init(jax.random.key(0))
    del variables["params"]["flow"]
    poses = predict.load(tiny_run.write(tmp_path, task, variables=variables))(IMAGES[0])
    assert poses.deviation is None and poses.xy.shape == (1, 17, 2)


@pytest.mark.parametrize("size", [0, 100, -64])
def test_sizes_of_whole_images_are_multiples_of_64(size):
    task = dots_task()
    with pytest.raises(ValueError, match="expected a multiple of 64"):
        predict.Predictor(task, {}, {"task": task.config}, flip_test=False, test_size=size)

"""The predictors that never look: mean position and nearest training pose, and what is said of a model beside them."""

from __future__ import annotations

import numpy as np
import pytest

from jaxpose.evaluation.baselines import MAX_POSES, Baselines, causes, mean_position, nearest_pose, verdict

RNG = np.random.default_rng(0)


def people(count: int, joints: int = 5, labelled: float = 0.7):
    """Keypoints (N, K, 3) and boxes (N, 4) of people of different sizes; every joint is labelled somewhere."""
    boxes = np.column_stack([RNG.uniform(0, 50, (count, 2)), RNG.uniform(20, 200, (count, 2))])
    places = RNG.uniform(0, 1, (count, joints, 2))
    visibility = np.where(RNG.random((count, joints)) < labelled, 2, 0)
    visibility[0] = 2
    xy = boxes[:, None, :2] + places * boxes[:, None, 2:]
    return np.concatenate([xy, visibility[..., None]], -1), boxes


def test_the_mean_is_of_the_labelled_places_in_the_box():
    keypoints, boxes = people(40)
    baselines = Baselines.from_training(keypoints, boxes)
    for k in range(5):
        rows = keypoints[:, k, 2] > 0
        places = (keypoints[rows, k, :2] - boxes[rows, :2]) / boxes[rows, 2:]
        np.testing.assert_allclose(baselines.mean[k], places.mean(0))
    placed = mean_position(baselines.mean, boxes)
    np.testing.assert_allclose(
        (placed - boxes[:, None, :2]) / boxes[:, None, 2:], np.broadcast_to(baselines.mean, (40, 5, 2))
    )


def test_unlabelled_joints_hold_anything_and_count_nowhere():
    keypoints, boxes = people(30)
    garbage = keypoints.copy()
    garbage[keypoints[..., 2] == 0, :2] = np.nan
    expected, found = (Baselines.from_training(k, boxes) for k in (keypoints, garbage))
    np.testing.assert_array_equal(found.mean, expected.mean)
    np.testing.assert_array_equal(found.poses, expected.poses)
    rows = {"joints": garbage[..., :2], "visibility": garbage[..., 2], "box": boxes}
    assert all(np.isfinite(value) for value in found.errors(rows).values())


def test_the_nearest_pose_is_the_best_of_all_and_a_training_pose_fits_itself():
    keypoints, boxes = people(25, labelled=1.0)
    baselines = Baselines.from_training(keypoints, boxes)
    itself = baselines.errors({"joints": keypoints[..., :2], "visibility": keypoints[..., 2], "box": boxes})
    assert itself["EPE_nearest_pose"] == pytest.approx(0, abs=1e-9)
    assert itself["EPE_mean_position"] > 1
    others, their_boxes = people(10)
    where = others[..., 2] > 0
    placed = nearest_pose(baselines.poses, others[..., :2], their_boxes, where=where)
    for i in range(10):
        every = their_boxes[i, :2] + baselines.poses * their_boxes[i, 2:]
        errors = np.linalg.norm(every - others[i, :, :2], axis=-1)[:, where[i]].mean(-1)
        mine = np.linalg.norm(placed[i] - others[i, :, :2], axis=-1)[where[i]].mean()
        assert mine == pytest.approx(errors.min())


def test_a_joint_that_is_never_labelled_and_a_set_of_one():
    keypoints = np.array([[[5.0, 5, 2], [np.nan, np.nan, 0]]])
    baselines = Baselines.from_training(keypoints, np.array([[0, 0, 10, 10]]))
    assert baselines.mean.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert (
        baselines.errors({"joints": keypoints[..., :2], "visibility": keypoints[..., 2] * 0, "box": [[0, 0, 10, 10]]})
        == {}
    )


def test_a_large_training_set_is_compared_in_part():
    keypoints, boxes = people(2 * MAX_POSES, joints=2)
    assert Baselines.from_training(keypoints, boxes).poses.shape == (MAX_POSES, 2, 2)


@pytest.mark.parametrize("shapes", [((3, 5, 2), (3, 4)), ((3, 5, 3), (2, 4)), ((0, 5, 3), (0, 4))])
def test_shapes_are_checked(shapes):
    with pytest.raises(ValueError, match="at least one person"):
        Baselines.from_training(*(np.zeros(shape) for shape in shapes))


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ({"EPE": 14.1, "EPE_mean_position": 28.0}, "not clearly better"),
        ({"EPE": 28.0, "EPE_mean_position": 28.0}, "worse than knowing nothing"),
        ({"EPE": 13.9, "EPE_mean_position": 28.0}, None),
        ({"EPE": 13.9}, None),
    ],
)
def test_the_verdict(scores, words):
    sentence = verdict(scores)
    assert (sentence is None) if words is None else (words in sentence and "28.0 px" in sentence)


def test_causes_in_the_data():
    keypoints, boxes = people(40, joints=4, labelled=1.0)
    rows = {"xy": keypoints[..., :2], "joints": keypoints[..., :2], "visibility": keypoints[..., 2], "box": boxes}
    assert causes(rows, flip_pairs=[(0, 1)], flipped=True) == []
    assert "no joint of the skeleton has a partner" in causes(rows, flip_pairs=[], flipped=True)[0]
    assert causes(rows, flip_pairs=[], flipped=False) == []
    exchanged = rows | {"joints": rows["joints"].copy()}
    exchanged["joints"][:10] = exchanged["joints"][:10, [1, 0, 2, 3]]
    assert "in 25 % of the pairs" in causes(exchanged, flip_pairs=[(0, 1)], flipped=True)[0]
    corners = rows | {"box": np.column_stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]) * [0.1, 0.1, 0.1, 0.1]}
    assert "outside their boxes" in causes(corners, flip_pairs=[(0, 1)], flipped=True)[0]
    assert causes(rows | {"visibility": 0 * rows["visibility"]}, flip_pairs=[], flipped=False) == [
        "no joint is labelled in the evaluation split"
    ]

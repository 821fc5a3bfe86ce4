"""Identities over a video: crossings with occlusion, births and deaths, and the scores that count mistakes."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import tracking as crossings
from jaxpose import cli, tracking, trajectories
from jaxpose.predict.track import from_results
from jaxpose.tracking import Options
from jaxpose.trajectories import Trajectories


@pytest.fixture(scope="module")
def crossing():
    """Two people who pass one another, one of them hidden meanwhile: (poses, true persons)."""
    return crossings.video(150, 2, seed=1)


def points(xy: np.ndarray, *, deviation: float = 1.0) -> Trajectories:
    """Of persons with one joint, (T, P, 2)."""
    xy = np.asarray(xy, float)[:, :, None]
    spread = np.where(np.isnan(xy[..., None]), np.nan, deviation**2 * np.eye(2))
    return Trajectories(xy, spread, np.ones(xy.shape[:3]), np.arange(len(xy)), 25.0, ["nose"], (640, 480))


@pytest.mark.parametrize(
    "ids, truth, expected",
    [
        ([[0, 1]] * 4, [[5, 2]] * 4, (0, 1.0)),
        ([[0, 1]] * 2 + [[1, 0]] * 2, [[0, 1]] * 4, (2, 0.5)),
        ([[0], [0], [1], [1], [1]], [[0]] * 5, (1, 0.6)),
        ([[0], [-1], [0]], [[0]] * 3, (0, 0.8)),
        ([[0, 1], [0, 1]], [[0, -1]] * 2, (0, 2 / 3)),
        ([[0, 0], [-1, -1]], [[-1, -1]] * 2, (0, 0.0)),
        ([[-1]], [[-1]], (0, 1.0)),
    ],
)
def test_switches_and_idf1(ids, truth, expected):
    scores = tracking.identity_scores(np.array(ids), np.array(truth))
    assert scores["switches"] == expected[0] and scores["IDF1"] == pytest.approx(expected[1])


def test_idf1_is_symmetric_and_does_not_see_the_numbers():
    rng = np.random.default_rng(0)
    ids, truth = rng.integers(-1, 4, (2, 40, 3))
    score = tracking.identity_scores(ids, truth)["IDF1"]
    assert tracking.identity_scores(truth, ids)["IDF1"] == pytest.approx(score)
    renamed = np.array([7, 3, 11, 5, -1])[ids]
    assert tracking.identity_scores(renamed, truth)["IDF1"] == pytest.approx(score)


@pytest.mark.parametrize("deviation", [1.0, 200.0])
def test_covariances_as_wide_as_the_image_leave_no_pose_without_a_track(deviation):
    walk = np.stack([100.0 + np.arange(20), np.full(20, 200.0)], -1)[:, None]
    poses = points(walk, deviation=deviation)
    assert tracking.track(poses).present.sum() == 20
    assert not tracking.describe_losses(poses, tracking.track(poses), people=1)


def test_lost_poses_are_described():
    far = points(np.where(np.arange(8) % 2, 10.0, 600.0)[:, None, None] * np.ones(2))
    tracks = tracking.track(far, options=Options(max_gap=0.01))
    (sentence,) = tracking.describe_losses(far, tracks)
    assert sentence.startswith("8 of 8 poses are in no track")


@pytest.mark.parametrize("people", [None, 2])
def test_a_crossing_with_occlusion_is_followed(crossing, people):
    poses, truth = crossing
    behind = np.isnan(poses.mean).all((2, 3)).sum(1)
    assert (behind >= 2).sum() >= 5, "somebody is hidden in the video"
    scores = tracking.identity_scores(tracking.assign(poses, options=Options(people=people)), truth)
    assert scores["switches"] == 0 and scores["IDF1"] > 0.98 and scores["tracks"] == 2


def test_the_density_makes_fewer_mistakes_than_similarity_with_the_last_pose():
    found = {measure: 0 for measure in ("density", "oks", "iou")}
    for seed in (2,):
        poses, truth = crossings.video(120, 4, seed=seed)
        for measure in found:
            found[measure] += tracking.identity_scores(tracking.assign(poses, options=Options(measure=measure)), truth)[
                "switches"
            ]
    assert found["density"] == 0 < min(found["oks"], found["iou"])


def test_the_order_of_the_poses_says_nothing(crossing):
    poses, truth = crossing
    order = np.random.default_rng(0).permuted(np.tile(np.arange(3), (len(truth), 1)), axis=1)
    rows = np.arange(len(truth))[:, None]
    mixed = poses.replace(**{name: getattr(poses, name)[rows, order] for name in ("mean", "covariance", "score")})
    ids, other = (tracking.assign(some) for some in (poses, mixed))
    assert tracking.identity_scores(other, ids[rows, order])["IDF1"] == pytest.approx(1.0)


def test_births_deaths_and_people_known():
    """One joint stays, another one comes for a while, returns after two seconds elsewhere; a third is seen once."""
    xy = np.full((160, 3, 2), np.nan)
    xy[:, 0] = 50, 50
    xy[20:40, 1], xy[100:, 1] = (300, 50), (310, 50)
    xy[70, 2] = 600, 400
    poses = points(xy)
    ids = tracking.assign(poses)
    assert ids[:, 0].tolist() == [0] * 160 and set(ids[20:40, 1]) == {1} and set(ids[100:, 1]) == {2}
    assert ids[70, 2] == -1, "too few frames for a track"
    longer = tracking.assign(poses, options=Options(max_gap=3.0))
    assert set(longer[100:, 1]) == {1} and longer.max() == 1
    known = tracking.track(poses, options=Options(people=2))
    assert known.mean.shape[1] == 2 and known.present.sum(0).tolist() == [160, 80]
    assert known.individuals == ("track1", "track2") and known.tracked
    assert tracking.track(points(xy[:, 2:]), options=Options(people=3)).mean.shape == (160, 3, 1, 2)


def test_a_pose_too_far_away_is_another_person():
    xy = np.full((60, 1, 2), 50.0)
    xy[30:] = 400, 300
    assert tracking.assign(points(xy))[:, 0].tolist() == [0] * 30 + [1] * 30


def test_without_covariances_and_with_absent_joints(crossing):
    poses, truth = crossing
    mean, covariance = poses.mean.copy(), np.full_like(poses.covariance, np.nan)
    mean[np.random.default_rng(0).random(mean.shape[:3]) < 0.3] = np.nan
    scores = tracking.identity_scores(tracking.assign(poses.replace(mean=mean, covariance=covariance)), truth)
    assert scores["IDF1"] > 0.7
    empty = poses.replace(mean=np.full_like(mean, np.nan))
    assert (tracking.assign(empty) == -1).all() and tracking.track(empty).mean.shape[1] == 0


@pytest.mark.parametrize(
    "options", [{"people": 0}, {"measure": "reid"}, {"gate": 1.0}, {"min_frames": 0}, {"max_gap": -1.0}]
)
def test_options_outside_their_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Options(**options)


def test_numbers_that_do_not_fit_are_refused(crossing):
    poses, truth = crossing
    with pytest.raises(ValueError, match="ids has shape"):
        tracking.rearrange(poses, truth[:, :1])
    with pytest.raises(ValueError, match="twice in one frame"):
        tracking.rearrange(poses, np.zeros_like(truth))
    with pytest.raises(ValueError, match="truth"):
        tracking.identity_scores(truth, truth[1:])


def test_the_command(crossing, tmp_path, capsys):
    poses, truth = crossing
    trajectories.write(tmp_path / "walk_poses.npz", poses)
    cli.main(["track", str(tmp_path / "walk_poses.npz"), "--people", "2", "--formats", "npz", "dlc"])
    said = json.loads(capsys.readouterr().out)
    false_positives = (truth < 0).sum() - np.isnan(poses.mean[..., 0, 0]).sum()
    assert (said["tracks"], said["frames"], said["poses_without_track"]) == (2, 150, false_positives)
    tracks = trajectories.read(tmp_path / "walk_tracks.npz")
    assert tracks.tracked and (tmp_path / "walk_tracks_dlc.csv").exists()
    for p in range(2):
        person = truth[np.nonzero(poses.mean[..., 0, 0] == tracks.mean[10, p, 0, 0])][0]
        seen = tracks.present[:, p]
        np.testing.assert_array_equal(tracks.mean[seen, p], poses.mean[truth == person])


def test_results_of_a_video_as_trajectories():
    images = {
        "images": [{"id": i + 3, "file_name": "a/walk.mp4", "frame": i, "width": 64, "height": 48} for i in range(3)],
        "categories": [{"keypoints": ["nose", "tail"], "skeleton": [[1, 2]]}],
    }
    records = [{"image_id": i, "keypoints": [1.0 * i, 2, 0.5, 0, 0, 0]} for i in (3, 5, 5)]
    poses = from_results(records, images, fps=30.0)["a/walk.mp4"]
    assert poses.mean.shape == (3, 2, 2, 2) and poses.present.sum(1).tolist() == [1, 0, 2]
    assert poses.edges == ((0, 1),) and poses.score[0, 0].tolist() == [0.5, 0.0] and np.isnan(poses.mean[0, 0, 1]).all()
    for broken in ([{"image_id": 3}], [{"image_id": 3, "keypoints": [1, 2]}], [3]):
        with pytest.raises(ValueError, match="not those of `jaxpose predict`"):
            from_results(broken, images, fps=30.0)
    for change in ({"id": [1]}, {"frame": None}, {"frame": 2**70}, {"width": None}, {"width": 0}):
        wrong = [image | change for image in images["images"]]
        with pytest.raises(ValueError):
            from_results(records, images | {"images": wrong}, fps=30.0)
    with pytest.raises(ValueError, match="not those of `jaxpose predict`"):
        from_results(
            records, images | {"images": [{"file_name": "a.mp4", "frame": 0, "width": 9, "height": 9}]}, fps=30.0
        )
    with pytest.raises(ValueError, match="of pictures"):
        from_results([], {**images, "images": []}, fps=30.0)


def test_videos_of_one_name_do_not_overwrite_one_another(crossing, tmp_path, capsys):
    poses, _ = crossing
    for folder in ("a", "b"):
        trajectories.write(tmp_path / folder / "walk_poses.npz", poses)
    inputs = [str(tmp_path / folder / "walk_poses.npz") for folder in ("a", "b")]
    cli.main(["track", *inputs, "--people", "2", "--out", str(tmp_path / "out")])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["walk_tracks.npz", "walk_tracks_2.npz"]


@pytest.mark.parametrize("gap", [0, 10, 300])
def test_a_known_person_who_comes_back_elsewhere_is_not_lost(gap):
    xy = np.full((60 + gap, 1, 2), np.nan)
    xy[:30], xy[30 + gap :] = 50, (400, 300)
    if gap > 100:
        xy[100] = 600, 20  # a false positive meanwhile
    ids = tracking.assign(points(xy), options=Options(people=1))
    assert set(ids[:30, 0]) == set(ids[30 + gap :, 0]) == {0} and (ids[30 : 30 + gap] == -1).all()


def test_of_two_known_people_the_one_who_left_comes_back():
    xy = np.full((90, 2, 2), 50.0)
    xy[:30, 1], xy[30:60, 1], xy[60:, 1] = (300, 50), np.nan, (500, 300)
    ids = tracking.assign(points(xy), options=Options(people=2))
    assert (ids[:, 0] == 0).all() and set(ids[:30, 1]) == set(ids[60:, 1]) == {1}


@pytest.mark.parametrize("people", [None, 1])
def test_poses_as_uncertain_as_the_image_is_wide_are_still_linked(people):
    poses = points(np.random.default_rng(0).normal(300, 30, (40, 1, 2)))
    wide = poses.replace(covariance=np.full_like(poses.covariance, 0) + 300.0**2 * np.eye(2))
    assert (tracking.assign(wide, options=Options(people=people)) == 0).all()


@pytest.mark.parametrize("command", ["track", "smooth"])
def test_a_rate_beside_a_file_that_states_its_own_is_refused(crossing, tmp_path, command):
    trajectories.write(tmp_path / "walk.npz", crossing[0])
    with pytest.raises(SystemExit, match="--fps .*leave"):
        cli.main([command, str(tmp_path / "walk.npz"), "--fps", "30"])

"""Poses of frames as trajectories, without a net."""

from __future__ import annotations

import numpy as np
import pytest

from jaxpose import density, trajectories
from jaxpose.predict import Poses
from jaxpose.predict.sequences import Options, Sequences, rows_of
from jaxpose.predict.work import _places
from jaxpose.skeleton import COCO17

LAPLACE = density.Model(log_g=None, base="laplace")


def poses(people: int, *, sigma: float | None = 2.0, seed: int = 0) -> Poses:
    rng = np.random.default_rng(seed)
    xy, confidence = rng.uniform(0, 40, (people, 17, 2)), rng.uniform(0.1, 0.9, (people, 17))
    likelihood = {} if sigma is None else {"sigma": np.full((people, 17, 2), sigma), "density": LAPLACE}
    return Poses(xy, confidence, np.ones(people), COCO17, **likelihood)


def test_the_score_is_the_share_of_errors_below_the_radius():
    _, covariance, score = rows_of(poses(1), radius=5.0)
    errors = np.random.default_rng(0).laplace(scale=2.0, size=(100_000, 2))
    assert score[0, 0] == pytest.approx((np.hypot(*errors.T) < 5).mean(), abs=0.01)
    np.testing.assert_allclose(covariance[0, 0], np.cov(errors.T), atol=0.2)


def test_sequences_are_padded_and_frames_of_another_size_are_left_out(tmp_path, caplog):
    sequences = Sequences(tmp_path, Options(formats=("npz",), radius=3.0, fps=10), COCO17)
    for frame, people in enumerate((1, 0, 2)):
        sequences.add("a", poses(people, seed=frame), name="walk", frame=frame, size_wh=(64, 48))
        sequences.add("b", poses(people, sigma=None), name="walk", frame=frame, size_wh=(64, 48), fps=30.0)
    sequences.add("a", poses(1), name="walk", frame=3, size_wh=(48, 64))
    paths = sequences.write()
    assert [path.name for path in paths] == ["walk.npz", "walk_2.npz"]
    first, second = map(trajectories.read, paths)
    assert first.present.tolist() == [[True, False], [False, False], [True, True]] and not first.tracked
    assert (first.fps, first.radius, second.fps, second.radius) == (10.0, 3.0, 30.0, None)
    np.testing.assert_array_equal(first.mean[2], poses(2, seed=2).xy)
    assert np.isnan(second.covariance).all() and second.score[0, 0].max() > 0
    assert "which of them is the same one" in caplog.text
    assert sequences.failed == [
        "a: 1 pictures are not 64x48 pixels large as the first one is: they are not in its trajectories (walk)"
    ]


def test_without_formats_nothing_is_kept(tmp_path):
    sequences = Sequences(tmp_path, Options(), COCO17)
    sequences.add("a", poses(1), name="walk", frame=0, size_wh=(64, 48))
    assert sequences.write() == [] and not list(tmp_path.iterdir())


@pytest.mark.parametrize("options, message", [({"radius": 0.0}, "--within 0.0"), ({"fps": float("nan")}, "--fps nan")])
def test_options_outside_their_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Options(**options)


def test_tracks_are_made_where_they_are_asked_for(tmp_path, caplog):
    """Two people who stand still, in another order in every frame."""
    sequences = Sequences(tmp_path, Options(formats=("npz",), tracked=True, people=2), COCO17)
    both = poses(2)
    for frame in range(4):
        order = [frame % 2, 1 - frame % 2]
        mixed = Poses(both.xy[order], both.confidence[order], both.score, COCO17, sigma=both.sigma, density=LAPLACE)
        sequences.add("a", mixed, name="walk", frame=frame, size_wh=(64, 48))
    (path,) = sequences.write()
    tracks = trajectories.read(path)
    assert tracks.tracked and "jaxpose track" not in caplog.text
    np.testing.assert_array_equal(tracks.mean, np.broadcast_to(tracks.mean[:1], tracks.mean.shape))
    with pytest.raises(ValueError, match="give --formats too"):
        Options(tracked=True)
    with pytest.raises(ValueError, match="give --formats too"):
        Options(radius=7.0)
    with pytest.raises(ValueError, match="people=0"):
        Options(formats=("npz",), people=0)


def test_frames_of_a_folder_are_in_the_order_of_their_numbers(tmp_path):
    files = [tmp_path / f"frame_{i}.png" for i in (1, 10, 2)] + [tmp_path / "other" / "a.png"]  # as a shell sorts them
    numbers = {file.name: frame for file, (_, frame) in _places(files).items()}
    assert numbers == {"frame_1.png": 0, "frame_10.png": 2, "frame_2.png": 1, "a.png": 0}
    sequences = Sequences(tmp_path, Options(formats=("npz",)), COCO17)
    for frame in (0, 2, 1):
        sequences.add("a", poses(1, seed=frame), name="walk", frame=frame, size_wh=(64, 48))
    walk = trajectories.read(sequences.write()[0])
    assert walk.frame.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(walk.mean[1], poses(1, seed=1).xy)

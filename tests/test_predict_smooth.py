"""`jaxpose smooth`: files in, files out, and what is written where joints are missing."""

from __future__ import annotations

import json

import numpy as np
import pytest

from jaxpose import cli, interchange, trajectories
from jaxpose.predict import smooth
from jaxpose.predict.smooth import Method
from jaxpose.trajectories import Trajectories

FRAMES, SIGMA = 40, 2.0


def walk(*, people: int = 1, **changes) -> tuple[Trajectories, np.ndarray]:
    """Two joints on straight lines, and noise; joint 1 is not seen in frames 10 to 14, nor after 34."""
    rng = np.random.default_rng(0)
    truth = np.stack([30 + 3.0 * np.arange(FRAMES), np.full(FRAMES, 50.0)], -1)[:, None, None] + np.array(
        [[0.0, 0], [9, 5]]
    )
    truth = np.broadcast_to(truth, (FRAMES, people, 2, 2))
    mean = truth + rng.normal(size=truth.shape) * SIGMA
    mean[10:15, :, 1] = mean[35:, :, 1] = np.nan
    absent = np.isnan(mean[..., 0])
    covariance = np.where(absent[..., None, None], np.nan, SIGMA**2 * np.eye(2))
    score = np.where(absent, 0.0, 0.8)
    options = dict(radius=5.0, edges=((0, 1),)) | changes
    return Trajectories(
        mean, covariance, score, np.arange(FRAMES) + 100, 30.0, ("nose", "tail"), (200, 100), **options
    ), truth


def test_a_file_of_trajectories(tmp_path, capsys):
    poses, truth = walk()
    trajectories.write(tmp_path / "walk.npz", poses)
    cli.main(["smooth", str(tmp_path / "walk.npz"), "--formats", "npz", "dlc"])
    line = json.loads(capsys.readouterr().out)
    assert (line["frames"], line["joints"], line["joints_written"]) == (40, 70, 75)
    result = trajectories.read(tmp_path / "walk_smooth.npz")
    assert (result.names, result.edges, result.fps, result.radius) == (poses.names, poses.edges, 30.0, 5.0)
    assert np.array_equal(result.frame, poses.frame) and [*map(str, line["files"])][1].endswith("walk_smooth_dlc.csv")
    known = np.isfinite(result.mean[..., 0])
    assert (
        known[:, 0, 0].all() and known[:35, 0, 1].all() and not known[35:, 0, 1].any()
    )  # gaps are filled, ends are not
    seen = np.isfinite(poses.mean[..., 0])
    before, after = (np.sqrt(np.mean((t.mean - truth)[seen] ** 2)) for t in (poses, result))
    assert after < before / 1.5
    assert (result.score[known] > poses.score[seen].min()).all() and not result.score[~known].any()
    deviation = np.sqrt(result.covariance[:, 0, 1, 0, 0])
    assert deviation[12] > deviation[8] and deviation[8] < SIGMA


def test_a_csv_and_the_causal_form(tmp_path, capsys):
    poses, truth = walk()
    interchange.write_dlc(tmp_path / "walk_dlc.csv", poses)
    for name, flags in (("both", ()), ("causal", ("--causal", "--process-noise", "0.01"))):
        cli.main(["smooth", str(tmp_path / "walk_dlc.csv"), "--out", str(tmp_path / name), *flags])
        result = interchange.read_dlc(tmp_path / name / "walk_smooth_dlc.csv", fps=30.0, size_wh=(200, 100))
        seen = np.isfinite(poses.mean[..., 0])
        before, after = (np.sqrt(np.mean((t.mean - truth)[seen] ** 2)) for t in (poses, result))
        assert after < before
    assert result.mean[12, 0, 1, 0] == pytest.approx(truth[12, 0, 1, 0], abs=4), "carried on into the gap"
    capsys.readouterr()


def test_frames_that_were_left_out_take_their_time():
    poses, truth = walk()
    every = np.delete(np.arange(FRAMES), np.s_[20:30])
    thin = poses.replace(**{n: getattr(poses, n)[every] for n in ("mean", "covariance", "score", "frame")})
    result, _ = smooth.smooth(thin, Method(process_noise=1e-4))
    assert np.abs(result.mean - truth[every])[:, 0, 0].max() < 2.5  # not a jump of ten frames in one


def test_two_persons_keep_apart_and_one_who_is_never_seen_stays_absent():
    poses, _ = walk(people=2, tracked=True)
    mean = poses.mean.copy()
    mean[:, 1] = np.nan
    gone = poses.replace(mean=mean, score=np.where(np.isnan(mean[..., 0]), 0.0, poses.score))
    result, noise = smooth.smooth(gone, Method(process_noise=0.1))
    alone, _ = smooth.smooth(walk()[0], Method(process_noise=0.1))
    assert np.isnan(result.mean[:, 1]).all() and np.isnan(noise[1]).all() and noise[0].tolist() == [0.1, 0.1]
    assert result.mean.shape == poses.mean.shape and alone.mean.shape[1] == 1


def test_the_probability_of_a_small_error():
    rng = np.random.default_rng(0)
    for covariance in (np.diag([4.0, 4.0]), np.array([[9.0, 4.0], [4.0, 2.5]]), np.diag([100.0, 0.01])):
        draws = rng.multivariate_normal([0, 0], covariance, 200_000)
        share = (np.linalg.norm(draws, axis=1) < 3).mean()
        assert smooth.probability_within(covariance, radius=3.0) == pytest.approx(share, abs=0.004)
    assert smooth.probability_within(np.full((2, 2), np.nan), radius=3.0) == 0


def test_what_is_wrong_is_said(tmp_path):
    poses, _ = walk(people=2)
    trajectories.write(tmp_path / "two.npz", poses)
    for words, message in (
        ([str(tmp_path / "two.npz")], "2 persons that are not the same ones in all frames: run `jaxpose track`"),
        ([str(tmp_path / "none.npz")], "none.npz does not exist"),
        ([str(tmp_path / "two.txt")], "two.txt: expected trajectories"),
        ([str(tmp_path / "two.npz"), "--process-noise", "-1"], "--process-noise -1.0: expected a positive"),
        ([str(tmp_path / "two.npz"), "--fill", "-1"], "--fill -1"),
    ):
        with pytest.raises(SystemExit, match=message):
            cli.main(["smooth", *words])


def test_nobody_and_frames_that_are_numbered_wrongly():
    poses, _ = walk(people=1)
    nobody = poses.replace(
        mean=poses.mean[:, :0], covariance=poses.covariance[:, :0], score=poses.score[:, :0], individuals=()
    )
    result, noise = smooth.smooth(nobody, Method())
    assert result.mean.shape == (FRAMES, 0, 2, 2) and noise.shape == (0, 2)
    frame = poses.frame.copy()
    frame[-1] = 10**12
    with pytest.raises(ValueError, match="numbered from 100 to 1000000000000"):
        smooth.smooth(poses.replace(frame=frame), Method())

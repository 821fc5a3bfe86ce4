"""`jaxpose triangulate`: files of views and of a calibration in, points in space out."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from jaxpose import cli, interchange, trajectories
from jaxpose.trajectories import Trajectories
from tests.test_triangulation import ring

FRAMES = 12


@pytest.fixture
def folder(tmp_path):
    """Three cameras, a calibration, and views of two joints on smooth paths; joint 1 is in frame 4 seen by one camera only."""
    rig, rng = ring(3), np.random.default_rng(0)
    tables = []
    for i, camera in enumerate(rig):
        angle = np.arccos((np.trace(camera.rotation) - 1) / 2)
        skew = camera.rotation - camera.rotation.T
        vector = np.array([skew[2, 1], skew[0, 2], skew[1, 0]]) * angle / (2 * np.sin(angle))
        (fx, fy), (cx, cy), k, p = camera.focal, camera.center, camera.radial, camera.tangential
        table = {
            "name": f'"{camera.name}"', "size": [640, 480], "matrix": [[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]],
            "distortions": [*k[:2], *p, k[2]], "rotation": vector.tolist(),
            "translation": (-camera.rotation @ camera.position).tolist(),
        }  # fmt: skip
        plain = {
            key: value if isinstance(value, str) else json.dumps(np.array(value).tolist())
            for key, value in table.items()
        }
        tables.append(f"[cam_{i}]\n" + "\n".join(f"{key} = {value}" for key, value in plain.items()))
    (tmp_path / "calibration.toml").write_text("\n\n".join([*tables, "[metadata]\nadjusted = false"]))
    t = np.arange(FRAMES)[:, None, None]
    truth = np.stack([0.02 * t - 0.1, 0.01 * t + 0 * t, 0 * t + 0.1], -1) + np.array([[[0.0, 0, 0], [0.1, 0.2, 0.05]]])
    for i, camera in enumerate(rig):
        mean = camera.project(truth) + rng.normal(size=(FRAMES, 1, 2, 2))
        if i:
            mean[4, 0, 1] = np.nan
        absent = np.isnan(mean[..., 0])
        covariance = np.where(absent[..., None, None], np.nan, np.eye(2))
        score = np.where(absent, 0.0, 0.9)
        view = Trajectories(
            mean, covariance, score, np.arange(FRAMES) + i, 30.0, ("nose", "tail"), (640, 480), radius=5.0
        )
        shifted = view.replace(frame=np.arange(FRAMES))
        trajectories.write(tmp_path / f"walk_{camera.name}.npz", shifted)
        interchange.write_dlc(tmp_path / f"walk_{camera.name}_dlc.csv", shifted)
    return tmp_path, truth


def views(path, ending: str = ".npz") -> list[str]:
    return [str(path / f"walk_cam{i}{ending}") for i in range(3)]


def test_points_in_space(folder, capsys):
    path, truth = folder
    cli.main(["triangulate", str(path / "calibration.toml"), *views(path), "--out", str(path / "space")])
    line = json.loads(capsys.readouterr().out)
    assert line["cameras"] == ["cam0", "cam1", "cam2"] and line["joints"] == 2 * FRAMES - 1 and line["error_px"] < 3
    with np.load(path / "space.npz") as stored:
        space = {name: stored[name] for name in stored.files}
    assert space["mean"].shape == (FRAMES, 1, 2, 3) and space["names"].tolist() == ["nose", "tail"]
    assert space["views"][4, 0].tolist() == [3, 1] and np.isnan(space["mean"][4, 0, 1]).all()
    error = (space["mean"] - truth).reshape(-1, 3)[np.isfinite(space["mean"][..., 0]).ravel()]
    assert np.sqrt((error**2).mean()) < 0.01
    rows = list(csv.DictReader((path / "space.csv").open()))
    assert len(rows) == FRAMES and rows[4]["tail_x"] == "" and rows[4]["tail_ncams"] == "1" and rows[5]["fnum"] == "5"
    assert (
        float(rows[0]["nose_z"]) == pytest.approx(space["mean"][0, 0, 0, 2], abs=1e-6)
        and rows[0]["nose_score"] == "0.9"
    )


def test_csv_of_a_tool_without_covariances(folder, capsys):
    path, truth = folder
    words = ["--names", "cam0", "cam1", "cam2", "--no-over-time", "--deviation", "1"]
    cli.main(["triangulate", str(path / "calibration.toml"), *views(path, "_dlc.csv"), "--fps", "30", *words])
    (file, table) = json.loads(capsys.readouterr().out)["files"]
    assert file == str(path / f"{path.name}_3d.npz") and table == str(path / f"{path.name}_3d.csv")
    with np.load(file) as stored:
        assert np.nanmax(np.abs(stored["mean"] - truth)) < 0.05


def test_what_is_wrong_is_said(folder):
    path, _ = folder
    one, two, three = views(path)
    people = trajectories.read(one)
    double = {n: np.repeat(getattr(people, n), 2, axis=1) for n in ("mean", "covariance", "score")}
    cases = {
        "rat": people.replace(names=("nose", "ear")), "slow": people.replace(fps=10.0),
        "small": people.replace(size_wh=(320, 240)), "late": people.replace(frame=people.frame + 100),
    }  # fmt: skip
    for name, change in cases.items():
        trajectories.write(path / f"{name}_cam1.npz", change)
    for i in range(2):
        trajectories.write(path / f"crowd_cam{i}.npz", people.replace(**double, individuals=("a", "b")))
    (path / "walk_front.npz").write_bytes((path / "walk_cam0.npz").read_bytes())
    for words, message in (
        ([one], "1 views: triangulation needs two or more"),
        ([one, one], "are both of camera 'cam0'"),
        (
            [one, str(path / "walk_front.npz")],
            "walk_front.npz is no camera of .* has cam0, cam1, cam2: name them in order",
        ),
        ([one, two, "--names", "cam0"], "--names names 1 cameras, but there are 2 views"),
        ([one, two, "--names", "cam0", "cam9"], "--names cam9 is no camera"),
        ([one, str(path / "rat_cam1.npz")], "has the joints nose, ear, .* has nose, tail"),
        ([one, str(path / "slow_cam1.npz")], "has 10 frames per second"),
        (
            [one, str(path / "small_cam1.npz")],
            r"is of \(320, 240\) pixels, camera 'cam1' was calibrated with \(640, 480\)",
        ),
        ([one, str(path / "late_cam1.npz")], "do two views share a frame"),
        ([str(path / "crowd_cam0.npz"), str(path / "crowd_cam1.npz")], "holds 2 persons: track every view"),
        ([one, two, "--no-over-time", "--causal"], "--no-over-time: .* are of the smoother over time"),
    ):
        with pytest.raises(SystemExit, match=message):
            cli.main(["triangulate", str(path / "calibration.toml"), *words])
    with pytest.raises(SystemExit, match="no calibration found: .*absent.toml"):
        cli.main(["triangulate", str(path / "absent.toml"), one, two])

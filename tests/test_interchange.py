"""Trajectories in the files of DeepLabCut and SLEAP, opened again; sleap-io reads what it wrote."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from jaxpose import interchange
from jaxpose.trajectories import Trajectories
from tests.test_trajectories import example


def one_person(poses: Trajectories) -> Trajectories:
    return poses.replace(
        mean=poses.mean[:, :1], covariance=poses.covariance[:, :1], score=poses.score[:, :1], individuals=("single",)
    )


@pytest.mark.parametrize("people", [1, 2])
def test_the_csv_of_deeplabcut(tmp_path, people):
    rows = ["scorer", *(["individuals"] if people == 2 else []), "bodyparts", "coords"]
    poses = example() if people == 2 else one_person(example())
    interchange.write_dlc(tmp_path / "walk.csv", poses)
    lines = [line.split(",") for line in (tmp_path / "walk.csv").read_text().splitlines()]
    assert [line[0] for line in lines] == [*rows, "0", "1", "2", "5"] and len({len(line) for line in lines}) == 1
    assert lines[0][1] == "jaxpose_P_error_below_5px"
    assert lines[-5][1:7] == ["x", "y", "likelihood"] * 2 and lines[-6][1:8] == ["nose"] * 3 + ["left eye"] * 3 + [
        "tail"
    ]
    np.testing.assert_allclose([float(v) for v in lines[-4][1:3]], poses.mean[0, 0, 0], atol=5e-5)
    if people == 2:
        assert lines[1][9:11] == ["person1", "person2"] and lines[-1][10:] == [""] * 9
    loaded = interchange.read_dlc(tmp_path / "walk.csv", fps=poses.fps, size_wh=poses.size_wh)
    np.testing.assert_allclose(loaded.mean, poses.mean, atol=5e-5)
    np.testing.assert_allclose(loaded.score, np.where(poses.present[..., None], poses.score, 0), atol=5e-5)
    assert loaded.names == poses.names and loaded.frame.tolist() == poses.frame.tolist()
    assert np.isnan(loaded.covariance).all()


@pytest.mark.parametrize("frames, people", [(3, 0), (0, 1), (3, 2)])
def test_a_video_of_nobody(tmp_path, frames, people):
    mean = np.full((frames, people, 2, 2), np.nan)
    nobody = Trajectories(
        mean, np.full((*mean.shape, 2), np.nan), np.zeros(mean.shape[:3]), np.arange(frames), 25.0, ["a", "b"], (64, 48)
    )
    interchange.write_dlc(tmp_path / "walk.csv", nobody)
    loaded = interchange.read_dlc(tmp_path / "walk.csv", fps=25.0, size_wh=(64, 48))
    assert not loaded.present.any() and loaded.mean.shape[:2] == (frames, people)


@pytest.mark.parametrize(
    "content, message",
    [
        ("a,b\n1,2\n", "no header of DeepLabCut"),
        ("scorer,s,s,s\nbodyparts,n,n,n\ncoords,x,y,likelihood\nlabeled-data/a.png,1,2,3\n", "row 1 after the header"),
        ("scorer,s,s,s\nbodyparts,n,n,n\ncoords,x,y,likelihood\n0,1,2\n", "row 1 after the header"),
        ("scorer,s,s,s\nbodyparts,n,n,n\ncoords,x,y,likelihood\n0,1,2,.5\n0,1,2,.5\n", "ascending"),
        ("scorer,s,s,s\nbodyparts,n,n,n\ncoords,x,y,likelihood\n0,1,2,7\n", r"outside \[0, 1\]"),
        ("scorer,s,s,t,t\nbodyparts,n,n,n,n\ncoords,x,y,x,y\n0,1,2,3,4\n", "two columns for one coordinate"),
        ("scorer,s,s\nbodyparts,n,n\ncoords,x,likelihood\n0,1,.5\n", "without x or without y"),
        ("scorer,s,s\nbodyparts,n,n\ncoords,u,v\n0,1,2\n", "without x or without y"),
        ("x" * 200_000, "not a CSV file in UTF-8"),
        ("scorer,\udcff", "not a CSV file in UTF-8"),
    ],
)
def test_other_csv_files_are_named(tmp_path, content, message):
    (tmp_path / "a.csv").write_text(content, errors="surrogateescape")
    with pytest.raises(ValueError, match=f"a.csv.*{message}"):
        interchange.read_dlc(tmp_path / "a.csv", fps=25.0, size_wh=(64, 48))


def test_the_files_of_sleap(tmp_path):
    sio = pytest.importorskip("sleap_io", reason="needs the extra labels")
    poses = example(tracked=True, individuals=("anna", "bert"))
    paths = interchange.write(tmp_path / "walk", poses, formats=["slp", "h5"], video="walk.mp4")
    assert (
        [path.name for path in paths]
        == ["walk.slp", "walk.analysis.h5"]
        == sorted((p.name for p in tmp_path.iterdir()), reverse=True)
    )
    for labels in (sio.load_slp(str(paths[0]), open_videos=False), sio.load_analysis_h5(str(paths[1]))):
        assert [node.name for node in labels.skeletons[0].nodes] == list(poses.names)
        assert [track.name for track in labels.tracks] == ["anna", "bert"]
        np.testing.assert_allclose(labels.numpy()[poses.frame], poses.mean, atol=1e-4)
        scores = labels.numpy(return_confidence=True)[poses.frame][..., 2]
        np.testing.assert_allclose(scores[poses.present], poses.score[poses.present], atol=1e-6)
    labels = sio.load_slp(str(paths[0]), open_videos=False)
    assert labels.provenance["scorer"] == "jaxpose_P_error_below_5px"
    assert [frame.frame_idx for frame in labels] == poses.frame.tolist()
    assert poses.names == ("nose", "left eye", "tail"), "what sleap-io converts in place is a copy"
    interchange.write_slp(tmp_path / "loose.slp", poses.replace(tracked=False), video="walk.mp4")
    assert not sio.load_slp(str(tmp_path / "loose.slp"), open_videos=False).tracks, "persons of a frame are no tracks"


def test_without_sleap_io_the_extra_is_named_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sleap_io", None)
    interchange.require(("npz", "dlc"))
    with pytest.raises(ImportError, match=r"jaxpose\[labels\]"):
        interchange.require(("npz", "slp"))
    with pytest.raises(ValueError, match="format 'nwb' is unknown"):
        interchange.write(tmp_path / "walk", example(), formats=["nwb"])

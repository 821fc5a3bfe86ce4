"""Trajectories in their file: what is written is read, and what does not fit is named."""

from __future__ import annotations

import numpy as np
import pytest

from jaxpose import trajectories
from jaxpose.trajectories import Trajectories


def example(**changes) -> Trajectories:
    """Four frames of two persons with three joints; the second person is absent in the last frame."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(4, 2, 3, 2, 2))
    mean = rng.uniform(0, 60, (4, 2, 3, 2))
    mean[3, 1] = np.nan
    fields = {
        "mean": mean, "covariance": root @ np.swapaxes(root, -1, -2), "score": rng.random((4, 2, 3)),
        "frame": np.array([0, 1, 2, 5]), "fps": 29.97, "names": ("nose", "left eye", "tail"), "size_wh": (64, 48),
        "edges": ((0, 1), (1, 2)), "radius": 5.0,
    }  # fmt: skip
    return Trajectories(**(fields | changes))


def test_what_is_written_is_read(tmp_path):
    walk = example(tracked=True, individuals=("a", "b"))
    trajectories.write(tmp_path / "new" / "walk.npz", walk)
    loaded = trajectories.read(tmp_path / "new" / "walk.npz")
    for name in ("mean", "covariance", "score", "frame"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(walk, name))
        assert getattr(loaded, name).dtype == getattr(walk, name).dtype
    for name in ("fps", "names", "size_wh", "individuals", "edges", "tracked", "radius"):
        assert getattr(loaded, name) == getattr(walk, name), name
    assert loaded.present.tolist() == [[True, True]] * 3 + [[True, False]]


def test_the_arrays_are_plain_numpy_and_the_optional_ones_may_be_missing(tmp_path):
    trajectories.write(tmp_path / "walk.npz", example())
    with np.load(tmp_path / "walk.npz", allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in trajectories.REQUIRED}
    assert arrays["mean"].shape == (4, 2, 3, 2) and arrays["names"].tolist() == ["nose", "left eye", "tail"]
    np.savez(tmp_path / "few.npz", **arrays)
    loaded = trajectories.read(tmp_path / "few.npz")
    assert loaded.individuals == ("person1", "person2") and loaded.radius is None and not loaded.tracked


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"mean": np.zeros((4, 2, 3))}, r"mean has shape \(4, 2, 3\), expected \(T, P, K, 2\)"),
        ({"score": np.zeros((4, 2, 2))}, r"score has shape .*expected \(4, 2, 3\)"),
        ({"score": np.full((4, 2, 3), 1.5)}, r"score holds values outside \[0, 1\]"),
        ({"score": np.full((4, 2, 3), np.nan)}, r"score holds values outside \[0, 1\]"),
        ({"covariance": np.zeros((4, 2, 3, 2, 2)) + [[1, 2], [2, 1]]}, "positive semi-definite"),
        ({"covariance": np.zeros((4, 2, 3, 2, 2)) + [[1, 0.5], [0, 1]]}, "symmetric"),
        ({"frame": [0, 2, 1, 3]}, "ascending"),
        ({"frame": [0.0, 1.0, 2.0, 3.0]}, "whole numbers"),
        ({"frame": [-1, 0, 1, 2]}, "frame begins with -1"),
        ({"fps": 0}, "fps is 0"),
        ({"names": ("nose", "nose", "tail")}, "'nose' twice"),
        ({"names": ("nose", "tail")}, r"names has shape \(2,\)"),
        ({"size_wh": (64, 0)}, "width and height"),
        ({"edges": ((0, 3),)}, "pairs of joints from 0 to 2"),
        ({"radius": -1.0}, "radius is -1.0"),
        ({"individuals": ("a",)}, r"individuals has shape \(1,\)"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        example(**changes)


def test_files_that_are_something_else_are_named(tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "other.npz", mean=np.zeros(3))
    np.savez(tmp_path / "object.npz", **{name: np.array([None]) for name in trajectories.REQUIRED})
    for name, message in (
        ("text", "not an .npz file of trajectories: expected a ZIP archive"),
        ("other", "no array covariance"),
        ("object", "not an .npz file"),
    ):
        with pytest.raises(ValueError, match=f"{name}.npz.*{message}"):
            trajectories.read(tmp_path / f"{name}.npz")
    trajectories.write(tmp_path / "walk.npz", example())
    with np.load(tmp_path / "walk.npz") as stored:
        arrays = dict(stored)
    np.savez(tmp_path / "bad.npz", **(arrays | {"fps": np.array([1.0, 2.0])}))
    with pytest.raises(ValueError, match=r"bad.npz: fps has shape \(2,\)"):
        trajectories.read(tmp_path / "bad.npz")
    with pytest.raises(ValueError, match="ends in .npz"):
        trajectories.write(tmp_path / "walk.csv", example())


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "walk.npz"
    trajectories.write(path, example())
    whole, rng = path.read_bytes(), np.random.default_rng(1)
    for _ in range(100):
        damaged = bytearray(whole)
        for place in rng.integers(len(whole), size=3):
            damaged[place] = rng.integers(256)
        path.write_bytes(bytes(damaged))
        try:
            trajectories.read(path)
        except ValueError as error:
            assert "walk.npz" in str(error)


def test_a_file_that_unpacks_to_far_more_than_it_has_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(trajectories, "MOST_BYTES", 1 << 16)
    arrays = {name: np.zeros(1) for name in trajectories.REQUIRED}
    np.savez_compressed(tmp_path / "bomb.npz", **arrays | {"mean": np.zeros(1 << 18)})
    with pytest.raises(ValueError, match="bomb.npz.* hold arrays of [0-9]+ bytes"):
        trajectories.read(tmp_path / "bomb.npz")
